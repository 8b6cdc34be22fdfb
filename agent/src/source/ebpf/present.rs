//! The user side of the map `PRESENT`: how many entries `SOCKS` has of each slot, counted by both sides at once.

use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

use agent_common::present_slot;
use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A power of two: 128 KiB. More sockets than this share slots, which costs them the look-up that they would be spared.
pub const SLOTS: u32 = 16_384;

/// The map, mapped: the kernel's programs add to the same words, so that reading and writing them back by system calls
/// would lose counts.
pub struct Present {
    slots: NonNull<AtomicU64>,
    len: usize,
    _map: MapData,
}

// SAFETY: the mapping belongs to the process, and its words are atomic.
unsafe impl Send for Present {}
// SAFETY: as above.
unsafe impl Sync for Present {}

impl Present {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let map = ebpf.take_map("PRESENT").ok_or_else(|| anyhow!("the eBPF object has no map PRESENT"))?;
        let Map::Array(map) = map else { bail!("map PRESENT has another type than expected") };
        let len = map.info().context("cannot read the size of map PRESENT")?.max_entries() as usize;
        if !len.is_power_of_two() {
            bail!("map PRESENT has {len} slots, which is no power of two");
        }
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory that is in use.
        let address = unsafe {
            mmap(null_mut(), len * 8, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map.fd().as_fd(), 0)
        }
        .context("cannot map the table of present sockets")?;
        let slots = NonNull::new(address.cast()).context("the kernel mapped a table at address 0")?;
        Ok(Self { slots, len, _map: map })
    }

    fn slot(&self, key: u64) -> &AtomicU64 {
        let index = present_slot(key, self.len as u32 - 1) as usize;
        // SAFETY: masked to the length of the mapping, which lives as long as `self`; a page is aligned.
        unsafe { self.slots.add(index).as_ref() }
    }

    pub fn add(&self, key: u64) {
        self.slot(key).fetch_add(1, Ordering::SeqCst);
    }

    pub fn remove(&self, key: u64) {
        self.slot(key).fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        // SAFETY: the mapping of `take`, with its size.
        let _ = unsafe { munmap(self.slots.as_ptr().cast(), self.len * 8) };
    }
}
