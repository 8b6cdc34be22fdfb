//! What the single facts mean for each command: the part that most readers need.

use caps::Capability;

use super::hooks::Way;
use super::{Check, Machine, Status};

const SECTION: &str = "What works here";

pub(super) fn checks(machine: &Machine) -> Vec<Check> {
    vec![watch(machine), provenance(machine), keepalive(machine), guard(machine), close(machine)]
}

fn check(name: &'static str, status: Status, found: impl Into<String>) -> Check {
    Check::new(SECTION, name, status, found)
}

/// `bpf_getsockopt` of SO_KEEPALIVE and TCP_KEEP*.
const READS_OPTIONS: (u32, u32) = (6, 1);

/// Why kernel programs cannot be loaded at all.
fn no_programs(machine: &Machine) -> Option<&'static str> {
    if machine.kernel.version < (5, 8) {
        Some("this kernel is older than 5.8")
    } else if machine.kernel.lockdown.as_deref() == Some("confidentiality") {
        Some("the kernel is locked down (confidentiality)")
    } else if !machine.privileges.may_trace() {
        Some("it needs root, or CAP_BPF and CAP_PERFMON")
    } else {
        None
    }
}

fn watch(machine: &Machine) -> Check {
    const POLLING: &str = "sock_diag polling: your own processes' sockets, without retransmit and reset events";
    if let Some(why) = no_programs(machine) {
        return check("agent watch", Status::Limited, POLLING)
            .advise(format!("{why}: sudo agent watch shows every event"));
    }
    let hooks = &machine.hooks.tracepoints;
    let missing: Vec<&str> = hooks.iter().filter(|h| !h.usable()).map(|h| h.without).collect();
    // A run takes one backend for all its hooks.
    let with_btf = hooks.iter().filter(|h| h.btf == Way::Attached).count();
    let classic = hooks.iter().filter(|h| h.classic == Way::Attached).count();
    let (backend, lesser) = match (with_btf, classic) {
        (0, 0) => {
            return check("agent watch", Status::Limited, POLLING)
                .advise("no TCP tracepoint could be attached (see below)");
        }
        (0, _) => ("classic tracepoints", Some("they tell no kind of retransmit and nothing of the socket's timers")),
        _ => ("BTF tracepoints", None),
    };
    match (missing.is_empty(), lesser) {
        (true, None) => check("agent watch", Status::Works, backend),
        (true, Some(limit)) => check("agent watch", Status::Limited, backend).advise(limit),
        (false, _) => {
            check("agent watch", Status::Limited, backend).advise(format!("not seen here: {}", missing.join(", ")))
        }
    }
}

fn provenance(machine: &Machine) -> Check {
    let name = "who sent a RST";
    if let Some(why) = no_programs(machine) {
        return check(name, Status::Missing, "not known").advise(why);
    }
    match &machine.hooks.provenance {
        Way::Attached => check(name, Status::Works, "TTL, IP ID and sequence of the packet against its flow"),
        Way::Refused(why) => check(name, Status::Missing, "not known").advise(why.clone()),
        _ => check(name, Status::Missing, "not known").advise("it needs BTF and cgroup2 (see below)"),
    }
}

fn keepalive(machine: &Machine) -> Check {
    let name = "agent keepalive";
    match (&machine.trials.pidfd_getfd, machine.privileges.has(Capability::CAP_SYS_PTRACE)) {
        (Ok(()), true) => check(name, Status::Works, "on every process"),
        (Ok(()), false) => check(name, Status::Limited, "on processes of this user only")
            .advise("sudo, or CAP_SYS_PTRACE, reaches the others"),
        (Err(_), _) if no_programs(machine).is_none() => {
            check(name, Status::Limited, "through the kernel's TCP iterator only").advise("give --method bpf")
        }
        (Err(e), _) => check(name, Status::Missing, "no way to a running process's sockets").advise(e.to_string()),
    }
}

fn guard(machine: &Machine) -> Check {
    let name = "agent guard";
    if let Some(why) = no_programs(machine) {
        return check(name, Status::Missing, "future sockets cannot be reached").advise(why);
    }
    let usable = machine.kernel.cgroup2.is_some() && machine.trials.cgroup_connect == Ok(true);
    if usable && machine.privileges.has(Capability::CAP_NET_ADMIN) {
        let found = "future sockets get keepalive before their SYN";
        if machine.kernel.version < READS_OPTIONS {
            return check(name, Status::Limited, found).advise(
                "before Linux 6.1 kernel programs do not read options: what a socket had before is not told, and \
                 `agent keepalive --undo` cannot restore it; nor does --method bpf work",
            );
        }
        check(name, Status::Works, found)
    } else {
        check(name, Status::Missing, "future sockets cannot be reached").advise("it needs cgroup2 and CAP_NET_ADMIN")
    }
}

fn close(machine: &Machine) -> Check {
    match &machine.trials.sock_destroy {
        Ok(()) => check("agent close", Status::Works, "stuck sockets can be destroyed"),
        Err(_) => check("agent close", Status::Missing, "sockets cannot be destroyed").advise("see SOCK_DESTROY below"),
    }
}
