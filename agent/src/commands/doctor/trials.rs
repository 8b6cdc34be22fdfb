//! System calls tried on sockets of our own.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::programs::ProgramType;
use aya::sys::is_program_supported;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::privileges::Privileges;
use super::{Check, Status};
use crate::model::{Flow, SocketId};
use crate::source::diag::{Diag, NetNs};

const SECTION: &str = "Tried";

/// It works, this kernel has no such thing, or the call failed.
type Outcome = Result<bool, String>;

pub(super) struct Trials {
    pub cgroup_connect: Outcome,
    pub pidfd_getfd: io::Result<()>,
    pub sock_diag: io::Result<()>,
    pub sock_destroy: io::Result<()>,
}

pub(super) fn run() -> Trials {
    let (sock_diag, sock_destroy) = diag();
    Trials {
        cgroup_connect: is_program_supported(ProgramType::CgroupSockAddr).map_err(|e| text(&e)),
        pidfd_getfd: keepalive_through_pidfd(),
        sock_diag,
        sock_destroy,
    }
}

/// Looks a listening socket of our own up by its cookie, and destroys it.
fn diag() -> (io::Result<()>, io::Result<()>) {
    let look = || -> io::Result<(Diag, Flow, SocketId, TcpListener)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let local = listener.local_addr()?;
        let flow = Flow { local, remote: (Ipv4Addr::UNSPECIFIED, 0).into() };
        let id = SocketId(sockopt::socket_cookie(&listener)?);
        let mut diag = Diag::open(&NetNs::own()?)?;
        diag.get(&flow, 0, id)?.ok_or_else(|| io::Error::other("a socket that is there was not found"))?;
        Ok((diag, flow, id, listener))
    };
    match look() {
        Ok((mut diag, flow, id, _listener)) => {
            let destroyed = diag.destroy(&flow, 0, id).and_then(|there| match there {
                true => Ok(()),
                false => Err(io::Error::other("a socket that is there was not found")),
            });
            (Ok(()), destroyed)
        }
        Err(e) => (Err(e), Err(io::Error::other("sock_diag does not work"))),
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
    let number = socket.as_raw_fd();
    let copy: OwnedFd = rustix::process::pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty())?;
    sockopt::set_socket_keepalive(&copy, true)?;
    if sockopt::socket_keepalive(&socket)? {
        Ok(())
    } else {
        Err(io::Error::other("the option set on the copy is not on the original"))
    }
}

pub(super) fn checks(trials: &Trials, privileges: &Privileges) -> Vec<Check> {
    let mut checks = vec![match &trials.sock_diag {
        Ok(()) => Check::new(SECTION, "sock_diag", Status::Works, "tcp_info, queues and timers of every socket"),
        Err(e) => Check::new(SECTION, "sock_diag", Status::Missing, e.to_string()).advise(
            "no round-trip times, queues or forecasts: load the module tcp_diag, or leave the sandbox that refuses it",
        ),
    }];
    checks.push(match &trials.sock_destroy {
        Ok(()) => Check::new(SECTION, "SOCK_DESTROY", Status::Works, "`agent close`"),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Check::new(SECTION, "SOCK_DESTROY", Status::Missing, "not in this kernel: `agent close` cannot work")
                .advise(
                    "a kernel with CONFIG_INET_DIAG_DESTROY has it; here restart the client, or use TCP_USER_TIMEOUT",
                )
        }
        Err(e) => Check::new(SECTION, "SOCK_DESTROY", Status::Limited, format!("refused: {e}"))
            .advise("`agent close` needs CAP_NET_ADMIN: run with sudo"),
    });
    checks.push(match &trials.cgroup_connect {
        Ok(true) => Check::new(SECTION, "cgroup/connect4", Status::Works, "`agent guard`"),
        // The probe cannot tell a missing type from a missing right.
        _ if !privileges.may_trace() => {
            Check::new(SECTION, "cgroup/connect4", Status::Limited, "not tried: `agent guard`")
                .advise("run `sudo agent doctor` to try it")
        }
        Ok(false) => Check::new(SECTION, "cgroup/connect4", Status::Missing, "not in this kernel: no `agent guard`")
            .advise("a kernel with CONFIG_CGROUP_BPF has it"),
        Err(e) => Check::new(SECTION, "cgroup/connect4", Status::Missing, format!("failed: {e}"))
            .advise("`agent guard` cannot work; `agent keepalive` again and again can"),
    });
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

    #[test]
    fn a_socket_of_this_process_is_found_by_its_cookie() {
        diag().0.unwrap();
    }
}
