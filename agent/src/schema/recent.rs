//! What lines have in common with those before them; its text is made once.

use std::net::{SocketAddr, SocketAddrV4};

use super::alike::{Alike, Digits};
use super::digits::{hex, nine, text};
use super::kinds::{Changed, Kept};
use super::room::{Fields, Written, append};
use super::wire::{NANOS_AT, SECOND, TIME_LEN, Time};
use crate::model::{Counters, Reset, SocketId, TcpDetail, TcpMetrics};

/// What was written last, for the lines that come next.
#[derive(Debug, Default)]
pub struct Recent {
    pub(super) parts: Parts,
    pub(super) digits: Digits,
    /// Changes to CLOSE, and the others: they alternate.
    pub(super) states: [Alike<Changed>; 2],
    /// RSTs received, and sent.
    pub(super) resets: [Alike<Reset>; 2],
    /// Sockets that are not closed, and those that are: most have both lines.
    pub(super) sockets: [Alike<Kept>; 2],
}

impl Recent {
    /// For a list of sockets, one line each.
    pub fn listing() -> Self {
        Self { parts: Parts { listing: true, ..Parts::default() }, ..Self::default() }
    }
}

/// Parts that lines have in common which are not alike: the second, the ends of a connection, the network namespace, what
/// the kernel says of connections that fare alike.
#[derive(Debug)]
pub(super) struct Parts {
    /// Each line is of another socket: what differs from socket to socket is not remembered.
    pub listing: bool,
    /// Where the second of `time` begins, in ns since 1970.
    second: i64,
    time: [u8; TIME_LEN],
    head: Head,
    stamp: Stamp,
    pub ends: Ends,
    pub netns: Piece<u32>,
    pub detail: Piece<TcpDetail>,
    pub metrics: Piece<TcpMetrics>,
    pub counters: Piece<Counters>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            listing: false,
            second: 0,
            time: Time(0).format(),
            head: Head::default(),
            stamp: Stamp::default(),
            ends: Ends::default(),
            netns: Piece::default(),
            detail: Piece::default(),
            metrics: Piece::default(),
            counters: Piece::default(),
        }
    }
}

impl Parts {
    /// What all lines begin with, after the type: number, time and socket.
    #[inline]
    pub fn begin<'a>(&mut self, w: Fields<'a>, seq: u64, time: Time, id: Option<SocketId>) -> Written<'a> {
        let mut nanos = time.0.wrapping_sub(self.second) as u64;
        if nanos >= SECOND as u64 {
            self.second = time.0.div_euclid(SECOND).wrapping_mul(SECOND);
            self.time = time.format();
            nanos = time.0.wrapping_sub(self.second) as u64;
        }
        let w = self.head.put(w, seq, self.second, &self.time)?;
        match id.map(|SocketId(n)| u32::try_from(n)) {
            // Cookies count up from 1.
            Some(Ok(low)) => self.stamp.put(w, nanos as u32, low),
            _ => w.padded(&nine(nanos as u32).to_le_bytes(), 9)?.raw(b"Z\",\"socket\":")?.cookie(id),
        }
    }

    /// Appends `key` and the time, in RFC 3339 with nanoseconds.
    #[inline]
    pub fn time<'a>(&self, w: Fields<'a>, key: &[u8], time: Time) -> Written<'a> {
        let w = w.raw(key)?.raw(b"\"")?;
        let nanos = time.0.wrapping_sub(self.second) as u64;
        match self.time.first_chunk::<NANOS_AT>() {
            // In a storm most sockets are of this very second.
            Some(second) if nanos < SECOND as u64 => {
                const END: u128 = text(b"Z\"") << 72;
                w.raw(second)?.padded(&(nine(nanos as u32) | END).to_le_bytes(), 11)
            }
            _ => w.raw(&time.format())?.raw(b"\""),
        }
    }
}

/// Nanoseconds and cookie, with what stands around them: often two lines tell of the same event.
#[derive(Debug, Default)]
struct Stamp {
    of: Option<(u32, u32)>,
    /// Up to the next key it is two stores.
    text: [u128; 2],
    len: usize,
}

