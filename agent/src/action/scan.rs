//! Walks the TCP connections of a process through duplicates of its descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::lookup::{self, Descriptors, Kind, Seen, Tcp};
use super::options::OptionError;
use super::{Skipped, permission};

/// `pidfd_open`, with an error that says what to do.
pub(super) fn open(pid: u32) -> Result<OwnedFd, String> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| format!("{pid} is no process id"))?;
    pidfd_open(raw, PidfdFlags::empty()).map_err(|e| match e {
        // EINVAL, from 6.9 on ENOENT: the id of a thread that leads no process.
        Errno::INVAL | Errno::NOENT => match leader(pid) {
            Some(tgid) => format!("{pid} is a thread of process {tgid}; give --pid {tgid}"),
            None => permission::gone(pid),
        },
        e => permission::reach(pid, "open the process", e),
    })
}

fn leader(tid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let tgid = status.lines().find_map(|l| l.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    (tgid != tid).then_some(tgid)
}

/// Receives what [`process`] finds.
pub(super) trait Visit {
    fn skipped(&mut self) -> &mut Skipped;
    /// A connection; `dup` is a duplicate of the target's descriptor `fd` that the target cannot close.
    fn connection(&mut self, fd: i32, dup: BorrowedFd<'_>, tcp: Tcp);
    /// A socket that would not say what it is.
    fn broken(&mut self, fd: i32, error: OptionError);
}

/// Visits every TCP connection of `pid`; counts everything else. An error ends the walk: what was visited before
/// stays done.
pub(super) fn process(pid: u32, visit: &mut impl Visit) -> Result<(), String> {
    let walk = Walk::of(pid)?;
    let vanished = walk.part(walk.numbers(), visit)?;
    walk.end(vanished)
}

/// A process and its descriptors, listed once.
pub(super) struct Walk {
    pid: u32,
    pidfd: OwnedFd,
    files: Descriptors,
}

impl Walk {
    pub fn of(pid: u32) -> Result<Self, String> {
        let pidfd = open(pid)?;
        let files = Descriptors::of_unlisted(pid).map_err(|e| permission::reach(pid, "list the descriptors", e))?;
        Ok(Self { pid, pidfd, files })
    }

    pub fn numbers(&self) -> &[i32] {
        &self.files.numbers
    }

    /// Visits some of the [`Self::numbers`]; returns how many of them are gone. Parts may run on several threads.
    pub fn part(&self, numbers: &[i32], visit: &mut impl Visit) -> Result<usize, String> {
        let mut vanished = 0;
        for (nth, fd) in numbers.iter().copied().enumerate() {
            match self.files.kind(fd) {
                Ok(Kind::Socket) => {}
                Ok(Kind::Other) => {
                    visit.skipped().no_socket += 1;
                    continue;
                }
                Ok(Kind::Gone) => {
                    vanished += 1;
                    continue;
                }
                Err(e) => return Err(permission::reach(self.pid, "look at the descriptors", e)),
            }
            match pidfd_getfd(&self.pidfd, fd, PidfdGetfdFlags::empty()) {
                Ok(dup) => descriptor(fd, dup.as_fd(), visit),
                // Closed since the listing.
                Err(Errno::BADF) => {}
                // The process has ended, and all of its descriptors with it.
                Err(Errno::SRCH) => return Ok(vanished + numbers.len() - nth),
                Err(e) => return Err(permission::reach(self.pid, "duplicate a descriptor", e)),
            }
        }
        Ok(vanished)
    }

    /// Says whether the process lived through the walk. `vanished`: of all [`Self::numbers`].
    pub fn end(&self, vanished: usize) -> Result<(), String> {
        let all = self.files.open;
        let vanished = vanished.saturating_sub(self.numbers().len() - all.min(self.numbers().len()));
        // Descriptors vanish one by one as their owner closes them, and all at once with their process. A process that
        // nobody has waited for is still found by its number, with no descriptors.
        match all {
            0 if ended(&self.pidfd) => Err(permission::gone(self.pid)),
            _ if vanished > 0 && (ended(&self.pidfd) || self.emptied()) => {
                let left = all.saturating_sub(vanished);
                Err(format!("process {} exited after {left} of {all} descriptors", self.pid))
            }
            _ => Ok(()),
        }
    }

    /// A process that is ending drops all descriptors at once, some time before it counts as ended: closing thousands
    /// of sockets takes a while.
    fn emptied(&self) -> bool {
        Descriptors::of(self.pid).is_ok_and(|now| now.numbers.is_empty())
    }
}

/// A pidfd becomes readable when its process ends.
fn ended(pidfd: &OwnedFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&rustix::event::Timespec::default())).is_ok_and(|n| n > 0)
}

fn descriptor(fd: i32, dup: BorrowedFd<'_>, visit: &mut impl Visit) {
    match lookup::classify(dup) {
        Ok(Seen::Tcp(tcp)) => visit.connection(fd, dup, tcp),
        Ok(Seen::Listener) => visit.skipped().listeners += 1,
        Ok(Seen::Unconnected) => visit.skipped().unconnected += 1,
        Ok(Seen::Udp) => visit.skipped().udp += 1,
        Ok(Seen::OtherSocket) => visit.skipped().other_sockets += 1,
        Ok(Seen::NoSocket) => visit.skipped().no_socket += 1,
        Err(e) => visit.broken(fd, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_a_missing_process_are_named() {
        let (tx, rx) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tx.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            let _ = wait.recv();
        });
        let tid = rx.recv().unwrap();
        let why = open(tid).unwrap_err();
        assert!(why.contains(&format!("a thread of process {}", std::process::id())), "{why}");
        drop(stop);
        thread.join().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(open(pid).unwrap_err(), permission::gone(pid));
    }

    #[derive(Default)]
    struct Count(Skipped, usize);

    impl Visit for Count {
        fn skipped(&mut self) -> &mut Skipped {
            &mut self.0
        }
        fn connection(&mut self, _: i32, _: BorrowedFd<'_>, _: Tcp) {
            self.1 += 1;
        }
        fn broken(&mut self, fd: i32, error: OptionError) {
            panic!("{fd}: {error:?}");
        }
    }

    #[test]
    fn a_process_that_has_ended_but_is_not_waited_for_is_no_empty_one() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut seen = Count::default();
        process(child.id(), &mut seen).unwrap();
        assert!(seen.0.no_socket > 0 && seen.1 == 0, "{:?}", seen.0);
        child.kill().unwrap();
        let pidfd = open(child.id()).unwrap();
        while !ended(&pidfd) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(process(child.id(), &mut seen).unwrap_err(), permission::gone(child.id()));
        child.wait().unwrap();
    }
}
