//! The kernel as a source of events.

use std::io;
use std::time::{Duration, Instant};

use agent_common::{BUSY_WINDOWS, Record, SockStats, kind, stats_seen, totals};
use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::attach;
use super::backend::{Backend, choose};
use super::classic::ClassicTypes;
use super::convert::{Converter, Fork, counters};
use super::decode::{Kept, decode};
use super::find::find;
use super::join::{self, Join};
use super::klog::KernelLog;
use super::load::{self, Options, Types, WAKE_WINDOW_NS};
use super::ring::Ring;
use super::sys::recursion_misses;
use super::tables::Tables;
use super::told::Told;
use crate::memory::Spare;
use crate::model::BackendChoice;
use crate::model::{Counters, DestPrefix, Event, EventKind, Flow, Hook, Lost, Mono, Reset, SocketId, SocketUpdate};

/// How long after the last record the ring is looked at again: longer than the window in which the kernel does not
/// wake, so that no record is left lying.
const POLL: Duration = Duration::from_nanos(WAKE_WINDOW_NS as u64 + 2_000_000);
/// The same after a look that found [`BUSY`] records or more.
const BUSY_POLL: Duration = Duration::from_nanos(WAKE_WINDOW_NS as u64 * BUSY_WINDOWS as u64 + 2_000_000);
const BUSY: usize = 100;

/// What [`EbpfSource::load`] came to.
pub enum Loaded {
    Source(Box<EbpfSource>),
    /// Nothing can be loaded here and the choice of backend was left to us: the caller polls sock_diag.
    Polling {
        hooks: Vec<Hook>,
        /// Why, each with its remedy.
        limits: Vec<String>,
    },
}

/// Exact counts since loading: what the kernel side counted, and what was read from the ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelTotals {
    /// Retransmitted segments, SYN-ACKs included: what RetransSegs counts.
    pub retransmits: u64,
    /// Retransmit events (an skb may hold several segments).
    pub retransmit_events: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
    pub states: u64,
    pub destroyed: u64,
    /// Times the reader was woken.
    pub wakeups: u64,
    /// Losses since loading.
    pub lost: Lost,
}

/// Attached programs and their ring. Dropping it detaches everything.
pub struct EbpfSource {
    ring: AsyncFd<Ring>,
    ebpf: Ebpf,
    tables: Tables,
    converter: Converter,
    backend: Backend,
    hooks: Vec<Hook>,
    limits: Vec<String>,
    /// Sockets are keyed by their kernel addresses, cookies are joined to them later: classic tracepoints, and kernels
    /// before 5.12, where a tracing program cannot make a cookie.
    by_address: bool,
    join: Join,
    forks: Vec<Fork>,
    kernel_log: Option<KernelLog>,
    /// Look again until then; `None` while the kernel will wake us.
    look_until: Option<Instant>,
    /// The last call took all it may: more is waiting.
    more: bool,
    /// Records taken since the reader waited last.
    took: usize,
    told: Told,
    malformed: u64,
    /// Records given up in [`Self::abandon`].
    unread: u64,
    /// The most records that the ring holds.
    capacity: usize,
    reported: Lost,
}

