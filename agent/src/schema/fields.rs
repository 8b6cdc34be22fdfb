//! Single values of a line, written by hand into a reused buffer: about a third of what the general serialiser costs.

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::time::Duration;

use super::wire::{TIME_LEN, Time};
use crate::model::{Counters, Flow, Owner, SocketId, TcpDetail, TcpMetrics};

/// What lines have in common with those before them: the second, the ends of a connection and its owners, the network
/// namespace, what the kernel says of connections that fare alike. Their text is made once.
#[derive(Debug)]
pub struct Recent {
    /// Where the second of `time` begins, in ns since 1970.
    second: i64,
    time: [u8; TIME_LEN],
    pub(super) seq: Counting,
    pub(super) flow: Piece<Flow>,
    /// Of connections whose port is not chosen yet: it is the same for all to one server.
    pub(super) unbound: Piece<Flow>,
    pub(super) netns: Piece<u32>,
    pub(super) owners: Piece<[Owner]>,
    pub(super) reason: Piece<str>,
    pub(super) why: Piece<str>,
    pub(super) detail: Piece<TcpDetail>,
    pub(super) metrics: Piece<TcpMetrics>,
    pub(super) counters: Piece<Counters>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            second: 0,
            time: Time(0).format(),
            seq: Counting::default(),
            flow: Piece::default(),
            unbound: Piece::default(),
            netns: Piece::default(),
            owners: Piece::default(),
            reason: Piece::default(),
            why: Piece::default(),
            detail: Piece::default(),
            metrics: Piece::default(),
            counters: Piece::default(),
        }
    }
}

impl Recent {
    /// Appends the time, in RFC 3339 with nanoseconds.
    #[inline]
    pub(super) fn time(&mut self, out: &mut Fields<'_>, time: Time) {
        let mut nanos = time.0.wrapping_sub(self.second) as u64;
        if nanos >= 1_000_000_000 {
            self.second = time.0.div_euclid(1_000_000_000).wrapping_mul(1_000_000_000);
            self.time = time.format();
            nanos = time.0.wrapping_sub(self.second) as u64;
        }
        if let Some(second) = self.time.first_chunk::<NANOS_AT>() {
            out.raw(second);
        }
        out.nine(nanos as u32);
        out.raw(b"Z");
    }
}

/// A value and its text.
#[derive(Debug)]
pub(super) struct Piece<T: ToOwned + ?Sized> {
    of: Option<T::Owned>,
    /// Whole blocks, of which `len` bytes are the text.
    text: Vec<u8>,
    len: usize,
}

/// Bytes copied at once: a few stores instead of a call, where most texts have 20 to 60.
const BLOCK: usize = 32;
/// From here on the call is the cheaper way.
const LONG: usize = 4 * BLOCK;

impl<T: ToOwned + ?Sized> Default for Piece<T> {
    fn default() -> Self {
        Self { of: None, text: Vec::new(), len: 0 }
    }
}

impl<T: ToOwned<Owned: Borrow<T>> + PartialEq + ?Sized> Piece<T> {
    /// Appends the text of `value`, made by `write` unless it is that of last time.
    #[inline]
    pub fn put(&mut self, out: &mut Fields<'_>, value: &T, write: impl FnOnce(&T, &mut Fields<'_>)) {
        if self.of.as_ref().is_none_or(|of| of.borrow() != value) {
            self.of = Some(value.to_owned());
            self.text.clear();
            write(value, &mut Fields { out: &mut self.text });
            self.len = self.text.len();
            self.text.resize(self.len.next_multiple_of(BLOCK), b' ');
        }
        if self.len > LONG {
            return out.raw(&self.text[..self.len]);
        }
        let end = out.out.len() + self.len;
        for block in self.text.as_chunks::<BLOCK>().0 {
            out.raw(block);
        }
        out.out.truncate(end);
    }
}

/// A number that mostly grows by one, and its digits.
#[derive(Debug, Default)]
pub(super) struct Counting {
    of: u64,
    text: Vec<u8>,
}

impl Counting {
    pub fn text(&mut self, n: u64) -> &[u8] {
        let one_more = n.checked_sub(1) == Some(self.of) && !self.text.is_empty();
        self.of = n;
        if one_more {
            for digit in self.text.iter_mut().rev() {
                if *digit < b'9' {
                    *digit += 1;
                    return &self.text;
                }
                *digit = b'0';
            }
        }
        self.text.clear();
        Fields { out: &mut self.text }.number(n);
        &self.text
    }
}

