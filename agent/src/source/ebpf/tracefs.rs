//! Tracepoints as tracefs describes them: where each field lies in the record, and what its numbers are called.

use crate::source::cgroup2::unescape;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One field of a tracepoint record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the beginning of the record.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// A parsed `events/CATEGORY/NAME/format`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Format {
    fields: HashMap<String, Field>,
    print: String,
}

impl Format {
    /// Parses the text of a `format` file; lines it does not understand are skipped.
    pub fn parse(text: &str) -> Self {
        let mut format = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if let Some(rest) = line.strip_prefix("field:") {
                if let Some((name, field)) = parse_field(rest) {
                    format.fields.insert(name, field);
                }
            } else if let Some(rest) = line.strip_prefix("print fmt:") {
                format.print = rest.trim().to_owned();
            }
        }
        format
    }

    /// The field `name`, if this kernel has it.
    pub fn field(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    /// The number-to-name pairs `{ 4, "NAME" }` of the `__print_symbolic` of `field` in `print fmt`.
    pub fn symbols(&self, field: &str) -> Vec<(i64, String)> {
        let start = format!("__print_symbolic(REC->{field},");
        let Some(at) = self.print.find(&start) else { return Vec::new() };
        let mut pairs = Vec::new();
        for part in self.print[at + start.len()..].split('{').skip(1) {
            let Some((pair, rest)) = part.split_once('}') else { break };
            if let Some((number, name)) = pair.split_once(',')
                && let Some(number) = parse_number(number.trim())
            {
                pairs.push((number, name.trim().trim_matches('"').to_owned()));
            }
            if rest.trim_start().starts_with(')') {
                break;
            }
        }
        pairs
    }
}

fn parse_number(text: &str) -> Option<i64> {
    let text = text.trim_start_matches('(').trim_end_matches(')').trim();
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `__u8 saddr[4]; offset:32; size:4; signed:0;`, with tabs between the parts.
fn parse_field(text: &str) -> Option<(String, Field)> {
    let mut parts = text.split(';');
    let name = parts.next()?.trim().rsplit([' ', '*']).next()?.split('[').next()?;
    let (mut offset, mut size) = (None, None);
    for part in parts {
        let part = part.trim();
        if let Some(v) = part.strip_prefix("offset:") {
            offset = v.parse().ok();
        } else if let Some(v) = part.strip_prefix("size:") {
            size = v.parse().ok();
        }
    }
    if name.is_empty() {
        return None;
    }
    Some((name.to_owned(), Field { offset: offset?, size: size? }))
}

/// Where tracefs is mounted: from the text of /proc/mounts, in the order of preference of the tools that read it.
pub fn mount_point(mounts: &str) -> Option<PathBuf> {
    let mut debugfs = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(dir), Some(kind)) = (words.next(), words.next()) else { continue };
        match kind {
            "tracefs" => return Some(PathBuf::from(unescape(dir))),
            "debugfs" => debugfs = debugfs.or(Some(PathBuf::from(unescape(dir)).join("tracing"))),
            _ => {}
        }
    }
    debugfs
}

/// The mounted tracefs of this machine, if it holds any events. A mount alone proves nothing: in a container it may
/// be empty or unreadable.
pub fn find() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = mount_point(&mounts)?;
    dir.join("events").is_dir().then_some(dir)
}

/// Reads one format file below `tracefs`.
pub fn read(tracefs: &Path, category: &str, name: &str) -> std::io::Result<Format> {
    let path = tracefs.join("events").join(category).join(name).join("format");
    std::fs::read_to_string(path).map(|text| Format::parse(&text))
}

#[cfg(test)]
#[path = "tracefs_tests.rs"]
mod tests;
