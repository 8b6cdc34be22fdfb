//! Ring records to plain values: nothing is trusted that the kernel side could not have written.

use std::fmt;

use agent_common::{Record, SockStats, TcpDetail, flag, kind};

const RECORD: usize = size_of::<Record>();
const WITH_DETAIL: usize = RECORD + size_of::<TcpDetail>();
const WITH_STATS: usize = RECORD + size_of::<SockStats>();
/// The longest record.
pub const MAX: usize = WITH_DETAIL;

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Not the length that kind and flags ask for.
    Length(usize),
    Kind(u8),
    /// Where none can begin.
    Alignment,
    /// Detail and statistics at once.
    Flags(u8),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(n) => write!(f, "ring record of {n} bytes"),
            Self::Alignment => write!(f, "ring record at an odd address"),
            Self::Kind(k) => write!(f, "ring record of unknown kind {k}"),
            Self::Flags(b) => write!(f, "ring record with contradictory flags {b:#x}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// One record with what follows it, where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded<'a> {
    pub record: &'a Record,
    pub detail: Option<&'a TcpDetail>,
    pub stats: Option<&'a SockStats>,
}

/// A record that is kept for longer than the ring keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub record: Record,
    pub detail: Option<TcpDetail>,
    pub stats: Option<SockStats>,
}

impl Kept {
    pub fn decoded(&self) -> Decoded<'_> {
        Decoded { record: &self.record, detail: self.detail.as_ref(), stats: self.stats.as_ref() }
    }
}

impl From<Decoded<'_>> for Kept {
    fn from(d: Decoded<'_>) -> Self {
        Self { record: *d.record, detail: d.detail.copied(), stats: d.stats.copied() }
    }
}

/// Reads one ring record, which begins at a multiple of 8; every length but the one that its flags ask for is an error.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, Malformed> {
    if !bytes.as_ptr().cast::<Record>().is_aligned() {
        return Err(Malformed::Alignment);
    }
    let record: &Record = part(bytes, 0).ok_or(Malformed::Length(bytes.len()))?;
    if record.kind == 0 || usize::from(record.kind) >= kind::COUNT {
        return Err(Malformed::Kind(record.kind));
    }
    let length = match record.flags & (flag::HAS_DETAIL | flag::HAS_STATS) {
        0 => RECORD,
        flag::HAS_DETAIL => WITH_DETAIL,
        flag::HAS_STATS => WITH_STATS,
        _ => return Err(Malformed::Flags(record.flags)),
    };
    if bytes.len() != length {
        return Err(Malformed::Length(bytes.len()));
    }
    Ok(Decoded {
        record,
        detail: (length == WITH_DETAIL).then(|| part(bytes, RECORD)).flatten(),
        stats: (length == WITH_STATS).then(|| part(bytes, RECORD)).flatten(),
    })
}

/// Types that any bytes are a value of.
trait Plain: Copy {}
impl Plain for Record {}
impl Plain for TcpDetail {}
impl Plain for SockStats {}

#[inline]
fn part<T: Plain>(bytes: &[u8], at: usize) -> Option<&T> {
    let part = bytes.get(at..at.checked_add(size_of::<T>())?)?.as_ptr().cast::<T>();
    // SAFETY: there are as many bytes as T has, borrowed for as long; they are aligned as checked; and T is integers
    // without padding (asserted in agent-common): every byte pattern is a value.
    part.is_aligned().then(|| unsafe { &*part })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes where a record can begin.
    struct Ring(Vec<u64>);

    impl Ring {
        fn holding(record: &Record, rest: &[u8]) -> Self {
            let mut bytes = bytes_of(record);
            bytes.extend_from_slice(rest);
            bytes.resize(bytes.len().next_multiple_of(8), 7);
            Self(bytes.as_chunks().0.iter().map(|eight| u64::from_ne_bytes(*eight)).collect())
        }

        fn bytes(&self) -> &[u8] {
            // SAFETY: integers are bytes, eight each.
            unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), 8 * self.0.len()) }
        }
    }

    fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
        // SAFETY: T is integers without padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
    }

    fn record(kind: u8, flags: u8) -> Record {
        Record { kind, flags, cookie: 0x1234, sport: 443, ..Record::default() }
    }

    #[test]
    fn only_the_right_length_is_taken() {
        for (flags, right) in [(0, RECORD), (flag::HAS_DETAIL, WITH_DETAIL), (flag::HAS_STATS, WITH_STATS)] {
            let ring = Ring::holding(&record(kind::RETRANSMIT, flags), &[7; MAX + 1 - RECORD]);
            for n in 0..=MAX + 1 {
                let got = decode(&ring.bytes()[..n]);
                if n == right {
                    let got = got.unwrap();
                    assert_eq!((got.record.cookie, got.record.sport), (0x1234, 443));
                    assert_eq!(got.detail.is_some(), flags == flag::HAS_DETAIL);
                    assert_eq!(got.stats.is_some(), flags == flag::HAS_STATS);
                } else {
                    assert_eq!(got, Err(Malformed::Length(n)));
                }
            }
        }
    }

    #[test]
    fn unknown_kinds_and_contradictory_flags_are_refused() {
        for k in 0..=u8::MAX {
            let known = (1..kind::COUNT as u8).contains(&k);
            assert_eq!(decode(Ring::holding(&record(k, 0), &[]).bytes()).is_ok(), known, "{k}");
        }
        let both = flag::HAS_DETAIL | flag::HAS_STATS;
        let ring = Ring::holding(&record(kind::STATE, both), &[0; MAX - RECORD]);
        assert_eq!(decode(ring.bytes()), Err(Malformed::Flags(both)));
    }

    #[test]
    fn what_follows_is_read_and_can_be_kept() {
        let stats = SockStats { retransmits: 3, resets_sent: 9, ..SockStats::default() };
        let ring = Ring::holding(&record(kind::DESTROY, flag::HAS_STATS), &bytes_of(&stats));
        let decoded = decode(ring.bytes()).unwrap();
        assert_eq!(decoded.stats, Some(&stats));
        assert_eq!(Kept::from(decoded).decoded(), decoded);
    }

    #[test]
    fn no_record_begins_between_multiples_of_eight() {
        let ring = Ring::holding(&record(kind::DESTROY, 0), &[0; 8]);
        for at in 1..8 {
            assert_eq!(decode(&ring.bytes()[at..at + RECORD]), Err(Malformed::Alignment));
        }
    }
}
