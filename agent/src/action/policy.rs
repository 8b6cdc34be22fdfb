//! What is allowed, what must be confirmed, and the sentence that says what will happen. Pure.

use super::{Intent, Wanted, What};
use crate::model::Method;

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
        What::Set(_) | What::Undo if intent.method == Method::Ptrace && !cfg!(target_arch = "x86_64") => {
            Some("the ptrace method is there for x86-64 only; use --method pidfd".into())
        }
        What::Set(w) => refuse_values(w),
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
/// (On a screen everything is confirmed: there a stray key must change nothing.)
pub fn needs_confirmation(what: &What) -> bool {
    *what == What::Close
}

/// What closing `sockets` of `process` (`process 4182 (claude)`; empty for several) will do.
pub fn close_effect(sockets: usize, process: &str) -> String {
    let many = if sockets == 1 { "1 socket".to_owned() } else { format!("{sockets} sockets") };
    let of = if process.is_empty() { String::new() } else { format!(" of {process}") };
    format!(
        "destroy {many}{of}? The application gets ECONNABORTED at once, data not yet acknowledged is lost, the peer \
         gets a RST."
    )
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
    fn only_closing_is_confirmed_and_says_what_is_lost() {
        assert!(needs_confirmation(&What::Close) && !needs_confirmation(&What::Undo));
        let text = close_effect(2, "process 4182 (claude)");
        assert!(text.starts_with("destroy 2 sockets of process 4182 (claude)? ") && text.contains("ECONNABORTED"));
    }
}
