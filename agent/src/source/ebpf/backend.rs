//! Which kind of hook this machine allows, decided over facts that were looked up before; pure.

use crate::model::BackendChoice;

/// What was found out about the machine. `Err` holds why not, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN).
    pub privileged: bool,
    pub btf: Result<(), String>,
    pub tracefs: Result<(), String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `tp_btf` programs.
    Btf,
    /// Classic tracepoints.
    Tracepoint,
}

impl Backend {
    /// As in [`crate::model::Hook::backend`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Btf => "tp_btf",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// What to run with, and what is lost by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// `None`: no kernel programs, the caller polls sock_diag.
    pub backend: Option<Backend>,
    /// Each degradation with its remedy.
    pub limits: Vec<String>,
}

const PERMISSION: &str = "no permission to load kernel programs: run with sudo or grant CAP_BPF, CAP_PERFMON and \
                          CAP_NET_ADMIN";
const CLASSIC_LIMITS: &str = "classic tracepoints tell neither how a segment came to be retransmitted nor the state \
                              of the socket's timers, nor its network namespace";
const NO_SEGMENTS: &str = "without BTF a retransmitted buffer counts once, however many segments it held";

/// The choice for `want`; an error if `want` names a backend that this machine does not allow.
pub fn choose(want: BackendChoice, facts: &Facts) -> Result<Choice, String> {
    let with = |backend, limits| Ok(Choice { backend, limits });
    match want {
        BackendChoice::SockDiag => with(None, Vec::new()),
        BackendChoice::Btf | BackendChoice::Tracepoint if !facts.privileged => Err(PERMISSION.into()),
        BackendChoice::Btf => match &facts.btf {
            Ok(()) => with(Some(Backend::Btf), Vec::new()),
            Err(why) => Err(format!("--backend btf is not possible: {why}")),
        },
        BackendChoice::Tracepoint => match &facts.tracefs {
            Ok(()) => {
                let segments = facts.btf.is_err().then(|| NO_SEGMENTS.into());
                with(Some(Backend::Tracepoint), [CLASSIC_LIMITS.into()].into_iter().chain(segments).collect())
            }
            Err(why) => Err(format!("--backend tracepoint is not possible: {why}")),
        },
        BackendChoice::Auto if !facts.privileged => with(None, vec![PERMISSION.into()]),
        BackendChoice::Auto => match (&facts.btf, &facts.tracefs) {
            (Ok(()), _) => with(Some(Backend::Btf), Vec::new()),
            (Err(no_btf), Ok(())) => {
                with(Some(Backend::Tracepoint), vec![no_btf.clone(), CLASSIC_LIMITS.into(), NO_SEGMENTS.into()])
            }
            (Err(no_btf), Err(no_tracefs)) => with(None, vec![no_btf.clone(), no_tracefs.clone()]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(privileged: bool, btf: bool, tracefs: bool) -> Facts {
        let fact = |ok: bool, why: &str| if ok { Ok(()) } else { Err(why.to_owned()) };
        Facts { privileged, btf: fact(btf, "no BTF"), tracefs: fact(tracefs, "no tracefs") }
    }

    #[test]
    fn auto_goes_from_btf_to_classic_to_polling_and_says_why() {
        let auto = |p, b, t| choose(BackendChoice::Auto, &facts(p, b, t)).unwrap();
        assert_eq!(auto(true, true, true), Choice { backend: Some(Backend::Btf), limits: vec![] });
        assert_eq!(auto(true, true, false).backend, Some(Backend::Btf));
        let classic = auto(true, false, true);
        assert_eq!(classic.backend, Some(Backend::Tracepoint));
        assert_eq!(classic.limits, ["no BTF", CLASSIC_LIMITS, NO_SEGMENTS]);
        assert_eq!(
            auto(true, false, false),
            Choice { backend: None, limits: vec!["no BTF".into(), "no tracefs".into()] }
        );
        let unprivileged = auto(false, true, true);
        assert_eq!(unprivileged.backend, None);
        for capability in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"] {
            assert!(unprivileged.limits[0].contains(capability));
        }
    }

    #[test]
    fn a_forced_backend_is_taken_or_refused_never_replaced() {
        let force = |w, p, b, t| choose(w, &facts(p, b, t));
        assert_eq!(force(BackendChoice::Btf, true, true, true).unwrap().backend, Some(Backend::Btf));
        assert_eq!(force(BackendChoice::Tracepoint, true, true, true).unwrap().backend, Some(Backend::Tracepoint));
        assert_eq!(force(BackendChoice::SockDiag, true, true, true).unwrap().backend, None);
        assert_eq!(force(BackendChoice::Btf, true, false, true), Err("--backend btf is not possible: no BTF".into()));
        assert_eq!(
            force(BackendChoice::Tracepoint, true, true, false),
            Err("--backend tracepoint is not possible: no tracefs".into())
        );
        assert_eq!(force(BackendChoice::Btf, false, true, true), Err(PERMISSION.into()));
    }
}
