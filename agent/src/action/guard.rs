//! What the guard reports, as records of the audit.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use agent_common::GuardRow;

use super::options::Wanted;
use super::{bpf, failed};
use crate::model::{ActionKind, ActionRecord, ActionResult, Method, SocketId, canonical};

/// `bpf_getsockopt` of these options came with Linux 6.1.
const UNREAD: &str = "set; what it had before is not known and cannot be restored: this kernel's programs do not read \
                      options (from Linux 6.1 on they do)";

/// One guarded socket. It gets its values before its SYN, so that the options are all there is to tell.
pub fn record(row: &GuardRow, wanted: &Wanted) -> ActionRecord {
    let before = bpf::values(row.keepalive, row.idle_s, row.interval_s, row.count, row.user_timeout_ms);
    let remote = SocketAddr::new(canonical(IpAddr::V6(Ipv6Addr::from(row.daddr))), row.dport);
    let mut record = ActionRecord {
        socket: Some(SocketId(row.cookie)),
        pid: Some(row.pid),
        remote: Some(remote.to_string()),
        before,
        error: None,
        ..failed(ActionKind::Keepalive, Method::Bpf, String::new())
    };
    if row.error != 0 {
        record.error = Some(format!("the kernel did not take {}", bpf::refused(row.error)));
        return record;
    }
    // Without the values from before the change is done all the same.
    record.after = before.map(|b| wanted.over(b));
    if before.is_none() {
        record.note = Some(UNREAD.into());
    }
    record.result =
        if before.is_some() && record.after == before { ActionResult::Unchanged } else { ActionResult::Applied };
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::guard_error;

    #[test]
    fn a_row_is_told_with_before_and_after() {
        let wanted = Wanted::keepalive(30, 10, 3, None);
        let mut row = GuardRow {
            cookie: 9,
            pid: 7,
            keepalive: 0,
            idle_s: 7200,
            interval_s: 75,
            count: 9,
            dport: 443,
            daddr: crate::model::mapped("10.0.0.1".parse().unwrap()),
            ..Default::default()
        };
        let r = record(&row, &wanted);
        assert_eq!((r.result, r.remote.as_deref()), (ActionResult::Applied, Some("10.0.0.1:443")));
        assert!(r.after.unwrap().enabled && !r.before.unwrap().enabled);
        row = GuardRow { keepalive: 1, idle_s: 30, interval_s: 10, count: 3, ..row };
        assert_eq!(record(&row, &wanted).result, ActionResult::Unchanged);
        assert_eq!(record(&row, &wanted).note, None);
        let unread = record(&GuardRow { keepalive: -1, ..row }, &wanted);
        assert_eq!((unread.result, unread.after), (ActionResult::Applied, None));
        assert!(unread.note.unwrap().contains("6.1"));
        row.error = guard_error::KEEPCNT;
        assert!(record(&row, &wanted).error.unwrap().contains("TCP_KEEPCNT"));
    }
}
