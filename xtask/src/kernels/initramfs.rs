//! The test machine's file system: a cpio archive (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst)
//! written here, so that no root is needed for its device node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::modules::Module;
use crate::process::{find, output};
use crate::test_tools;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

/// System tools that the tests start, from this machine, and where they look for them.
const TOOLS: [&str; 5] = ["ip", "nft", "ss", "prlimit", "setpriv"];
/// What glibc opens by itself at run time, where it is not part of libc.so (before 2.34): looking up names.
const OPENED_LATER: [&str; 2] = ["libnss_files.so.2", "libnss_dns.so.2"];

/// What goes in besides the tools.
pub struct Contents<'a> {
    pub busybox: &'a Path,
    pub agent: &'a Path,
    pub workload: &'a Path,
    pub tests: &'a Path,
    /// Files that the tests read, at the same place there as here.
    pub data: &'a [PathBuf],
    pub modules: &'a [Module],
    /// Words for the test program.
    pub arguments: &'a str,
    /// Shell assignments.
    pub environment: &'a str,
}

/// The whole archive.
pub fn build(c: &Contents) -> Result<Vec<u8>> {
    let mut a = Archive::default();
    for dir in ["sys/kernel/tracing", "sys/fs/bpf", "sys/fs/cgroup", "proc", "dev", "run", "bin"] {
        a.directory(dir);
    }
    // Without it the first process has no standard output until devtmpfs is mounted.
    a.entry("dev/console", CONSOLE, &[], (5, 1));
    a.file("init", include_bytes!("init.sh"));
    a.file("bin/busybox", &read(c.busybox)?);
    a.entry("bin/sh", LINK, b"busybox", (0, 0));
    a.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
    for (from, to) in [(c.agent, "agent"), (c.workload, "agt-workload"), (c.tests, "tests")] {
        a.program(from, to)?;
    }
    test_tools::programs(&TOOLS)?;
    for tool in TOOLS {
        let from = find(tool).with_context(|| format!("cannot find the program {tool}"))?;
        a.program(&from, &format!("usr/sbin/{tool}"))?;
    }
    for file in c.data {
        a.file(&file.to_string_lossy(), &read(file)?);
    }
    let names: String = c.modules.iter().map(|(name, _)| format!("{name}\n")).collect();
    a.file("modules/order", names.as_bytes());
    for (name, content) in c.modules {
        a.file(&format!("modules/{name}"), content);
    }
    a.file("arguments", c.arguments.as_bytes());
    a.file("environment", c.environment.as_bytes());
    a.entry("TRAILER!!!", 0, &[], (0, 0));
    Ok(a.bytes)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    there: BTreeSet<String>,
}

impl Archive {
    /// A program of this machine with the libraries that it is linked with, each at its own place.
    fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.file(to, &read(from)?);
        let Some(listing) = output("ldd", &[&from.to_string_lossy()]) else {
            bail!("`ldd {}` failed: a program that is linked dynamically is expected", from.display());
        };
        for library in libraries(&listing) {
            if self.there.contains(library.trim_start_matches('/')) {
                continue;
            }
            self.file(library, &read(Path::new(library))?);
            let dir = Path::new(library).parent().unwrap_or(Path::new("/"));
            if library.contains("/libc.so") {
                for late in OPENED_LATER.iter().map(|name| dir.join(name)).filter(|p| p.exists()) {
                    self.file(&late.to_string_lossy(), &read(&late)?);
                }
            }
        }
        Ok(())
    }

    /// A file that may be executed, with the folders above it.
    fn file(&mut self, path: &str, content: &[u8]) {
        if let Some((above, _)) = path.trim_start_matches('/').rsplit_once('/') {
            self.directory(above);
        }
        self.entry(path, PROGRAM, content, (0, 0));
    }

    /// A folder and those above it, each once: a second entry would be an error of the kernel's reader.
    fn directory(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        if !self.there.contains(path) {
            self.entry(path, DIRECTORY, &[], (0, 0));
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        let path = path.trim_start_matches('/');
        if !self.there.insert(path.to_owned()) {
            return;
        }
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, major and minor of the device it lies on and of the one it is,
        // length of the name with its zero byte, check sum (unused).
        let size = content.len() as u32;
        let name = path.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Paths in what `ldd` prints: `libc.so.6 => /lib/.../libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn libraries(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|l| l.split_whitespace().find(|w| w.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_both_forms() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(libraries(listing).collect::<Vec<_>>(), ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn entries_are_aligned_and_folders_come_once_and_first() {
        let mut a = Archive::default();
        a.file("/usr/sbin/ip", b"12345");
        a.file("usr/sbin/nft", b"");
        let text = String::from_utf8_lossy(&a.bytes).into_owned();
        assert_eq!(a.bytes.len() % 4, 0);
        // A header has 110 bytes: magic and 13 numbers.
        assert_eq!(&text[..6], "070701");
        assert_eq!(&text[110..114], "usr\0");
        let order: Vec<&str> = ["usr\0", "usr/sbin\0", "usr/sbin/ip\0", "usr/sbin/nft\0"].into();
        let places: Vec<usize> = order.iter().map(|n| text.find(n).unwrap()).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("070701").count(), 4);
        let ip = text.find("usr/sbin/ip\0").unwrap() - 110;
        assert_eq!(&text[ip + 54..ip + 62], "00000005", "the size is the seventh number");
    }
}
