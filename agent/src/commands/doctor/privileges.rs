//! What this process may do, and what each right is for.

use caps::{CapSet, Capability};

use super::kernel::Kernel;
use super::{Check, Status};

const SECTION: &str = "Privileges";

/// (capability, what it is for, what still works without it)
const CAPABILITIES: [(Capability, &str, &str); 6] = [
    (Capability::CAP_BPF, "loads kernel programs", "without it only --backend sock-diag works"),
    (
        Capability::CAP_PERFMON,
        "lets them read kernel memory at tracepoints",
        "without it only --backend sock-diag works",
    ),
    (
        Capability::CAP_NET_ADMIN,
        "sees RST packets, guards future sockets, closes sockets",
        "no --provenance, no `agent guard`, no `agent close`",
    ),
    (
        Capability::CAP_SYS_PTRACE,
        "reads and sets other users' sockets, finds their owners",
        "keepalive is known and forced only for processes of this user",
    ),
    (
        Capability::CAP_SYS_ADMIN,
        "enters other network namespaces (containers)",
        "sockets in other network namespaces have events but no tcp_info",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "reads tracefs and /proc of other users",
        "without BTF it is needed for field positions",
    ),
];

pub(super) struct Privileges {
    effective: Vec<Capability>,
    yama: Option<i64>,
    unprivileged_bpf: Option<i64>,
    /// Bytes; `None`: no limit.
    memlock: Option<u64>,
}

impl Privileges {
    pub(super) fn read() -> Self {
        let has = |c: &Capability| caps::has_cap(None, CapSet::Effective, *c).unwrap_or(false);
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        Self {
            effective: CAPABILITIES.iter().map(|c| c.0).filter(has).collect(),
            yama: number("/proc/sys/kernel/yama/ptrace_scope"),
            unprivileged_bpf: number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            memlock: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        }
    }

    pub(super) fn has(&self, capability: Capability) -> bool {
        self.effective.contains(&capability)
    }

    /// Programs that watch can be loaded.
    pub(super) fn may_trace(&self) -> bool {
        self.has(Capability::CAP_SYS_ADMIN) || (self.has(Capability::CAP_BPF) && self.has(Capability::CAP_PERFMON))
    }
}

pub(super) fn checks(privileges: &Privileges, kernel: &Kernel) -> Vec<Check> {
    let mut checks: Vec<Check> = CAPABILITIES
        .iter()
        .map(|(capability, purpose, without)| {
            if privileges.has(*capability) {
                Check::new(SECTION, capability.to_string(), Status::Works, *purpose)
            } else {
                Check::new(SECTION, capability.to_string(), Status::Limited, format!("absent: {purpose}"))
                    .advise(format!("{without}; run with sudo or grant {capability}"))
            }
        })
        .collect();
    checks.push(yama(privileges.yama, privileges.has(Capability::CAP_SYS_PTRACE)));
    checks.push(unprivileged_bpf(privileges.unprivileged_bpf, privileges.may_trace()));
    // Kernels from 5.11 on account BPF memory to the cgroup instead.
    if kernel.version < (5, 11) {
        checks.push(match privileges.memlock {
            Some(bytes) if bytes < 64 << 20 => Check::new(
                SECTION,
                "RLIMIT_MEMLOCK",
                Status::Limited,
                format!("{} KiB", bytes >> 10),
            )
            .advise(
                "this kernel charges maps and the ring to it; the agent raises it as root, else: ulimit -l unlimited",
            ),
            _ => Check::new(SECTION, "RLIMIT_MEMLOCK", Status::Works, "enough for the maps"),
        });
    }
    checks
}

/// `kernel.yama.ptrace_scope`: pidfd_getfd passes the same check as ptrace.
fn yama(scope: Option<i64>, ptrace: bool) -> Check {
    let check = |status, found: &str| Check::new(SECTION, "yama ptrace_scope", status, found);
    match (scope, ptrace) {
        (None, _) => check(Status::Works, "no Yama: processes of the same user are open to each other"),
        (Some(0), _) => check(Status::Works, "0: processes of the same user are open to each other"),
        (Some(3), _) => check(Status::Missing, "3: nobody may attach, not even root").advise(
            "pidfd_getfd is refused, so keepalive truth and `agent keepalive` need --method bpf; 3 can only be left by a \
             reboot",
        ),
        (Some(n), true) => check(Status::Works, &format!("{n}: open to CAP_SYS_PTRACE, which this process has")),
        (Some(n), false) => check(Status::Limited, &format!("{n}: closed to this process"))
            .advise("keepalive truth of other processes needs sudo (CAP_SYS_PTRACE) or kernel.yama.ptrace_scope=0"),
    }
}

fn unprivileged_bpf(disabled: Option<i64>, may_trace: bool) -> Check {
    let check = |status, found: &str| Check::new(SECTION, "unprivileged BPF", status, found);
    match (disabled, may_trace) {
        (_, true) => check(Status::Works, "does not matter: this process has the capabilities"),
        (Some(0), false) => check(Status::Limited, "allowed, but never at tracepoints").advise("run with sudo"),
        (_, false) => check(Status::Limited, "forbidden, as is usual").advise("run with sudo"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yama_is_judged_with_the_capability() {
        assert_eq!(yama(Some(1), true).status, Status::Works);
        assert_eq!(yama(Some(1), false).status, Status::Limited);
        assert_eq!(yama(Some(3), true).status, Status::Missing);
        assert_eq!(yama(None, false).status, Status::Works);
    }
}
