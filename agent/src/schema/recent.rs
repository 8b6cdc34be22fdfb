//! What lines have in common with those before them; its text is made once.

use std::borrow::Borrow;

use super::digits::{hex, nine, text};
use super::fields::Fields;
use super::wire::{TIME_LEN, Time};
use crate::model::{
    Counters, Flow, Owner, PacketFacts, ResetDirection, ResetOrigin, SocketId, TcpDetail, TcpMetrics, TcpState,
};

/// The second, the ends of a connection and its owners, the network namespace, what the kernel says of connections that
/// fare alike.
#[derive(Debug)]
pub struct Recent {
    /// Each line is of another socket: what differs from socket to socket is not remembered.
    pub(super) listing: bool,
    /// Where the second of `time` begins, in ns since 1970.
    second: i64,
    time: [u8; TIME_LEN],
    head: Head,
    pub(super) flow: Piece<Flow>,
    /// Of connections whose port is not chosen yet: it is the same for all to one server.
    pub(super) unbound: Piece<Flow>,
    pub(super) netns: Piece<u32>,
    pub(super) owners: Piece<[Owner]>,
    /// States and process of the changes to CLOSE, and of the others: they alternate.
    pub(super) changes: [Piece<(TcpState, TcpState, Option<u32>)>; 2],
    /// Of RSTs received, and sent.
    pub(super) resets: [Piece<(ResetDirection, ResetOrigin, Option<TcpState>)>; 2],
    pub(super) reason: Piece<str>,
    pub(super) packet: Piece<PacketFacts>,
    pub(super) why: Piece<str>,
    pub(super) detail: Piece<TcpDetail>,
    pub(super) metrics: Piece<TcpMetrics>,
    pub(super) counters: Piece<Counters>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            listing: false,
            second: 0,
            time: Time(0).format(),
            head: Head::default(),
            flow: Piece::default(),
            unbound: Piece::default(),
            netns: Piece::default(),
            owners: Piece::default(),
            changes: Default::default(),
            resets: Default::default(),
            reason: Piece::default(),
            packet: Piece::default(),
            why: Piece::default(),
            detail: Piece::default(),
            metrics: Piece::default(),
            counters: Piece::default(),
        }
    }
}

/// Where the digits of the nanoseconds begin in a formatted time.
const NANOS_AT: usize = 20;
const SECOND: i64 = 1_000_000_000;

impl Recent {
    /// For a list of sockets, one line each.
    pub fn listing() -> Self {
        Self { listing: true, ..Self::default() }
    }

    /// What all lines begin with, after the type: number, time and socket.
    #[inline]
    pub(super) fn begin(&mut self, out: &mut Fields<'_>, seq: u64, time: Time, id: Option<SocketId>) {
        let mut nanos = time.0.wrapping_sub(self.second) as u64;
        if nanos >= SECOND as u64 {
            self.second = time.0.div_euclid(SECOND).wrapping_mul(SECOND);
            self.time = time.format();
            nanos = time.0.wrapping_sub(self.second) as u64;
        }
        self.head.put(out, seq, self.second, &self.time);
        let nanos = nine(nanos as u32);
        match id.map(|SocketId(n)| u32::try_from(n)) {
            // Cookies count up from 1: here everything up to the next key is two stores.
            Some(Ok(low)) => {
                const BEHIND: u128 = text(b"Z\",\"soc") << 72;
                const BEFORE: u128 = text(b"ket\":\"");
                const QUOTE: u128 = text(b"\"");
                let (digits, len) = hex(low);
                out.raw(&(nanos | BEHIND).to_le_bytes());
                out.padded(&(BEFORE | u128::from(digits) << 48 | QUOTE << (48 + 8 * len)).to_le_bytes(), 7 + len);
            }
            _ => {
                out.padded(&nanos.to_le_bytes(), 9);
                out.raw(b"Z\",\"socket\":");
                out.cookie(id);
            }
        }
    }

    /// Appends `key` and the time, in RFC 3339 with nanoseconds.
    #[inline]
    pub(super) fn time(&mut self, out: &mut Fields<'_>, key: &[u8], time: Time) {
        out.raw(key);
        out.raw(b"\"");
        let nanos = time.0.wrapping_sub(self.second) as u64;
        match self.time.first_chunk::<NANOS_AT>() {
            // In a storm most sockets are of this very second.
            Some(second) if nanos < SECOND as u64 => {
                out.raw(second);
                const END: u128 = text(b"Z\"") << 72;
                out.padded(&(nine(nanos as u32) | END).to_le_bytes(), 11);
            }
            _ => {
                out.raw(&time.format());
                out.raw(b"\"");
            }
        }
    }
}

