//! What the rest of the program speaks of: sockets, events, findings, actions. Depends on nothing else here.

mod action;
mod event;
mod finding;
mod limits;
mod net;
mod process;
mod session;
mod tcp;
mod time;

pub use action::{ActionKind, ActionRecord, ActionResult, Method, OptionValues};
pub use event::{Event, EventKind, Lost, Reset, Retransmit, Sample, SocketUpdate, StateChange, TcpDetail};
pub use finding::{Code, Confidence, Evidence, Finding, FindingStatus};
pub use limits::{IdleFigure, IdleLimits};
pub use net::{CookieHash, DestMask, DestPrefix, Family, Flow, SocketId, canonical, mapped};
pub use process::{Component, Owner, Owners, sanitize};
pub use session::{BackendChoice, End, Hook, Session, Targets, Totals};
pub use tcp::{
    Counters, Direction, Keepalive, PacketFacts, ResetDirection, ResetOrigin, RetransmitKind, SetBy, TcpMetrics,
    TcpState,
};
pub use time::{Mono, WallClock};
/// What is looked at in several places and changed in one. Nothing refers to it weakly, so that the one who has it alone
/// need not lock the memory bus to know: every event changes its socket.
pub use triomphe::Arc as Shared;
