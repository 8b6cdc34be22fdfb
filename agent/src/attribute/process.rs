//! One watched process: its name, its namespace, and the sockets among its descriptors.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::procfs::{self, SocketFd};
use super::program::Programs;
use super::sample::spent;
use crate::model::{Component, Mono, Owner, Owners};
use crate::source::diag::NetNs;

/// Descriptors that the agent holds on processes; beyond this they are opened for each scan (RLIMIT_NOFILE is often
/// 1024).
pub const MAX_PIDFDS: usize = 256;
/// A scan may use one part in this many of the time: 0.05 % of a core.
const SCAN_SHARE: u32 = 2_000;
const SCAN_MIN: Duration = Duration::from_secs(1);
/// When an event names a socket that is not known yet, the scan is brought forward, but not below this share.
const URGENT_SHARE: u32 = 20;
const URGENT_MIN: Duration = Duration::from_millis(50);
/// At the events of a storm its name is read no more often than this: 2 µs each time.
const NAME_AGE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub comm: Arc<str>,
    pidfd: Option<OwnedFd>,
    /// `None` if it cannot be read.
    pub netns: Option<NetNs>,
    /// Sorted; as of the last scan.
    pub sockets: Vec<SocketFd>,
    /// Why the descriptors cannot be listed (another user's process).
    pub hidden: Option<Errno>,
    /// Why a descriptor cannot be duplicated (Yama, another user's process, kernel before 5.6).
    pub no_getfd: Option<Errno>,
    /// What it runs, and by which name it was then: a process that executes another program changes it.
    program: Option<Arc<[Component]>>,
    program_of: Option<Arc<str>>,
    /// As the only owner of a socket whose descriptor is not known yet, and by which name.
    alone: Option<Owners>,
    named: Option<Mono>,
    scanned: Option<Mono>,
    cost: Duration,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Diff {
    pub added: Vec<SocketFd>,
    pub removed: Vec<SocketFd>,
}

impl Process {
    /// `keep`: hold a pidfd, so that its end is noticed at once and its number cannot come to mean another process.
    pub fn new(pid: u32, keep: bool) -> Option<Self> {
        let pidfd = open(pid).ok();
        let comm = procfs::comm(pid)?.into();
        Some(Self {
            pid,
            comm,
            pidfd: pidfd.filter(|_| keep),
            netns: NetNs::of_pid(pid).ok(),
            sockets: Vec::new(),
            hidden: None,
            no_getfd: None,
            program: None,
            program_of: None,
            alone: None,
            named: None,
            scanned: None,
            cost: Duration::ZERO,
        })
    }

    pub fn owner(&self, fd: Option<i32>) -> Owner {
        Owner { pid: self.pid, comm: self.comm.clone(), fd, program: self.program.clone() }
    }

    /// The owners of a socket that it has just made.
    pub fn alone(&mut self) -> Owners {
        match &self.alone {
            Some(owners) => owners.clone(),
            None => {
                let owners: Owners = [self.owner(None)].into();
                self.alone = Some(owners.clone());
                owners
            }
        }
    }

    /// Reads its name again, unless that was just done; the last one stays when it is gone.
    pub fn rename(&mut self, now: Mono) {
        // Events of several processors come out of order.
        if self.named.is_some_and(|t| now.since(t) < NAME_AGE) {
            return;
        }
        self.named = Some(now);
        if let Some(comm) = procfs::comm(self.pid)
            && *comm != *self.comm
        {
            self.comm = comm.into();
            self.alone = None;
        }
    }

    pub fn due(&self, now: Mono) -> bool {
        self.scanned.is_none_or(|t| now.since(t) >= (self.cost * SCAN_SHARE).max(SCAN_MIN))
    }

    /// Whether a scan out of turn is affordable.
    pub fn due_urgently(&self, now: Mono) -> bool {
        self.scanned.is_none_or(|t| now.since(t) >= (self.cost * URGENT_SHARE).max(URGENT_MIN))
    }

    /// Finds out what it runs, once it has a socket and again when its name changes.
    pub fn identify(&mut self, programs: &mut Programs) {
        if !self.sockets.is_empty() && self.program_of.as_ref() != Some(&self.comm) {
            self.program = programs.of(self.pid);
            self.alone = None;
            self.program_of = Some(self.comm.clone());
        }
    }

    /// Lists the descriptors again. `None`: the process is gone.
    pub fn scan(&mut self, now: Mono, buffer: &mut Vec<SocketFd>) -> Option<Diff> {
        let started = spent();
        self.scanned = Some(now);
        self.rename(now);
        let result = procfs::sockets_of(self.pid, buffer);
        self.hidden = None;
        match result {
            Ok(_) => {}
            Err(Errno::NOENT | Errno::SRCH) => return None,
            Err(e) => {
                self.hidden = Some(e);
                buffer.clear();
            }
        }
        buffer.sort_unstable();
        let mut diff = Diff::default();
        if *buffer != self.sockets {
            diff.added.extend(buffer.iter().filter(|s| self.sockets.binary_search(s).is_err()));
            diff.removed.extend(self.sockets.iter().filter(|s| buffer.binary_search(s).is_err()));
            std::mem::swap(&mut self.sockets, buffer);
        }
        self.cost = spent().saturating_sub(started);
        Some(diff)
    }

    /// Forgets a descriptor that could not be looked at, so that the next scan finds it new.
    pub fn forget(&mut self, fd: SocketFd) {
        self.sockets.retain(|s| *s != fd);
    }

    /// Runs `work` with the process's pidfd.
    pub fn with_pidfd<T>(&self, work: impl FnOnce(&OwnedFd) -> Result<T, Errno>) -> Result<T, Errno> {
        match &self.pidfd {
            Some(fd) => work(fd),
            None => work(&open(self.pid)?),
        }
    }

    /// Whether the process has ended, as its pidfd tells; `false` without one.
    pub fn has_ended(&self) -> bool {
        let Some(fd) = &self.pidfd else { return false };
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }

    pub fn has_pidfd(&self) -> bool {
        self.pidfd.is_some()
    }
}

fn open(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}
