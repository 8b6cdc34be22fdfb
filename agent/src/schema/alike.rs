//! Lines that are like the last of their kind: it is copied whole, and what a line has of its own is put in its places.
//!
//! A storm is made of lines that differ in number, time, cookie and port alone. To put one together from its fields takes
//! about twice the instructions that copying it does.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::digits::{eight, eight_hex, nine};
use super::room::{Fields, Written, append};
use super::wire::{NANOS_AT, SECOND, Time};
use crate::model::SocketId;

/// What each line has of its own, even in a storm of its kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub seq: u64,
    pub time: Time,
    pub socket: Option<SocketId>,
    pub flow: OwnFlow,
    /// Of `socket` lines.
    pub opened: Option<Time>,
    pub idle: Option<Duration>,
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnFlow {
    Unknown,
    /// Both addresses as one number; local and remote port.
    V4(u64, [u16; 2]),
    /// A line has no places for them.
    V6,
}

impl OwnFlow {
    #[inline(always)]
    pub fn of(flow: Option<(&SocketAddr, &SocketAddr)>) -> Self {
        match flow {
            Some((SocketAddr::V4(local), SocketAddr::V4(remote))) => {
                let addresses = u64::from(local.ip().to_bits()) << 32 | u64::from(remote.ip().to_bits());
                Self::V4(addresses, [local.port(), remote.port()])
            }
            Some(_) => Self::V6,
            None => Self::Unknown,
        }
    }
}

/// The last line of its kind, and where in it what it had of its own stands.
#[derive(Debug)]
pub(super) struct Alike<K> {
    /// All else that the line tells.
    of: Option<K>,
    /// Made of the second line in a row that has it: of lines that are all different none is worth it.
    text: Option<Text>,
}

impl<K> Default for Alike<K> {
    fn default() -> Self {
        Self { of: None, text: None }
    }
}

impl<K> Alike<K> {
    /// Appends the line of `own`. `is` tells whether all else is as in the last line; otherwise `key` makes it. `write`
    /// puts the line down field by field.
    #[inline]
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        own: &Own,
        digits: &mut Digits,
        is: impl FnOnce(&K) -> bool,
        key: impl FnOnce() -> K,
        write: impl for<'a> FnMut(Fields<'a>) -> Written<'a>,
    ) {
        let same = self.of.as_ref().is_some_and(is);
        if same
            && let Some(text) = &self.text
            && text.is_for(own)
        {
            append(out, |w| text.put(w, own, digits));
            return;
        }
        self.anew(out, own, same, key, write);
    }

    /// Behind a call of its own: in a storm it is not needed.
    #[inline(never)]
    fn anew(
        &mut self,
        out: &mut Vec<u8>,
        own: &Own,
        same: bool,
        key: impl FnOnce() -> K,
        write: impl for<'a> FnMut(Fields<'a>) -> Written<'a>,
    ) {
        let start = out.len();
        append(out, write);
        if same {
            self.text = Text::of(&out[start..], own);
        } else {
            (self.of, self.text) = (Some(key()), None);
        }
    }
}

/// The digits that were made last: most lines of a storm tell of the same number, time, cookie or port as one before.
#[derive(Debug, Default)]
pub(super) struct Digits {
    seq: (u64, u64),
    nanos: (u32, u128),
    cookie: (u32, u64),
    port: (u16, u64),
}

impl Digits {
    /// The eight digits of a number below 10⁸.
    #[inline(always)]
    fn seq(&mut self, n: u64) -> u64 {
        const LAST: u64 = 1 << 56;
        let (last, digits) = self.seq;
        let digits = match n.wrapping_sub(last) {
            1 if digits >> 56 != 0 && digits >> 56 < u64::from(b'9') => digits + LAST,
            _ => eight(n as u32),
        };
        self.seq = (n, digits);
        digits
    }

    #[inline(always)]
    fn nanos(&mut self, n: u32) -> u128 {
        remembered(&mut self.nanos, n, nine)
    }