impl Stamp {
    #[inline]
    fn put<'a>(&mut self, w: Fields<'a>, nanos: u32, cookie: u32) -> Written<'a> {
        const BEHIND: u128 = text(b"Z\",\"soc") << 72;
        const BEFORE: u128 = text(b"ket\":\"");
        const QUOTE: u128 = text(b"\"");
        if self.of != Some((nanos, cookie)) {
            let (digits, len) = hex(cookie);
            let socket = BEFORE | u128::from(digits) << 48 | QUOTE << (48 + 8 * len);
            (self.of, self.text, self.len) = (Some((nanos, cookie)), [nine(nanos) | BEHIND, socket], 7 + len);
        }
        let [time, socket] = self.text;
        w.raw(&time.to_le_bytes())?.padded(&socket.to_le_bytes(), self.len)
    }
}

/// A line's number and the time up to the nanoseconds, made for the line that comes next.
#[derive(Debug)]
struct Head {
    next: u64,
    /// Whose time it is.
    second: i64,
    digits: usize,
    text: [u8; HEAD],
    len: usize,
}

/// More than the longest number takes, the key and the time.
const HEAD: usize = 64;

impl Default for Head {
    fn default() -> Self {
        Self { next: 0, second: 0, digits: 0, text: [b' '; HEAD], len: 0 }
    }
}

impl Head {
    #[inline]
    fn put<'a>(&mut self, w: Fields<'a>, seq: u64, second: i64, time: &[u8; TIME_LEN]) -> Written<'a> {
        if self.next != seq || self.second != second || self.digits == 0 {
            self.make(seq, second, time);
        }
        let w = w.padded(&self.text, self.len)?;
        // Counted up now: a text that has just been changed would have to be waited for.
        let Some(next) = seq.checked_add(1) else {
            self.digits = 0;
            return Some(w);
        };
        self.next = next;
        for digit in self.text[..self.digits].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return Some(w);
            }
            *digit = b'0';
        }
        // It has one digit more.
        self.digits = 0;
        Some(w)
    }

    #[cold]
    fn make(&mut self, seq: u64, second: i64, time: &[u8; TIME_LEN]) {
        const KEY: &[u8] = b",\"time\":\"";
        let mut text = Padded::default();
        text.make(|w| w.number(seq)?.raw(KEY)?.raw(&time[..NANOS_AT]));
        (self.next, self.second) = (seq, second);
        (self.digits, self.len) = (text.len - NANOS_AT - KEY.len(), text.len);
        text.bytes.resize(HEAD, b' ');
        self.text.copy_from_slice(&text.bytes);
    }
}

/// A text in whole blocks.
#[derive(Debug, Default)]
struct Padded {
    bytes: Vec<u8>,
    len: usize,
}

/// Bytes copied at once: a few stores instead of a call, where most texts have 20 to 60.
const BLOCK: usize = 32;
/// From here on the call is the cheaper way.
const LONG: usize = 4 * BLOCK;

impl Padded {
    fn make(&mut self, write: impl for<'a> FnMut(Fields<'a>) -> Written<'a>) {
        self.bytes.clear();
        append(&mut self.bytes, write);
        self.len = self.bytes.len();
        self.bytes.resize(self.len.next_multiple_of(BLOCK), b' ');
    }

    #[inline]
    fn put<'a>(&self, w: Fields<'a>) -> Written<'a> {
        if self.len > LONG {
            return w.raw(&self.bytes[..self.len]);
        }
        w.blocks(self.bytes.as_chunks::<BLOCK>().0, self.len)
    }
}

/// The ends of connections that were told of last: the lines of one connection have both in common, and those of many
/// connections to one server that one.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// IPv4 address and port as one number; 0 is none.
    of: [u64; ENDS],
    texts: [([u8; BLOCK], usize); ENDS],
    /// Which was used last.
    last: usize,
    /// Of IPv6: this end and the other.
    v6: [Piece<SocketAddr>; 2],
}

/// The two of a connection, one that has no port yet, and the next connection's.
const ENDS: usize = 4;

