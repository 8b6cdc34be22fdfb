//! Single values of a line, written by hand into a reused buffer: about a third of what the general serialiser costs.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::digits::{OCTETS, eight, eight_hex, hex, nine, text};
use super::recent::Parts;
use super::room::{Fields, Written};
use crate::model::SocketId;

/// Digits of the largest number.
const NUMBER_LEN: usize = 20;

impl<'a> Fields<'a> {
    /// The rest of a text that is often, but not always short, and the quotation mark behind it.
    #[inline(always)]
    fn closed(self, bytes: &[u8]) -> Written<'a> {
        const QUOTE: u128 = text(b"\"");
        let len = bytes.len();
        // The first and the last bytes of the text, which overlap or meet.
        if let (8..=15, Some(first), Some(last)) = (len, bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            let [first, last] = [first, last].map(|half| u128::from(u64::from_le_bytes(*half)));
            self.padded(&(first | last << (8 * (len - 8)) | QUOTE << (8 * len)).to_le_bytes(), len + 1)
        } else if let (4..8, Some(first), Some(last)) = (len, bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            let [first, last] = [first, last].map(|half| u64::from(u32::from_le_bytes(*half)));
            let quote = (QUOTE as u64) << (8 * len);
            self.padded(&(first | last << (8 * (len - 4)) | quote).to_le_bytes(), len + 1)
        } else {
            self.raw(bytes)?.raw(b"\"")
        }
    }

    #[inline]
    pub fn number(self, n: u64) -> Written<'a> {
        // Counts are mostly 0.
        if n < 10 {
            return self.raw(&[b'0' + n as u8]);
        }
        if n < 100_000_000 {
            let len = n.ilog10() as usize + 1;
            return self.padded(&(eight(n as u32) >> (8 * (8 - len))).to_le_bytes(), len);
        }
        // From the right; what is written then begins where the digits do and takes as many as the longest has.
        let mut digits = [0; 2 * NUMBER_LEN];
        let (mut at, mut left) = (NUMBER_LEN, n);
        while left > 0 {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        self.padded(digits[at..].first_chunk::<NUMBER_LEN>()?, NUMBER_LEN - at)
    }

    #[inline(always)]
    pub fn null(self) -> Written<'a> {
        self.raw(b"null")
    }

    pub fn cookie(self, id: Option<SocketId>) -> Written<'a> {
        let Some(SocketId(n)) = id else { return self.null() };
        let mut w = self.raw(b"\"")?;
        let high = (n >> 32) as u32;
        if high == 0 {
            let (digits, len) = hex(n as u32);
            w = w.padded(&digits.to_le_bytes(), len)?;
        } else {
            let (digits, len) = hex(high);
            w = w.padded(&digits.to_le_bytes(), len)?.raw(&eight_hex(n as u32).to_le_bytes())?;
        }
        w.raw(b"\"")
    }

    #[inline(always)]
    pub fn int<N: Into<u64>>(self, key: &[u8], n: Option<N>) -> Written<'a> {
        let w = self.raw(key)?;
        match n {
            Some(n) => w.number(n.into()),
            None => w.null(),
        }
    }

    /// A word of ours: nothing in it needs escaping. `key` ends in the quotation mark that a word begins with.
    #[inline(always)]
    pub fn word(self, key: &[u8], word: Option<&str>) -> Written<'a> {
        match word {
            Some(word) => self.raw(key)?.closed(word.as_bytes()),
            None => self.raw(&key[..key.len() - 1])?.null(),
        }
    }

    /// A text of anybody's; `key` as for [`Self::word`].
    #[inline]
    pub fn text(self, key: &[u8], text: Option<&str>) -> Written<'a> {
        let Some(text) = text else { return self.word(key, None) };
        if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
            return self.word(key, Some(text));
        }
        self.raw(&key[..key.len() - 1])?.made(|bytes| {
            if serde_json::to_writer(&mut *bytes, text).is_err() {
                // Writing a string into memory cannot fail; an empty one keeps the line whole all the same.
                bytes.extend_from_slice(b"\"\"");
            }
        })
    }

    pub fn flow(self, flow: Option<(&SocketAddr, &SocketAddr)>, recent: &mut Parts) -> Written<'a> {
        match flow {
            Some((local, remote)) if !recent.listing => {
                let w = recent.ends.put(self.raw(b",\"local\":")?, local, false)?;
                recent.ends.put(w.raw(b",\"remote\":")?, remote, true)
            }
            _ => self.ends(flow.map(|f| f.0), flow.map(|f| f.1)),
        }
    }

    #[inline]
    pub fn netns(self, netns: Option<u32>, recent: &mut Parts) -> Written<'a> {
        const KEY: &[u8] = b",\"netns\":";
        match netns {
            Some(n) => recent.netns.put(self, &n, |n, w| w.int(KEY, Some(*n))),
            None => self.int(KEY, None::<u32>),
        }
    }

    pub fn ends(self, local: Option<&SocketAddr>, remote: Option<&SocketAddr>) -> Written<'a> {
        self.raw(b",\"local\":")?.addr(local)?.raw(b",\"remote\":")?.addr(remote)
    }

    pub fn addr(self, addr: Option<&SocketAddr>) -> Written<'a> {
        match addr {
            None => self.null(),
            Some(SocketAddr::V4(a)) => {
                let (mut text, mut len) = (0, 0);
                for octet in a.ip().octets() {
                    let (digits, n) = OCTETS[usize::from(octet)];
                    text |= u128::from(digits) << (8 * len);
                    len += usize::from(n);
                }
                // The last dot gives way.
                let w = self.raw(b"\"")?.padded(&text.to_le_bytes(), len - 1)?.raw(b":")?;
                w.number(a.port().into())?.raw(b"\"")
            }
            // Into memory: cannot fail.
            Some(a) => self.made(|bytes| drop(write!(bytes, "\"{a}\""))),
        }
    }

    /// Exact to the nanosecond, without a float on the way.
    #[inline(always)]
    pub fn seconds(self, key: &[u8], d: Option<Duration>) -> Written<'a> {
        let w = self.raw(key)?;
        let Some(d) = d else { return w.null() };
        let nanos = d.subsec_nanos();
        // Without the zeros at the end, but for the first digit.
        let last = nanos % 100_000_000;
        let zeros = if last == 0 { 8 } else { (eight(last) - 0x3030_3030_3030_3030).leading_zeros() as usize / 8 };
        w.number(d.as_secs())?.raw(b".")?.padded(&nine(nanos).to_le_bytes(), 9 - zeros)
    }

    #[inline(always)]
    pub fn flag(self, key: &[u8], b: Option<bool>) -> Written<'a> {
        let w = self.raw(key)?;
        // Each of its own: a text of one length is a store, one of three lengths a call.
        match b {
            Some(true) => w.raw(b"true"),
            Some(false) => w.raw(b"false"),
            None => w.raw(b"null"),
        }
    }

    /// A field that is left out where it is unknown. `key` begins with the comma that comes before all but the first
    /// field of an object.
    #[inline(always)]
    pub fn known<N: Into<u64>>(self, key: &[u8], n: Option<N>) -> Written<'a> {
        match n {
            Some(n) => self.raw(key)?.number(n.into()),
            None => Some(self),
        }
    }
}

