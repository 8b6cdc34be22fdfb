//! Classic tracepoints name a socket by its kernel address or its two ends; everything else here by its cookie.

use std::collections::HashMap;

use agent_common::{Record, flag, kind};

use super::convert::flow;
use super::decode::Kept;
use crate::model::{Flow, SocketId, TcpState};

/// Finds the cookie of a connection that a process opened, as sock_diag can; `None` if there is no such socket (any
/// more).
pub type Resolver = Box<dyn FnMut(u32, &Flow) -> Option<SocketId> + Send>;

/// Gives records the cookie that a later record of the same socket carries: a connection that was refused is gone
/// before anybody can look for it, but its RST and its end name it.
pub fn foresee<'a>(records: impl DoubleEndedIterator<Item = &'a mut Record>) {
    let mut later: HashMap<u64, u64> = HashMap::new();
    for r in records.rev().filter(|r| r.sk != 0) {
        if r.kind == kind::DESTROY {
            // What comes before this is another socket's life than what comes after.
            later.remove(&r.sk);
        }
        match r.cookie {
            0 => r.cookie = later.get(&r.sk).copied().unwrap_or(0),
            cookie => drop(later.insert(r.sk, cookie)),
        }
        if opens(r) {
            later.remove(&r.sk);
        }
    }
}

/// The first record of a connection: its address may have been another socket's before.
fn opens(r: &Record) -> bool {
    r.kind == kind::STATE && matches!(TcpState::from_kernel(r.state), Some(TcpState::Close | TcpState::SynRecv))
}

/// What was learned so far.
pub struct Join {
    by_address: HashMap<u64, SocketId>,
    by_flow: HashMap<Flow, SocketId>,
    flow_of: HashMap<SocketId, Flow>,
    /// Connections that a target opened, by address, until something tells their cookie.
    opening: HashMap<u64, Kept>,
    resolver: Resolver,
    limit: usize,
}

impl Join {
    /// Remembers at most `limit` sockets each way.
    pub fn new(limit: usize, resolver: Resolver) -> Self {
        Self {
            by_address: HashMap::new(),
            by_flow: HashMap::new(),
            flow_of: HashMap::new(),
            opening: HashMap::new(),
            resolver,
            limit,
        }
    }

    /// Keeps back the record by which a target opened a connection: it alone proves the owner, but it has no cookie yet.
    /// `false`: this is no such record.
    pub fn hold(&mut self, d: &Kept, id: Option<SocketId>) -> bool {
        let r = &d.record;
        let proves = r.sk != 0 && id.is_none() && opens(r) && r.flags & flag::PID_IS_OWNER != 0;
        let connects = TcpState::from_kernel(r.new_state) == Some(TcpState::SynSent);
        let hold = proves && connects && self.opening.len() < self.limit;
        if hold {
            self.opening.insert(r.sk, *d);
        }
        hold
    }

    /// The record kept back for the socket of `r`, once that socket has a name.
    pub fn held(&mut self, r: &Record, id: Option<SocketId>) -> Option<Kept> {
        if id.is_some() || r.kind == kind::DESTROY { self.opening.remove(&r.sk) } else { None }
    }

    /// A socket that was open before.
    pub fn learn(&mut self, flow: Flow, id: SocketId) {
        if self.by_flow.len() < self.limit {
            self.by_flow.insert(flow, id);
            self.flow_of.insert(id, flow);
        }
    }

    /// The kernel address under which a socket is known.
    pub fn address(&self, id: SocketId) -> Option<u64> {
        self.by_address.iter().find(|(_, known)| **known == id).map(|(sk, _)| *sk)
    }

    /// The socket at a kernel address.
    pub fn at_address(&self, sk: u64) -> Option<SocketId> {
        self.by_address.get(&sk).copied()
    }

