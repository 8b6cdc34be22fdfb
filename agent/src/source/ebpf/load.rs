//! From options to attached programs.

use std::collections::HashMap;
use std::path::PathBuf;

use agent_common::{Offsets, Record, Settings, TcpDetail, probed};
use anyhow::Result;
use aya::{Btf, Ebpf, EbpfLoader};
use foldhash::fast::RandomState;

use super::attach;
use super::backend::{Backend, Facts};
use super::classic::ClassicTypes;
use super::object::{Globals, OBJECT, configure};
use super::offsets::KernelTypes;
use super::present;
use super::refusal::explain;
use super::sys;
use super::tracefs;
use crate::model::{DestPrefix, Hook};
use crate::source::diag::KeptDiags;

/// Records wake the reader at most this often while it keeps up; the reader polls for as long after each. While events
/// come thick it is [`agent_common::BUSY_WINDOWS`] times as long.
pub const WAKE_WINDOW_NS: u32 = 10_000_000;
/// Events come thick: a hundred records in one window.
const RING_BUSY: u32 = 16 << 10;
/// What the contexts of one processor (task, softirq, interrupt, NMI) can reserve at the same time: this alone must not
/// count as thick, or none of them would wake the reader.
const RESERVED_PER_CPU: u32 = 4 * (size_of::<Record>() + size_of::<TcpDetail>() + 8) as u32;
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
    /// Where connections that a hook shows by their ends only are looked up.
    pub diags: KeptDiags,
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
            diags: KeptDiags::default(),
        }
    }
}

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

    /// What a record's detail was read with: classic tracepoints send none.
    pub fn offsets(&self) -> Offsets {
        match self {
            Self::Btf(t, _) => t.offsets,
            Self::Classic(_) => Offsets::NONE,
        }
    }

    /// Reset reasons by number. They live as long as the program: a few KiB, made once, so that every reset and what is
    /// kept of it can name its reason without counting who else does.
    pub fn reset_reasons(&self) -> HashMap<u32, &'static str, RandomState> {
        let names = match self {
            Self::Btf(t, _) => &t.reset_reasons,
            Self::Classic(t) => &t.reset_reasons,
        };
        names.iter().map(|(n, name)| (*n, &*Box::leak(Box::from(&**name)))).collect()
    }

    pub(super) fn missing(&self, name: &'static str) -> Option<String> {
        match self {
            Self::Btf(t, _) if t.tracepoints.contains_key(name) => None,
            Self::Btf(..) => Some(format!("this kernel has no tracepoint {name}")),
            Self::Classic(t) => t.missing.get(name).cloned(),
        }
    }

    fn globals(&self, options: &Options) -> Globals {
        let base = match self {
            Self::Btf(t, _) => Globals::with_types(t),
            Self::Classic(t) => Globals { classic: t.fields, offsets: t.offsets, ..Globals::default() },
        };
        let settings = Settings {
            all: options.all.into(),
            kernel_log: options.kernel_log.into(),
            provenance: u32::from(matches!(self, Self::Btf(..)) && !options.provenance.is_empty()),
            ring_high: options.ring_size / 4,
            wake_window_ns: WAKE_WINDOW_NS,
            ring_busy: ring_busy(),
            present_mask: present::SLOTS - 1,
            ..base.settings
        };
        Globals { settings, ..base }
    }
}

/// Bytes in the ring by which events come thick on this machine.
fn ring_busy() -> u32 {
    // Without a count of processors more than any kernel is built for.
    let cpus = aya::util::nr_cpus().unwrap_or(8_192) as u32;
    RING_BUSY.max(2 * RESERVED_PER_CPU * cpus)
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
pub fn privileged() -> bool {
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
    // Classic tracepoints read nothing through BTF pointers.
    if options.probe_read && types.backend() == Backend::Btf {
        globals.offsets = globals.offsets.probed();
        globals.settings.ca_state_byte = probed(globals.settings.ca_state_byte);
    }
    if options.probe_read || !cookie_helper_exists() {
        globals.settings.cookie_helper = 0;
    }
    let mut loader = configure(loader, &globals);
    loader
        .map_max_entries("EVENTS", options.ring_size)
        .map_max_entries("SOCKS", options.max_sockets.max(1))
        .map_max_entries("PRESENT", present::SLOTS)
        .map_max_entries("PIDS", MAX_PIDS)
        .map_max_entries("LISTENERS", MAX_LISTENERS)
        // Of the iterators, which a watch does not use.
        .map_max_entries("ITER_SET", 1);
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
        // A new loader always parses the whole BTF of the kernel, 20 ms and 10 MiB, for relocations that objects from
        // Rust do not have, and cannot be told not to. It does without where it finds none.
        let _ = sys::leave_files();
        EbpfLoader::new()
    })
}

/// The same at once.
pub fn loader() -> EbpfLoader<'static> {
    begin().join().unwrap_or_default()
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
    let hooks = attach::attach(&mut ebpf, types, options);
    let refused = |hooks: &[Hook]| hooks.iter().filter(|h| !h.attached).count();
    let avoidable = refused(&hooks) > attach::lacking(types);
    if avoidable && types.backend() == Backend::Btf && !options.probe_read {
        let slower = Options { probe_read: true, ..options.clone() };
        // Two live sets would count everything twice into maps of their own: harmless, and short.
        let (mut second, cookie_helper) = object(types, &slower, self::loader())?;
        let again = prepare(&mut second)?;
        let second_hooks = attach::attach(&mut second, types, &slower);
        if refused(&second_hooks) < refused(&hooks) {
            return Ok(Attached { ebpf: second, prepared: again, hooks: second_hooks, cookie_helper });
        }
    }
    Ok(Attached { ebpf, prepared, hooks, cookie_helper })
}