/// A line's number and the time up to the nanoseconds, made for the line that comes next.
#[derive(Debug, Default)]
struct Head {
    next: u64,
    /// Whose time it is.
    second: i64,
    digits: usize,
    text: Padded,
}

impl Head {
    #[inline]
    fn put(&mut self, out: &mut Fields<'_>, seq: u64, second: i64, time: &[u8; TIME_LEN]) {
        if self.next != seq || self.second != second || self.digits == 0 {
            (self.next, self.second) = (seq, second);
            self.text.make(|w| {
                w.number(seq);
                w.raw(b",\"time\":\"");
                w.raw(&time[..NANOS_AT]);
            });
            self.digits = self.text.len - NANOS_AT - b",\"time\":\"".len();
        }
        self.text.put(out);
        // Counted up now: a text that has just been changed would have to be waited for.
        let Some(next) = seq.checked_add(1) else {
            self.digits = 0;
            return;
        };
        self.next = next;
        for digit in self.text.bytes[..self.digits].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        // It has one digit more.
        self.digits = 0;
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
    fn make(&mut self, write: impl FnOnce(&mut Fields<'_>)) {
        self.bytes.clear();
        write(&mut Fields { out: &mut self.bytes });
        self.len = self.bytes.len();
        self.bytes.resize(self.len.next_multiple_of(BLOCK), b' ');
    }

    #[inline]
    fn put(&self, out: &mut Fields<'_>) {
        if self.len > LONG {
            return out.raw(&self.bytes[..self.len]);
        }
        let end = out.out.len() + self.len;
        for block in self.bytes.as_chunks::<BLOCK>().0 {
            out.raw(block);
        }
        out.out.truncate(end);
    }
}

/// A value and its text.
#[derive(Debug)]
pub(super) struct Piece<T: ToOwned + ?Sized> {
    of: Option<T::Owned>,
    text: Padded,
}

impl<T: ToOwned + ?Sized> Default for Piece<T> {
    fn default() -> Self {
        Self { of: None, text: Padded::default() }
    }
}

impl<T: ToOwned<Owned: Borrow<T>> + PartialEq + ?Sized> Piece<T> {
    /// Appends the text of `value`, made by `write` unless it is that of last time.
    #[inline]
    pub fn put(&mut self, out: &mut Fields<'_>, value: &T, write: impl FnOnce(&T, &mut Fields<'_>)) {
        if self.of.as_ref().is_none_or(|of| of.borrow() != value) {
            self.of = Some(value.to_owned());
            self.text.make(|w| write(value, w));
        }
        self.text.put(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_counted_up_down_and_by_leaps_in_one_second_and_the_next() {
        let mut recent = Recent::default();
        let numbers = (0..1_200).chain([5, 6, 8, 9, 10, 998, 999, 1_000, 0, 1, u64::MAX - 1, u64::MAX, 0]);
        for (n, seq) in numbers.enumerate() {
            let time = Time(1_700_000_000_123_456_789 + n as i64 * 777_777_777);
            for (id, socket) in
                [(None, "null"), (Some(SocketId(0xfe1)), "\"fe1\""), (Some(SocketId(5 << 32)), "\"500000000\"")]
            {
                let mut out = Vec::new();
                recent.begin(&mut Fields { out: &mut out }, seq, time, id);
                let text = time.format();
                let text = std::str::from_utf8(&text).unwrap();
                assert_eq!(String::from_utf8(out).unwrap(), format!("{seq},\"time\":\"{text}\",\"socket\":{socket}"));
                for other in [time, Time(time.0 - 5_000_000_000), Time(time.0 + 1)] {
                    let mut out = Vec::new();
                    recent.time(&mut Fields { out: &mut out }, b"=", other);
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
            piece.put(&mut Fields { out: &mut out }, &n, |n, w| {
                was_made = true;
                w.int(b",", Some(*n));
            });
            assert_eq!(was_made, made);
        }
        let long = "x".repeat(LONG + 1);
        Piece::<str>::default().put(&mut Fields { out: &mut out }, &long, |s, w| w.raw(s.as_bytes()));
        assert_eq!(String::from_utf8(out).unwrap(), format!(",7,7,1000000,7{long}"));
    }
}