    /// The cookie of the record's socket: its own, or what is known of its address, or of its ends.
    pub fn socket(&mut self, r: &Record) -> Option<SocketId> {
        if r.sk == 0 {
            return (r.cookie != 0).then_some(SocketId(r.cookie));
        }
        // Kernel addresses are used again: a new connection is a new socket.
        if opens(r) {
            self.by_address.remove(&r.sk);
            self.opening.remove(&r.sk);
        }
        let known = if r.cookie != 0 { Some(SocketId(r.cookie)) } else { self.at_address(r.sk) };
        let id = known.or_else(|| {
            // The request belongs to a connection, the event to its listener.
            let flow = flow(r).filter(|f| f.local.port() != 0 && r.kind != kind::RETRANSMIT_SYNACK)?;
            let pid = self.opening.get(&r.sk).map(|d| d.record.pid);
            self.by_flow.get(&flow).copied().or_else(|| (self.resolver)(pid?, &flow))
        });
        match id {
            Some(id) if r.kind == kind::DESTROY => {
                self.by_address.remove(&r.sk);
                if let Some(flow) = self.flow_of.remove(&id) {
                    self.by_flow.remove(&flow);
                }
            }
            Some(id) if self.by_address.len() < self.limit || self.by_address.contains_key(&r.sk) => {
                self.by_address.insert(r.sk, id);
            }
            _ => {}
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, sk: u64, cookie: u64) -> Record {
        let mapped = |d: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, d];
        Record { kind, sk, cookie, saddr: mapped(1), daddr: mapped(2), sport: 40_000, dport: 80, ..Record::default() }
    }

    fn joins(limit: usize) -> Join {
        Join::new(limit, Box::new(|pid, f| (pid == 70 && *f == connection()).then_some(SocketId(6))))
    }

    #[test]
    fn an_opening_waits_for_its_cookie() {
        let mut join = joins(10);
        let record = |kind, from, to| Record { state: from, new_state: to, pid: 70, ..record(kind, 7, 0) };
        let opening = Record { flags: flag::PID_IS_OWNER, sport: 0, ..record(kind::STATE, 7, 2) };
        let decoded = Kept { record: opening, detail: None, stats: None };
        assert_eq!(join.socket(&opening), None);
        assert!(join.hold(&decoded, None));
        // Asked for with the pid that opened it.
        let established = record(kind::STATE, 2, 1);
        let id = join.socket(&established);
        assert_eq!(id, Some(SocketId(6)));
        assert_eq!(join.held(&established, id), Some(decoded));
        assert_eq!(join.held(&established, id), None);
        assert!(!join.hold(&Kept { record: established, ..decoded }, None), "nothing is opened here");
    }

    fn connection() -> Flow {
        Flow { local: ([10, 0, 0, 1], 40_000).into(), remote: ([10, 0, 0, 2], 80).into() }
    }

    #[test]
    fn a_cookie_once_seen_names_the_address_until_the_socket_goes() {
        let mut join = joins(10);
        assert_eq!(join.socket(&record(kind::RETRANSMIT, 7, 0)), None);
        assert_eq!(join.socket(&record(kind::RECEIVE_RESET, 7, 99)), Some(SocketId(99)));
        assert_eq!(join.socket(&record(kind::RETRANSMIT, 7, 0)), Some(SocketId(99)));
        assert_eq!(join.address(SocketId(99)), Some(7));
        assert_eq!(join.socket(&record(kind::DESTROY, 7, 99)), Some(SocketId(99)));
        assert_eq!(join.socket(&record(kind::RETRANSMIT, 7, 0)), None);
    }

    #[test]
    fn ends_name_a_socket_that_was_open_before() {
        let mut join = joins(10);
        join.learn(connection(), SocketId(5));
        assert_eq!(join.socket(&record(kind::RETRANSMIT, 7, 0)), Some(SocketId(5)));
        assert_eq!(join.socket(&record(kind::RETRANSMIT_SYNACK, 8, 0)), None);
    }

    #[test]
    fn an_address_used_again_is_another_socket() {
        let mut join = joins(10);
        join.socket(&record(kind::RECEIVE_RESET, 7, 99));
        let opening = Record { state: 7, new_state: 2, ..record(kind::STATE, 7, 0) };
        assert_eq!(join.socket(&opening), None);
    }

    #[test]
    fn a_short_life_is_named_by_its_end() {
        let opening = Record { state: 7, new_state: 2, ..record(kind::STATE, 7, 0) };
        let mut batch = [
            record(kind::STATE, 7, 0),
            record(kind::DESTROY, 7, 98),
            opening,
            record(kind::STATE, 8, 0),
            record(kind::RECEIVE_RESET, 7, 99),
            record(kind::DESTROY, 7, 99),
            opening,
        ];
        foresee(batch.iter_mut());
        assert_eq!(batch.map(|r| r.cookie), [98, 98, 99, 0, 99, 99, 0]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut join = joins(2);
        for n in 1..10 {
            join.socket(&record(kind::RECEIVE_RESET, n, n));
        }
        assert_eq!(join.by_address.len(), 2);
    }
}
