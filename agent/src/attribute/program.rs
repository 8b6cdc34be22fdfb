//! Which program a process runs, and which version, from its files: nothing of it is run.
//!
//! Files are opened within the process's own root (containers), regular ones only, and read up to a bound: whoever is
//! watched decides what lies there.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::versions::{go_build, in_path, number, packaged, python_in};
use crate::model::{Component, sanitize};

/// Executables remembered; processes of one program share it.
const MAX_REMEMBERED: usize = 1_024;
/// A distribution's list of installed packages; Debian's is 1-10 MiB.
const MAX_PACKAGES: u64 = 32 << 20;
/// An interpreter or a library that is searched for its own version; Python's is 6 MiB.
const MAX_SEARCHED: u64 = 16 << 20;
/// A header, a `release` file, a package.json.
const MAX_TEXT: u64 = 256 << 10;
/// Directories between a script and its package.json.
const MAX_UP: usize = 8;
/// Words of a command line among which the script is looked for.
const MAX_WORDS: usize = 16;

/// What executables are, by device and inode.
#[derive(Debug, Default)]
pub struct Programs {
    known: HashMap<(u64, u64), Option<Component>>,
}

impl Programs {
    /// The runtime (or the program itself) of `pid` and the package on it; `None` where nothing is known.
    pub fn of(&mut self, pid: u32) -> Option<Arc<[Component]>> {
        let exe = File::open(format!("/proc/{pid}/exe")).ok()?;
        let id = exe.metadata().map(|m| (m.dev(), m.ino())).ok()?;
        let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let root = Root::of(pid)?;
        let runtime = match self.known.get(&id) {
            Some(known) => known.clone(),
            None => {
                let found = runtime(pid, &path, &exe, &root);
                if self.known.len() < MAX_REMEMBERED {
                    self.known.insert(id, found.clone());
                }
                found
            }
        };
        let package = package(pid, &path, &root, runtime.as_ref());
        let all: Vec<Component> = [runtime, package].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.into())
    }
}

pub(super) fn component(name: &str, version: &str) -> Option<Component> {
    let ok = name.len() <= 128 && version.len() <= 64 && version.starts_with(|c: char| c.is_ascii_digit());
    ok.then(|| Component { name: sanitize(name.as_bytes()).into(), version: sanitize(version.as_bytes()).into() })
}

fn runtime(pid: u32, path: &Path, exe: &File, root: &Root) -> Option<Component> {
    let name = path.file_name()?.to_str()?.trim_end_matches(" (deleted)");
    let beside = |file: &str| Some(text(&root.open(&path.parent()?.parent()?.join(file))?, MAX_TEXT));
    let installed = |package: &str| {
        let by_distribution = ["/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"].iter().any(|d| path.starts_with(d));
        by_distribution.then(|| root.installed(package))?
    };
    if name.starts_with("python") {
        let minor = name.trim_start_matches("python").to_owned();
        let version = in_path(path)
            .or_else(|| python_in(&bytes(exe, MAX_SEARCHED), &minor))
            .or(Some(minor).filter(|m| !m.is_empty()));
        return component("Python", &version?);
    }
    let known = match name {
        "node" | "nodejs" => {
            let header = beside("include/node/node_version.h").and_then(|t| node_header(&t));
            Some(("Node.js", header.or_else(|| in_path(path)).or_else(|| installed("nodejs"))))
        }
        "java" => Some(("Java", beside("release").and_then(|t| java_release(&t)).or_else(|| in_path(path)))),
        "bun" => Some(("Bun", in_path(path))),
        "deno" => Some(("Deno", in_path(path))),
        _ => None,
    };
    if let Some((name, version)) = known {
        return component(name, &version?);
    }
    // The native build of this client is a file with its version for a name.
    if path.parent().is_some_and(|p| p.ends_with("claude/versions")) {
        return component("claude", name);
    }
    if let Some(c) = go_build(exe) {
        return Some(c);
    }
    let library = libcurl(pid, root).and_then(|v| component("libcurl", &v));
    library.or_else(|| component(name, &installed(name)?))
}

/// The version that the mapped libcurl says of itself: its file's name has only the ABI's.
fn libcurl(pid: u32, root: &Root) -> Option<String> {
    let maps = text(&File::open(format!("/proc/{pid}/maps")).ok()?, 4 << 20);
    let path = maps.lines().filter_map(|l| l.find('/').map(|at| &l[at..])).find(|p| p.contains("/libcurl"))?;
    let library = bytes(&root.open(Path::new(path))?, MAX_SEARCHED);
    memmem::find_iter(&library, b"libcurl/").find_map(|at| number(&library[at + 8..]))
}

