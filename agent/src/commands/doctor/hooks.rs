//! The kernel's hooks, one by one: with BTF, and as classic tracepoints.

use super::kernel::Kernel;
use super::{Check, Status};

const SECTION: &str = "Hooks";

/// (tracepoint, its category, what is lost without it)
const HOOKS: [(&str, &str, &str); 6] = [
    ("tcp_retransmit_skb", "tcp", "retransmits"),
    ("tcp_retransmit_synack", "tcp", "retransmitted SYN-ACKs"),
    ("tcp_receive_reset", "tcp", "received resets"),
    ("tcp_send_reset", "tcp", "sent resets"),
    ("inet_sock_set_state", "sock", "connects, closes and state times"),
    ("tcp_destroy_sock", "tcp", "the moment a socket leaves"),
];
/// (iterator, its BTF type, what it is for, what is used without it)
const ITERATORS: [(&str, &str, &str, &str); 2] = [
    ("iter/task_file", "bpf_iter__task_file", "owners of every socket in one pass", "owners come from /proc, slower"),
    ("iter/tcp", "bpf_iter__tcp", "keepalive truth and bulk set", "pidfd_getfd reads and sets one socket at a time"),
];
/// Before this kernel the tracepoint sits in `tcp_v4_send_reset` behind a check for a full socket; from it on every
/// sent RST passes it, with a reason.
const EVERY_SENT_RESET: (u32, u32) = (6, 10);

pub(super) struct Hook {
    pub name: &'static str,
    pub without: &'static str,
    pub iterator: bool,
    pub btf: bool,
    /// `Err`: tracefs does not tell.
    pub classic: Result<bool, ()>,
    /// A reason for what it does only in part here.
    pub limit: Option<String>,
}

impl Hook {
    pub(super) fn usable(&self) -> bool {
        self.btf || self.classic == Ok(true)
    }
}

pub(super) fn read(kernel: &Kernel) -> Vec<Hook> {
    let classic = |category: &str, name: &str| match &kernel.tracefs {
        Ok(place) => Ok(place.join("events").join(category).join(name).join("format").exists()),
        Err(_) => Err(()),
    };
    let mut hooks: Vec<Hook> = HOOKS
        .iter()
        .map(|&(name, category, without)| Hook {
            name,
            without,
            iterator: false,
            btf: kernel.btf_has(&format!("btf_trace_{name}")),
            classic: classic(category, name),
            limit: (name == "tcp_send_reset" && kernel.version < EVERY_SENT_RESET).then(|| {
                format!(
                    "on {} only resets of full sockets pass it: those for no socket (a closed port) and for TIME_WAIT \
                     are invisible, and no reason is given; from Linux 6.10 on all of them are seen",
                    kernel.release
                )
            }),
        })
        .collect();
    hooks.extend(ITERATORS.iter().map(|&(name, btf_type, _, without)| Hook {
        name,
        without,
        iterator: true,
        btf: kernel.btf_has(btf_type),
        classic: Ok(false),
        limit: None,
    }));
    hooks
}

pub(super) fn checks(hooks: &[Hook]) -> Vec<Check> {
    hooks.iter().map(|hook| if hook.iterator { iterator(hook) } else { tracepoint(hook) }).collect()
}

fn tracepoint(hook: &Hook) -> Check {
    let word = |there: bool| if there { "yes" } else { "no" };
    let classic = hook.classic.map_or("unknown (tracefs)", word);
    let found = format!("BTF {}, classic {classic}", word(hook.btf));
    match (hook.usable(), &hook.limit) {
        (false, _) => Check::new(SECTION, hook.name, Status::Missing, found)
            .advise(format!("{} are not seen; a kernel with BTF and this tracepoint shows them", hook.without)),
        (true, Some(limit)) => Check::new(SECTION, hook.name, Status::Limited, found).advise(limit.clone()),
        (true, None) => Check::new(SECTION, hook.name, Status::Works, found),
    }
}

fn iterator(hook: &Hook) -> Check {
    let purpose = ITERATORS.iter().find(|i| i.0 == hook.name).map_or("", |i| i.2);
    if hook.btf {
        Check::new(SECTION, hook.name, Status::Works, purpose)
    } else {
        Check::new(SECTION, hook.name, Status::Limited, "not in this kernel's BTF").advise(hook.without)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_reset(btf: bool, classic: Result<bool, ()>, limit: Option<&str>) -> Check {
        let limit = limit.map(str::to_owned);
        tracepoint(&Hook { name: "tcp_send_reset", without: "sent resets", iterator: false, btf, classic, limit })
    }

    #[test]
    fn one_way_to_a_hook_is_enough() {
        assert_eq!(send_reset(true, Err(()), None).status, Status::Works);
        assert_eq!(send_reset(false, Ok(true), None).status, Status::Works);
        let missing = send_reset(false, Ok(false), None);
        assert_eq!(missing.status, Status::Missing);
        assert!(missing.advice.unwrap().starts_with("sent resets are not seen"));
    }

    #[test]
    fn an_old_kernels_blind_spot_is_said() {
        assert_eq!(send_reset(true, Ok(true), Some("only full sockets")).status, Status::Limited);
    }
}
