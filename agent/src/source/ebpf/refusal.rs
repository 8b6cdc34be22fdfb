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
        let last = log.lines().rev().find(|l| !l.starts_with("processed ") && !l.trim().is_empty()).unwrap_or_default();
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
