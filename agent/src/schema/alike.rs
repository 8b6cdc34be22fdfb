//! Lines that are like the last of their kind: it is copied whole, and what a line has of its own is put in its places.
//!
//! A storm is made of lines that differ in number, time, cookie and port alone. To put one together from its fields costs
//! several times what copying it does.

use std::net::SocketAddr;
use std::time::Duration;

use super::digits::{eight, eight_hex, nine};
use super::room::{Fields, Written, append};
use super::wire::Time;
use crate::model::{Flow, SocketId};

const SECOND: i64 = 1_000_000_000;

/// What each line has of its own, even in a storm of its kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub seq: u64,
    pub time: Time,
    pub socket: Option<SocketId>,
    pub flow: Option<Flow>,
    /// Of `socket` lines.
    pub opened: Option<Time>,
    pub idle: Option<Duration>,
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
        is: impl FnOnce(&K) -> bool,
        key: impl FnOnce() -> K,
        write: impl for<'a> FnMut(Fields<'a>) -> Written<'a>,
    ) {
        let same = self.of.as_ref().is_some_and(is);
        if same
            && let Some(text) = &self.text
            && let Some(digits) = text.digits(own)
        {
            append(out, |w| text.put(w, own, &digits));
            return;
        }
        let start = out.len();
        append(out, write);
        if same {
            self.text = Text::of(&out[start..], own);
        } else {
            (self.of, self.text) = (Some(key()), None);
        }
    }
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
    seq: Place<8>,
    /// `None`: it tells of no socket.
    socket: Option<Place<8>>,
    flow: Option<Ends>,
}

/// Both ends: the addresses are as in the line, the ports have their places.
#[derive(Debug)]
struct Ends {
    addresses: u64,
    local: Place<8>,
    remote: Place<8>,
}

/// The digits of what a line has of its own.
struct Digits {
    seq: u64,
    nanos: u128,
    opened: u128,
    socket: u64,
    ports: [u64; 2],
}

/// Where a number stands: as many digits as it has there, and behind them the text that is put down with them, so that
/// each time one whole store is made.
#[derive(Debug)]
struct Place<const N: usize> {
    at: usize,
    len: usize,
    behind: [u8; N],
}

impl<const N: usize> Place<N> {
    /// The `len` digits at `at`; `None` where there are not so many bytes.
    fn of(line: &[u8], at: usize, len: usize) -> Option<Self> {
        let mut behind = *line.get(at..)?.first_chunk()?;
        behind.get_mut(..len)?.fill(0);
        Some(Self { at, len, behind })
    }

    #[inline(always)]
    fn put(&self, line: &mut [u8], with: impl FnOnce([u8; N]) -> [u8; N]) -> Option<()> {
        *line.get_mut(self.at..)?.first_chunk_mut()? = with(self.behind);
        Some(())
    }
}

impl Place<8> {
    /// The last digits of `digits`, as many as there is place for.
    #[inline(always)]
    fn number(&self, line: &mut [u8], digits: u64) -> Option<()> {
        self.put(line, |behind| (digits >> (8 * (8 - self.len)) | u64::from_le_bytes(behind)).to_le_bytes())
    }
}

impl Place<16> {
    #[inline(always)]
    fn nanos(&self, line: &mut [u8], digits: u128) -> Option<()> {
        self.put(line, |behind| (digits | u128::from_le_bytes(behind)).to_le_bytes())
    }
}

impl Text {
    /// The text of `line`, which was written of `own`. `None` where it has no place for something: numbers that are too
    /// long, addresses that are not of IPv4.
    #[cold]
    fn of(line: &[u8], own: &Own) -> Option<Self> {
        let after = |key: &[u8]| memchr::memmem::find(line, key).map(|at| at + key.len());
        let place = |key: &[u8], skip: usize, len: usize| Place::of(line, after(key)? + skip, len);
        let second = own.time.0.div_euclid(SECOND).checked_mul(SECOND)?;
        // `"2026-11-23T17:00:00.` before the nanoseconds.
        const NANOS_AT: usize = 20;
        let nanos = Place::of(line, after(b"\"time\":\"")? + NANOS_AT, 9)?;
        let opened = match own.opened {
            Some(at) if (0..SECOND).contains(&at.0.checked_sub(second)?) => {
                Some(Place::of(line, after(b"\"opened\":\"")? + NANOS_AT, 9)?)
            }
            Some(_) => return None,
            None => None,
        };
        let socket = match own.socket {
            Some(id) => Some(place(b"\"socket\":\"", 0, hex_len(id)?)?),
            None => None,
        };
        let flow = match own.flow {
            Some(flow) => {
                let (addresses, ports) = ends(flow)?;
                // Behind the address and its colon.
                let port = |key: &[u8], port: u16| {
                    let from = after(key)?;
                    let colon = memchr::memchr(b':', line.get(from..)?)?;
                    Place::of(line, from + colon + 1, decimal_len(port.into()))
                };
                let [local, remote] = ports;
                Some(Ends { addresses, local: port(b"\"local\":\"", local)?, remote: port(b"\"remote\":\"", remote)? })
            }
            None => None,
        };
        let seq = place(b"\"seq\":", 0, seq_len(own.seq)?)?;
        let mut bytes = line.to_vec();
        let mut gap = None;
        if own.idle.is_some() {
            let from = after(b"\"idle_s\":")?;
            let len = memchr::memchr(b',', line.get(from..)?)?;
            bytes.drain(from..from + len);
            gap = Some(from);
        }
        Some(Self { bytes, gap, second, nanos, opened, seq, socket, flow })
    }