    #[inline(always)]
    fn cookie(&mut self, n: u32) -> u64 {
        remembered(&mut self.cookie, n, eight_hex)
    }

    #[inline(always)]
    fn port(&mut self, n: u16) -> u64 {
        remembered(&mut self.port, n, |n| eight(n.into()))
    }
}

#[inline(always)]
fn remembered<N: Copy + PartialEq, D: Copy + PartialEq + Default>(
    last: &mut (N, D),
    n: N,
    make: impl FnOnce(N) -> D,
) -> D {
    // No digits are 0.
    if last.0 != n || last.1 == D::default() {
        *last = (n, make(n));
    }
    last.1
}

/// A line without the time that a socket was idle, whose length differs.
#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    /// Where that time goes, if it is a line that tells it.
    gap: Option<usize>,
    /// Where the second of its times begins, in ns since 1970.
    second: i64,
    nanos: Place<16>,
    opened: Option<Place<16>>,
    seq: Number,
    /// `None`: it tells of no socket.
    socket: Option<Number>,
    flow: Option<Ends>,
}

/// Both ends: the addresses are as in the line, the ports have their places.
#[derive(Debug)]
struct Ends {
    addresses: u64,
    local: Number,
    remote: Number,
}

/// Where digits stand, and behind them the text that is put down with them, so that each time one whole store is made.
#[derive(Debug)]
struct Place<const N: usize> {
    at: usize,
    behind: [u8; N],
}

impl<const N: usize> Place<N> {
    /// The `len` digits at `at`; `None` where there are not so many bytes.
    fn of(line: &[u8], at: usize, len: usize) -> Option<Self> {
        let mut behind = *line.get(at..)?.first_chunk()?;
        behind.get_mut(..len)?.fill(0);
        Some(Self { at, behind })
    }

    #[inline(always)]
    fn put(&self, line: &mut [u8], digits: [u8; N]) -> Option<()> {
        *line.get_mut(self.at..)?.first_chunk_mut()? = digits;
        Some(())
    }
}

impl Place<16> {
    #[inline(always)]
    fn nanos(&self, line: &mut [u8], digits: u128) -> Option<()> {
        self.put(line, (digits | u128::from_le_bytes(self.behind)).to_le_bytes())
    }
}

/// The place of a number, which has as many digits as it had there.
#[derive(Debug)]
struct Number {
    place: Place<8>,
    /// What the line itself says.
    was: u64,
    /// From the least that has so many digits to the greatest.
    values: RangeInclusive<u64>,
    /// Bits of eight digits that are too many.
    excess: usize,
}

impl Number {
    /// The number `was` at `at`, in digits of `base`; `None` if they are more than eight.
    fn of(line: &[u8], at: usize, was: u64, base: u64) -> Option<Self> {
        let len = was.checked_ilog(base).map_or(1, |n| n as usize + 1);
        if len > 8 {
            return None;
        }
        let least = if len == 1 { 0 } else { base.pow(len as u32 - 1) };
        let values = least..=base.pow(len as u32) - 1;
        Some(Self { place: Place::of(line, at, len)?, was, values, excess: 8 * (8 - len) })
    }

    #[inline(always)]
    fn fits(&self, n: u64) -> bool {
        self.values.contains(&n)
    }

    /// Puts down the last of eight digits, as many as there is place for.
    #[inline(always)]
    fn put(&self, line: &mut [u8], digits: u64) -> Option<()> {
        self.place.put(line, (digits >> self.excess | u64::from_le_bytes(self.place.behind)).to_le_bytes())
    }
}

