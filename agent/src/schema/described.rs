//! A socket as its line tells it, borrowed from wherever it is kept.

use std::net::SocketAddr;
use std::time::Duration;

use super::LineContext;
use super::lines::SocketLine;
use super::parts::{OwnerPart, ProgramPart};
use super::wire::{Addr, Cookie, Seconds, Time};
use crate::model::{Counters, Direction, Family, Keepalive, Mono, Owner, SocketId, SocketUpdate, TcpMetrics, TcpState};
use crate::state::Socket;

/// What a `socket` line says; each field as in [`SocketLine`]. What is longer than a number is borrowed: to copy right
/// away what was just put together from small parts makes the processor wait.
#[derive(Clone, Debug)]
pub struct Described<'a> {
    pub id: SocketId,
    pub family: Option<Family>,
    pub local: Option<&'a SocketAddr>,
    pub remote: Option<&'a SocketAddr>,
    pub remote_name: Option<&'a str>,
    pub netns: Option<u32>,
    pub owners: &'a [Owner],
    pub direction: Option<Direction>,
    pub state: Option<TcpState>,
    pub opened: Option<Mono>,
    pub idle: Option<Duration>,
    pub keepalive: Option<&'a Keepalive>,
    pub counters: &'a Counters,
    /// `None`: nothing was measured yet.
    pub tcp: Option<&'a TcpMetrics>,
    pub gives_up_in: Option<Duration>,
    pub mptcp: Option<bool>,
    pub orphaned: bool,
    pub destroyed: bool,
}

impl<'a> Described<'a> {
    /// The whole socket as it is at `at`.
    pub fn whole(s: &'a Socket, at: Mono, destroyed: bool) -> Self {
        Self {
            id: s.id,
            family: s.family,
            local: s.flow.as_ref().map(|f| &f.local),
            remote: s.flow.as_ref().map(|f| &f.remote),
            remote_name: s.remote_name.as_deref(),
            netns: s.netns,
            owners: &s.owners,
            direction: s.direction,
            state: s.state,
            opened: s.opened,
            idle: s.idle(at),
            keepalive: s.keepalive.as_ref(),
            counters: &s.counters,
            tcp: Some(&s.tcp),
            gives_up_in: s.gives_up_in(at),
            mptcp: s.mptcp,
            orphaned: s.orphaned,
            destroyed,
        }
    }

    /// What an update alone says of a socket that the table had no room for; `None` without a cookie.
    pub fn partial(u: &'a SocketUpdate) -> Option<Self> {
        Some(Self {
            id: u.id?,
            family: u.family,
            local: u.flow.as_ref().map(|f| &f.local),
            remote: u.flow.as_ref().map(|f| &f.remote),
            remote_name: u.remote_name.as_deref(),
            netns: u.netns,
            owners: u.owners.as_deref().unwrap_or_default(),
            direction: u.direction,
            state: u.state,
            opened: u.opened,
            idle: None,
            keepalive: u.keepalive.as_ref(),
            counters: u.counters.as_ref().unwrap_or(&Counters::NONE),
            tcp: None,
            gives_up_in: None,
            mptcp: u.mptcp,
            orphaned: false,
            destroyed: u.destroyed,
        })
    }

    /// The same for the general serialiser.
    pub fn line(&self, at: Mono, cx: LineContext<'_>) -> SocketLine<'a> {
        SocketLine {
            seq: cx.seq,
            time: Time::new(cx.clock, at),
            socket: Cookie(self.id),
            family: self.family.map(Into::into),
            local: self.local.copied().map(Addr),
            remote: self.remote.copied().map(Addr),
            remote_name: self.remote_name.map(Into::into),
            netns: self.netns,
            owners: self.owners.iter().map(owner).collect(),
            direction: self.direction.map(Into::into),
            state: self.state.map(Into::into),
            opened: self.opened.map(|t| Time::new(cx.clock, t)),
            idle_s: self.idle.map(Seconds),
            keepalive: self.keepalive.copied().map(Into::into),
            counters: (*self.counters).into(),
            tcp: self.tcp.copied().unwrap_or_default().into(),
            gives_up_in_s: self.gives_up_in.map(Seconds),
            mptcp: self.mptcp,
            orphaned: self.orphaned,
            destroyed: self.destroyed,
        }
    }
}

fn owner(o: &Owner) -> OwnerPart<'_> {
    let program = o.program.iter().flat_map(|p| p.iter());
    OwnerPart {
        pid: o.pid,
        comm: (&*o.comm).into(),
        fd: o.fd,
        program: program.map(|c| ProgramPart { name: (&*c.name).into(), version: (&*c.version).into() }).collect(),
    }
}
