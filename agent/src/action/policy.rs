//! What is allowed, what must be confirmed, and the sentence that says what will happen. Pure.

use super::{Intent, Wanted, What};
use crate::model::{ActionKind, Method};

/// Longest TCP_KEEPIDLE and TCP_KEEPINTVL the kernel takes, seconds (`MAX_TCP_KEEPIDLE`).
pub const MAX_KEEP_S: u32 = 32_767;
/// Most probes the kernel takes (`MAX_TCP_KEEPCNT`).
pub const MAX_KEEP_COUNT: u32 = 127;

/// Why `intent` must not be carried out at all; `None` if it may.
pub fn refuse(intent: &Intent) -> Option<String> {
    let s = &intent.selection;
    if s.pids.is_empty() {
        return Some("no process to act on; give a target: --pid, --tree, --comm, --cgroup or --all".into());
    }
    match &intent.what {
        What::Close if s.sockets.is_none() && s.destinations.is_empty() => {
            Some("will not destroy every socket of a process; say which with --dst".into())
        }
        What::Set(_) if intent.method == Method::Ptrace && !cfg!(target_arch = "x86_64") => {
            Some("the ptrace method is there for x86-64 only; use --method pidfd".into())
        }
        What::Set(w) => refuse_values(w),
        What::Undo if intent.method == Method::Ptrace => {
            Some("undo works through pidfd or bpf; the ptrace method cannot tell whose values a socket has".into())
        }
        _ => None,
    }
}

fn refuse_values(w: &Wanted) -> Option<String> {
    let Some(k) = w.keepalive else {
        return w.user_timeout_ms.is_none().then(|| "nothing to set".into());
    };
    for (what, s) in [("idle", k.idle_s), ("interval", k.interval_s)] {
        if !(1..=MAX_KEEP_S).contains(&s) {
            return Some(format!("{what} must be 1s to {MAX_KEEP_S}s, the kernel takes no other; got {s}s"));
        }
    }
    if !(1..=MAX_KEEP_COUNT).contains(&k.count) {
        return Some(format!("count must be 1 to {MAX_KEEP_COUNT}, the kernel takes no other; got {}", k.count));
    }
    None
}

/// Whether a person must say yes first. Setting options is harmless and can be undone; a destroyed socket is gone.
/// On a screen a stray key must change nothing, so there everything is confirmed.
pub fn needs_confirmation(kind: ActionKind, on_screen: bool) -> bool {
    on_screen || kind == ActionKind::Close
}

/// What the sentence is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope<'a> {
    pub sockets: usize,
    /// Of these, with unacknowledged data.
    pub stuck: usize,
    /// `claude (4182)`; empty for several processes.
    pub process: &'a str,
}

/// `set SO_KEEPALIVE 30s/10s/3 on 5 sockets of claude (4182)? 2 of them hold unacknowledged data: ...`
pub fn effect(what: &What, scope: Scope<'_>) -> String {
    let n = scope.sockets;
    let sockets = if n == 1 { "1 socket".to_owned() } else { format!("{n} sockets") };
    let of = if scope.process.is_empty() { String::new() } else { format!(" of {}", scope.process) };
    match what {
        What::Set(w) => {
            let mut text = format!("set {} on {sockets}{of}?", w.text());
            if scope.stuck > 0 && w.user_timeout_ms.is_none() {
                let (hold, those) = match (n, scope.stuck) {
                    (1, _) => ("It holds".to_owned(), "it"),
                    (_, 1) => ("1 of them holds".to_owned(), "that one"),
                    (_, k) => (format!("{k} of them hold"), "those"),
                };
                text.push_str(&format!(" {hold} unacknowledged data: keepalive cannot rescue {those}."));
            }
            text
        }
        What::Close => format!(
            "destroy {sockets}{of}? The application gets ECONNABORTED at once, data not yet acknowledged is lost, the \
             peer gets a RST."
        ),
        What::Undo => format!("put back what the agent changed on {sockets}{of}?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Selection;
    use crate::model::{DestPrefix, SocketId};

    fn intent(what: What, selection: Selection) -> Intent {
        Intent { what, selection, method: Method::Pidfd, dry_run: false }
    }

    fn everything(pid: u32) -> Selection {
        Selection { pids: vec![pid], ..Default::default() }
    }

    #[test]
    fn close_needs_a_target_and_a_filter() {
        assert!(refuse(&intent(What::Close, Selection::default())).is_some());
        assert!(refuse(&intent(What::Close, everything(1))).is_some());
        assert_eq!(refuse(&intent(What::Close, Selection::sockets([1], [SocketId(1)]))), None);
        let dst = vec![DestPrefix::host("10.0.0.1".parse().unwrap(), 0)];
        assert_eq!(refuse(&intent(What::Close, Selection { destinations: dst, ..everything(1) })), None);
    }

    #[test]
    fn values_that_the_kernel_would_refuse_are_refused_before() {
        let set = |i, v, c| refuse(&intent(What::Set(Wanted::keepalive(i, v, c, None)), everything(1)));
        assert_eq!(set(1, 1, 1), None);
        assert_eq!(set(32_767, 32_767, 127), None);
        for (i, v, c) in [(0, 1, 1), (32_768, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 128)] {
            assert!(set(i, v, c).is_some(), "{i} {v} {c}");
        }
        assert!(refuse(&intent(What::Set(Wanted::default()), everything(1))).is_some());
    }

    #[test]
    fn the_effect_says_what_keepalive_cannot_do() {
        let what = What::Set(Wanted::keepalive(30, 10, 3, None));
        assert_eq!(
            effect(&what, Scope { sockets: 5, stuck: 2, process: "claude (4182)" }),
            "set SO_KEEPALIVE 30s/10s/3 on 5 sockets of claude (4182)? 2 of them hold unacknowledged data: keepalive \
             cannot rescue those."
        );
        assert!(effect(&what, Scope { sockets: 1, stuck: 1, process: "" }).ends_with("keepalive cannot rescue it."));
        assert!(effect(&What::Close, Scope { sockets: 1, ..Default::default() }).contains("ECONNABORTED"));
    }

    #[test]
    fn only_closing_is_confirmed_on_a_command_line() {
        assert!(needs_confirmation(ActionKind::Close, false));
        assert!(!needs_confirmation(ActionKind::Keepalive, false));
        assert!(needs_confirmation(ActionKind::Keepalive, true));
    }
}
