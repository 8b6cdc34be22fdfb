//! The maps that user space writes and reads while the programs run.

use std::os::fd::AsFd;

use agent_common::{Control, DestKey, ListenKey, SockStats, TupleKey, dest_mode, stats_seen, target_mode};
use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, IterableMap, MapData, MapError, PerCpuArray};

use super::present::Present;
use crate::model::{DestPrefix, Flow, mapped};

/// Port bits of a [`DestKey`].
const PORT_BITS: u32 = 16;

pub struct Tables {
    control: Array<MapData, Control>,
    state: Control,
    dests: LpmTrie<MapData, DestKey, u32>,
    current: Vec<DestPrefix>,
    pids: HashMap<MapData, u32, u32>,
    socks: HashMap<MapData, u64, SockStats>,
    present: Present,
    listeners: HashMap<MapData, ListenKey, u32>,
    tuples: HashMap<MapData, TupleKey, u64>,
    totals: PerCpuArray<MapData, u64>,
}

fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf.take_map(name).ok_or_else(|| anyhow!("the eBPF object has no map {name}"))?;
    T::try_from(map).with_context(|| format!("map {name} has another type than expected"))
}

impl Tables {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            control: take(ebpf, ".bss.control")?,
            state: Control { dests_version: 1, ..Control::default() },
            dests: take(ebpf, "DESTS")?,
            current: Vec::new(),
            pids: take(ebpf, "PIDS")?,
            socks: take(ebpf, "SOCKS")?,
            present: Present::take(ebpf)?,
            listeners: take(ebpf, "LISTENERS")?,
            tuples: take(ebpf, "TUPLES")?,
            totals: take(ebpf, "TOTALS")?,
        })
    }

    fn set_control(&mut self, state: Control) -> Result<()> {
        self.control.set(0, state, 0).context("cannot set the filter mode in the kernel")?;
        self.state = state;
        Ok(())
    }

    /// Replaces the destination filter. New entries come first and old ones go last, so that a destination that is in
    /// both lists matches all the while.
    pub fn set_destinations(&mut self, wanted: Option<&[DestPrefix]>) -> Result<()> {
        let mut next: Vec<DestPrefix> = wanted.unwrap_or_default().to_vec();
        next.sort_unstable();
        next.dedup();
        for d in next.iter().filter(|d| !self.current.contains(d)) {
            self.dests.insert(&key(d), 1, 0).with_context(|| {
                format!("cannot add a destination to the kernel's filter (it has {} already)", self.current.len())
            })?;
        }
        let mode = if wanted.is_some() { mode(&next) } else { 0 };
        // Without a filter everything passed.
        let mut shrank = self.state.dest_mode == 0 && mode != 0;
        self.set_control(Control { dest_mode: mode, ..self.state })?;
        for d in self.current.iter().filter(|d| !next.contains(d)) {
            ignore_missing(self.dests.remove(&key(d)))
                .context("cannot remove a destination from the kernel's filter")?;
            shrank = true;
        }
        if shrank {
            // Last: an entry that is made meanwhile must not outlive the destination that let it pass.
            let next = (self.state.dests_version + 1) & (u32::MAX >> stats_seen::DESTS_VERSION_SHIFT);
            self.set_control(Control { dests_version: next.max(1), ..self.state })?;
        }
        self.current = next;
        Ok(())
    }

    pub fn add_pid(&mut self, tgid: u32, tree: bool) -> Result<()> {
        self.pids.insert(tgid, u32::from(tree), 0).with_context(|| format!("cannot watch process {tgid}"))
    }

    pub fn remove_pid(&mut self, tgid: u32) -> Result<()> {
        ignore_missing(self.pids.remove(&tgid)).with_context(|| format!("cannot stop watching process {tgid}"))
    }

    /// Adds a socket that was open before; one that the kernel knows already keeps its counts.
    pub fn add_socket(&mut self, key: u64, total_retrans: Option<u32>) -> Result<()> {
        let stats = SockStats {
            last_total: total_retrans.unwrap_or(0),
            seen: stats_seen::FROM_USER | if total_retrans.is_some() { stats_seen::TOTAL } else { 0 },
            ..SockStats::default()
        };
        // Before the entry itself: a program that looks for it must find it.
        self.present.add(key);
        let inserted = self.socks.insert(key, stats, NOEXIST);
        if inserted.is_err() {
            self.present.remove(key);
        }
        match inserted {
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.with_context(|| format!("cannot add socket {key:x} to the kernel's table (--max-sockets)")),
        }
    }

    pub fn remove_socket(&mut self, key: u64) -> Result<()> {
        let removed = self.socks.remove(&key);
        if removed.is_ok() {
            self.present.remove(key);
        }
        ignore_missing(removed).with_context(|| format!("cannot remove socket {key:x}"))
    }

    /// Classic backend: a socket that was open before, known by its ends.
    pub fn add_tuple(&mut self, flow: &Flow, cookie: u64) -> Result<()> {
        let key = tuple(flow);
        self.tuples.insert(key, cookie, 0).context("cannot add a socket to the kernel's table (--max-sockets)")?;
        if self.state.target_mode & target_mode::TUPLES == 0 {
            let target_mode = self.state.target_mode | target_mode::TUPLES;
            self.set_control(Control { target_mode, ..self.state })?;
        }
        Ok(())
    }

    pub fn remove_tuple(&mut self, flow: &Flow) -> Result<()> {
        ignore_missing(self.tuples.remove(&tuple(flow))).context("cannot remove a socket from the kernel's table")
    }

    pub fn add_listener(&mut self, netns: u32, port: u16) -> Result<()> {
        let key = ListenKey { netns, port, pad: 0 };
        let sharing = self.listeners.get(&key, 0).unwrap_or(0);
        self.listeners.insert(key, sharing + 1, 0).with_context(|| format!("cannot watch listening port {port}"))
    }

    pub fn stats(&self, key: u64) -> Option<SockStats> {
        self.socks.get(&key, 0).ok()
    }

    /// Every entry of the kernel's table; one that leaves meanwhile may be missing.
    pub fn all_stats(&self) -> Vec<(u64, SockStats)> {
        let fd = IterableMap::map(&self.socks).fd().as_fd();
        // Not before 5.6.
        super::sys::lookup_all(fd).unwrap_or_else(|_| self.socks.iter().filter_map(Result::ok).collect())
    }

    /// Sum over all CPUs of every index of `TOTALS`.
    pub fn totals(&self) -> Result<[u64; agent_common::totals::LEN as usize]> {
        let mut sums = [0; agent_common::totals::LEN as usize];
        for (i, sum) in sums.iter_mut().enumerate() {
            let per_cpu = self.totals.get(&(i as u32), 0).context("cannot read the kernel's totals")?;
            *sum = per_cpu.iter().copied().fold(0, u64::wrapping_add);
        }
        Ok(sums)
    }
}

