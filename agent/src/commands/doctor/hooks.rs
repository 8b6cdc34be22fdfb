//! The kernel's hooks, one by one, with BTF and as classic tracepoints: attached for a moment where this process may,
//! else looked up by name.

use crate::model::{self, BackendChoice};
use crate::source::cgroup2;
use crate::source::diag::NetNs;
use crate::source::ebpf::classic::ClassicTypes;
use crate::source::ebpf::iter::Iterators;
use crate::source::ebpf::load::{self, Types};

use super::kernel::Kernel;
use super::privileges::Privileges;
use super::{Check, Status};

const SECTION: &str = "Hooks";

/// (tracepoint, its category, what is not seen without it)
const TRACEPOINTS: [(&str, &str, &str); 6] = [
    ("tcp_retransmit_skb", "tcp", "retransmits"),
    ("tcp_retransmit_synack", "tcp", "retransmitted SYN-ACKs"),
    ("tcp_receive_reset", "tcp", "received resets"),
    ("tcp_send_reset", "tcp", "sent resets"),
    ("inet_sock_set_state", "sock", "connects, closes and state times"),
    ("tcp_destroy_sock", "tcp", "the moment a socket leaves"),
];
/// Before this kernel the tracepoint sits in `tcp_v4_send_reset` behind a check for a full socket; from it on every
/// sent RST passes it, with a reason.
const EVERY_SENT_RESET: (u32, u32) = (6, 10);

/// One way to a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Attached,
    /// The kernel has it; this process may not attach it.
    NotTried,
    Absent,
    /// tracefs, which would tell, is not there.
    Unknown,
    Refused(String),
}

impl Way {
    fn usable(&self) -> bool {
        matches!(self, Self::Attached | Self::NotTried)
    }

    fn word(&self) -> String {
        match self {
            Self::Attached => "attached".into(),
            Self::NotTried => "there, not tried".into(),
            Self::Absent => "absent".into(),
            Self::Unknown => "unknown (no tracefs)".into(),
            Self::Refused(why) => format!("refused ({why})"),
        }
    }
}

pub(super) struct Hook {
    pub name: &'static str,
    pub without: &'static str,
    pub btf: Way,
    pub classic: Way,
    /// What it does not show here although it works.
    limit: Option<String>,
}

impl Hook {
    pub(super) fn usable(&self) -> bool {
        self.btf.usable() || self.classic.usable()
    }
}

pub(super) struct Hooks {
    pub tracepoints: Vec<Hook>,
    /// cgroup_skb on this process's own cgroup.
    pub provenance: Way,
    pub owners: Way,
    pub sockets: Way,
}

pub(super) fn read(kernel: &Kernel, privileges: &Privileges) -> Hooks {
    let tried = privileges.may_trace();
    let (btf, classic) = match tried {
        true => (attach(BackendChoice::Btf), attach(BackendChoice::Tracepoint)),
        false => (Err(String::new()), Err(String::new())),
    };
    let by_name = |there: bool| if there { Way::NotTried } else { Way::Absent };
    let way = |hooks: &Result<Vec<model::Hook>, String>, name: &str, there: bool| match hooks {
        _ if !tried || !there => by_name(there),
        Ok(hooks) => hooks.iter().find(|h| h.name == name).map_or(Way::Absent, way_of),
        Err(why) => Way::Refused(why.clone()),
    };
    let has_format = |category: &str, name: &str| {
        kernel.tracefs.as_ref().is_ok_and(|t| t.join("events").join(category).join(name).join("format").exists())
    };
    let tracepoints = TRACEPOINTS.iter().map(|&(name, category, without)| Hook {
        name,
        without,
        btf: way(&btf, name, kernel.btf_has(&format!("btf_trace_{name}"))),
        classic: match kernel.tracefs {
            Ok(_) => way(&classic, name, has_format(category, name)),
            Err(_) => Way::Unknown,
        },
        limit: (name == "tcp_send_reset" && kernel.version < EVERY_SENT_RESET).then(|| {
            format!(
                "on {} only resets of full sockets pass it: those for no socket (a closed port) and for TIME_WAIT are \
                 invisible, and no reason is given; from Linux 6.10 on all of them are seen",
                kernel.release
            )
        }),
    });
    let (owners, sockets) = match tried {
        true => iterate(),
        false => (by_name(kernel.btf_has("bpf_iter__task_file")), by_name(kernel.btf_has("bpf_iter__tcp"))),
    };
    Hooks {
        tracepoints: tracepoints.collect(),
        provenance: way(&btf, "cgroup_skb/ingress", kernel.btf.is_some() && kernel.cgroup2.is_some()),
        owners,
        sockets,
    }
}

fn way_of(hook: &model::Hook) -> Way {
    match &hook.why_not {
        None => Way::Attached,
        Some(why) => Way::Refused(why.clone()),
    }
}