impl Ends {
    /// Appends the text of an end, in quotation marks.
    #[inline(always)]
    pub fn put<'a>(&mut self, w: Fields<'a>, end: &SocketAddr, remote: bool) -> Written<'a> {
        let SocketAddr::V4(v4) = end else {
            return self.v6[usize::from(remote)].put(w, end, |end, w| w.addr(Some(end)));
        };
        let key = 1 << 48 | u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port());
        let known = self.of.iter().position(|of| *of == key);
        let at = known.unwrap_or_else(|| self.remember(key, *v4));
        self.last = at;
        let (text, len) = &self.texts[at];
        w.padded(text, *len)
    }

    /// Makes a text in the place of one that was not used last.
    #[cold]
    #[inline(never)]
    fn remember(&mut self, key: u64, end: SocketAddrV4) -> usize {
        let at = (self.last + 1) % ENDS;
        let mut made = Padded::default();
        made.make(|w| w.addr(Some(&end.into())));
        // No longer than "255.255.255.255:65535" in quotation marks.
        let text = made.bytes.first_chunk().copied().unwrap_or([b' '; BLOCK]);
        (self.of[at], self.texts[at]) = (key, (text, made.len));
        at
    }
}

/// A value and its text.
#[derive(Debug)]
pub(super) struct Piece<T> {
    of: Option<T>,
    text: Padded,
}

impl<T> Default for Piece<T> {
    fn default() -> Self {
        Self { of: None, text: Padded::default() }
    }
}

impl<T> Piece<T> {
    /// Appends the text of `value`, made by `write` unless it is that of last time.
    #[inline]
    pub fn put<'a>(
        &mut self,
        w: Fields<'a>,
        value: &T,
        mut write: impl for<'b> FnMut(&T, Fields<'b>) -> Written<'b>,
    ) -> Written<'a>
    where
        T: Clone + PartialEq,
    {
        if self.of.as_ref() != Some(value) {
            let of = self.of.insert(value.clone());
            self.text.make(|w| write(of, w));
        }
        self.text.put(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_counted_up_down_and_by_leaps_in_one_second_and_the_next() {
        let mut recent = Parts::default();
        let numbers = (0..1_200).chain([5, 6, 8, 9, 10, 998, 999, 1_000, 0, 1, u64::MAX - 1, u64::MAX, 0]);
        for (n, seq) in numbers.enumerate() {
            let time = Time(1_700_000_000_123_456_789 + n as i64 * 777_777_777);
            for (id, socket) in
                [(None, "null"), (Some(SocketId(0xfe1)), "\"fe1\""), (Some(SocketId(5 << 32)), "\"500000000\"")]
            {
                let mut out = Vec::new();
                append(&mut out, |w| recent.begin(w, seq, time, id));
                let text = time.format();
                let text = std::str::from_utf8(&text).unwrap();
                assert_eq!(String::from_utf8(out).unwrap(), format!("{seq},\"time\":\"{text}\",\"socket\":{socket}"));
                for other in [time, Time(time.0 - 5_000_000_000), Time(time.0 + 1)] {
                    let mut out = Vec::new();
                    append(&mut out, |w| recent.time(w, b"=", other));
                    let text = other.format();
                    assert_eq!(out, [b"=\"", &text[..], b"\""].concat());
                }
            }
        }
    }

    #[test]
    fn a_piece_is_made_again_when_its_value_changes() {
        let mut piece = Piece::<u32>::default();
        let mut out = Vec::new();
        for (n, made) in [(7, true), (7, false), (1_000_000, true), (7, true)] {
            let mut was_made = false;
            append(&mut out, |w| {
                piece.put(w, &n, |n, w| {
                    was_made = true;
                    w.int(b",", Some(*n))
                })
            });
            assert_eq!(was_made, made);
        }
        let long = "x".repeat(LONG + 1);
        append(&mut out, |w| Piece::default().put(w, &long, |s, w| w.raw(s.as_bytes())));
        assert_eq!(String::from_utf8(out).unwrap(), format!(",7,7,1000000,7{long}"));
    }

    #[test]
    fn ends_come_and_go() {
        let mut ends = Ends::default();
        let all =
            ["127.0.0.1:9", "127.0.0.1:0", "[::1]:9", "[fe80::1%3]:443", "10.0.0.1:1", "10.0.0.1:2", "10.0.1.1:1"];
        // Each after each other, and all in turn.
        let each = all.iter().flat_map(|a| all.map(|b| [*a, b])).flatten().chain(all).chain(all);
        for (n, end) in each.enumerate() {
            let mut out = Vec::new();
            append(&mut out, |w| ends.put(w, &end.parse().unwrap(), n % 2 > 0));
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{end}\""));
        }
    }
}