impl EbpfSource {
    /// Loads and attaches. Needs a tokio runtime. Errors: a forced backend is not possible, or none of its hooks could
    /// be attached; with [`BackendChoice::Auto`] a worse backend is taken instead.
    pub fn load(options: &Options) -> Result<Loaded> {
        let loader = (options.backend != BackendChoice::SockDiag).then(load::begin);
        let (facts, types, tracefs) = load::facts(options.backend != BackendChoice::SockDiag);
        let choice = choose(options.backend, &facts).map_err(|e| anyhow!(e))?;
        let mut limits = choice.limits;
        let types = match (choice.backend, types, tracefs) {
            (Some(Backend::Btf), Some(types), _) => {
                let aya = types.aya()?;
                Types::Btf(Box::new(types), aya)
            }
            (Some(Backend::Tracepoint), types, Some(dir)) => {
                Types::Classic(Box::new(ClassicTypes::resolve(&dir, types.map(|t| t.offsets))))
            }
            _ => {
                let why_not = limits.first().cloned().unwrap_or_else(|| "not asked for".into());
                let hook = Hook {
                    name: "tracepoints".into(),
                    backend: "sock_diag".into(),
                    attached: false,
                    why_not: Some(why_not),
                };
                return Ok(Loaded::Polling { hooks: vec![hook], limits });
            }
        };
        let loader = loader.and_then(|l| l.join().ok()).unwrap_or_default();
        let mut loaded = load::load(&types, options, loader, |ebpf| {
            let mut tables = Tables::take(ebpf)?;
            tables.set_destinations(options.destinations.as_deref())?;
            for (tgid, tree) in &options.pids {
                tables.add_pid(*tgid, *tree)?;
            }
            Ok((tables, options.kernel_log.then(|| KernelLog::take(ebpf)).transpose()?))
        })?;
        let (tables, kernel_log) = loaded.prepared;
        let hooks = loaded.hooks;
        if !attach::any_attached(&hooks) {
            let why = hooks.iter().find_map(|h| h.why_not.clone()).unwrap_or_default();
            return Err(anyhow!("no kernel hook could be attached ({}): {why}", types.backend().name()));
        }
        limits.extend(
            hooks.iter().filter_map(|h| h.why_not.as_ref().map(|why| format!("{} is not traced: {why}", h.name))),
        );
        let ring = loaded.ebpf.take_map("EVENTS").context("the eBPF object has no map EVENTS")?;
        let ring = Ring::new(ring)?;
        // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(io::Error::from)
            .context("cannot wait for the ring")?;
        let diags = options.diags.clone();
        Ok(Loaded::Source(Box::new(Self {
            ring,
            tables,
            converter: Converter {
                offsets: types.offsets(),
                tick_ns: tick_ns(),
                reasons: types.reset_reasons(),
                spare: Spare::default(),
            },
            backend: types.backend(),
            by_address: types.backend() == Backend::Tracepoint || !loaded.cookie_helper,
            ebpf: loaded.ebpf,
            hooks,
            limits,
            join: Join::new(options.max_sockets as usize, Box::new(move |pid, flow| find(&diags, pid, flow))),
            forks: Vec::new(),
            kernel_log,
            look_until: None,
            more: true,
            took: 0,
            told: Told::default(),
            malformed: 0,
            unread: 0,
            capacity: options.ring_size as usize / size_of::<Record>(),
            reported: Lost::default(),
        })))
    }

    /// Waits until there may be something to [`Self::take`]. May be dropped at any await (inside `select!`).
    pub async fn ready(&mut self) -> io::Result<()> {
        if self.more {
            tokio::task::yield_now().await;
            self.more = false;
            return Ok(());
        }
        self.wait().await
    }

    /// Until the kernel wakes us, or it is time to look for records that came without a wake-up.
    async fn wait(&mut self) -> io::Result<()> {
        if let Some(until) = self.look_until {
            let now = Instant::now();
            let woken = tokio::time::timeout(until.saturating_duration_since(now), self.ring.readable_mut()).await;
            match woken {
                Ok(ready) => {
                    ready?.clear_ready();
                    self.look_until = Some(Instant::now() + POLL);
                }
                // The look that follows is the last one, unless it finds something.
                Err(_) => self.look_until = None,
            }
            return Ok(());
        }
        self.ring.readable_mut().await?.clear_ready();
        // The first record may not be complete yet when the wake-up comes.
        self.look_until = Some(Instant::now() + POLL);
        Ok(())
    }

