//! What a rule is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::Client;
use super::destination::Destination;
use super::reset::ResetVerdict;
use super::stuck::Stuck;
use super::text;
use super::thresholds::Thresholds;
use crate::model::{Code, Confidence, Evidence, Mono, SocketId};
use crate::state::Socket;

/// What a rule sees while it looks at one socket.
pub struct Look<'a> {
    pub now: Mono,
    pub t: &'a Thresholds,
    pub dest: &'a Destination,
    /// When the same process last connected to the same port, at whatever address.
    pub port_connected: Option<Mono>,
    /// The reset that this socket received, judged once for all rules: one reset has one cause.
    pub reset: Option<&'a ResetVerdict>,
    /// Whether this socket is stuck, and which of the rules about that it belongs to.
    pub stuck: Option<&'a Stuck>,
}

/// What a socket must show for a rule to be asked about it: there are many rules, and most sockets show little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// A reset whose verdict the rule [judges](Rule::judges).
    Reset,
    /// It is stuck, or ended so.
    Stuck,
    /// It is not closed.
    Open,
    /// A SYN of it was sent again.
    SynAgain,
    /// Data of it was sent again.
    Loss,
    /// A probe of it is not answered, or a reset's verdict is the rule's.
    Probed,
}

/// What a rule sees while it tells of all sockets of one destination that it found.
pub struct Tell<'a> {
    pub now: Mono,
    /// When the first of them was found.
    pub since: Mono,
    /// Cases of this finding that gave way to later ones: of a storm only the latest are kept, and counted all.
    pub shed: usize,
    pub t: &'a Thresholds,
    pub destination: &'a str,
    pub dest: &'a Destination,
    pub client: Client,
    /// How the process is called, for a sentence: `python3 (4182)`; `None` if no owner is known.
    pub process: Option<String>,
}

impl Tell<'_> {
    /// How many cases there were, those that gave way included.
    pub fn count<F>(&self, cases: &[Case<F>]) -> usize {
        cases.len() + self.shed
    }

    /// When the first of them was, if `kept` is the time of the first that is still kept.
    pub fn first(&self, kept: Mono) -> Mono {
        if self.shed > 0 { kept.min(self.since) } else { kept }
    }
}

/// One socket that a rule found, with the facts it needs to tell of it later, when the socket may be gone.
#[derive(Clone, Debug)]
pub struct Case<F> {
    pub socket: SocketId,
    /// The local port, by which a person recognises the socket.
    pub port: Option<u16>,
    pub fact: F,
}

impl<F> Case<F> {
    /// `port 53072`, or the cookie where the address is unknown.
    pub fn name(&self) -> String {
        match self.port {
            Some(p) => format!("port {p}"),
            None => format!("socket {}", self.socket),
        }
    }
}

/// What a rule says: the finding without its frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    pub confidence: Confidence,
    pub summary: String,
    pub evidence: Vec<Evidence>,
    pub rivals: Vec<String>,
    pub advice: Vec<String>,
    pub gives_up_in_s: Option<f64>,
    pub numbers: BTreeMap<&'static str, f64>,
}

impl Body {
    pub fn new(confidence: Confidence, summary: String) -> Self {
        Self {
            confidence,
            summary,
            evidence: Vec::new(),
            rivals: Vec::new(),
            advice: Vec::new(),
            gives_up_in_s: None,
            numbers: BTreeMap::new(),
        }
    }

    pub fn fact(&mut self, at: Mono, text: impl Into<String>) {
        self.evidence.push(Evidence { at, text: text.into() });
    }

    pub fn rival(&mut self, text: impl Into<String>) {
        self.rivals.push(text.into());
    }

    pub fn advise(&mut self, text: impl Into<String>) {
        self.advice.push(text.into());
    }

    pub fn number(&mut self, name: &'static str, value: f64) {
        self.numbers.insert(name, value);
    }

    pub fn seconds(&mut self, name: &'static str, d: Duration) {
        self.number(name, d.as_secs_f64());
    }
}

/// A cause, in its own file: which sockets show it, and what to say of them.
pub trait Rule {
    const CODE: Code;
    /// One finding per process and destination; else one per destination.
    const PER_PROCESS: bool = true;
    const CONCERN: Concern;
    /// What the rule remembers of a socket.
    type Fact: Clone;

    /// Whether this socket shows the cause now.
    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Self::Fact>;

    /// With [`Concern::Reset`]: whether resets of this cause are the rule's.
    fn judges(code: Code) -> bool {
        code == Self::CODE
    }

    /// When `look` may answer differently although nothing happens to the socket; `None` = never.
    fn due(&self, _cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        None
    }

    /// How long the case stays although its socket leaves the table: for causes that end the connection.
    fn holds_until(&self, _fact: &Self::Fact, _t: &Thresholds) -> Option<Mono> {
        None
    }

    /// What to say of all sockets of one destination; `None` while they do not make a finding yet. `cases` is never
    /// empty and ordered by socket.
    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Self::Fact>]) -> Option<Body>;

    /// Whether the sentence counts with the clock and wants to be told again while nothing else happens.
    fn clocked(&self) -> bool {
        false
    }

    /// Why the case is over, in words.
    fn outcome(&self, _now: Mono, _fact: &Self::Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if s.is_closed() => "the socket was closed".into(),
            Some(_) => "no longer so".into(),
            None => "the socket is gone".into(),
        }
    }
}

/// How likely it is that this host opened the connection: where the opening was not seen, the end with the
/// ephemeral port (`ip_local_port_range` begins at 32768) is taken for the client.
pub fn is_client(s: &Socket) -> bool {
    match (s.direction, s.flow) {
        (Some(d), _) => d == crate::model::Direction::Outgoing,
        (None, Some(f)) => f.local.port() >= 32_768 || f.local.port() > f.remote.port(),
        (None, None) => false,
    }
}

/// `, 94 KiB stuck` or nothing where the number is unknown.
pub fn known_bytes(n: Option<u64>, what: &str) -> String {
    n.map_or(String::new(), |n| format!(", {} {what}", text::bytes(n)))
}
