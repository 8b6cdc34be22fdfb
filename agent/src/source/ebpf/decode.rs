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
    /// Detail and statistics at once.
    Flags(u8),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(n) => write!(f, "ring record of {n} bytes"),
            Self::Kind(k) => write!(f, "ring record of unknown kind {k}"),
            Self::Flags(b) => write!(f, "ring record with contradictory flags {b:#x}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// One record with what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    pub record: Record,
    pub detail: Option<TcpDetail>,
    pub stats: Option<SockStats>,
}

/// Reads one ring record; every length but the one that its flags ask for is an error.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Malformed> {
    let record: Record = read(bytes, 0).ok_or(Malformed::Length(bytes.len()))?;
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
        detail: (length == WITH_DETAIL).then(|| read(bytes, RECORD)).flatten(),
        stats: (length == WITH_STATS).then(|| read(bytes, RECORD)).flatten(),
    })
}

/// Types that any bytes are a value of.
trait Plain: Copy {}
impl Plain for Record {}
impl Plain for TcpDetail {}
impl Plain for SockStats {}

fn read<T: Plain>(bytes: &[u8], at: usize) -> Option<T> {
    let part = bytes.get(at..at.checked_add(size_of::<T>())?)?;
    // SAFETY: `part` has the size of T, the read is unaligned, and T is integers without padding (asserted in
    // agent-common): every byte pattern is a value.
    Some(unsafe { std::ptr::read_unaligned(part.as_ptr().cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let mut bytes = bytes_of(&record(kind::RETRANSMIT, flags));
            bytes.resize(MAX + 1, 7);
            for n in 0..=MAX + 1 {
                let got = decode(&bytes[..n]);
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
            assert_eq!(decode(&bytes_of(&record(k, 0))).is_ok(), known, "{k}");
        }
        let both = flag::HAS_DETAIL | flag::HAS_STATS;
        let mut bytes = bytes_of(&record(kind::STATE, both));
        bytes.resize(MAX, 0);
        assert_eq!(decode(&bytes), Err(Malformed::Flags(both)));
    }

    #[test]
    fn unaligned_bytes_are_read() {
        let stats = SockStats { retransmits: 3, resets_sent: 9, ..SockStats::default() };
        let mut bytes = vec![0xff];
        bytes.extend(bytes_of(&record(kind::DESTROY, flag::HAS_STATS)));
        bytes.extend(bytes_of(&stats));
        assert_eq!(decode(&bytes[1..]).unwrap().stats, Some(stats));
    }
}