    /// Appends the events of at most `most` records to `out` and tells how many it took; what is left stays in the ring.
    /// Fewer than `most`: it is empty. Children of tree targets are not among the events, see [`Self::take_forks`].
    pub fn take(&mut self, most: usize, out: &mut Vec<Event>) -> usize {
        let ring = self.ring.get_mut();
        let mut taken = 0;
        let mut unjoined = Vec::new();
        while taken < most
            && let Some(bytes) = ring.next_record()
        {
            taken += 1;
            let Ok(decoded) = decode(bytes) else {
                self.malformed += 1;
                continue;
            };
            self.told.add(decoded.record);
            if self.by_address {
                unjoined.push(Kept::from(decoded));
            } else {
                let cookie = decoded.record.cookie;
                let socket = (cookie != 0).then_some(SocketId(cookie));
                self.converter.convert(decoded, socket, out, &mut self.forks);
            }
        }
        let mut waiting = false;
        if taken < most {
            ring.give_back();
            // The kernel side wakes nobody for one that is full already.
            waiting = !ring.is_empty();
        }
        join::foresee(unjoined.iter_mut().map(|d| &mut d.record));
        for kept in &unjoined {
            let socket = self.join.socket(&kept.record);
            if let Some(first) = self.join.held(&kept.record, socket) {
                self.converter.convert(first.decoded(), socket, out, &mut self.forks);
            }
            if !self.join.hold(kept, socket) {
                self.converter.convert(kept.decoded(), socket, out, &mut self.forks);
            }
        }
        // Classic tracepoints call a new thread a child too.
        if self.backend == Backend::Tracepoint && !self.forks.is_empty() {
            let mut forks = std::mem::take(&mut self.forks);
            forks.retain(|f| {
                let process = is_process(f.child);
                if !process {
                    let _ = self.tables.remove_pid(f.child);
                }
                process
            });
            self.forks = forks;
        }
        self.took += taken;
        self.more = taken == most;
        if !self.more && (self.took > 0 || waiting) {
            let poll = if std::mem::take(&mut self.took) >= BUSY { BUSY_POLL } else { POLL };
            self.look_until = Some(Instant::now() + poll);
        }
        taken
    }

    /// Takes the memory of an event back that nobody needs any more.
    pub fn reuse(&mut self, reset: Box<Reset>) {
        self.converter.reuse(reset);
    }

    /// Gives up what is still in the ring, counted as lost: for the end, when there is no time left to tell it. Not more
    /// than the ring can hold, as a storm may go on.
    pub fn abandon(&mut self) {
        let ring = self.ring.get_mut();
        let mut n = 0;
        while n < self.capacity
            && let Some(bytes) = ring.next_record()
        {
            n += 1;
            if let Ok(decoded) = decode(bytes) {
                self.told.add(decoded.record);
            }
        }
        ring.give_back();
        self.unread += n as u64;
    }

    /// Children of tree targets since the last call; the kernel watches them already.
    pub fn take_forks(&mut self) -> Vec<Fork> {
        std::mem::take(&mut self.forks)
    }