pub(super) fn micros(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000_000).saturating_add(d.subsec_micros().into())
}

pub(super) fn millis(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000).saturating_add(d.subsec_millis().into())
}

#[cfg(test)]
mod tests {
    use super::super::room::append;
    use super::*;

    fn written(write: impl for<'a> Fn(Fields<'a>) -> Written<'a>) -> String {
        let mut out = Vec::new();
        append(&mut out, write);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cookies_and_seconds_at_their_ends() {
        assert_eq!(written(|w| w.cookie(Some(SocketId(0)))), "\"0\"");
        for shift in 0..64 {
            let n = u64::MAX >> shift ^ 0x1234_5678_9abc_def0 >> shift;
            assert_eq!(written(|w| w.cookie(Some(SocketId(n)))), format!("\"{n:x}\""));
        }
        let second = |d| written(|w| w.seconds(b"", Some(d)));
        assert_eq!(second(Duration::ZERO), "0.0");
        assert_eq!(second(Duration::from_nanos(1)), "0.000000001");
        assert_eq!(second(Duration::from_millis(12_600)), "12.6");
        assert_eq!(second(Duration::new(7, 999_999_999)), "7.999999999");
    }

    #[test]
    fn numbers_and_texts_of_every_length() {
        for digits in 0..20 {
            let ten = 10u64.pow(digits);
            for n in [ten, ten - 1, ten + 1, ten / 9 * 8, ten / 3, u64::MAX] {
                assert_eq!(written(|w| w.number(n)), n.to_string());
            }
        }
        let all = "abcdefghijklmnopqrstuvwxyz";
        for len in 0..=all.len() {
            assert_eq!(written(|w| w.word(b"=\"", Some(&all[..len]))), format!("=\"{}\"", &all[..len]));
        }
    }

    #[test]
    fn addresses() {
        for text in ["0.0.0.0:0", "9.10.99.100:1", "255.255.255.255:65535", "127.0.0.1:80", "[2001:db8::1]:443"] {
            assert_eq!(written(|w| w.addr(Some(&text.parse().unwrap()))), format!("\"{text}\""));
        }
        assert_eq!(written(|w| w.addr(None)), "null");
    }
}