impl Text {
    /// The text of `line`, which was written of `own`. `None` where it has no place for something: numbers that are too
    /// long, addresses that are not of IPv4.
    #[cold]
    #[inline(never)]
    fn of(line: &[u8], own: &Own) -> Option<Self> {
        let mut bytes = line.to_vec();
        let mut gap = None;
        if own.idle.is_some() {
            let from = behind(line, b"\"idle_s\":")?;
            let len = memchr::memchr(b',', line.get(from..)?)?;
            bytes.drain(from..from + len);
            gap = Some(from);
        }
        // All places are before the gap: only room can be wanting when they are filled.
        let line = line.get(..gap.unwrap_or(line.len()))?;
        let after = |key: &[u8]| behind(line, key);
        let second = own.time.0.div_euclid(SECOND).checked_mul(SECOND)?;
        let nanos = |key: &[u8]| Place::of(line, after(key)? + NANOS_AT, 9);
        let opened = match own.opened {
            Some(at) if (0..SECOND).contains(&at.0.checked_sub(second)?) => Some(nanos(b"\"opened\":\"")?),
            Some(_) => return None,
            None => None,
        };
        let socket = match own.socket {
            Some(SocketId(n)) => Some(Number::of(line, after(b"\"socket\":\"")?, n, 16)?),
            None => None,
        };
        let flow = match own.flow {
            OwnFlow::V4(addresses, [local, remote]) => {
                let port = |key: &[u8], port: u16| {
                    let address = after(key)?;
                    let colon = memchr::memchr(b':', line.get(address..)?)?;
                    Number::of(line, address + colon + 1, port.into(), 10)
                };
                let (local, remote) = (port(b"\"local\":\"", local)?, port(b"\"remote\":\"", remote)?);
                Some(Ends { addresses, local, remote })
            }
            OwnFlow::V6 => return None,
            OwnFlow::Unknown => None,
        };
        let seq = Number::of(line, after(b"\"seq\":")?, own.seq, 10)?;
        Some(Self { bytes, gap, second, nanos: nanos(b"\"time\":\"")?, opened, seq, socket, flow })
    }

    /// Nanoseconds of the second that the text tells; more than one has for another.
    #[inline(always)]
    fn nanos(&self, time: Time) -> u64 {
        time.0.wrapping_sub(self.second) as u64
    }

    /// Whether the text has the places for what `own` is.
    #[inline]
    fn is_for(&self, own: &Own) -> bool {
        let socket = match (&self.socket, own.socket) {
            (Some(number), Some(SocketId(n))) => number.fits(n),
            (None, None) => true,
            _ => false,
        };
        let flow = match (&self.flow, own.flow) {
            (Some(e), OwnFlow::V4(addresses, [local, remote])) => {
                (addresses == e.addresses) & e.local.fits(local.into()) & e.remote.fits(remote.into())
            }
            (None, OwnFlow::Unknown) => true,
            _ => false,
        };
        let opened = match (&self.opened, own.opened) {
            (Some(_), Some(at)) => self.nanos(at) < SECOND as u64,
            (None, None) => true,
            _ => false,
        };
        let times = self.nanos(own.time) < SECOND as u64 && opened && self.gap.is_some() == own.idle.is_some();
        socket & flow & times & self.seq.fits(own.seq)
    }

    #[inline]
    fn put<'a>(&self, w: Fields<'a>, own: &Own, digits: &mut Digits) -> Written<'a> {
        let (before, behind) = self.bytes.split_at_checked(self.gap.unwrap_or(self.bytes.len()))?;
        let (line, w) = w.copied(before)?;
        self.seq.put(line, digits.seq(own.seq))?;
        self.nanos.nanos(line, digits.nanos(self.nanos(own.time) as u32))?;
        if let (Some(place), Some(at)) = (&self.opened, own.opened) {
            place.nanos(line, digits.nanos(self.nanos(at) as u32))?;
        }
        if let (Some(number), Some(SocketId(n))) = (&self.socket, own.socket) {
            number.put(line, digits.cookie(n as u32))?;
        }
        if let (Some(e), OwnFlow::V4(_, ports)) = (&self.flow, own.flow) {
            for (number, port) in [&e.local, &e.remote].into_iter().zip(ports) {
                if number.was != u64::from(port) {
                    number.put(line, digits.port(port))?;
                }
            }
        }
        if self.gap.is_none() {
            return Some(w);
        }
        w.seconds(b"", own.idle)?.raw(behind)
    }
}