    /// Whether records name their socket by its cookie; else user space joins them, and has to tell the kernel side of
    /// each socket.
    pub fn tells_cookies(&self) -> bool {
        !self.by_address
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Every attachment point and what became of it.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// What this run cannot see, each with its remedy.
    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// The kernel log's reader, once, if it was asked for.
    pub fn take_kernel_log(&mut self) -> Option<KernelLog> {
        self.kernel_log.take()
    }

    /// Watches a process from now on; `tree`: its future children too.
    pub fn add_pid(&mut self, tgid: u32, tree: bool) -> Result<()> {
        self.tables.add_pid(tgid, tree)
    }

    pub fn remove_pid(&mut self, tgid: u32) -> Result<()> {
        self.tables.remove_pid(tgid)
    }

    /// Watches a socket that is already open. `flow` finds it with classic tracepoints; `total_retrans` (of its
    /// `tcp_info`) is where its count of segments starts.
    pub fn add_socket(&mut self, id: SocketId, flow: Option<Flow>, total_retrans: Option<u32>) -> Result<()> {
        if let Some(flow) = flow
            && self.by_address
        {
            self.join.learn(flow, id);
        }
        match (self.backend, flow) {
            (Backend::Btf, _) => self.tables.add_socket(id.0, total_retrans),
            (Backend::Tracepoint, Some(flow)) => self.tables.add_tuple(&flow, id.0),
            (Backend::Tracepoint, None) => Ok(()),
        }
    }

    /// Stops watching a socket, e.g. one that turned out to be another process's.
    pub fn remove_socket(&mut self, id: SocketId, flow: Option<Flow>) -> Result<()> {
        if let Some(sk) = self.join.address(id) {
            self.tables.remove_socket(sk)?;
        }
        match (self.backend, flow) {
            (Backend::Btf, _) => self.tables.remove_socket(id.0),
            (Backend::Tracepoint, Some(flow)) => self.tables.remove_tuple(&flow),
            (Backend::Tracepoint, None) => Ok(()),
        }
    }

    /// Watches what is accepted on a port, besides the listener itself ([`Self::add_socket`]).
    pub fn add_listener(&mut self, netns: u32, port: u16) -> Result<()> {
        // Classic tracepoints do not tell the namespace.
        let netns = if self.backend == Backend::Btf { netns } else { 0 };
        self.tables.add_listener(netns, port)
    }

    /// Replaces the destination filter; `None` = no filter. What is in the old and the new list matches throughout.
    pub fn set_destinations(&mut self, destinations: Option<&[DestPrefix]>) -> Result<()> {
        self.tables.set_destinations(destinations)
    }

    /// What happened since loading: exact whatever the ring lost, but for what is still in it.
    pub fn totals(&self) -> Result<KernelTotals> {
        let t = self.tables.totals()?;
        let of = |index: u32| t.get(index as usize).copied().unwrap_or(0);
        // Those that have no record, and those whose record was read.
        let of_kind = |k: u8| of(u32::from(k)) + self.told.of(k);
        Ok(KernelTotals {
            retransmits: of(totals::SEGMENTS),
            retransmit_events: of_kind(kind::RETRANSMIT) + of_kind(kind::RETRANSMIT_SYNACK),
            resets_received: of_kind(kind::RECEIVE_RESET),
            resets_sent: of_kind(kind::SEND_RESET),
            states: of_kind(kind::STATE),
            destroyed: of_kind(kind::DESTROY),
            wakeups: of(totals::WAKEUPS),
            lost: Lost {
                ring_full: of(totals::RING_FULL) + self.malformed + self.unread,
                recursion_misses: self.misses(),
                table_full: of(totals::TABLE_FULL),
            },
        })
    }

    /// Runs that the kernel skipped, over all programs.
    fn misses(&self) -> u64 {
        attach::program_names()
            .filter_map(|name| self.ebpf.program(name))
            .filter_map(attach::program_fd)
            .filter_map(|fd| recursion_misses(fd).ok())
            .sum()
    }

    /// What was lost since the last call.
    pub fn take_lost(&mut self) -> Result<Lost> {
        let now = self.totals()?.lost;
        let before = std::mem::replace(&mut self.reported, now);
        Ok(Lost {
            ring_full: now.ring_full.saturating_sub(before.ring_full),
            recursion_misses: now.recursion_misses.saturating_sub(before.recursion_misses),
            table_full: now.table_full.saturating_sub(before.table_full),
        })
    }

    /// Exact counts of one socket that is still open.
    pub fn socket_stats(&self, id: SocketId) -> Option<Counters> {
        let stats = self.join.address(id).and_then(|sk| self.tables.stats(sk)).or_else(|| self.tables.stats(id.0));
        stats.as_ref().map(counters)
    }

    /// Exact counts of every socket that had an event, as updates; those whose end found no room in the ring are
    /// reported as destroyed and leave the table. To be called after losses and at the end: it reads the whole table.
    pub fn sweep(&mut self, end: bool, out: &mut Vec<Event>) -> Result<()> {
        let at = Mono::now();
        let mut gone = Vec::new();
        for (key, stats) in self.tables.all_stats() {
            let destroyed = stats.seen & stats_seen::DESTROYED != 0;
            // At the end the table goes as a whole: a storm leaves tens of thousands.
            if destroyed && !end {
                gone.push(key);
            }
            let counts = counters(&stats);
            if !destroyed && counts == Counters::default() {
                continue;
            }
            // Kernel addresses lie in the upper half, cookies count up from 1.
            let id = if key > i64::MAX as u64 { self.join.at_address(key) } else { Some(SocketId(key)) };
            let Some(id) = id else { continue };
            let update = SocketUpdate { id: Some(id), counters: Some(counts), destroyed, ..SocketUpdate::default() };
            out.push(Event { at, kind: EventKind::Socket(Box::new(update)) });
        }
        // Kept by address, an entry may have become another socket's since the look at the table.
        let still = |s: &SockStats| s.seen & stats_seen::DESTROYED != 0;
        gone.into_iter().try_for_each(|key| match self.tables.stats(key).as_ref().is_some_and(still) {
            true => self.tables.remove_socket(key),
            false => Ok(()),
        })
    }
}

/// Nanoseconds of a jiffy: what the coarse clock moves by (CONFIG_HZ).
fn tick_ns() -> u64 {
    let r = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    (r.tv_sec as u64 * 1_000_000_000 + r.tv_nsec as u64).max(1)
}

/// Whether a pid is a thread group's leader; a process that is gone already counts as one.
fn is_process(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    status.lines().find_map(|l| l.strip_prefix("Tgid:")).is_none_or(|t| t.trim().parse() == Ok(pid))
}
