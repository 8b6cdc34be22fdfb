//! A cause with its evidence.

use std::fmt;

use super::{Mono, SocketId};

macro_rules! codes {
    ($($variant:ident $name:literal),+ $(,)?) => {
        /// Stable codes of the causes this agent names (docs/FINDINGS.md).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($variant),+ }
        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant),+];
            pub fn name(self) -> &'static str { match self { $(Code::$variant => $name),+ } }
            pub fn from_name(name: &str) -> Option<Self> { match name { $($name => Some(Code::$variant),)+ _ => None } }
        }
    };
}

codes! {
    IdlePathDead "idle-path-dead",
    IdlePathReset "idle-path-reset",
    StaleReuse "stale-reuse",
    CloseWaitLeak "close-wait-leak",
    PeerAbort "peer-abort",
    InjectedReset "injected-reset",
    ResetWave "reset-wave",
    Refused "refused",
    ConnectTimeout "connect-timeout",
    LocalAbort "local-abort",
    NoKeepalive "no-keepalive",
    PeerGone "peer-gone",
    PathOutage "path-outage",
    LossyPath "lossy-path",
    MtuBlackHole "mtu-black-hole",
    PeerNotReading "peer-not-reading",
    AppWaiting "app-waiting",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    Possible,
    Likely,
    Certain,
}

impl Confidence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FindingStatus {
    Open,
    Closed,
}

/// A fact the agent observed, with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub at: Mono,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The same through open, updates and closed; unique within a run.
    pub id: u64,
    pub code: Code,
    pub confidence: Confidence,
    pub status: FindingStatus,
    pub opened: Mono,
    pub sockets: Vec<SocketId>,
    pub pid: Option<u32>,
    /// Name or `ip:port` that the finding is about.
    pub destination: Option<String>,
    /// One sentence for this case, with its numbers.
    pub summary: String,
    pub evidence: Vec<Evidence>,
    /// Causes it could not exclude, each with why it is less likely.
    pub rivals: Vec<String>,
    /// What to do, in full sentences, most effective first.
    pub advice: Vec<String>,
    /// Seconds until the first socket concerned gives up, at the time of the event.
    pub gives_up_in_s: Option<f64>,
    /// Named numbers of this case, so that a test or a tool need not parse the sentence: `idle_s`, `retransmits`, ...
    pub numbers: std::collections::BTreeMap<&'static str, f64>,
}
