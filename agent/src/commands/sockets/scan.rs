//! Which process holds which socket, read from /proc on several threads: a descriptor costs 2 to 4 µs there.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::attribute::procfs::{self, SocketFd};
use crate::source::diag::NetNs;

/// Threads at most, and processes that each should have for it to be worth its start.
const MAX_THREADS: usize = 8;
const WORTH: usize = 8;

/// What /proc says of one process.
pub struct Found {
    pub pid: u32,
    pub netns: io::Result<NetNs>,
    /// `None` where its descriptors were not asked for.
    pub sockets: Option<Result<Vec<SocketFd>, Errno>>,
}

/// Reads all of `pids`, in their order.
pub fn read(pids: &[u32], descriptors: bool) -> Vec<Found> {
    let next = AtomicUsize::new(0);
    // Whoever is ready takes the next process: one may have more descriptors than all others.
    let work = || {
        let mut found = Vec::new();
        while let Some(pid) = pids.get(next.fetch_add(1, Ordering::Relaxed)) {
            found.push(one(*pid, descriptors));
        }
        found
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)).min(pids.len() / WORTH);
    let mut all = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for helper in helpers {
            all.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|f| f.pid);
    all
}

fn one(pid: u32, descriptors: bool) -> Found {
    let netns = NetNs::of_pid(pid);
    let sockets = descriptors.then(|| {
        let mut found = Vec::new();
        procfs::sockets_of(pid, &mut found).map(|_| found)
    });
    Found { pid, netns, sockets }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_is_read_once_in_order() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut pids = procfs::all_pids().unwrap();
        pids.sort_unstable();
        let found = read(&pids, true);
        assert_eq!(found.iter().map(|f| f.pid).collect::<Vec<_>>(), pids);
        let own = found.iter().find(|f| f.pid == std::process::id()).unwrap();
        let held = own.sockets.as_ref().unwrap().as_ref().unwrap();
        assert!(held.iter().any(|s| s.fd == std::os::fd::AsRawFd::as_raw_fd(&socket)));
        assert!(read(&pids, false).iter().all(|f| f.sockets.is_none()));
    }
}
