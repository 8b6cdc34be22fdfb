//! Why the kernel refused, and what the user can do about it.

use rustix::io::Errno;

use crate::model::sanitize;

/// `4182 (node)`; only the number if the process is gone.
pub(super) fn name(pid: u32) -> String {
    match std::fs::read(format!("/proc/{pid}/comm")) {
        Ok(comm) => format!("{pid} ({})", sanitize(comm.strip_suffix(b"\n").unwrap_or(&comm))),
        Err(_) => pid.to_string(),
    }
}

pub(super) fn gone(pid: u32) -> String {
    format!("process {pid} does not exist (any more)")
}

/// The message for `errno` of a call that reaches into process `pid`.
pub(super) fn reach(pid: u32, what: &str, errno: Errno) -> String {
    match errno {
        Errno::SRCH | Errno::NOENT => gone(pid),
        Errno::PERM | Errno::ACCESS => denied(&name(pid), what, yama()),
        Errno::NOSYS => format!(
            "cannot {what} of process {}: this kernel has no pidfd_getfd (it came with 5.6); `--method ptrace` works \
             without it",
            name(pid)
        ),
        Errno::MFILE | Errno::NFILE => {
            format!("cannot {what} of process {}: too many open files; raise `ulimit -n`", name(pid))
        }
        e => format!("cannot {what} of process {}: {e}", name(pid)),
    }
}

fn denied(process: &str, what: &str, yama: Option<u8>) -> String {
    let scope = match yama {
        Some(0) => "; kernel.yama.ptrace_scope is 0, so another user's process or a non-dumpable one is the reason",
        Some(1) => "; kernel.yama.ptrace_scope is 1: without the capability only a parent may, 0 allows the same user",
        Some(2) => "; kernel.yama.ptrace_scope is 2: nobody may without the capability",
        Some(_) => "; kernel.yama.ptrace_scope is 3: nobody may until the next boot",
        None => "; without it only the same user's dumpable processes can be reached",
    };
    format!("cannot {what} of process {process}: permission denied; run with sudo or grant CAP_SYS_PTRACE{scope}")
}

/// `kernel.yama.ptrace_scope`; `None` where the kernel is built without Yama.
fn yama() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_yama_level_is_named_with_the_capability() {
        for level in [None, Some(0), Some(1), Some(2), Some(3)] {
            let text = denied("7 (x)", "open the descriptors", level);
            assert!(text.contains("CAP_SYS_PTRACE"), "{text}");
            assert_eq!(text.contains("kernel.yama.ptrace_scope"), level.is_some(), "{text}");
        }
    }

    #[test]
    fn a_missing_process_is_called_missing() {
        assert_eq!(reach(7, "x", Errno::SRCH), gone(7));
    }
}
