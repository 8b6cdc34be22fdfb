//! Where the cgroup2 file system is: the kernel programs that look at packets and the guard attach to its directories.

use std::path::{Path, PathBuf};

/// Processes above this one that are asked, at most.
const MAX_ANCESTORS: usize = 64;

/// Its mount point as this process sees it, else as a process above it does: `ip netns exec`, for one, gives a program
/// a `/sys` of its own without it. `None` where nobody of them has it or may be looked into.
pub fn mount() -> Option<PathBuf> {
    let above = std::iter::successors(parent("self"), |pid| parent(pid)).take(MAX_ANCESTORS).filter_map(|pid| {
        let proc = Path::new("/proc").join(pid);
        seen_by(&proc, &proc.join("root"))
    });
    seen_by(Path::new("/proc/self"), Path::new("/")).into_iter().chain(above).next()
}

/// The parent of process `pid`; `None` for the first of the pid namespace.
fn parent(pid: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim();
    (parent != "0").then(|| parent.to_owned())
}

/// As the process of `proc` sees it, whose file system begins at `root`.
fn seen_by(proc: &Path, root: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string(proc.join("mounts")).ok()?;
    let place = root.join(mount_point(&mounts)?.strip_prefix("/").ok()?);
    place.join("cgroup.procs").is_file().then_some(place)
}

/// Alone at /sys/fs/cgroup, or beside version 1 elsewhere.
pub fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (dir, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescape(dir)))
    })
}

/// The directory of a process; `None` without cgroup2 or for a process that is gone.
pub fn of_process(pid: u32) -> Option<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    below(&mount()?, &groups)
}

/// `0::/path` of /proc/PID/cgroup below the mount.
fn below(mount: &Path, groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|l| l.strip_prefix("0::"))?;
    Some(mount.join(path.trim_start_matches('/')))
}

/// /proc/mounts writes blanks and backslashes as octal escapes.
pub fn unescape(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_wherever_it_is() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(mount_point("proc /proc proc rw 0 0"), None);
        assert_eq!(unescape("\\ü\\04"), "\\ü\\04");
    }

    #[test]
    fn the_directory_is_that_of_version_2() {
        let groups = "4:memory:/old\n0::/user.slice/a\n";
        assert_eq!(below(Path::new("/m"), groups), Some("/m/user.slice/a".into()));
        assert_eq!(below(Path::new("/m"), "4:memory:/old\n"), None);
    }

    #[test]
    fn what_another_process_sees_is_reached_through_its_root() {
        let through = seen_by(Path::new("/proc/self"), Path::new("/proc/self/root"));
        let direct = seen_by(Path::new("/proc/self"), Path::new("/"));
        assert_eq!(through.map(std::fs::canonicalize).transpose().unwrap(), direct);
        assert_eq!(parent("self"), Some(std::os::unix::process::parent_id().to_string()));
    }
}
