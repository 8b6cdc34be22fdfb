//! Which process holds which socket, and its options read through a descriptor of theirs.

use std::collections::HashSet;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::attribute::look;
use crate::attribute::procfs::SocketFd;
use crate::model::{Keepalive, Owner, SocketId};
use crate::source::diag::{DiagSocket, NetNs};

/// A descriptor that is a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Cookie or inode number of the socket.
    key: u64,
    /// Index into `processes`.
    process: u32,
    fd: i32,
}

struct Process {
    pid: u32,
    comm: Arc<str>,
    pidfd: Option<OwnedFd>,
    no_getfd: Option<Errno>,
}

/// The descriptors of many processes. To be sorted after the last was added.
#[derive(Default)]
pub struct Owners {
    processes: Vec<Process>,
    by_cookie: Sorted,
    by_inode: Sorted,
}

impl Owners {
    /// The process that the sockets added next belong to.
    pub fn process(&mut self, pid: u32, comm: Arc<str>) {
        self.processes.push(Process { pid, comm, pidfd: None, no_getfd: None });
    }

    /// The pid last given to [`Self::process`].
    pub fn last_pid(&self) -> Option<u32> {
        self.processes.last().map(|p| p.pid)
    }

    pub fn add_cookie(&mut self, cookie: u64, fd: i32) {
        let process = self.processes.len().saturating_sub(1) as u32;
        self.by_cookie.all.push(Held { key: cookie, process, fd });
    }

    pub fn add_inode(&mut self, s: SocketFd) {
        let process = self.processes.len().saturating_sub(1) as u32;
        self.by_inode.all.push(Held { key: s.inode, process, fd: s.fd });
    }

    pub fn sort(&mut self) {
        self.by_cookie.sort();
        self.by_inode.sort();
    }

    /// Sockets, each counted once; of every kind, where descriptors were read from /proc.
    pub fn sockets(&self) -> usize {
        [&self.by_cookie, &self.by_inode].map(|s| s.all.chunk_by(|a, b| a.key == b.key).count()).iter().sum()
    }

    /// Where [`Self::of`] finds the holders of each of these sockets. For many at once: each is read from memory, and the
    /// processor fetches several at a time where nothing is done between them.
    pub fn places(&self, sockets: impl Iterator<Item = SocketId>, into: &mut Vec<Range<usize>>) {
        into.clear();
        into.extend(sockets.map(|id| self.by_cookie.place(id.0)));
    }

    /// Who holds this socket. Subflows of MPTCP have the inode of the socket that is held, and a cookie of their own.
    pub fn of(&self, socket: &DiagSocket, place: Range<usize>) -> &[Held] {
        match &self.by_cookie.all[place] {
            // Nobody holds a socket without inode.
            [] if socket.inode != 0 => self.by_inode.find(socket.inode.into()),
            held => held,
        }
    }

    pub fn owner(&self, held: &Held) -> Owner {
        let p = &self.processes[held.process as usize];
        Owner { pid: p.pid, comm: p.comm.clone(), fd: Some(held.fd), program: None }
    }

    /// The inode numbers of all sockets that are known by theirs.
    pub fn inodes(&self) -> HashSet<u32> {
        self.by_inode.all.iter().filter_map(|h| u32::try_from(h.key).ok()).collect()
    }

    /// The network namespace of a TCP socket with this inode, asked of the socket itself.
    pub fn netns_of_inode(&mut self, inode: u32) -> Option<NetNs> {
        let held = *self.by_inode.find(inode.into()).first()?;
        self.netns_of(held)
    }

    /// The same for a socket with this cookie.
    pub fn netns_of_cookie(&mut self, cookie: u64) -> Option<NetNs> {
        let held = *self.by_cookie.find(cookie).first()?;
        self.netns_of(held)
    }

    fn netns_of(&mut self, held: Held) -> Option<NetNs> {
        let dup = self.duplicate(held).ok()?;
        look::look(dup.as_fd())?;
        NetNs::of_socket(dup.as_fd()).ok()
    }

