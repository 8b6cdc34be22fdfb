//! The guard: keepalive on every new matching connection, set by the kernel at connect(), before the SYN.

use crate::source::cgroup2;
use std::fs::File;
use std::path::{Path, PathBuf};

use agent_common::{GuardOptions, GuardRow, guard_target, kind, totals};
use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, RingBuf};
use aya::programs::{BtfTracePoint, CgroupAttachMode, CgroupSockAddr, TracePoint};

use super::classic::ClassicTypes;
use super::object::{Globals, OBJECT, loader};
use super::offsets::KernelTypes;
use super::refusal::{explain, why};
use super::tables::Tables;
use super::tracefs;
use crate::model::DestPrefix;

const CONNECT: [&str; 2] = ["guard_connect4", "guard_connect6"];
/// Room for 11,900 connects between two looks at the ring.
const RING_BYTES: u32 = 1 << 20;
const MAX_PIDS: u32 = 32_768;
/// Entries of the map `GUARD_COMMS`.
const MAX_COMMS: usize = 64;

/// Whose connections, and what they get.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    /// 0 = leave.
    pub user_timeout_ms: u32,
    /// Every process (of the cgroup).
    pub all: bool,
    pub pids: Vec<u32>,
    /// Children of `pids` and of processes named in `comms`, now and later.
    pub tree: bool,
    pub comms: Vec<String>,
    /// Only below this directory of cgroup2; `None` = its root.
    pub cgroup: Option<PathBuf>,
    /// `None` = any destination.
    pub destinations: Option<Vec<DestPrefix>>,
}

impl Spec {
    /// Whether some processes are known by their numbers, now or after a fork.
    fn needs_numbers(&self) -> bool {
        !self.pids.is_empty() || self.names_with_children()
    }

    fn names_with_children(&self) -> bool {
        self.tree && !self.comms.is_empty()
    }
}

/// The attached guard. Dropping it (or the process's end, however it comes) detaches everything.
pub struct Guard {
    /// Holds the links.
    _ebpf: Ebpf,
    tables: Tables,
    ring: RingBuf<MapData>,
    /// What does not work as asked, each with its reason.
    pub limits: Vec<String>,
}

/// Counts since the start, exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets on which the guard set something or found it set.
    pub guarded: u64,
    /// Of these, not told one by one because the ring was full.
    pub untold: u64,
}

impl Guard {
    /// Needs CAP_BPF, CAP_NET_ADMIN, cgroup2, and Linux 5.9.
    pub fn attach(spec: &Spec) -> Result<Self> {
        let cgroup = match &spec.cgroup {
            Some(dir) => dir.clone(),
            None => root_cgroup()?,
        };
        let mut limits = Vec::new();
        // Forks and exits matter only where processes are named by their number.
        let processes = (!spec.all && spec.needs_numbers()).then(Hooks::resolve);
        let globals = match &processes {
            Some(Ok(Hooks::Btf(types, _))) => Globals::with_types(types),
            Some(Ok(Hooks::Classic(types))) => Globals { classic: types.fields, ..Globals::default() },
            Some(Err(_)) | None => Globals::default(),
        };
        let mut ebpf = loader(&globals)
            .map_max_entries("GUARDED", RING_BYTES)
            .map_max_entries("PIDS", MAX_PIDS)
            .load(OBJECT)
            .map_err(explain)?;
        let mut tables = Tables::take(&mut ebpf)?;
        tables.set_destinations(spec.destinations.as_deref())?;
        for pid in &spec.pids {
            tables.add_pid(*pid, spec.tree)?;
        }
        comms(&mut ebpf, &spec.comms)?;
        // Before the hooks: they ask it whether this is a guard.
        set_options(&mut ebpf, spec)?;
        match processes {
            Some(Ok(hooks)) => {
                let follow = if spec.tree { &["fork", "exit"][..] } else { &["exit"][..] };
                for what in follow {
                    if let Err(e) = hooks.attach(&mut ebpf, what) {
                        limits.push(format!("{}: {e:#}", lost_without(what)));
                    }
                }
            }
            Some(Err(e)) => limits.push(format!("{}: {e:#}", lost_without("fork"))),
            None => {}
        }
        for name in CONNECT {
            attach_connect(&mut ebpf, name, &cgroup)?;
        }
        let ring = ebpf.take_map("GUARDED").ok_or_else(|| anyhow!("the kernel object has no map GUARDED"))?;
        let ring = RingBuf::try_from(ring).context("map GUARDED has another type than expected")?;
        Ok(Self { _ebpf: ebpf, tables, ring, limits })
    }

    /// The next socket that was guarded; `None` if there is none yet. The ring becomes readable when there is.
    pub fn take(&mut self) -> Option<GuardRow> {
        loop {
            let item = self.ring.next()?;
            let bytes: &[u8] = &item;
            if bytes.len() == size_of::<GuardRow>() {
                // SAFETY: the length was checked; any bytes are a GuardRow; read_unaligned asks for no alignment.
                return Some(unsafe { bytes.as_ptr().cast::<GuardRow>().read_unaligned() });
            }
        }
    }

    /// Replaces the destinations, when a name has got new addresses.
    pub fn set_destinations(&mut self, destinations: &[DestPrefix]) -> Result<()> {
        self.tables.set_destinations(Some(destinations))
    }

