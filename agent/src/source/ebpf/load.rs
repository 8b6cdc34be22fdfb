//! From options to attached programs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_common::{Offsets, Settings};
use anyhow::{Context, Result};
use aya::programs::cgroup_skb::CgroupSkbAttachType;
use aya::programs::{CgroupAttachMode, CgroupSkb, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use super::backend::{Backend, Facts};
use super::classic::ClassicTypes;
use super::object::{Globals, OBJECT, configure};
use super::offsets::KernelTypes;
use super::tracefs;
use crate::model::{DestPrefix, Hook};

/// Records wake the reader at most this often while it keeps up; the reader polls for as long after each.
pub const WAKE_WINDOW_NS: u32 = 5_000_000;
/// Targets, listeners and tuples: processes and ports are few compared with sockets.
const MAX_PIDS: u32 = 16_384;
const MAX_LISTENERS: u32 = 8_192;
/// The provenance program's memory: an LRU, so that a storm of flows only forgets the oldest.
const MAX_FLOWS: u32 = 65_536;

/// What to trace.
#[derive(Debug, Clone)]
pub struct Options {
    pub backend: crate::model::BackendChoice,
    /// Every socket of the machine: no target filter.
    pub all: bool,
    /// tgid and whether its children are targets too; more may be added later.
    pub pids: Vec<(u32, bool)>,
    /// Follow forks of tree targets (also of those added later).
    pub tree: bool,
    /// `None` = no destination filter; an empty list matches nothing until it is replaced.
    pub destinations: Option<Vec<DestPrefix>>,
    /// Directories of cgroup2 whose packets are looked at; empty = no provenance.
    pub provenance: Vec<PathBuf>,
    pub kernel_log: bool,
    /// Bytes, a power of two, at least a page.
    pub ring_size: u32,
    /// Entries of the kernel's socket table.
    pub max_sockets: u32,
    /// Read kernel structures with `bpf_probe_read_kernel` and the cookie from memory from the start. Slower; what
    /// loading falls back to by itself where the verifier refuses the direct way.
    pub probe_read: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: crate::model::BackendChoice::Auto,
            all: false,
            pids: Vec::new(),
            tree: false,
            destinations: None,
            provenance: Vec::new(),
            kernel_log: false,
            ring_size: 2 << 20,
            max_sockets: 65_536,
            probe_read: false,
        }
    }
}

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

/// What the chosen backend needs to know of the kernel.
pub enum Types {
    Btf(Box<KernelTypes>, Btf),
    Classic(Box<ClassicTypes>),
}

impl Types {
    pub fn backend(&self) -> Backend {
        match self {
            Self::Btf(..) => Backend::Btf,
            Self::Classic(_) => Backend::Tracepoint,
        }
    }

    pub fn offsets(&self) -> Offsets {
        match self {
            Self::Btf(t, _) => t.offsets,
            Self::Classic(_) => Offsets::NONE,
        }
    }

    pub fn reset_reasons(&self) -> BTreeMap<u32, Arc<str>> {
        match self {
            Self::Btf(t, _) => t.reset_reasons.clone(),
            Self::Classic(t) => t.reset_reasons.clone(),
        }
    }

    fn missing(&self, name: &'static str) -> Option<String> {
        match self {
            Self::Btf(t, _) if t.tracepoints.contains_key(name) => None,
            Self::Btf(..) => Some(format!("this kernel has no tracepoint {name}")),
            Self::Classic(t) => t.missing.get(name).cloned(),
        }
    }

    fn globals(&self, options: &Options) -> Globals {
        let base = match self {
            Self::Btf(t, _) => Globals::with_types(t),
            Self::Classic(t) => Globals { classic: t.fields, ..Globals::default() },
        };
        let settings = Settings {
            all: options.all.into(),
            kernel_log: options.kernel_log.into(),
            provenance: u32::from(matches!(self, Self::Btf(..)) && !options.provenance.is_empty()),
            ring_high: options.ring_size / 4,
            wake_window_ns: WAKE_WINDOW_NS,
            ..base.settings
        };
        Globals { settings, ..base }
    }
}

/// Looks the machine over. Reads vmlinux BTF only if `want_btf`.
pub fn facts(want_btf: bool) -> (Facts, Option<KernelTypes>, Option<PathBuf>) {
    let types = if want_btf { Some(KernelTypes::resolve()) } else { None };
    let btf = match &types {
        Some(Ok(_)) => Ok(()),
        Some(Err(e)) => Err(format!("{e:#}")),
        None => Err("not asked for".into()),
    };
    let tracefs = tracefs::find();
    let facts = Facts {
        privileged: privileged(),
        btf,
        tracefs: tracefs.as_ref().map(|_| ()).ok_or_else(|| {
            "tracefs is not mounted (or not readable); run: mount -t tracefs tracefs /sys/kernel/tracing".to_owned()
        }),
    };
    (facts, types.and_then(Result::ok), tracefs)
}

/// CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, which stands for both (and for all before 5.8).
fn privileged() -> bool {
    use caps::{CapSet, Capability, has_cap};
    let has = |c| has_cap(None, CapSet::Effective, c).unwrap_or(false);
    has(Capability::CAP_SYS_ADMIN) || (has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON))
}

