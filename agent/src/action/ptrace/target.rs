//! Whether a process may be traced at all, and which of its threads suffers least.

use std::fs;
use std::io::Read;

/// System calls that return EINTR after a mere stop, without any handler having run (signal(7), "Interruption of system
/// calls by stop signals"): a thread in one of these is taken only if there is no other.
const NOT_RESTARTED: [i64; 8] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    libc::SYS_io_uring_enter,
];

/// Why process `pid` must not be traced; `None` if it may.
pub(super) fn refusal(pid: u32) -> Option<String> {
    let name = super::super::permission::name(pid);
    let no = |why: &str| Some(format!("will not trace process {name}: {why}"));
    let mut elf = [0u8; 5];
    if let Ok(mut exe) = fs::File::open(format!("/proc/{pid}/exe"))
        && exe.read_exact(&mut elf).is_ok()
        && elf == [0x7f, b'E', b'L', b'F', 1]
    {
        return no("it is a 32-bit program");
    }
    for tid in threads(pid) {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")) else { continue };
        if let Some(why) = refuse_status(&status) {
            return no(&why);
        }
    }
    None
}

fn refuse_status(status: &str) -> Option<String> {
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    if field("Seccomp:").is_some_and(|v| v != "0") {
        return Some("it has a seccomp filter, which may kill it for a system call that it never makes itself".into());
    }
    if let Some(tracer) = field("TracerPid:").filter(|v| *v != "0") {
        return Some(format!("it is traced already, by process {tracer}"));
    }
    match field("State:").and_then(|s| s.chars().next()) {
        Some('T' | 't') => Some("it is stopped; continue it first (SIGCONT)".into()),
        Some('Z' | 'X') => Some("it has ended".into()),
        _ => None,
    }
}

fn threads(pid: u32) -> Vec<i32> {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// How much a thread is disturbed by a stop; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    /// Waits on a futex: restarted without anybody noticing. The idle workers of a thread pool.
    Waiting,
    /// In another system call that the kernel restarts.
    Restarted,
    Running,
    /// Its system call will return EINTR.
    Interrupted,
}

fn cost(syscall: &str) -> Cost {
    match syscall.split(' ').next().and_then(|n| n.parse::<i64>().ok()) {
        Some(libc::SYS_futex) => Cost::Waiting,
        Some(n) if NOT_RESTARTED.contains(&n) => Cost::Interrupted,
        Some(n) if n >= 0 => Cost::Restarted,
        _ => Cost::Running,
    }
}

/// The thread to stop.
pub(super) fn pick(pid: u32) -> Option<i32> {
    threads(pid)
        .into_iter()
        .filter_map(|tid| {
            let syscall = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
            Some((cost(&syscall), tid))
        })
        .min()
        .map(|(_, tid)| tid)
}

/// The address of a `syscall` instruction in the vdso of `pid`, whose memory is `memory`.
pub(super) fn syscall_instruction(pid: u32, memory: &fs::File) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    /// A vdso has one or two pages of code.
    const MAX_VDSO: u64 = 64 * 1024;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let line = maps.lines().find(|l| l.ends_with("[vdso]"))?;
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    let len = to.checked_sub(from).filter(|n| *n <= MAX_VDSO)?;
    let mut code = vec![0u8; len as usize];
    memory.read_exact_at(&mut code, from).ok()?;
    code.windows(2).position(|w| w == [0x0f, 0x05]).map(|at| from + at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filtered_traced_and_stopped_processes_are_refused() {
        let ok = "Name:\tx\nState:\tS (sleeping)\nTracerPid:\t0\nSeccomp:\t0\n";
        assert_eq!(refuse_status(ok), None);
        assert!(refuse_status(&ok.replace("Seccomp:\t0", "Seccomp:\t2")).unwrap().contains("seccomp"));
        assert!(refuse_status(&ok.replace("TracerPid:\t0", "TracerPid:\t77")).unwrap().contains("process 77"));
        assert!(refuse_status(&ok.replace("S (sl", "T (st")).unwrap().contains("SIGCONT"));
    }

    #[test]
    fn an_idle_worker_is_preferred_to_the_event_loop() {
        assert!(cost("202 0x7f 0x80 0x0") < cost("0 0x3 0x7f"));
        assert!(cost("0 0x3 0x7f") < cost("running"));
        assert!(cost("running") < cost("232 0x5 0x7f"));
    }
}
