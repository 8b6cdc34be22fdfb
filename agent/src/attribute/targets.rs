//! Which processes are meant: `--pid`, `--tree`, `--comm`, `--cgroup`, `--all`.

use crate::source::cgroup2;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::procfs;

/// Whose sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSpec {
    pub pids: Vec<u32>,
    pub tree: bool,
    pub comms: Vec<String>,
    pub cgroup: Option<PathBuf>,
    pub all: bool,
}

impl TargetSpec {
    /// Whether processes may join later; else the given pids are all there ever is.
    pub fn is_open_ended(&self) -> bool {
        self.tree || self.all || self.cgroup.is_some() || !self.comms.is_empty()
    }
}

/// Checks that what was named exists. One sentence for the user otherwise.
pub fn check(spec: &TargetSpec) -> Result<Option<PathBuf>, String> {
    for pid in &spec.pids {
        match procfs::thread_group(*pid) {
            None => return Err(format!("--pid {pid}: no such process (or hidden from this user; try sudo)")),
            Some(tgid) if tgid != *pid => {
                return Err(format!("--pid {pid}: it is a thread of process {tgid}; give --pid {tgid}"));
            }
            Some(_) => {}
        }
    }
    spec.cgroup.as_deref().map(cgroup_dir).transpose()
}

/// Depth and number of cgroups looked at: a loop is impossible, a forest is not.
const MAX_CGROUPS: usize = 10_000;

/// The directory of a cgroup given absolutely or relative to the cgroup2 mount (which hybrid systems have
/// elsewhere than at /sys/fs/cgroup).
fn cgroup_dir(path: &Path) -> Result<PathBuf, String> {
    let mount = cgroup2::mount();
    let relative = path.strip_prefix("/").unwrap_or(path);
    let candidates = [Some(path.to_owned()).filter(|p| p.is_absolute()), mount.as_ref().map(|m| m.join(relative))];
    candidates.into_iter().flatten().find(|p| p.join("cgroup.procs").is_file()).ok_or_else(|| match mount {
        Some(m) => format!("--cgroup {}: no such cgroup, neither as a path nor below {}", path.display(), m.display()),
        None => format!("--cgroup {}: no such directory, and no cgroup2 is mounted", path.display()),
    })
}

/// The processes of a cgroup and of those below it. A process in another pid namespace than the agent's, which it
/// cannot name, shows as 0 and is left out.
fn cgroup_pids(dir: &Path, out: &mut BTreeSet<u32>) {
    let mut todo = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(dir) = todo.pop() {
        seen += 1;
        if seen > MAX_CGROUPS {
            return;
        }
        if let Ok(text) = std::fs::read_to_string(dir.join("cgroup.procs")) {
            out.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|p| *p != 0));
        }
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        todo.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
}

/// The processes meant now. `known`: those that were meant before; their children count even where the parent has
/// gone.
pub fn discover(spec: &TargetSpec, cgroup: Option<&Path>, known: &BTreeSet<u32>) -> BTreeSet<u32> {
    let own = std::process::id();
    let mut out: BTreeSet<u32> = spec.pids.iter().copied().collect();
    if let Some(dir) = cgroup {
        cgroup_pids(dir, &mut out);
    }
    if !spec.all && spec.comms.is_empty() && !spec.tree {
        return out;
    }
    let Ok(pids) = procfs::all_pids() else { return out };
    if spec.all {
        out.extend(pids.into_iter().filter(|p| *p != own));
        return out;
    }
    if !spec.comms.is_empty() {
        let meant = |pid: &u32| procfs::comm(*pid).is_some_and(|c| spec.comms.contains(&c));
        out.extend(pids.iter().copied().filter(|p| *p != own).filter(meant));
    }
    if spec.tree {
        let parents: HashMap<u32, u32> =
            pids.into_iter().filter_map(|pid| procfs::parent(pid).map(|ppid| (pid, ppid))).collect();
        out.extend(known.iter().copied().filter(|p| parents.contains_key(p)));
        add_descendants(&parents, &mut out);
    }
    out
}

/// Adds every process whose chain of parents leads into `out`.
fn add_descendants(parents: &HashMap<u32, u32>, out: &mut BTreeSet<u32>) {
    let roots = out.clone();
    for pid in parents.keys() {
        let mut at = *pid;
        // A chain longer than there are processes is a race between the reads.
        for _ in 0..parents.len() {
            if roots.contains(&at) {
                out.insert(*pid);
                break;
            }
            match parents.get(&at) {
                Some(parent) if *parent != at => at = *parent,
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_of_descendants() {
        let parents = HashMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 9)]);
        let mut out = BTreeSet::from([5]);
        add_descendants(&parents, &mut out);
        assert_eq!(out, BTreeSet::from([5, 6, 7]));
    }

    #[test]
    fn a_missing_pid_and_a_thread_are_told_apart() {
        let spec = TargetSpec { pids: vec![u32::MAX - 1], ..TargetSpec::default() };
        assert_eq!(check(&spec), Err("--pid 4294967294: no such process (or hidden from this user; try sudo)".into()));
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let (tid_send, tid) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tid_send.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            let _ = receive.recv();
        });
        let tid = tid.recv().unwrap();
        let me = std::process::id();
        let spec = TargetSpec { pids: vec![tid], ..TargetSpec::default() };
        assert_eq!(check(&spec), Err(format!("--pid {tid}: it is a thread of process {me}; give --pid {me}")));
        drop(send);
        thread.join().unwrap();
        assert_eq!(check(&TargetSpec { pids: vec![me], ..TargetSpec::default() }), Ok(None));
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_named() {
        let bad = TargetSpec { cgroup: Some("/no/such/cgroup".into()), ..TargetSpec::default() };
        assert!(check(&bad).is_err_and(|e| e.starts_with("--cgroup /no/such/cgroup: no such")));
    }

    #[test]
    fn children_are_found_and_stay_when_their_parent_goes() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let me = std::process::id();
        let spec = TargetSpec { pids: vec![me], tree: true, ..TargetSpec::default() };
        assert!(discover(&spec, None, &BTreeSet::new()).contains(&child.id()));
        let gone = TargetSpec { pids: vec![u32::MAX], ..spec };
        assert!(discover(&gone, None, &BTreeSet::from([child.id()])).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
