//! The reading end of a BPF ring buffer (`kernel/bpf/ringbuf.c`).
//!
//! Unlike a reader that gives each record back as it takes it, this one gives them back many at once: the position it
//! writes lies in a cache line that every reservation of the kernel reads, and in a storm both would wait for it at
//! each event.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The flags in a record's length, and the header before its bytes (`include/uapi/linux/bpf.h`).
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER: usize = 8;
/// Records that were taken are given back when they are this many bytes: an eighth of the smallest ring.
const GIVE_BACK: u64 = 8 << 10;

/// A ring and its mappings. Dropping it unmaps them.
pub struct Ring {
    map: MapData,
    memory: Mapping,
    positions: Positions,
}

/// Two mappings of one ring: the page that user space writes; the one that the kernel writes with the data behind it,
/// which is there twice in a row, so that no record is ever cut in two.
struct Mapping {
    consumer: NonNull<u8>,
    producer: NonNull<u8>,
    page: usize,
    size: usize,
}

// SAFETY: the mappings belong to the process, not to a thread, and there is one reader: `&mut self`.
unsafe impl Send for Ring {}

/// Where the reader stands.
struct Positions {
    consumer: NonNull<AtomicU64>,
    producer: NonNull<AtomicU64>,
    data: NonNull<u8>,
    mask: u64,
    /// Read up to here, given back up to there, written by the kernel up to there as far as was looked.
    read: u64,
    given_back: u64,
    written: u64,
}

impl Ring {
    /// Maps the ring of a loaded program.
    pub fn new(map: Map) -> Result<Self> {
        let Map::RingBuf(map) = map else { bail!("the map of events is no ring buffer") };
        let size = map.info().context("cannot read the ring's size")?.max_entries() as usize;
        let page = rustix::param::page_size();
        let memory = Mapping::new(map.fd().as_fd(), page, size).context("cannot map the ring; lower --ring-size")?;
        // SAFETY: both pages are mapped, and stay so as long as `memory`; a page is aligned for anything.
        let positions = unsafe {
            Positions::new(memory.consumer.cast(), memory.producer.cast(), memory.producer.add(page), size as u64)
        };
        Ok(Self { map, memory, positions })
    }

    /// The next record that is complete; it is not given back before [`Self::give_back`] or many calls.
    #[inline]
    pub fn next_record(&mut self) -> Option<&[u8]> {
        self.positions.next_record()
    }

    /// Whether everything that was written is read. Not so while a record is still being made: its writer may have lost
    /// its processor in the midst of it, and those behind it wait.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Gives back what was read. To be called before waiting, or the kernel would find the ring fuller than it is.
    pub fn give_back(&mut self) {
        self.positions.give_back();
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.memory.unmap();
    }
}

impl Mapping {
    fn new(ring: BorrowedFd<'_>, page: usize, size: usize) -> io::Result<Self> {
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new shared mappings at addresses of the kernel's choice touch no memory that is in use.
        let (consumer, producer) = unsafe {
            let consumer = mmap(null_mut(), page, read_write, MapFlags::SHARED, ring, 0)?;
            let producer = match mmap(null_mut(), page + 2 * size, ProtFlags::READ, MapFlags::SHARED, ring, page as u64)
            {
                Ok(producer) => producer,
                Err(e) => {
                    let _ = munmap(consumer, page);
                    return Err(e.into());
                }
            };
            (consumer, producer)
        };
        match (NonNull::new(consumer.cast()), NonNull::new(producer.cast())) {
            (Some(consumer), Some(producer)) => Ok(Self { consumer, producer, page, size }),
            _ => Err(io::Error::other("the kernel mapped the ring at address 0")),
        }
    }

    fn unmap(&mut self) {
        // SAFETY: the mappings of `new`, with its sizes; nobody holds a record any more (`Ring::next` borrows).
        unsafe {
            let _ = munmap(self.consumer.as_ptr().cast(), self.page);
            let _ = munmap(self.producer.as_ptr().cast(), self.page + 2 * self.size);
        }
    }
}

impl Positions {
    /// # Safety
    /// The pointers stay valid for as long as this lives; `data` has twice `size` bytes, which is a power of two, and
    /// is aligned to 8.
    unsafe fn new(consumer: NonNull<AtomicU64>, producer: NonNull<AtomicU64>, data: NonNull<u8>, size: u64) -> Self {
        // SAFETY: by contract.
        let read = unsafe { consumer.as_ref() }.load(Ordering::Acquire);
        Self { consumer, producer, data, mask: size - 1, read, given_back: read, written: read }
    }