/// Where the digits of the nanoseconds begin in a formatted time.
const NANOS_AT: usize = 20;
/// Digits of the largest number.
const NUMBER_LEN: usize = 20;

// Short texts are put together in registers: reading bytes back that were just stored one by one makes the processor
// wait until all of them have reached its cache, which takes longer than all else of a number.

/// The eight digits of a number below 10⁸, the first in the lowest byte.
fn eight(n: u32) -> u64 {
    // Two halves of four digits, then four of two, then eight of one; each division is a multiplication.
    let halves = u64::from(n / 10_000) | u64::from(n % 10_000) << 32;
    let hundreds = ((halves * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | (halves - 100 * hundreds) << 16;
    let tens = ((pairs * 103) >> 10) & 0xf_000f_000f_000f;
    (tens | (pairs - 10 * tens) << 8) + 0x3030_3030_3030_3030
}

/// The eight hexadecimal digits of a number, the first in the lowest byte.
fn eight_hex(n: u32) -> u64 {
    let mut x = u64::from(n);
    x = (x | x << 16) & 0xffff_0000_ffff;
    x = (x | x << 8) & 0xff_00ff_00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((x + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (x + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)).swap_bytes()
}

/// `0.` to `255.`, the first byte the lowest, and how long each is.
const OCTETS: [(u32, u8); 256] = {
    let mut all = [(0, 0); 256];
    let mut n = 0;
    while n < 256 {
        let (a, b, c) = (b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8);
        let (text, len) = match n {
            0..10 => ([c, b'.', 0, 0], 2),
            10..100 => ([b, c, b'.', 0], 3),
            _ => ([a, b, c, b'.'], 4),
        };
        all[n] = (u32::from_le_bytes(text), len);
        n += 1;
    }
    all
};

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

    /// Appends the first `len` bytes of `text`. All of it is written, which takes a store or two, and the rest cut off
    /// again: copying an unknown number of bytes takes a call.
    #[inline(always)]
    fn padded<const N: usize>(&mut self, text: &[u8; N], len: usize) {
        let end = self.out.len() + len;
        self.out.extend_from_slice(text);
        self.out.truncate(end);
    }

    /// The same of a text that is often, but not always short.
    #[inline(always)]
    fn often_short(&mut self, bytes: &[u8]) {
        let len = bytes.len();
        // The first and the last bytes of the text, which overlap or meet.
        if let (8..=16, Some(first), Some(last)) = (len, bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            let [first, last] = [first, last].map(|half| u128::from(u64::from_le_bytes(*half)));
            self.padded(&(first | last << (8 * (len - 8))).to_le_bytes(), len);
        } else if let (4..8, Some(first), Some(last)) = (len, bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            let [first, last] = [first, last].map(|half| u64::from(u32::from_le_bytes(*half)));
            self.padded(&(first | last << (8 * (len - 4))).to_le_bytes(), len);
        } else {
            self.raw(bytes);
        }
    }

    #[inline]
    pub fn number(&mut self, n: u64) {
        // Counts are mostly 0.
        if n < 10 {
            return self.out.push(b'0' + n as u8);
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
        if let Some(text) = digits[at..].first_chunk::<NUMBER_LEN>() {
            self.padded(text, NUMBER_LEN - at);
        }
    }

    /// The nine digits of a number below 10⁹.
    #[inline(always)]
    fn nine(&mut self, n: u32) {
        self.out.push(b'0' + (n / 100_000_000) as u8);
        self.raw(&eight(n % 100_000_000).to_le_bytes());
    }

    pub fn null(&mut self) {
        self.raw(b"null");
    }

    pub fn cookie(&mut self, id: Option<SocketId>) {
        let Some(SocketId(n)) = id else { return self.null() };
        self.raw(b"\"");
        let (high, low) = ((n >> 32) as u32, n as u32);
        if high == 0 {
            let len = (low | 1).ilog2() as usize / 4 + 1;
            self.padded(&(eight_hex(low) >> (8 * (8 - len))).to_le_bytes(), len);
        } else {
            let len = high.ilog2() as usize / 4 + 1;
            self.padded(&(eight_hex(high) >> (8 * (8 - len))).to_le_bytes(), len);
            self.raw(&eight_hex(low).to_le_bytes());
        }
        self.raw(b"\"");
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
        self.often_short(word.as_bytes());
        self.raw(b"\"");
    }

    pub fn text(&mut self, key: &[u8], text: Option<&str>) {
        self.raw(key);
        let Some(text) = text else { return self.null() };
        if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
            self.raw(b"\"");
            self.often_short(text.as_bytes());
            self.raw(b"\"");
        } else if serde_json::to_writer(&mut *self.out, text).is_err() {
            // Writing a string into memory cannot fail; an empty one keeps the line whole all the same.
            self.raw(b"\"\"");
        }
    }

    pub fn flow(&mut self, flow: Option<Flow>, recent: &mut Recent) {
        match flow {
            Some(flow) => {
                let piece = if flow.local.port() == 0 { &mut recent.unbound } else { &mut recent.flow };
                piece.put(self, &flow, |f, w| w.ends(Some(f.local), Some(f.remote)));
            }
            None => self.ends(None, None),
        }
    }

    pub fn netns(&mut self, netns: Option<u32>, recent: &mut Recent) {
        const KEY: &[u8] = b",\"netns\":";
        match netns {
            Some(n) => recent.netns.put(self, &n, |n, w| w.int(KEY, Some(*n))),
            None => self.int(KEY, None::<u32>),
        }
    }

    pub fn ends(&mut self, local: Option<SocketAddr>, remote: Option<SocketAddr>) {
        self.raw(b",\"local\":");
        self.addr(local);
        self.raw(b",\"remote\":");
        self.addr(remote);
    }

    pub fn addr(&mut self, addr: Option<SocketAddr>) {
        use std::io::Write as _;
        match addr {
            None => self.null(),
            Some(SocketAddr::V4(a)) => {
                let (mut text, mut len) = (0, 0);
                for octet in a.ip().octets() {
                    let (digits, n) = OCTETS[usize::from(octet)];
                    text |= u128::from(digits) << (8 * len);
                    len += usize::from(n);
                }
                self.raw(b"\"");
                // The last dot gives way.
                self.padded(&text.to_le_bytes(), len - 1);
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
        self.raw(b".");
        let begin = self.out.len();
        let nanos = d.subsec_nanos();
        self.nine(nanos);
        // Without the zeros at the end, but for the first digit.
        let last = nanos % 100_000_000;
        let zeros = if last == 0 { 8 } else { (eight(last) - 0x3030_3030_3030_3030).leading_zeros() as usize / 8 };
        self.out.truncate(begin + 9 - zeros);
    }

    #[inline(always)]
    pub fn flag(&mut self, key: &[u8], b: Option<bool>) {
        self.raw(key);
        // Each of its own: a text of one length is a store, one of three lengths a call.
        match b {
            Some(true) => self.raw(b"true"),
            Some(false) => self.raw(b"false"),
            None => self.raw(b"null"),
        }
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

    fn written(write: impl FnOnce(&mut Fields<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Fields { out: &mut out });
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
            assert_eq!(written(|w| w.word(b"=", Some(&all[..len]))), format!("=\"{}\"", &all[..len]));
        }
    }

    #[test]
    fn counting_up_down_and_by_leaps() {
        let mut counting = Counting::default();
        for n in (0..1_200).chain([5, 6, 8, 9, 10, 998, 999, 1_000, 0, 1, u64::MAX - 1, u64::MAX, 0]) {
            assert_eq!(counting.text(n), n.to_string().as_bytes());
        }
    }

    #[test]
    fn digits_put_together_in_registers() {
        for n in (0..100_000_000).step_by(997).chain([9_999, 10_000, 10_001, 99_999_999]) {
            assert_eq!(std::str::from_utf8(&eight(n).to_le_bytes()).unwrap(), format!("{n:08}"));
            let hex = n.wrapping_mul(0x9e37_79b9);
            assert_eq!(std::str::from_utf8(&eight_hex(hex).to_le_bytes()).unwrap(), format!("{hex:08x}"));
        }
        for n in [0, 1, 10_000, 99_999_999, 100_000_000, 123_456_789, 999_999_999] {
            assert_eq!(written(|w| w.nine(n)), format!("{n:09}"));
        }
    }

    #[test]
    fn addresses() {
        for text in ["0.0.0.0:0", "9.10.99.100:1", "255.255.255.255:65535", "127.0.0.1:80", "[2001:db8::1]:443"] {
            assert_eq!(written(|w| w.addr(Some(text.parse().unwrap()))), format!("\"{text}\""));
        }
        assert_eq!(written(|w| w.addr(None)), "null");
    }
}
