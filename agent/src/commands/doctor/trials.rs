//! What is tried for real: kernel objects and system calls on things of our own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::privileges::Privileges;
use super::{Check, Status};

const SECTION: &str = "Tried";

/// What a trial came to: it works, this kernel has no such thing, or the call failed.
pub(super) type Outcome = Result<bool, String>;

pub(super) struct Trials {
    pub ring: Outcome,
    pub prefix_trie: Outcome,
    pub tracepoint: Outcome,
    pub cgroup_skb: Outcome,
    pub cgroup_connect: Outcome,
    pub pidfd_getfd: io::Result<()>,
}

pub(super) fn run() -> Trials {
    let map = |t| is_map_supported(t).map_err(|e| text(&e));
    let program = |t| is_program_supported(t).map_err(|e| text(&e));
    Trials {
        ring: map(MapType::RingBuf),
        prefix_trie: map(MapType::LpmTrie),
        tracepoint: program(ProgramType::TracePoint),
        cgroup_skb: program(ProgramType::CgroupSkb),
        cgroup_connect: program(ProgramType::CgroupSockAddr),
        pidfd_getfd: keepalive_through_pidfd(),
    }
}

/// The whole chain in one line.
fn text(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !line.contains(&more) {
            line = format!("{line}: {more}");
        }
        cause = e.source();
    }
    line
}

/// Sets SO_KEEPALIVE on a socket of this process the way it is done to another's, and reads it back on the original.
fn keepalive_through_pidfd() -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let copy: OwnedFd = rustix::process::pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty())?;
    sockopt::set_socket_keepalive(&copy, true)?;
    if sockopt::socket_keepalive(&socket)? {
        Ok(())
    } else {
        Err(io::Error::other("the option set on the copy is not on the original"))
    }
}

pub(super) fn checks(trials: &Trials, privileges: &Privileges) -> Vec<Check> {
    let programs = [
        ("ring buffer", &trials.ring, "the way from the kernel to the agent", "it came with Linux 5.8"),
        ("LPM trie", &trials.prefix_trie, "the destination filter", "it came with Linux 4.11"),
        ("tracepoint programs", &trials.tracepoint, "the observer", "the kernel was built without CONFIG_BPF_EVENTS"),
        ("cgroup_skb programs", &trials.cgroup_skb, "the look at RST packets", "the kernel lacks CONFIG_CGROUP_BPF"),
        ("cgroup/connect4", &trials.cgroup_connect, "`agent guard`", "the kernel lacks CONFIG_CGROUP_BPF"),
    ];
    let mut checks: Vec<Check> = programs
        .into_iter()
        .map(|(name, outcome, purpose, absent)| match outcome {
            Ok(true) => Check::new(SECTION, name, Status::Works, purpose),
            // The probe cannot tell a missing type from a missing right.
            _ if !privileges.may_trace() => Check::new(SECTION, name, Status::Limited, format!("not tried: {purpose}"))
                .advise("run `sudo agent doctor` to try it"),
            Ok(false) => Check::new(SECTION, name, Status::Missing, format!("refused: {purpose}")).advise(absent),
            Err(e) => Check::new(SECTION, name, Status::Missing, format!("failed: {e}")).advise(absent),
        })
        .collect();
    checks.push(match &trials.pidfd_getfd {
        Ok(()) => Check::new(SECTION, "pidfd_getfd", Status::Works, "keepalive of a running process, read and forced"),
        Err(e) => Check::new(SECTION, "pidfd_getfd", Status::Missing, e.to_string())
            .advise("it came with Linux 5.6; a seccomp filter of a container may refuse it too: use --method bpf"),
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_this_process_takes_keepalive_through_its_pidfd() {
        keepalive_through_pidfd().unwrap();
    }
}