    #[inline]
    fn next_record(&mut self) -> Option<&[u8]> {
        loop {
            if self.read == self.written {
                // SAFETY: by the contract of `new`.
                self.written = unsafe { self.producer.as_ref() }.load(Ordering::Acquire);
                if self.read == self.written {
                    return None;
                }
            }
            let at = (self.read & self.mask) as usize;
            // SAFETY: below `size`; records begin at multiples of 8, and the kernel writes their length last.
            let length = unsafe { self.data.add(at).cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
            if length & BUSY != 0 {
                return None;
            }
            let bytes = ((length & !DISCARDED) as usize).min(self.mask as usize);
            self.read += (bytes + HEADER).next_multiple_of(8) as u64;
            if self.read - self.given_back >= GIVE_BACK.min(self.mask / 8) {
                // Of the records before this one: the kernel writes over what it gets back.
                let before = self.read - (bytes + HEADER).next_multiple_of(8) as u64;
                self.give_back_to(before);
            }
            if length & DISCARDED == 0 {
                // SAFETY: a record is no longer than the ring, and the ring is there twice in a row. The kernel leaves
                // it alone until it is given back, for which the caller must have let go of it.
                return Some(unsafe { std::slice::from_raw_parts(self.data.add(at + HEADER).as_ptr(), bytes) });
            }
        }
    }

    fn is_empty(&self) -> bool {
        // SAFETY: by the contract of `new`.
        self.read == unsafe { self.producer.as_ref() }.load(Ordering::Acquire)
    }

    fn give_back(&mut self) {
        self.give_back_to(self.read);
    }

    fn give_back_to(&mut self, position: u64) {
        if position != self.given_back {
            self.given_back = position;
            // SAFETY: by the contract of `new`. Release: what was read of the records comes before.
            unsafe { self.consumer.as_ref() }.store(position, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4_096;

    /// A ring in ordinary memory, written as the kernel writes it.
    struct Fake {
        consumer: Box<AtomicU64>,
        producer: Box<AtomicU64>,
        /// Of `u64` for the alignment. Both halves are written: here they are not one memory.
        data: Vec<u64>,
        at: u64,
    }

    impl Fake {
        fn new(at: u64) -> Self {
            let position = || Box::new(AtomicU64::new(at));
            Self { consumer: position(), producer: position(), data: vec![0; 2 * SIZE / 8], at }
        }

        fn reader(&mut self) -> Positions {
            // SAFETY: the boxes and the vector outlive the reader in these tests, and have these sizes.
            unsafe {
                Positions::new(
                    NonNull::from(&mut *self.consumer),
                    NonNull::from(&mut *self.producer),
                    NonNull::new(self.data.as_mut_ptr().cast()).unwrap(),
                    SIZE as u64,
                )
            }
        }

        fn put(&mut self, at: usize, byte: u8) {
            for at in [at % SIZE, at % SIZE + SIZE] {
                let word = &mut self.data[at / 8];
                let mut bytes = word.to_ne_bytes();
                bytes[at % 8] = byte;
                *word = u64::from_ne_bytes(bytes);
            }
        }

        fn write(&mut self, record: &[u8], flags: u32) {
            let header = (record.len() as u32 | flags).to_ne_bytes();
            for (n, byte) in header.into_iter().chain([0; 4]).chain(record.iter().copied()).enumerate() {
                self.put(self.at as usize + n, byte);
            }
            self.at += (record.len() + HEADER).next_multiple_of(8) as u64;
            self.producer.store(self.at, Ordering::Release);
        }
    }

    #[test]
    fn records_come_in_order_around_the_end_and_are_given_back_many_at_once() {
        // Positions only grow; the ring begins anywhere.
        let mut fake = Fake::new(8 * 1_000_003);
        let mut reader = fake.reader();
        let (mut written, mut read, mut stores) = (0u32, 0u32, 0);
        for _ in 0..2_000 {
            let text = written.to_ne_bytes().repeat(1 + written as usize % 40);
            fake.write(&text, 0);
            written += 1;
            if written.is_multiple_of(3) {
                continue;
            }
            while let Some(record) = reader.next_record() {
                assert_eq!(record, read.to_ne_bytes().repeat(1 + read as usize % 40), "{read}");
                read += 1;
                let given_back = fake.consumer.load(Ordering::Acquire);
                stores += u32::from(given_back == fake.at);
            }
            assert!(fake.at - fake.consumer.load(Ordering::Acquire) <= SIZE as u64 / 8 + 168);
        }
        while reader.next_record().is_some() {
            read += 1;
        }
        assert_eq!(read, written);
        reader.give_back();
        assert_eq!(fake.consumer.load(Ordering::Acquire), fake.at);
        assert!(stores < read / 4, "{stores} of {read}");
    }

    #[test]
    fn what_is_not_complete_is_waited_for_and_what_was_discarded_is_passed_over() {
        let mut fake = Fake::new(0);
        let mut reader = fake.reader();
        assert_eq!(reader.next_record(), None);
        fake.write(b"thrown away", DISCARDED);
        fake.write(b"kept", 0);
        let begin = fake.at;
        fake.write(b"on its way", BUSY);
        fake.write(b"behind it", 0);
        assert_eq!(reader.next_record(), Some(&b"kept"[..]));
        assert_eq!(reader.next_record(), None);
        assert!(!reader.is_empty());
        reader.give_back();
        assert_eq!(fake.consumer.load(Ordering::Acquire), begin);
        for (n, byte) in (10u32).to_ne_bytes().into_iter().enumerate() {
            fake.put(begin as usize + n, byte);
        }
        assert_eq!(reader.next_record(), Some(&b"on its way"[..]));
        assert_eq!(reader.next_record(), Some(&b"behind it"[..]));
        assert_eq!(reader.next_record(), None);
        assert!(reader.is_empty());
    }
}