const NOEXIST: u64 = 1;

fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn key(d: &DestPrefix) -> Key<DestKey> {
    Key::new(PORT_BITS + u32::from(d.bits), DestKey { port_be: d.port.to_be_bytes(), addr: d.addr })
}

/// Which lookups can succeed.
fn mode(list: &[DestPrefix]) -> u32 {
    let any = if list.iter().any(|d| d.port == 0) { dest_mode::ANY_PORT } else { 0 };
    let one = if list.iter().any(|d| d.port != 0) { dest_mode::ONE_PORT } else { 0 };
    if any | one == 0 { dest_mode::NOTHING } else { any | one }
}

fn tuple(flow: &Flow) -> TupleKey {
    TupleKey {
        saddr: mapped(flow.local.ip()),
        daddr: mapped(flow.remote.ip()),
        sport: flow.local.port(),
        dport: flow.remote.port(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_says_which_lookups_can_succeed() {
        let any = DestPrefix::host([192, 0, 2, 1].into(), 0);
        let one = DestPrefix::host([192, 0, 2, 1].into(), 443);
        assert_eq!(mode(&[]), dest_mode::NOTHING);
        assert_eq!(mode(&[any]), dest_mode::ANY_PORT);
        assert_eq!(mode(&[one]), dest_mode::ONE_PORT);
        assert_eq!(mode(&[any, one]), dest_mode::ANY_PORT | dest_mode::ONE_PORT);
    }

    #[test]
    fn a_key_is_port_then_mapped_address() {
        let k = key(&DestPrefix::new(mapped([10, 1, 2, 3].into()), 96 + 8, 443));
        assert_eq!(k.prefix_len(), 16 + 96 + 8);
        let data = k.data();
        assert_eq!({ data.port_be }, [1, 187]);
        assert_eq!({ data.addr }, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 0]);
    }
}