/// Loads and attaches everything, with no target, and lets go of it: what the kernel says is what a watch would get.
fn attach(backend: BackendChoice) -> Result<Vec<model::Hook>, String> {
    let text = |e: anyhow::Error| format!("{e:#}");
    let (facts, types, tracefs) = load::facts(true);
    let types = match (backend, types, tracefs) {
        (BackendChoice::Btf, Some(types), _) => {
            let aya = types.aya().map_err(text)?;
            Types::Btf(Box::new(types), aya)
        }
        (BackendChoice::Btf, ..) => return Err(facts.btf.err().unwrap_or_default()),
        (_, types, Some(tracefs)) => {
            Types::Classic(Box::new(ClassicTypes::resolve(&tracefs, types.map(|t| t.offsets))))
        }
        _ => return Err(facts.tracefs.err().unwrap_or_default()),
    };
    let options = load::Options {
        backend,
        provenance: cgroup2::of_process(std::process::id()).into_iter().collect(),
        max_sockets: 64,
        ..load::Options::default()
    };
    // Without targets the programs return at once; all of it goes with the end of this function.
    let hooks = load::load(&types, &options, load::loader(), |_| Ok(())).map_err(text)?.hooks;
    Ok(hooks)
}

/// Reads both iterators once.
fn iterate() -> (Way, Way) {
    let mut iterators = match Iterators::load() {
        Ok(iterators) => iterators,
        Err(e) => return (Way::Refused(format!("{e:#}")), Way::Refused(format!("{e:#}"))),
    };
    let way = |result: anyhow::Result<()>| result.err().map_or(Way::Attached, |e| Way::Refused(format!("{e:#}")));
    let owners = way(iterators.files().map(drop));
    let own = NetNs::own().map_err(anyhow::Error::from);
    (owners, way(own.and_then(|netns| iterators.list(&netns)).map(drop)))
}

pub(super) fn checks(hooks: &Hooks) -> Vec<Check> {
    let mut checks: Vec<Check> = hooks.tracepoints.iter().map(tracepoint).collect();
    checks.push(single(
        "cgroup_skb/ingress",
        &hooks.provenance,
        "the RST packet itself",
        "who sent a RST stays unknown",
    ));
    checks.push(single(
        "iter/task_file",
        &hooks.owners,
        "owners of every socket in one pass",
        "owners come from /proc, which is slower and sees less",
    ));
    checks.push(single(
        "iter/tcp",
        &hooks.sockets,
        "options of every socket in one pass",
        "pidfd_getfd reads and sets one socket at a time",
    ));
    checks
}

fn tracepoint(hook: &Hook) -> Check {
    let found = format!("BTF {}, classic {}", hook.btf.word(), hook.classic.word());
    match (hook.usable(), &hook.limit) {
        (false, _) => Check::new(SECTION, hook.name, Status::Missing, found)
            .advise(format!("{} are not seen; a kernel with BTF and this tracepoint shows them", hook.without)),
        (true, Some(limit)) => Check::new(SECTION, hook.name, Status::Limited, found).advise(limit.clone()),
        (true, None) if hook.btf == Way::Attached || hook.classic == Way::Attached => {
            Check::new(SECTION, hook.name, Status::Works, found)
        }
        (true, None) => Check::new(SECTION, hook.name, Status::Fact, found),
    }
}

fn single(name: &'static str, way: &Way, purpose: &str, without: &str) -> Check {
    let found = format!("{}: {purpose}", way.word());
    match way {
        Way::Attached => Check::new(SECTION, name, Status::Works, found),
        Way::NotTried => Check::new(SECTION, name, Status::Fact, found),
        Way::Absent | Way::Unknown | Way::Refused(_) => {
            Check::new(SECTION, name, Status::Limited, found).advise(without)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_reset(btf: Way, classic: Way, limit: Option<&str>) -> Check {
        let limit = limit.map(str::to_owned);
        tracepoint(&Hook { name: "tcp_send_reset", without: "sent resets", btf, classic, limit })
    }

    #[test]
    fn one_way_to_a_hook_is_enough() {
        assert_eq!(send_reset(Way::Attached, Way::Absent, None).status, Status::Works);
        assert_eq!(send_reset(Way::Refused("EPERM".into()), Way::Attached, None).status, Status::Works);
        // There, but nobody has seen it work.
        assert_eq!(send_reset(Way::NotTried, Way::Unknown, None).status, Status::Fact);
        let missing = send_reset(Way::Absent, Way::Refused("EPERM".into()), None);
        assert_eq!(missing.status, Status::Missing);
        assert_eq!(missing.found, "BTF absent, classic refused (EPERM)");
        assert!(missing.advice.unwrap().starts_with("sent resets are not seen"));
    }

    #[test]
    fn an_old_kernels_blind_spot_is_said() {
        assert_eq!(send_reset(Way::Attached, Way::Attached, Some("only full sockets")).status, Status::Limited);
    }
}
