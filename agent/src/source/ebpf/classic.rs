//! Field positions of the classic tracepoints, from tracefs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use agent_common::{ABSENT, CLASSIC_BYTES, ClassicFields, Offsets, TracepointFields};

use super::offsets::reset_reason_name;
use super::tracefs::{self, Format};

/// What tracefs told.
#[derive(Debug, Clone)]
pub struct ClassicTypes {
    pub fields: ClassicFields,
    /// Of the kernel's structures, where it has BTF: for a retransmit's segments.
    pub offsets: Offsets,
    /// Tracepoints that cannot be used, with the reason.
    pub missing: BTreeMap<&'static str, String>,
    /// From the `print fmt` of `tcp_send_reset` (6.12); empty before.
    pub reset_reasons: BTreeMap<u32, Arc<str>>,
}

impl ClassicTypes {
    /// Reads the format of every tracepoint of ours below `tracefs`; `offsets` as BTF told them, if it could.
    pub fn resolve(tracefs: &Path, offsets: Option<Offsets>) -> Self {
        let types = Self::from_formats(|category, name| tracefs::read(tracefs, category, name));
        Self { offsets: offsets.unwrap_or(Offsets::NONE), ..types }
    }

    /// As [`Self::resolve`], from any reader of formats.
    pub fn from_formats(read: impl Fn(&str, &str) -> std::io::Result<Format>) -> Self {
        let mut missing = BTreeMap::new();
        let mut reset_reasons = BTreeMap::new();
        let mut get = |category: &str, name: &'static str, needed: &[&str]| {
            let format = match read(category, name) {
                Ok(format) => format,
                Err(e) => {
                    let why = format!("cannot read the format of {category}:{name}: {e}");
                    missing.insert(name, why);
                    return TracepointFields::NONE;
                }
            };
            if name == "tcp_send_reset" {
                reset_reasons = reasons(&format);
            }
            let fields = positions(&format);
            if let Some(lacking) = needed.iter().find(|n| !usable(&format, n)) {
                missing.insert(name, format!("{category}:{name} has no field {lacking} here"));
            }
            fields
        };
        let ends = ["skaddr", "sport", "dport", "saddr_v6", "daddr_v6"];
        let fields = ClassicFields {
            retransmit_skb: get("tcp", "tcp_retransmit_skb", &ends),
            retransmit_synack: get("tcp", "tcp_retransmit_synack", &ends),
            receive_reset: get("tcp", "tcp_receive_reset", &ends),
            // Its addresses have two forms: «saddr» is in both.
            send_reset: get("tcp", "tcp_send_reset", &["skaddr", "saddr", "daddr"]),
            set_state: get(
                "sock",
                "inet_sock_set_state",
                &["skaddr", "oldstate", "newstate", "protocol", "sport", "dport", "saddr_v6", "daddr_v6"],
            ),
            destroy_sock: get("tcp", "tcp_destroy_sock", &["skaddr"]),
            process_fork: get("sched", "sched_process_fork", &["child_pid"]),
            process_exit: get("sched", "sched_process_exit", &["pid"]),
        };
        Self { fields, offsets: Offsets::NONE, missing, reset_reasons }
    }
}

/// A field that lies within what the programs copy.
fn usable(format: &Format, name: &str) -> bool {
    format.field(name).is_some_and(|f| f.offset.checked_add(f.size).is_some_and(|end| end <= CLASSIC_BYTES))
}

fn positions(format: &Format) -> TracepointFields {
    let at = |name: &str, size: u32| match format.field(name) {
        Some(f) if usable(format, name) && f.size == size => f.offset,
        _ => ABSENT,
    };
    TracepointFields {
        skaddr: at("skaddr", 8),
        state: if at("oldstate", 4) == ABSENT { at("state", 4) } else { at("oldstate", 4) },
        new_state: at("newstate", 4),
        family: at("family", 2),
        skbaddr: at("skbaddr", 8),
        protocol: at("protocol", 2),
        sport: at("sport", 2),
        dport: at("dport", 2),
        saddr_v6: at("saddr_v6", 16),
        daddr_v6: at("daddr_v6", 16),
        // sizeof(struct sockaddr_in6)
        saddr_sockaddr: at("saddr", 28),
        daddr_sockaddr: at("daddr", 28),
        cookie: at("sock_cookie", 8),
        reason: at("reason", 4),
        err: at("err", 4),
        parent_pid: at("parent_pid", 4),
        child_pid: at("child_pid", 4),
        pid: at("pid", 4),
        group_dead: at("group_dead", 1),
    }
}

