//! Which program goes where, and what became of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::cgroup_skb::CgroupSkbAttachType;
use aya::programs::{CgroupAttachMode, CgroupSkb, Program, ProgramError};

use super::backend::Backend;
use super::load::{Options, Types};
use super::refusal::why;
use crate::model::Hook;

/// The tracepoints of ours: category, name, program with BTF, classic program.
const HOOKS: [(&str, &str, &str, &str); 8] = [
    ("tcp", "tcp_destroy_sock", "btf_destroy_sock", "tp_destroy_sock"),
    ("sock", "inet_sock_set_state", "btf_set_state", "tp_set_state"),
    ("tcp", "tcp_retransmit_skb", "btf_retransmit_skb", "tp_retransmit_skb"),
    ("tcp", "tcp_retransmit_synack", "btf_retransmit_synack", "tp_retransmit_synack"),
    ("tcp", "tcp_receive_reset", "btf_receive_reset", "tp_receive_reset"),
    ("tcp", "tcp_send_reset", "btf_send_reset", "tp_send_reset"),
    ("sched", "sched_process_fork", "btf_process_fork", "tp_process_fork"),
    ("sched", "sched_process_exit", "btf_process_exit", "tp_process_exit"),
];
const PROVENANCE: &str = "rst_provenance";

/// Loads and attaches everything that this kernel has. A hook that fails is reported and the rest goes on.
pub(super) fn attach(ebpf: &mut Ebpf, types: &Types, options: &Options) -> Vec<Hook> {
    let wanted: Vec<_> = HOOKS.iter().filter(|(category, name, ..)| needed(category, name, options)).collect();
    let program_of = |hook: &(&str, &str, &'static str, &'static str)| match types.backend() {
        Backend::Btf => hook.2,
        Backend::Tracepoint => hook.3,
    };
    let mut failed = load_all(ebpf, &wanted, types, program_of);
    let mut hooks = Vec::new();
    for hook in &wanted {
        let (category, name, program) = (hook.0, hook.1, program_of(hook));
        let why_not = types.missing(name).or_else(|| failed.remove(program)).or_else(|| {
            let attached = match ebpf.program_mut(program) {
                Some(Program::BtfTracePoint(p)) => p.attach().map(drop),
                Some(Program::TracePoint(p)) => p.attach(category, name).map(drop),
                _ => Err(ProgramError::UnexpectedProgramType),
            };
            attached.err().map(|e| why(&e))
        });
        hooks.push(hook_of(name, types.backend().name(), why_not));
    }
    if !options.provenance.is_empty() {
        hooks.push(provenance(ebpf, types, &options.provenance));
    }
    hooks
}

/// Hooks that this kernel does not have: nothing can be done about those.
pub(super) fn lacking(types: &Types) -> usize {
    HOOKS.iter().filter(|h| types.missing(h.1).is_some()).count()
}

fn needed(category: &str, name: &str, options: &Options) -> bool {
    match (category, name) {
        (_, "sched_process_fork") => options.tree,
        ("sched", _) => !options.all,
        _ => true,
    }
}

fn hook_of(name: &str, backend: &str, why_not: Option<String>) -> Hook {
    Hook { name: name.into(), backend: backend.into(), attached: why_not.is_none(), why_not }
}

type HookRow = (&'static str, &'static str, &'static str, &'static str);

/// Loads the programs in as many threads as there are CPUs (at most four): verification is most of the start-up time,
/// and the kernel verifies in parallel. Returns why each program that failed did.
fn load_all(
    ebpf: &mut Ebpf,
    wanted: &[&HookRow],
    types: &Types,
    program_of: impl Fn(&HookRow) -> &'static str,
) -> BTreeMap<&'static str, String> {
    let mut jobs: Vec<(&'static str, &'static str, &mut Program)> = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        if let Some(hook) = wanted.iter().find(|h| program_of(h) == name && types.missing(h.1).is_none()) {
            jobs.push((hook.1, program_of(hook), program));
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    // Whoever is ready takes the next, in the order of HOOKS, which ends with the shortest.
    jobs.sort_by_key(|job| std::cmp::Reverse(HOOKS.iter().position(|h| h.1 == job.0)));
    let jobs = Mutex::new(jobs);
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let load = |(tracepoint, name, program): (&'static str, &'static str, &mut Program)| {
        let loaded = match (program, types) {
            (Program::BtfTracePoint(p), Types::Btf(_, btf)) => p.load(tracepoint, btf),
            (Program::TracePoint(p), _) => p.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        loaded.err().map(|e| (name, why(&e)))
    };
    std::thread::scope(|scope| {
        let worker = || std::iter::from_fn(next).filter_map(load).collect::<Vec<_>>();
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    })
}

fn provenance(ebpf: &mut Ebpf, types: &Types, dirs: &[PathBuf]) -> Hook {
    let hook = |why_not| hook_of("cgroup_skb/ingress", "cgroup_skb", why_not);
    if types.backend() != Backend::Btf {
        return hook(Some("needs BTF tracepoints: classic ones cannot be joined to packets".into()));
    }
    hook(attach_provenance(ebpf, dirs).err().map(|e| format!("{e:#}")))
}

fn attach_provenance(ebpf: &mut Ebpf, dirs: &[PathBuf]) -> Result<()> {
    let program: &mut CgroupSkb = ebpf.program_mut(PROVENANCE).context("the object has no such program")?.try_into()?;
    program.load().map_err(|e| anyhow::anyhow!("{}", why(&e)))?;
    for dir in dirs {
        let file = std::fs::File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
        // Links always allow others beside them (BPF_F_ALLOW_MULTI is implied and refused as a flag).
        program
            .attach(file, CgroupSkbAttachType::Ingress, CgroupAttachMode::Single)
            .map_err(|e| anyhow::anyhow!("cannot attach to {}: {}", dir.display(), why(&e)))?;
    }
    Ok(())
}

/// Whether every tracing program of `hooks` that must be there is: without any, the source would show nothing.
pub fn any_attached(hooks: &[Hook]) -> bool {
    hooks.iter().any(|h| h.attached)
}

/// Names of the programs that the hooks of a backend use, to ask them for what they missed.
pub fn program_names() -> impl Iterator<Item = &'static str> {
    HOOKS.iter().flat_map(|h| [h.2, h.3]).chain([PROVENANCE])
}

/// The kernel file descriptor of a loaded program.
pub fn program_fd(program: &Program) -> Option<std::os::fd::BorrowedFd<'_>> {
    use std::os::fd::AsFd;
    let fd = match program {
        Program::BtfTracePoint(p) => p.fd(),
        Program::TracePoint(p) => p.fd(),
        Program::CgroupSkb(p) => p.fd(),
        _ => return None,
    };
    fd.ok().map(AsFd::as_fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_and_exits_are_traced_only_where_they_matter() {
        let names = |o: &Options| -> Vec<&str> {
            HOOKS.iter().filter(|(c, n, ..)| c == &"sched" && needed(c, n, o)).map(|h| h.1).collect()
        };
        assert_eq!(names(&Options { all: true, ..Options::default() }), [""; 0]);
        assert_eq!(names(&Options::default()), ["sched_process_exit"]);
        let tree = Options { tree: true, ..Options::default() };
        assert_eq!(names(&tree), ["sched_process_fork", "sched_process_exit"]);
    }
}