/// The object with its maps created and sized, no program loaded yet; and whether its programs can make cookies.
fn object(types: &Types, options: &Options, loader: EbpfLoader<'static>) -> Result<(Ebpf, bool)> {
    let mut globals = types.globals(options);
    // Kernels before 5.11 charge maps to RLIMIT_MEMLOCK; where raising it fails, creating a map will say so.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Memlock,
        rustix::process::Rlimit { current: None, maximum: None },
    );
    globals.settings.probe_read = options.probe_read.into();
    if options.probe_read || !cookie_helper_exists() {
        globals.settings.cookie_helper = 0;
    }
    let mut loader = configure(loader, &globals);
    loader
        .map_max_entries("EVENTS", options.ring_size)
        .map_max_entries("SOCKS", options.max_sockets.max(1))
        .map_max_entries("PIDS", MAX_PIDS)
        .map_max_entries("LISTENERS", MAX_LISTENERS);
    if !options.provenance.is_empty() {
        loader.map_max_entries("FLOWS", MAX_FLOWS);
    }
    if types.backend() == Backend::Tracepoint {
        loader.map_max_entries("TUPLES", options.max_sockets.max(1));
    }
    let ebpf = loader.load(OBJECT).map_err(explain)?;
    Ok((ebpf, globals.settings.cookie_helper != 0))
}

/// `bpf_get_socket_cookie` for tracing programs came with 5.12.
fn cookie_helper_exists() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 12)
}

/// One sentence for what the kernel refused.
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

/// An object whose programs run.
pub struct Attached<T> {
    pub ebpf: Ebpf,
    pub prepared: T,
    pub hooks: Vec<Hook>,
    /// Cookies are made where a socket has none yet.
    pub cookie_helper: bool,
}

/// Starts to make a loader beside whatever the caller does meanwhile.
pub fn begin() -> std::thread::JoinHandle<EbpfLoader<'static>> {
    std::thread::spawn(|| {
        // Probed once per process, on first use.
        let _ = aya::features();
        EbpfLoader::new()
    })
}

/// Makes the object and attaches everything that this kernel has; `prepare` runs in between, so that no event passes
/// an unset filter. If the verifier refuses a program that this kernel has the hook for, everything is tried once more
/// the conservative way, and the better result is kept.
pub fn load<T>(
    types: &Types,
    options: &Options,
    loader: EbpfLoader<'static>,
    mut prepare: impl FnMut(&mut Ebpf) -> Result<T>,
) -> Result<Attached<T>> {
    let (mut ebpf, cookie_helper) = object(types, options, loader)?;
    let prepared = prepare(&mut ebpf)?;
    let hooks = attach(&mut ebpf, types, options);
    let refused = |hooks: &[Hook]| hooks.iter().filter(|h| !h.attached).count();
    let avoidable = refused(&hooks) > HOOKS.iter().filter(|h| types.missing(h.1).is_some()).count();
    if avoidable && types.backend() == Backend::Btf && !options.probe_read {
        let slower = Options { probe_read: true, ..options.clone() };
        // Two live sets would count everything twice into maps of their own: harmless, and short.
        let (mut second, cookie_helper) = object(types, &slower, EbpfLoader::new())?;
        let again = prepare(&mut second)?;
        let second_hooks = attach(&mut second, types, &slower);
        if refused(&second_hooks) < refused(&hooks) {
            return Ok(Attached { ebpf: second, prepared: again, hooks: second_hooks, cookie_helper });
        }
    }
    Ok(Attached { ebpf, prepared, hooks, cookie_helper })
}

/// Loads and attaches everything that this kernel has. A hook that fails is reported and the rest goes on.
fn attach(ebpf: &mut Ebpf, types: &Types, options: &Options) -> Vec<Hook> {
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
    let mut lanes: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
    for (i, job) in jobs.into_iter().enumerate() {
        lanes[i % threads].push(job);
    }
    let load = |(tracepoint, name, program): (&'static str, &'static str, &mut Program)| {
        let loaded = match (program, types) {
            (Program::BtfTracePoint(p), Types::Btf(_, btf)) => p.load(tracepoint, btf),
            (Program::TracePoint(p), _) => p.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        loaded.err().map(|e| (name, why(&e)))
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(|| lane.into_iter().filter_map(load).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    })
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

/// The cgroup2 directory of a process, for provenance; `None` without cgroup2 or for a process that is gone.
pub fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = tracefs::cgroup2_mount(&mounts)?;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroup_dir(&mount, &groups)
}

/// `0::/path` of /proc/PID/cgroup below the mount.
fn cgroup_dir(mount: &Path, groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|l| l.strip_prefix("0::"))?;
    Some(mount.join(path.trim_start_matches('/')))
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
    fn the_cgroup_is_the_version_2_line() {
        let groups = "4:memory:/a\n1:name=systemd:/b\n0::/user.slice/x\n";
        let mount = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(cgroup_dir(mount, groups), Some(mount.join("user.slice/x")));
        assert_eq!(cgroup_dir(mount, "0::/\n"), Some(mount.to_owned()));
        assert_eq!(cgroup_dir(mount, "4:memory:/a\n"), None);
    }

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
