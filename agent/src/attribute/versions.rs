//! Version numbers in paths, package lists and binaries. Nothing here trusts a length.

use std::fs::File;
use std::path::Path;

use memchr::memmem;

use super::program::{component, window};
use crate::model::Component;

/// Section headers looked at; a large Go program has about 30.
const MAX_SECTIONS: u16 = 512;
/// Of a `.go.buildinfo` section: a program with hundreds of modules has about 30 KiB, the wanted lines stand first.
const MAX_BUILD_INFO: u64 = 16 << 10;

/// A number of three parts at the beginning.
pub(super) fn number(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(24).position(|b| !b.is_ascii_digit() && *b != b'.')?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?.trim_end_matches('.');
    let full = text.split('.').count() >= 3 && text.split('.').all(|p| !p.is_empty());
    full.then(|| text.to_owned())
}

/// The version in the name of a directory that an installer made: `versions/3.12.4`, `cpython-3.12.4-linux`, `v20.19.2`.
pub(super) fn in_path(path: &Path) -> Option<String> {
    path.parent()?.iter().rev().find_map(|part| {
        let part = format!("{}/", part.to_str()?);
        let starts = part.char_indices().filter(|(at, c)| {
            let before = part[..*at].chars().next_back();
            c.is_ascii_digit() && before.is_none_or(|b| b == '-' || b == 'v' || b == '@')
        });
        starts.map(|(at, _)| at).find_map(|at| number(&part.as_bytes()[at..]))
    })
}

/// CPython's own version string of the series `minor` (`3.11`), NUL before and after.
pub(super) fn python_in(binary: &[u8], minor: &str) -> Option<String> {
    if !minor.contains('.') {
        return None;
    }
    let wanted = format!("\0{minor}.");
    memmem::find_iter(binary, wanted.as_bytes()).find_map(|at| number(&binary[at + 1..]))
}

/// The version of `package` in a list of paragraphs, as dpkg and apk keep it.
pub(super) fn packaged(list: &str, name: &str, version: &str, package: &str) -> Option<String> {
    let mut here = false;
    for line in list.lines() {
        if line.is_empty() {
            here = false;
        } else if let Some(found) = line.strip_prefix(name) {
            here = found == package;
        } else if here && let Some(v) = line.strip_prefix(version) {
            // An epoch counts the distribution's renumberings, not the program's versions.
            return Some(v.split_once(':').map_or(v, |(_, v)| v).to_owned());
        }
    }
    None
}

/// The compiler's version in a Go program's `.go.buildinfo` (Go 1.18 and later).
pub(super) fn go_build(exe: &File) -> Option<Component> {
    let (at, size) = section(exe, b".go.buildinfo")?;
    let info = window(exe, at, usize::try_from(size.min(MAX_BUILD_INFO)).ok()?)?;
    component("Go", &go_version(&info)?)
}

fn go_version(info: &[u8]) -> Option<String> {
    let inline = info.starts_with(b"\xff Go buildinf:") && info.get(15)? & 2 != 0;
    let length = usize::from(*info.get(32).filter(|n| inline && **n < 128)?);
    let text = std::str::from_utf8(info.get(33..33 + length)?).ok()?;
    text.strip_prefix("go")?.split_whitespace().next().map(str::to_owned)
}

/// Position and length of a section of a 64-bit little-endian ELF file.
fn section(file: &File, wanted: &[u8]) -> Option<(u64, u64)> {
    let head = window(file, 0, 64)?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let table = u64_at(&head, 40)?;
    let (entry, count, names) = (u16_at(58)?, u16_at(60)?.min(MAX_SECTIONS), u16_at(62)?);
    if entry != 64 || names >= count {
        return None;
    }
    let headers = window(file, table, usize::from(count) * 64)?;
    let of = |n: u16| headers.chunks_exact(64).nth(n.into());
    let strings = u64_at(of(names)?, 24)?;
    headers.chunks_exact(64).find_map(|h| {
        let name = u32::from_le_bytes(h.get(..4)?.try_into().ok()?);
        let text = window(file, strings.checked_add(name.into())?, wanted.len() + 1)?;
        (text.strip_suffix(&[0]) == Some(wanted)).then_some((u64_at(h, 24)?, u64_at(h, 32)?))
    })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_paths() {
        let of = |p: &str| in_path(Path::new(p));
        assert_eq!(of("/u/.pyenv/versions/3.12.4/bin/python3.12").as_deref(), Some("3.12.4"));
        assert_eq!(of("/u/python/cpython-3.12.4-linux-x86_64-gnu/bin/python3.12").as_deref(), Some("3.12.4"));
        assert_eq!(of("/u/.nvm/versions/node/v20.19.2/bin/node").as_deref(), Some("20.19.2"));
        for none in ["/usr/bin/python3.11", "/opt/x10.1.2/bin/node", "/opt/1.2/bin/node", "/", "node"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn versions_in_binaries() {
        assert_eq!(python_in(b"x\x003.11.\0\x003.11.2\0y", "3.11").as_deref(), Some("3.11.2"));
        assert_eq!(python_in(b"\x003.11.2+\0", "3.11").as_deref(), Some("3.11.2"));
        assert_eq!(python_in(b"\x003.12.2\0", "3.11"), None);
        assert_eq!(python_in(b"\x003.11", "3.11"), None);
        assert_eq!(number(b"7.88.1\0"), Some("7.88.1".into()));
        assert_eq!(number(b"7.88\0"), None);
    }

    #[test]
    fn versions_in_package_lists() {
        let list = "Package: curl-doc\nVersion: 9\n\nPackage: curl\nStatus: x\nVersion: 1:7.88.1-10\n\nP:x\n";
        assert_eq!(packaged(list, "Package: ", "Version: ", "curl").as_deref(), Some("7.88.1-10"));
        assert_eq!(packaged(list, "Package: ", "Version: ", "cur"), None);
        assert_eq!(packaged("P:nodejs\nV:20.1.0-r0\n", "P:", "V:", "nodejs").as_deref(), Some("20.1.0-r0"));
    }

    #[test]
    fn go_build_information_of_any_length() {
        let mut info = b"\xff Go buildinf:\x08\x02".to_vec();
        info.resize(32, 0);
        info.extend(b"\x08go1.22.1rest");
        assert_eq!(go_version(&info).as_deref(), Some("1.22.1"));
        for end in 0..41 {
            assert_eq!(go_version(&info[..end]), None, "{end}");
        }
    }

    #[test]
    fn sections_of_this_very_program() {
        let me = File::open("/proc/self/exe").unwrap();
        assert!(section(&me, b".text").is_some_and(|(at, size)| at > 0 && size > 100_000));
        assert_eq!(section(&me, b".no.such"), None);
        assert_eq!(section(&File::open("/proc/self/comm").unwrap(), b".text"), None);
    }
}
