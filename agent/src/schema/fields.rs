//! Single values of a line, written by hand into a reused buffer: about a third of what the general serialiser costs.

use std::net::SocketAddr;
use std::time::Duration;

use super::wire::{TIME_LEN, Time};
use crate::model::{Flow, SocketId};

/// Formats event times; remembers the text of the current second.
#[derive(Debug)]
pub struct Clock {
    second: i64,
    text: [u8; TIME_LEN],
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: 0, text: Time(0).format() }
    }
}

impl Clock {
    pub(super) fn text(&mut self, time: Time) -> &[u8; TIME_LEN] {
        let second = time.0.div_euclid(1_000_000_000);
        if second != self.second {
            self.second = second;
            self.text = time.format();
        } else {
            let mut n = time.0.rem_euclid(1_000_000_000) as u32;
            for slot in self.text[20..29].iter_mut().rev() {
                *slot = b'0' + (n % 10) as u8;
                n /= 10;
            }
        }
        &self.text
    }
}

/// Writes JSON into memory; a key comes with its punctuation.
pub(super) struct Fields<'a> {
    pub out: &'a mut Vec<u8>,
}

impl Fields<'_> {
    /// Where it is called with a constant, the copy is a few stores: a line has dozens of them.
    #[inline(always)]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn number(&mut self, n: u64) {
        self.raw(itoa::Buffer::new().format(n).as_bytes());
    }

    pub fn null(&mut self) {
        self.raw(b"null");
    }

    pub fn cookie(&mut self, id: Option<SocketId>) {
        let Some(SocketId(mut n)) = id else { return self.null() };
        let mut text = *b"\"0000000000000000\"";
        let mut at = 17;
        loop {
            at -= 1;
            text[at] = b"0123456789abcdef"[(n & 15) as usize];
            n >>= 4;
            if n == 0 {
                break;
            }
        }
        text[at - 1] = b'"';
        self.raw(&text[at - 1..]);
    }

    #[inline(always)]
    pub fn int<N: Into<u64>>(&mut self, key: &[u8], n: Option<N>) {
        self.raw(key);
        match n {
            Some(n) => self.number(n.into()),
            None => self.null(),
        }
    }

    /// A word of ours: nothing in it needs escaping.
    #[inline(always)]
    pub fn word(&mut self, key: &[u8], word: Option<&str>) {
        self.raw(key);
        let Some(word) = word else { return self.null() };
        self.raw(b"\"");
        self.raw(word.as_bytes());
        self.raw(b"\"");
    }

    pub fn text(&mut self, key: &[u8], text: Option<&str>) {
        self.raw(key);
        let Some(text) = text else { return self.null() };
        if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
            self.raw(b"\"");
            self.raw(text.as_bytes());
            self.raw(b"\"");
        } else if serde_json::to_writer(&mut *self.out, text).is_err() {
            // Writing a string into memory cannot fail; an empty one keeps the line whole all the same.
            self.raw(b"\"\"");
        }
    }

    pub fn flow(&mut self, flow: Option<Flow>) {
        self.raw(b",\"local\":");
        self.addr(flow.map(|f| f.local));
        self.raw(b",\"remote\":");
        self.addr(flow.map(|f| f.remote));
    }

    pub fn addr(&mut self, addr: Option<SocketAddr>) {
        use std::io::Write as _;
        match addr {
            None => self.null(),
            Some(SocketAddr::V4(a)) => {
                self.raw(b"\"");
                for (n, octet) in a.ip().octets().into_iter().enumerate() {
                    if n > 0 {
                        self.raw(b".");
                    }
                    self.number(octet.into());
                }
                self.raw(b":");
                self.number(a.port().into());
                self.raw(b"\"");
            }
            Some(a) => {
                // Into memory: cannot fail.
                let _ = write!(self.out, "\"{a}\"");
            }
        }
    }

    /// Exact to the nanosecond, without a float on the way.
    #[inline(always)]
    pub fn seconds(&mut self, key: &[u8], d: Option<Duration>) {
        self.raw(key);
        let Some(d) = d else { return self.null() };
        self.number(d.as_secs());
        let mut n = d.subsec_nanos();
        let mut text = *b".000000000";
        for slot in text[1..].iter_mut().rev() {
            *slot = b'0' + (n % 10) as u8;
            n /= 10;
        }
        let end = text.iter().rposition(|b| *b != b'0').unwrap_or(0).max(1);
        self.raw(&text[..=end]);
    }

    #[inline(always)]
    pub fn flag(&mut self, key: &[u8], b: Option<bool>) {
        self.raw(key);
        self.raw(match b {
            Some(true) => b"true",
            Some(false) => b"false",
            None => b"null",
        });
    }

    /// A field that is left out where it is unknown; a comma unless it is the first of its object.
    #[inline(always)]
    pub fn known<N: Into<u64>>(&mut self, key: &[u8], n: Option<N>) {
        if let Some(n) = n {
            self.comma();
            self.raw(key);
            self.number(n.into());
        }
    }

    pub fn comma(&mut self) {
        if self.out.last() != Some(&b'{') {
            self.raw(b",");
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
    use super::*;

    #[test]
    fn cookies_and_seconds_at_their_ends() {
        let mut out = Vec::new();
        let mut w = Fields { out: &mut out };
        w.cookie(Some(SocketId(0)));
        w.cookie(Some(SocketId(u64::MAX)));
        w.seconds(b" ", Some(Duration::ZERO));
        w.seconds(b" ", Some(Duration::from_nanos(1)));
        w.seconds(b" ", Some(Duration::from_millis(12_600)));
        assert_eq!(out, b"\"0\"\"ffffffffffffffff\" 0.0 0.000000001 12.6");
    }
}
