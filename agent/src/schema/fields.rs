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
    pub(super) fn time(&mut self, time: Time) -> &[u8; TIME_LEN] {
        let second = time.0.div_euclid(1_000_000_000);
        if second != self.second {
            self.second = second;
            self.time = time.format();
        } else {
            self.time[20..29].copy_from_slice(&nine(time.0.rem_euclid(1_000_000_000) as u32));
        }
        &self.time
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

/// `00` to `99`: half the divisions of digit by digit.
const PAIRS: [[u8; 2]; 100] = {
    let mut all = [[b'0'; 2]; 100];
    let mut n = 0;
    while n < 100 {
        all[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    all
};

/// The nine digits of a number below 10⁹.
fn nine(n: u32) -> [u8; 9] {
    let pair = |n: u32| PAIRS[(n % 100) as usize];
    let (high, low) = (n / 10_000 % 10_000, n % 10_000);
    let ([a, b], [c, d], [e, f], [g, h]) = (pair(high / 100), pair(high), pair(low / 100), pair(low));
    [b'0' + (n / 100_000_000) as u8, a, b, c, d, e, f, g, h]
}

/// `0` to `255` and how long each is.
const OCTETS: [([u8; 3], u8); 256] = {
    let mut all = [([b'0'; 3], 1); 256];
    let mut n = 0;
    while n < 256 {
        let digits = [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
        all[n] = match n {
            0..10 => ([digits[2], 0, 0], 1),
            10..100 => ([digits[1], digits[2], 0], 2),
            _ => (digits, 3),
        };
        n += 1;
    }
    all
};

/// The longest IPv4 address with port, quoted: `"255.255.255.255:65535"`, and a byte to spare.
const V4_LEN: usize = 24;
/// Digits of the largest number, and of the longest cookie with its quotes.
const NUMBER_LEN: usize = 20;
const COOKIE_LEN: usize = 18;
/// Texts up to this long are copied without a call.
const SHORT: usize = 16;

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
        let mut text = [0; SHORT];
        // Two pieces that overlap.
        match len {
            8..=SHORT => {
                text[..8].copy_from_slice(&bytes[..8]);
                text[len - 8..len].copy_from_slice(&bytes[len - 8..]);
            }
            4..8 => {
                text[..4].copy_from_slice(&bytes[..4]);
                text[len - 4..len].copy_from_slice(&bytes[len - 4..]);
            }
            _ => return self.raw(bytes),
        }
        self.padded(&text, len);
    }

    #[inline]
    pub fn number(&mut self, n: u64) {
        // Counts are mostly 0.
        if n < 10 {
            return self.out.push(b'0' + n as u8);
        }
        if n < 10_000 {
            let ([a, b], [c, d]) = (PAIRS[n as usize / 100], PAIRS[n as usize % 100]);
            let text = [a, b, c, d, 0, 0, 0];
            let len = if n < 100 { 2 } else if n < 1_000 { 3 } else { 4 };
            if let Some(text) = text[4 - len..].first_chunk::<4>() {
                self.padded(text, len);
            }
            return;
        }
        if n < 1_000_000_000 {
            let mut text = [0; 2 * 9];
            text[..9].copy_from_slice(&nine(n as u32));
            let len = n.ilog10() as usize + 1;
            if let Some(text) = text[9 - len..].first_chunk::<9>() {
                self.padded(text, len);
            }
            return;
        }
        // From the right; what is written then begins where the digits do and takes as many as the longest has.
        let mut digits = [0; 2 * NUMBER_LEN];
        let (mut at, mut left) = (NUMBER_LEN, n);
        while left >= 10 {
            at -= 2;
            digits[at..at + 2].copy_from_slice(&PAIRS[(left % 100) as usize]);
            left /= 100;
        }
        if left > 0 {
            at -= 1;
            digits[at] = b'0' + left as u8;
        }
        if let Some(text) = digits[at..].first_chunk::<NUMBER_LEN>() {
            self.padded(text, NUMBER_LEN - at);
        }
    }

    pub fn null(&mut self) {
        self.raw(b"null");
    }

    pub fn cookie(&mut self, id: Option<SocketId>) {
        let Some(SocketId(mut n)) = id else { return self.null() };
        let mut text = [0; 2 * COOKIE_LEN];
        let mut at = COOKIE_LEN - 1;
        text[at] = b'"';
        loop {
            at -= 1;
            text[at] = b"0123456789abcdef"[(n & 15) as usize];
            n >>= 4;
            if n == 0 {
                break;
            }
        }
        at -= 1;
        text[at] = b'"';
        if let Some(text) = text[at..].first_chunk::<COOKIE_LEN>() {
            self.padded(text, COOKIE_LEN - at);
        }
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
                let mut text = [b'"'; V4_LEN];
                let mut end = 1;
                for (n, octet) in a.ip().octets().into_iter().enumerate() {
                    let (digits, len) = OCTETS[usize::from(octet)];
                    // Three at once: what is too many is overwritten.
                    text[end..end + 3].copy_from_slice(&digits);
                    end += usize::from(len);
                    text[end] = if n < 3 { b'.' } else { b':' };
                    end += 1;
                }
                let ten_thousands = a.port() / 10_000;
                let ([b, c], [d, e]) = (PAIRS[usize::from(a.port() / 100 % 100)], PAIRS[usize::from(a.port() % 100)]);
                let port = [b'0' + ten_thousands as u8, b, c, d, e];
                // Without the zeros in front.
                let skip = port.iter().position(|d| *d != b'0').unwrap_or(4);
                for digit in &port[skip..] {
                    text[end] = *digit;
                    end += 1;
                }
                text[end] = b'"';
                self.padded(&text, end + 1);
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
        let text = nine(d.subsec_nanos());
        let end = text.iter().rposition(|b| *b != b'0').unwrap_or(0);
        self.raw(b".");
        self.padded(&text, end + 1);
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
        assert_eq!(written(|w| w.cookie(Some(SocketId(u64::MAX)))), "\"ffffffffffffffff\"");
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
    fn nine_digits() {
        for n in [0, 1, 10_000, 99_999_999, 100_000_000, 123_456_789, 999_999_999] {
            assert_eq!(std::str::from_utf8(&nine(n)).unwrap(), format!("{n:09}"));
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
