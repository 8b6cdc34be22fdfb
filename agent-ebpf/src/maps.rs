//! Every map. Sizes here are the smallest that load: a load that uses only a guard or an iterator creates them all
//! too. The user side raises them (`set_max_entries`) when it traces.

use core::cell::UnsafeCell;

use agent_common::{CLASSIC_BYTES, Control, DestKey, FlowSeen, ListenKey, SockStats, TupleKey, totals};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};

/// A variable that the kernel keeps in a map of one entry, but whose address the programs know: each look-up in an array
/// is a dozen instructions.
#[repr(transparent)]
pub struct Global<T>(UnsafeCell<T>);

// SAFETY: programs read and write it by single aligned words only, volatile: none is seen half written.
unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Records with detail; may lose some in a storm, which `TOTALS` counts.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// When the reader was last woken, nanoseconds of CLOCK_MONOTONIC.
pub static WAKE: Global<u64> = Global(UnsafeCell::new(0));

/// The processes that events came from last, by the low bits of their pids.
pub static HEARD: Global<[u32; HEARD_SLOTS]> = Global(UnsafeCell::new([0; HEARD_SLOTS]));
pub const HEARD_SLOTS: usize = 64;

/// 1 = since the reader was woken last there is an event of a process that was not in `HEARD`.
pub static STRANGER: Global<u32> = Global(UnsafeCell::new(0));

/// What the ring does not tell, counted exactly: indexes of [`totals`].
#[map]
pub static TOTALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(totals::LEN, 0);

/// User space changes it while programs run. A section, and so a map, of its own.
#[unsafe(link_section = ".bss.control")]
pub static CONTROL: Global<Control> =
    Global(UnsafeCell::new(Control { dest_mode: 0, target_mode: 0, dests_version: 0 }));

/// Destinations. The trie is never preallocated: its size costs nothing.
#[map]
pub static DESTS: LpmTrie<DestKey, u32> = LpmTrie::with_max_entries(16_384, 0);

/// The IPv4 destination that was last found in `DESTS` on this CPU, see `filter::listed`.
#[map]
pub static FOUND: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// tgid of a target; value 1 = with its children.
#[map]
pub static PIDS: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// Sockets of the targets, by cookie (BTF) or kernel address (classic), with their exact counts.
#[map]
pub static SOCKS: HashMap<u64, SockStats> = HashMap::with_max_entries(1, 0);

/// How many entries `SOCKS` has of each [`present_slot`](agent_common::present_slot). Most sockets that pass are
/// nobody's: here a glance tells, where a look-up in a large table waits for memory. User space maps it.
#[map]
pub static PRESENT: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Listening ports of the targets; value = listeners on it (SO_REUSEPORT).
#[map]
pub static LISTENERS: HashMap<ListenKey, u32> = HashMap::with_max_entries(1, 0);

/// Classic backend: sockets open before the agent, by their addresses; value = cookie.
#[map]
pub static TUPLES: HashMap<TupleKey, u64> = HashMap::with_max_entries(1, 0);

/// What the provenance program saw, by cookie.
#[map]
pub static FLOWS: LruHashMap<u64, FlowSeen> = LruHashMap::with_max_entries(1, 0);

/// Classic backend: one tracepoint record.
#[map]
pub static SCRATCH: PerCpuArray<[u8; CLASSIC_BYTES as usize]> = PerCpuArray::with_max_entries(1, 0);
