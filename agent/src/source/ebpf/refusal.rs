//! What the kernel refused, in one sentence with a way out.

use std::io;

use aya::programs::ProgramError;

/// Creating the maps failed.
pub(super) fn explain(e: aya::EbpfError) -> anyhow::Error {
    let errno = io_error(&e).and_then(io::Error::raw_os_error);
    let hint = match errno {
        Some(libc::EPERM) => {
            "; run with sudo or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (before Linux 5.11 also raise `ulimit -l`)"
        }
        Some(libc::ENOMEM) => "; lower --ring-size or --max-sockets",
        Some(libc::EINVAL) => "; ring buffers need Linux 5.8",
        _ => "",
    };
    anyhow::anyhow!("cannot create the kernel maps: {}{hint}", root(&e))
}

fn io_error<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io);
        }
        at = e.source();
    }
    None
}

/// The innermost cause: aya's outer layers only name the call.
fn root(e: &(dyn std::error::Error + 'static)) -> String {
    let mut at = e;
    while let Some(inner) = at.source() {
        at = inner;
    }
    at.to_string()
}

/// The kernel's answer with a way out.
pub(super) fn why(e: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = e {
        let log = verifier_log.to_string();
        if let Some(too_old) = helper_refused(&log) {
            return too_old;
        }
        let last = log.lines().rev().find(|l| !is_statistics(l)).unwrap_or_default();
        let hint = if io_error.raw_os_error() == Some(libc::EPERM) {
            "; run with sudo or grant CAP_BPF and CAP_PERFMON"
        } else {
            ""
        };
        return format!("the kernel refused the program: {io_error} {last}{hint}").trim_end().to_owned();
    }
    let errno = io_error(e).and_then(io::Error::raw_os_error);
    let hint = match errno {
        Some(libc::EPERM | libc::EACCES) => "; run with sudo or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
        _ => "",
    };
    format!("{}{hint}", root(e))
}

/// Helpers that programs of ours call and that came after the oldest kernel we run on: number, name, and since when
/// programs of that kind may call it.
const LATE_HELPERS: [(u32, &str, &str); 4] = [
    (46, "bpf_get_socket_cookie", "5.12"),
    (49, "bpf_setsockopt", "5.15"),
    (57, "bpf_getsockopt", "5.15"),
    (162, "bpf_sock_from_file", "5.11"),
];

/// `unknown func bpf_getsockopt#57`: the kernel has the helper, not for this kind of program; `invalid func
/// unknown#162`: it does not have it.
fn helper_refused(log: &str) -> Option<String> {
    let refused = |l: &&str| {
        let l = l.trim_start();
        l.starts_with("unknown func ") || l.starts_with("invalid func ") || l.starts_with("program of this type cannot")
    };
    let line = log.lines().rev().find(refused)?;
    let number: u32 = line.rsplit_once('#')?.1.trim().parse().ok()?;
    let (_, name, since) = LATE_HELPERS.iter().find(|(n, ..)| *n == number)?;
    Some(format!("this kernel's programs cannot call {name} there; they can from Linux {since} on"))
}

/// What the verifier says after its verdict.
fn is_statistics(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || ["processed ", "stack depth ", "verification time "].iter().any(|s| line.starts_with(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_came_later_is_named() {
        let log =
            "12: (85) call bpf_getsockopt#57\nunknown func bpf_getsockopt#57\nprocessed 11 insns\nstack depth 0\n";
        assert!(helper_refused(log).unwrap().contains("bpf_getsockopt there; they can from Linux 5.15"));
        assert!(helper_refused("invalid func unknown#162\n").unwrap().contains("bpf_sock_from_file"));
        assert_eq!(helper_refused("invalid func unknown#9999\n"), None);
        assert_eq!(helper_refused("R1 type=inv expected=ctx\n"), None);
    }

    #[test]
    fn statistics_are_no_verdict() {
        let log = "R1 type=inv expected=ctx\nverification time 12 usec\nstack depth 0\nprocessed 11 insns\n\n";
        assert_eq!(log.lines().rev().find(|l| !is_statistics(l)), Some("R1 type=inv expected=ctx"));
    }
}