    pub fn counts(&self) -> Result<Counts> {
        let all = self.tables.totals()?;
        Ok(Counts { guarded: all[usize::from(kind::GUARD)], untold: all[totals::RING_FULL as usize] })
    }
}

impl std::os::fd::AsRawFd for Guard {
    /// The ring's descriptor, for polling.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.ring.as_raw_fd()
    }
}

fn lost_without(what: &str) -> &'static str {
    match what {
        "fork" => "children that are started from now on are not guarded",
        _ => "if a guarded process ends, a later one with its number is guarded too",
    }
}

/// The mount point of cgroup2, wherever this system has it.
fn root_cgroup() -> Result<PathBuf> {
    cgroup2::mount().ok_or_else(|| {
        anyhow!(
            "cannot guard new connections: no cgroup2 is mounted; run `mount -t cgroup2 none /sys/fs/cgroup` (or boot \
             with systemd.unified_cgroup_hierarchy=1). `agent keepalive` works without it, on sockets that are open"
        )
    })
}

fn set_options(ebpf: &mut Ebpf, spec: &Spec) -> Result<()> {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    let options = GuardOptions {
        idle_s: spec.idle_s,
        interval_s: spec.interval_s,
        count: spec.count,
        user_timeout_ms: spec.user_timeout_ms,
        target: bit(spec.all, guard_target::ALL)
            | bit(spec.needs_numbers(), guard_target::PIDS)
            | bit(!spec.comms.is_empty(), guard_target::COMMS)
            | bit(spec.names_with_children(), guard_target::CHILDREN),
    };
    let map = ebpf.map_mut("GUARD").ok_or_else(|| anyhow!("the kernel object has no map GUARD"))?;
    let mut map: Array<_, GuardOptions> = Array::try_from(map)?;
    map.set(0, options, 0).context("cannot set the guard's options in the kernel")
}

fn comms(ebpf: &mut Ebpf, names: &[String]) -> Result<()> {
    if names.len() > MAX_COMMS {
        return Err(anyhow!("at most {MAX_COMMS} --comm can be guarded at once"));
    }
    let map = ebpf.map_mut("GUARD_COMMS").ok_or_else(|| anyhow!("the kernel object has no map GUARD_COMMS"))?;
    let mut map: HashMap<_, [u8; 16], u32> = HashMap::try_from(map)?;
    for name in names {
        map.insert(padded(name), 1, 0).with_context(|| format!("cannot guard processes named {name}"))?;
    }
    Ok(())
}

/// As the kernel keeps `comm`: at most 15 bytes, zeros after.
fn padded(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    out
}

fn attach_connect(ebpf: &mut Ebpf, name: &str, cgroup: &Path) -> Result<()> {
    let program: &mut CgroupSockAddr =
        ebpf.program_mut(name).ok_or_else(|| anyhow!("the kernel object has no program {name}"))?.try_into()?;
    program.load().map_err(|e| anyhow!("cannot load {name} (it needs Linux 5.9): {}", why(&e)))?;
    let dir = File::open(cgroup).with_context(|| format!("cannot open cgroup {}", cgroup.display()))?;
    // A link always allows others beside it.
    program
        .attach(dir, CgroupAttachMode::Single)
        .map_err(|e| anyhow!("cannot attach {name} to cgroup {}: {}", cgroup.display(), why(&e)))?;
    Ok(())
}

/// How forks and exits are followed.
enum Hooks {
    Btf(Box<KernelTypes>, aya::Btf),
    Classic(Box<ClassicTypes>),
}

impl Hooks {
    fn resolve() -> Result<Self> {
        match KernelTypes::resolve().and_then(|t| t.aya().map(|btf| (t, btf))) {
            Ok((types, btf)) => Ok(Self::Btf(Box::new(types), btf)),
            Err(no_btf) => match tracefs::find() {
                Some(dir) => Ok(Self::Classic(Box::new(ClassicTypes::resolve(&dir, None)))),
                None => Err(no_btf.context("no tracefs is mounted either")),
            },
        }
    }

    /// `what`: fork or exit.
    fn attach(&self, ebpf: &mut Ebpf, what: &str) -> Result<()> {
        let tracepoint = format!("sched_process_{what}");
        let prefix = if matches!(self, Self::Btf(..)) { "btf" } else { "tp" };
        let name = format!("{prefix}_process_{what}");
        let program = ebpf.program_mut(&name).ok_or_else(|| anyhow!("the kernel object has no program {name}"))?;
        match self {
            Self::Btf(_, btf) => {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.load(&tracepoint, btf).map_err(|e| anyhow!("tp_btf/{tracepoint}: {}", why(&e)))?;
                program.attach().map_err(|e| anyhow!("tp_btf/{tracepoint}: {}", why(&e)))?;
            }
            Self::Classic(_) => {
                let program: &mut TracePoint = program.try_into()?;
                program.load().map_err(|e| anyhow!("sched:{tracepoint}: {}", why(&e)))?;
                program.attach("sched", &tracepoint).map_err(|e| anyhow!("sched:{tracepoint}: {}", why(&e)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_as_the_kernel_does() {
        assert_eq!(&padded("node")[..6], b"node\0\0");
        assert_eq!(padded("a-name-that-is-too-long")[15], 0);
    }
}