    /// The digits of `own`, if the text has the places for them.
    #[inline]
    fn digits(&self, own: &Own) -> Option<Digits> {
        let nanos = |t: Time| {
            let nanos = t.0.wrapping_sub(self.second) as u64;
            (nanos < SECOND as u64).then(|| nine(nanos as u32))
        };
        let opened = match (&self.opened, own.opened) {
            (Some(_), Some(at)) if at == own.time => None,
            (Some(_), Some(at)) => Some(nanos(at)?),
            (None, None) => None,
            _ => return None,
        };
        let time = nanos(own.time)?;
        let socket = match (&self.socket, own.socket) {
            (Some(place), Some(SocketId(n))) if hex_len(SocketId(n)) == Some(place.len) => eight_hex(n as u32),
            (None, None) => 0,
            _ => return None,
        };
        let ports = match (&self.flow, own.flow) {
            (Some(e), Some(flow)) => {
                let (addresses, [local, remote]) = ends(flow)?;
                let fit = (addresses == e.addresses)
                    & (decimal_len(local.into()) == e.local.len)
                    & (decimal_len(remote.into()) == e.remote.len);
                if !fit {
                    return None;
                }
                [eight(local.into()), eight(remote.into())]
            }
            (None, None) => [0; 2],
            _ => return None,
        };
        if seq_len(own.seq) != Some(self.seq.len) || own.idle.is_some() != self.gap.is_some() {
            return None;
        }
        Some(Digits { seq: eight(own.seq as u32), nanos: time, opened: opened.unwrap_or(time), socket, ports })
    }

    #[inline]
    fn put<'a>(&self, w: Fields<'a>, own: &Own, d: &Digits) -> Written<'a> {
        let (before, behind) = self.bytes.split_at_checked(self.gap.unwrap_or(self.bytes.len()))?;
        let (line, w) = w.copied(before)?;
        self.seq.number(line, d.seq)?;
        self.nanos.nanos(line, d.nanos)?;
        if let Some(opened) = &self.opened {
            opened.nanos(line, d.opened)?;
        }
        if let Some(socket) = &self.socket {
            socket.number(line, d.socket)?;
        }
        if let Some(ends) = &self.flow {
            ends.local.number(line, d.ports[0])?;
            ends.remote.number(line, d.ports[1])?;
        }
        if self.gap.is_none() {
            return Some(w);
        }
        w.seconds(b"", own.idle)?.raw(behind)
    }
}

/// Both IPv4 addresses as one number, and the ports.
#[inline(always)]
fn ends(flow: Flow) -> Option<(u64, [u16; 2])> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (flow.local, flow.remote) else { return None };
    let addresses = u64::from(local.ip().to_bits()) << 32 | u64::from(remote.ip().to_bits());
    Some((addresses, [local.port(), remote.port()]))
}

/// Digits of a number below 10⁸.
#[inline(always)]
fn decimal_len(n: u32) -> usize {
    n.checked_ilog10().map_or(1, |n| n as usize + 1)
}

#[inline(always)]
fn seq_len(seq: u64) -> Option<usize> {
    (seq < 100_000_000).then(|| decimal_len(seq as u32))
}

/// Hexadecimal digits of a cookie; they count up from 1.
#[inline(always)]
fn hex_len(SocketId(n): SocketId) -> Option<usize> {
    u32::try_from(n).ok().map(|n| (n | 1).ilog2() as usize / 4 + 1)
}