fn reasons(format: &Format) -> BTreeMap<u32, Arc<str>> {
    format
        .symbols("reason")
        .iter()
        .filter_map(|(n, name)| Some((u32::try_from(*n).ok()?, reset_reason_name(name)?.into())))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// `tcp_retransmit_skb` as 5.10 and 6.18 have it, `tcp_send_reset` of 6.18.
    fn format(name: &str, new: bool) -> io::Result<Format> {
        let text = match (name, new) {
            ("tcp_retransmit_skb", false) => {
                "field:const void * skaddr; offset:16; size:8;\nfield:int state; offset:24; size:4;\n\
                 field:__u16 sport; offset:28; size:2;\nfield:__u16 dport; offset:30; size:2;\n\
                 field:__u8 saddr_v6[16]; offset:40; size:16;\nfield:__u8 daddr_v6[16]; offset:56; size:16;"
            }
            ("tcp_retransmit_skb", true) => {
                "field:const void * skaddr; offset:16; size:8;\nfield:int state; offset:24; size:4;\n\
                 field:__u16 sport; offset:28; size:2;\nfield:__u16 dport; offset:30; size:2;\n\
                 field:__u16 family; offset:32; size:2;\nfield:__u8 saddr_v6[16]; offset:42; size:16;\n\
                 field:__u8 daddr_v6[16]; offset:58; size:16;\nfield:int err; offset:76; size:4;"
            }
            ("tcp_send_reset", true) => {
                "field:const void * skaddr; offset:16; size:8;\nfield:enum x reason; offset:28; size:4;\n\
                 field:__u8 saddr[28]; offset:32; size:28;\nfield:__u8 daddr[28]; offset:60; size:28;\n\
                 print fmt: \"%s\", __print_symbolic(REC->reason, { 1, \"NO_SOCKET\" }, { 9, \"MAX\" })"
            }
            ("tcp_destroy_sock", _) => {
                "field:const void * skaddr; offset:8; size:8;\nfield:u64 sock_cookie; offset:200; size:8;"
            }
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Format::parse(text))
    }

    #[test]
    fn layouts_of_two_kernels_are_told_apart_and_absence_is_a_value() {
        let old = ClassicTypes::from_formats(|_, name| format(name, false));
        let f = old.fields.retransmit_skb;
        assert_eq!((f.skaddr, f.state, f.saddr_v6, f.daddr_v6), (16, 24, 40, 56));
        assert_eq!((f.family, f.err, f.daddr_sockaddr), (ABSENT, ABSENT, ABSENT));
        let new = ClassicTypes::from_formats(|_, name| format(name, true));
        let f = new.fields.retransmit_skb;
        assert_eq!((f.family, f.saddr_v6, f.err), (32, 42, 76));
        let f = new.fields.send_reset;
        assert_eq!((f.saddr_sockaddr, f.daddr_sockaddr, f.saddr_v6, f.reason), (32, 60, ABSENT, 28));
        let reasons: Vec<_> = new.reset_reasons.iter().map(|(n, s)| (*n, &**s)).collect();
        assert_eq!(reasons, [(1, "NO_SOCKET")]);
    }

    #[test]
    fn what_is_missing_is_named_and_what_lies_too_far_is_absent() {
        let types = ClassicTypes::from_formats(|_, name| format(name, false));
        assert!(types.missing["tcp_send_reset"].contains("tcp:tcp_send_reset"));
        assert!(!types.missing.contains_key("tcp_retransmit_skb"));
        assert_eq!(types.fields.destroy_sock.cookie, ABSENT);
        let none = ClassicTypes::from_formats(|_, _| Ok(Format::default()));
        assert_eq!(none.missing.len(), 8);
        assert!(none.missing["inet_sock_set_state"].contains("no field skaddr"));
    }
}
