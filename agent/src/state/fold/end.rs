//! A reset, and what the agent itself did to the socket.

use std::borrow::Cow;

use super::heard::detail;
use super::lifecycle::improve;
use crate::model::{
    ActionKind, ActionRecord, ActionResult, Keepalive, Mono, Reset, ResetDirection, ResetOrigin, SetBy,
};
use crate::state::history::Happening;
use crate::state::socket::Socket;

pub(in crate::state) fn reset(s: &mut Socket, at: Mono, r: &Reset) {
    improve(&mut s.flow, &r.flow);
    s.netns = r.netns.or(s.netns);
    detail(s, at, &r.detail);
    let origin = match r.direction {
        ResetDirection::Received => {
            s.counters.resets_received += 1;
            r.origin
        }
        ResetDirection::Sent => {
            s.counters.resets_sent += 1;
            ResetOrigin::Local
        }
    };
    if s.last_reset_at.is_none() || r.direction == ResetDirection::Received {
        let last = s.last_reset.put(r);
        // The classic tracepoints do not tell the state; it changes only after a received RST.
        last.state = r.state.or(s.state);
        s.last_reset_at = Some(at);
    }
    match &r.kernel_reason {
        Some(Cow::Owned(reason)) => {
            s.history.note_words(at, Happening::Reset(r.direction, origin, None), reason.as_str().into());
        }
        Some(Cow::Borrowed(name)) => s.note(at, Happening::Reset(r.direction, origin, Some(name))),
        None => s.note(at, Happening::Reset(r.direction, origin, None)),
    }
}

pub(in crate::state) fn action(s: &mut Socket, at: Mono, a: &ActionRecord) {
    let what = match a.action {
        ActionKind::Keepalive => "keepalive",
        ActionKind::UserTimeout => "user timeout",
        ActionKind::Close => "close",
        ActionKind::Undo => "undo",
    };
    let result = match a.result {
        ActionResult::Applied => "applied",
        ActionResult::Unchanged => "unchanged",
        ActionResult::Failed => "failed",
        ActionResult::WouldApply => "would apply",
    };
    let mut text = format!("{what} {result}");
    if let (ActionResult::Applied, Some(o)) = (a.result, a.after) {
        text.push_str(&format!(": {}s/{}s/{}", o.idle_s, o.interval_s, o.count));
        if o.user_timeout_ms > 0 {
            text.push_str(&format!(", user timeout {} ms", o.user_timeout_ms));
        }
        s.activity.keepalive_changed_at = Some(at);
        s.keepalive = Some(Keepalive {
            enabled: o.enabled,
            idle_s: o.idle_s,
            interval_s: o.interval_s,
            count: o.count,
            user_timeout_ms: o.user_timeout_ms,
            set_by: o.enabled.then_some(if a.action == ActionKind::Undo { SetBy::Application } else { SetBy::Agent }),
        });
    }
    if a.action == ActionKind::Close && a.result == ActionResult::Applied {
        s.activity.closed_by_agent = Some(at);
    }
    if let Some(why) = a.error.as_ref().or(a.note.as_ref()) {
        text.push_str(&format!(" ({why})"));
    }
    s.history.note_words(at, Happening::Action, text.into());
}