/// The npm package of the script that a runtime runs, or that the executable itself lies in.
fn package(pid: u32, exe: &Path, root: &Root, runtime: Option<&Component>) -> Option<Component> {
    let start = if exe.components().any(|c| c.as_os_str() == "node_modules") {
        exe.to_owned()
    } else if runtime.is_some_and(|r| matches!(&*r.name, "Node.js" | "Bun")) {
        let words = bytes(&File::open(format!("/proc/{pid}/cmdline")).ok()?, MAX_TEXT);
        let script = (words.split(|b| *b == 0).skip(1).take(MAX_WORDS))
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .find(|w| w.contains('/') && !w.starts_with('-'))?;
        let script = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?.join(script);
        // A command in `bin` is a link into its package.
        real_path(&root.open(&script)?)?
    } else {
        return None;
    };
    let json = start.ancestors().skip(1).take(MAX_UP).find_map(|dir| root.open(&dir.join("package.json")))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes(&json, MAX_TEXT)).ok()?;
    component(json["name"].as_str()?, json["version"].as_str()?)
}

fn node_header(text: &str) -> Option<String> {
    let part = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix("#define ")?.strip_prefix(name))?;
        line.trim().parse::<u16>().ok()
    };
    Some(format!("{}.{}.{}", part("NODE_MAJOR_VERSION")?, part("NODE_MINOR_VERSION")?, part("NODE_PATCH_VERSION")?))
}

fn java_release(text: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.strip_prefix("JAVA_VERSION="))?;
    Some(line.trim().trim_matches('"').to_owned())
}

/// The root directory of a process, out of which no name leads.
struct Root(OwnedFd);

impl Root {
    fn of(pid: u32) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).ok().map(Self)
    }

    /// A regular file. Opened by name only at first: to open a device or a pipe may do something or wait.
    fn open(&self, path: &Path) -> Option<File> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(&self.0, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).ok()?;
        let file = File::from(file);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
    }

    fn installed(&self, package: &str) -> Option<String> {
        let read = |path: &str| Some(text(&self.open(Path::new(path))?, MAX_PACKAGES));
        read("/var/lib/dpkg/status")
            .and_then(|t| packaged(&t, "Package: ", "Version: ", package))
            .or_else(|| packaged(&read("/lib/apk/db/installed")?, "P:", "V:", package))
    }
}

fn real_path(file: &File) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// The first `most` bytes.
fn bytes(file: &File, most: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, most), &mut out);
    out
}

fn text(file: &File, most: u64) -> String {
    String::from_utf8_lossy(&bytes(file, most)).into_owned()
}

/// `N` bytes at a position; `None` where the file is shorter.
pub(super) fn window(file: &File, at: u64, bytes: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; bytes];
    file.read_exact_at(&mut out, at).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_release_files() {
        let header =
            "#ifndef X\n#define NODE_MAJOR_VERSION 20\n#define NODE_MINOR_VERSION 19\n#define NODE_PATCH_VERSION 2\n";
        assert_eq!(node_header(header).as_deref(), Some("20.19.2"));
        assert_eq!(node_header("#define NODE_MAJOR_VERSION 20\n"), None);
        assert_eq!(java_release("IMPLEMENTOR=\"x\"\nJAVA_VERSION=\"17.0.9\"\n").as_deref(), Some("17.0.9"));
    }

    #[test]
    fn a_version_begins_with_a_digit() {
        assert!(component("x", "1.2").is_some());
        assert!(component("x", "latest").is_none() && component("x", "").is_none());
        assert!(component(&"x".repeat(200), "1.2").is_none());
        assert_eq!(&*component("a\u{1b}b", "1").unwrap().name, "a\u{fffd}b");
    }

    #[test]
    fn names_do_not_lead_out_of_the_root_and_only_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "in").unwrap();
        std::os::unix::fs::symlink("/f", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("out")).unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = Root(rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap());
        assert_eq!(text(&root.open(Path::new("/link")).unwrap(), 99), "in");
        assert!(root.open(Path::new("/out")).is_none());
        assert!(root.open(Path::new("/pipe")).is_none() && root.open(Path::new("/")).is_none());
        assert_eq!(real_path(&root.open(Path::new("link")).unwrap()).unwrap().file_name().unwrap(), "f");
    }
}