/// Where the value of a key begins. Within a text of anybody's a quotation mark has a backslash before it: what is found
/// is the key.
fn behind(line: &[u8], key: &[u8]) -> Option<usize> {
    Some(memchr::memmem::find(line, key)? + key.len())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Appends a line of `own` of the kind `key`, and tells whether it was put together from its fields.
    fn made(alike: &mut Alike<u8>, digits: &mut Digits, own: &Own, key: u8) -> bool {
        let time = own.time.format();
        let OwnFlow::V4(addresses, [local, remote]) = own.flow else { panic!("{own:?}") };
        let [from, to] = [addresses >> 32, addresses & 0xffff_ffff].map(|a| Ipv4Addr::from_bits(a as u32));
        let text = format!(
            "{{\"seq\":{},\"time\":\"{}\",\"socket\":\"{}\",\"local\":\"{from}:{local}\",\"remote\":\"{to}:{remote}\",\"key\":{key}}}",
            own.seq,
            std::str::from_utf8(&time).unwrap(),
            own.socket.unwrap(),
        );
        let (mut out, mut made) = (b"before".to_vec(), false);
        alike.append(
            &mut out,
            own,
            digits,
            |k| *k == key,
            || key,
            |w| {
                made = true;
                w.raw(text.as_bytes())
            },
        );
        assert_eq!(String::from_utf8(out).unwrap(), format!("before{text}"));
        made
    }

    #[test]
    fn the_third_line_of_a_kind_is_copied_until_something_has_no_place() {
        let (mut alike, mut digits) = (Alike::default(), Digits::default());
        let flow = |local: &str| OwnFlow::of(Some((&local.parse().unwrap(), &"127.0.0.1:9".parse().unwrap())));
        let mut own = Own {
            seq: 4,
            time: Time(1_700_000_000_000_000_001),
            socket: Some(SocketId(0xab)),
            flow: flow("127.0.0.1:40000"),
            opened: None,
            idle: None,
        };
        let mut next = |change: &dyn Fn(&mut Own), key| {
            own.seq += 1;
            change(&mut own);
            made(&mut alike, &mut digits, &own, key)
        };
        // The first says what a line is like, the second becomes the text.
        assert!(next(&|_| {}, 1));
        assert!(next(&|_| {}, 1));
        assert!(!next(&|_| {}, 1));
        // Its own number, time, cookie and ports, as long as they are as long.
        assert!(!next(&|o| o.time.0 += 999, 1));
        assert!(!next(&|o| o.socket = Some(SocketId(0xff)), 1));
        // 10 has a digit more than 9.
        assert!(next(&|_| {}, 1));
        assert!(!next(&|o| o.flow = flow("127.0.0.1:65535"), 1));
        let misfits: [&dyn Fn(&mut Own); 5] = [
            &|o| o.socket = Some(SocketId(0x100)),
            &|o| o.flow = flow("127.0.0.1:9999"),
            &|o| o.flow = flow("127.0.0.2:9999"),
            &|o| o.time.0 += SECOND,
            &|o| o.seq = 99_999_999,
        ];
        for misfit in misfits {
            assert!(next(misfit, 1));
            // That one became the text.
            let copied = next(&|o| o.seq -= 1, 1);
            assert!(!copied);
        }
        // What has no place at all is put together each time.
        for _ in 0..3 {
            assert!(next(&|o| o.seq = 100_000_000, 1));
        }
        assert!(next(&|o| o.seq = 5, 1));
        // Another kind between two of the same makes two beginnings.
        assert!(next(&|_| {}, 2));
        assert!(next(&|_| {}, 1));
        assert!(next(&|_| {}, 1));
        assert!(!next(&|_| {}, 1));
    }
}
