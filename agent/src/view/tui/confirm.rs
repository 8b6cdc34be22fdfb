//! The question before an action: what will happen, to which sockets, and what it will not do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::rows::is_stuck;
use crate::model::{Shared, SocketId, TcpState};
use crate::state::{Snapshot, Socket};
use crate::view::text;

/// What the user wants done to sockets; the app turns it into an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    Keepalive,
    UserTimeout,
    Close,
}

/// The values that the actions would set, to say them in the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    pub user_timeout: Duration,
}

impl Default for Values {
    /// As `agent keepalive` without flags; 60 s of waiting for an ACK is far beyond any healthy path's silence and
    /// far below the 15 minutes of `tcp_retries2`.
    fn default() -> Self {
        Self { idle_s: 30, interval_s: 10, count: 3, user_timeout: Duration::from_secs(60) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    pub wish: Wish,
    pub sockets: Vec<SocketId>,
    pub question: String,
    /// What will happen, and what will not, in full sentences.
    pub effects: Vec<String>,
}

impl Confirm {
    /// The question for `wish` on `sockets`, or why there is nothing to ask.
    pub fn build(wish: Wish, sockets: &[Shared<Socket>], snapshot: &Snapshot, values: Values) -> Result<Self, String> {
        let fit: Vec<&Shared<Socket>> = sockets.iter().filter(|s| refusal(wish, s).is_none()).collect();
        if fit.is_empty() {
            return Err(match sockets {
                [] if wish == Wish::Keepalive => "every socket shown has keepalive on already".into(),
                [] => "no socket is selected".into(),
                [one] => refusal(wish, one).unwrap_or_default(),
                _ => "none of these sockets can be changed any more".into(),
            });
        }
        let target = match fit.as_slice() {
            [one] => format!("{} of {}", name(one), owners(&fit)),
            _ => format!("{} of {}", text::plural(fit.len(), "socket"), owners(&fit)),
        };
        let (question, effects) = match wish {
            Wish::Keepalive => keepalive(&target, &fit, values),
            Wish::UserTimeout => user_timeout(&target, &fit, snapshot, values.user_timeout),
            Wish::Close => close(&target, &fit),
        };
        Ok(Self { wish, sockets: fit.iter().map(|s| s.id).collect(), question, effects })
    }
}

/// Sockets that `K` is for: live, not yet closed by their process, and keepalive not known to be on.
pub fn lacks_keepalive(s: &Socket) -> bool {
    let closing =
        matches!(s.state, Some(TcpState::FinWait1 | TcpState::FinWait2 | TcpState::LastAck | TcpState::Closing));
    !closing && refusal(Wish::Keepalive, s).is_none() && !s.keepalive.is_some_and(|k| k.enabled)
}

fn refusal(wish: Wish, s: &Socket) -> Option<String> {
    if s.is_closed() || s.state == Some(TcpState::TimeWait) {
        return Some("this socket is closed already".into());
    }
    if s.state == Some(TcpState::Listen) {
        return Some("this socket only listens: it has no connection to change".into());
    }
    // Closing goes through the kernel's socket table; the options need a descriptor of some process.
    if wish != Wish::Close && (s.owners.is_empty() || s.orphaned) {
        return Some("no living process is known to hold this socket, so its options cannot be set".into());
    }
    None
}

fn holds_unacknowledged(s: &Socket) -> bool {
    is_stuck(s) || s.tcp.unacked_bytes.is_some_and(|n| n > 0) || s.tcp.unacked_segments.is_some_and(|n| n > 0)
}

fn name(s: &Socket) -> String {
    let local = s.flow.map_or_else(|| "?".into(), |f| f.local.port().to_string());
    format!("{local} → {}", text::safe(&s.destination()))
}

/// `claude (4182)`, `claude (4182) and node (4190)`, `3 processes`.
fn owners(sockets: &[&Shared<Socket>]) -> String {
    let mut all = BTreeMap::new();
    for o in sockets.iter().flat_map(|s| s.owners.iter()) {
        all.entry(o.pid).or_insert(&o.comm);
    }
    let one = |(pid, comm): (&u32, &&Arc<str>)| format!("{} ({pid})", text::safe(comm));
    match all.len() {
        0 => "an unknown process".into(),
        1 | 2 => all.iter().map(one).collect::<Vec<_>>().join(" and "),
        n => format!("{n} processes"),
    }
}

fn keepalive(target: &str, sockets: &[&Shared<Socket>], v: Values) -> (String, Vec<String>) {
    let question = format!(
        "Set SO_KEEPALIVE {}/{}/{} on {target}?",
        text::setting(v.idle_s),
        text::setting(v.interval_s),
        v.count
    );
    let silence = Duration::from_secs(u64::from(v.idle_s) + u64::from(v.interval_s) * u64::from(v.count));
    let mut effects = vec![format!(
        "The kernel then sends a probe after {} of silence, which keeps the path awake, and notices a dead peer after {}.",
        text::setting(v.idle_s),
        text::duration(silence)
    )];
    let stuck = sockets.iter().filter(|s| holds_unacknowledged(s)).count();
    match (stuck, sockets.len()) {
        (0, _) => {}
        (1, 1) => effects.push(
            "It holds unacknowledged data: keepalive cannot rescue it. User timeout (u) or closing it (x) does.".into(),
        ),
        (n, _) => effects.push(format!(
            "{n} of them {} unacknowledged data: keepalive cannot rescue {}. User timeout (u) or closing (x) does.",
            if n == 1 { "holds" } else { "hold" },
            if n == 1 { "that one" } else { "those" }
        )),
    }
    let mptcp = sockets.iter().filter(|s| s.mptcp == Some(true)).count();
    if mptcp > 0 {
        effects.push(format!("{} of them speaks MPTCP: its subflows may refuse.", mptcp));
    }
    (question, effects)
}

fn user_timeout(
    target: &str,
    sockets: &[&Shared<Socket>],
    snapshot: &Snapshot,
    limit: Duration,
) -> (String, Vec<String>) {
    let question = format!("Set TCP_USER_TIMEOUT {} on {target}?", text::setting(limit.as_secs() as u32));
    let mut effects = vec![format!(
        "The kernel then ends the connection once sent data has waited {} for an ACK; the process sees ETIMEDOUT.",
        text::duration(limit)
    )];
    if let [one] = sockets
        && is_stuck(one)
        && let Some(since) = one.activity.unanswered_since
    {
        let now = one.gives_up_in(snapshot.at).map(text::countdown).unwrap_or_default();
        let left = limit.saturating_sub(snapshot.at.since(since));
        effects.push(if left.is_zero() {
            format!("Its data waits longer than that already: it ends at the next retransmission, instead of in {now}.")
        } else {
            format!("It then ends in about {}, instead of in {now}.", text::countdown(left))
        });
    }
    (question, effects)
}

fn close(target: &str, sockets: &[&Shared<Socket>]) -> (String, Vec<String>) {
    let question = format!("Close {target}?");
    let mut effects = vec![format!(
        "The kernel destroys {} now: the process sees ECONNABORTED at once and can retry. It cannot be undone.",
        if sockets.len() == 1 { "it" } else { "them" }
    )];
    let queued: u64 =
        sockets.iter().map(|s| s.tcp.send_queue_bytes.unwrap_or(0).max(s.tcp.unacked_bytes.unwrap_or(0))).sum();
    if queued > 0 {
        effects.push(format!("{}B that the peer has not acknowledged are lost.", text::bytes(queued)));
    }
    if let [one] = sockets
        && !is_stuck(one)
        && one.state == Some(TcpState::Established)
    {
        effects.push("It is not stuck: its request in flight, if there is one, fails.".into());
    }
    (question, effects)
}