    /// The options of `socket`; `None` where its holder does not let them be read.
    pub fn keepalive(&mut self, held: Held, socket: &DiagSocket) -> Option<Keepalive> {
        let dup = self.duplicate(held).ok()?;
        // The number may mean another file by now; an MPTCP socket's own cookie is not its subflow's.
        (socket.mptcp || look::cookie(dup.as_fd()) == Some(socket.id)).then(|| look::keepalive(dup.as_fd()))?
    }

    fn duplicate(&mut self, held: Held) -> Result<OwnedFd, Errno> {
        let p = &mut self.processes[held.process as usize];
        if let Some(e) = p.no_getfd {
            return Err(e);
        }
        let result = match &p.pidfd {
            Some(pidfd) => look::duplicate(pidfd, held.fd),
            None => {
                let pid = i32::try_from(p.pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
                let dup = look::duplicate(&pidfd, held.fd);
                p.pidfd = Some(pidfd);
                dup
            }
        };
        if let Err(e) = result
            && !matches!(e, Errno::BADF | Errno::SRCH)
        {
            p.no_getfd = Some(e);
        }
        result
    }

    /// Why descriptors could not be duplicated, once per process.
    pub fn refusals(&self) -> impl Iterator<Item = Errno> {
        self.processes.iter().filter_map(|p| p.no_getfd)
    }
}

/// Descriptors in the order of their keys, which are handed out by counters: where a key is is nearly told by its value.
#[derive(Default)]
struct Sorted {
    all: Vec<Held>,
    /// Where each range of `1 << shift` keys begins in `all`, from the lowest key on; at last, where all end.
    starts: Vec<u32>,
    shift: u32,
}

impl Sorted {
    /// A stable sort, as it is quick with what is in order already: a process opens one socket after the other.
    fn sort(&mut self) {
        self.all.sort();
        let span = self.last().saturating_sub(self.first());
        // About as many ranges as keys.
        self.shift = (span / self.all.len().max(1) as u64).checked_ilog2().map_or(0, |n| n + 1);
        let ranges = (span >> self.shift) as usize + 1;
        let mut starts = Vec::with_capacity(ranges + 1);
        for (n, held) in self.all.iter().enumerate() {
            let range = ((held.key - self.first()) >> self.shift) as usize;
            while starts.len() <= range {
                starts.push(n as u32);
            }
        }
        starts.push(self.all.len() as u32);
        self.starts = starts;
    }

    fn first(&self) -> u64 {
        self.all.first().map_or(0, |h| h.key)
    }

    fn last(&self) -> u64 {
        self.all.last().map_or(0, |h| h.key)
    }

    fn find(&self, key: u64) -> &[Held] {
        &self.all[self.place(key)]
    }

    /// Where those with this key are; empty if there are none.
    fn place(&self, key: u64) -> Range<usize> {
        let Some(range) = key.checked_sub(self.first()).map(|d| (d >> self.shift) as usize) else { return 0..0 };
        let (Some(from), Some(to)) = (self.starts.get(range), self.starts.get(range.saturating_add(1))) else {
            return 0..0;
        };
        let (from, to) = (*from as usize, *to as usize);
        let near = &self.all[from..to];
        let skip = near.partition_point(|h| h.key < key);
        let count = near[skip..].iter().take_while(|h| h.key == key).count();
        from + skip..from + skip + count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_no_other() {
        let sequences: [Vec<u64>; 6] = [
            vec![],
            vec![7],
            vec![5, 5, 5],
            (1..1_000).map(|n| n * 3).chain([4, 3_000_000, u64::MAX]).collect(),
            (0..500).map(|n| n * n).chain([9, 16]).collect(),
            vec![0, u64::MAX],
        ];
        for keys in sequences {
            let mut sorted = Sorted::default();
            sorted.all.extend(keys.iter().enumerate().map(|(n, key)| Held { key: *key, process: 0, fd: n as i32 }));
            sorted.sort();
            for key in
                keys.iter().flat_map(|k| [k.wrapping_sub(1), *k, k.wrapping_add(1)]).chain([0, u64::MAX, 1 << 40])
            {
                let found = sorted.find(key);
                assert_eq!(found.len(), keys.iter().filter(|k| **k == key).count(), "{key} in {keys:?}");
                assert!(found.iter().all(|h| h.key == key));
            }
        }
    }
}
