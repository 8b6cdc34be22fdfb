//! What a probe found, for a person and as JSON.

use serde::Serialize;

use super::plan::{self, Fate, Limit, Trial};

/// What happens at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// The server sends FIN.
    ServerCloses,
    /// Packets vanish.
    PathDrops,
    /// A RST answers.
    Reset,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub destination: String,
    pub protocol: &'static str,
    #[serde(flatten)]
    pub limit: Limit,
    pub estimate_s: Option<f64>,
    pub mechanism: Option<Mechanism>,
    /// `peer`, `middlebox` or `unknown`, for a RST.
    pub reset_origin: Option<String>,
    /// Whether a connection with TCP keepalive outlived the limit; `None` if not tried.
    pub keepalive_helps: Option<bool>,
    /// TCP keepalive idle to set, seconds; only where it helps.
    pub keepalive_idle_s: Option<u32>,
    /// Idle timeout to set in the client's pool, seconds.
    pub pool_timeout_s: Option<f64>,
    pub trials: Vec<Trial>,
    /// Stopped before the end.
    pub partial: bool,
}

impl Report {
    pub fn new(destination: String, protocol: &'static str, trials: Vec<Trial>, partial: bool) -> Self {
        let limit = plan::limit(&trials);
        let estimate_s = limit.estimate_s();
        let plain = || trials.iter().filter(|t| t.keepalive_idle_s.is_none());
        let at_limit = plain()
            .filter(|t| t.failed_at().is_some())
            .min_by(|a, b| a.failed_at().unwrap_or(f64::MAX).total_cmp(&b.failed_at().unwrap_or(f64::MAX)));
        let mechanism = at_limit.map(|t| match t.fate {
            Fate::Fin { .. } => Mechanism::ServerCloses,
            Fate::Dropped => Mechanism::PathDrops,
            _ => Mechanism::Reset,
        });
        let reset_origin = at_limit.and_then(|t| t.reset_origin.clone());
        let with = trials.iter().find(|t| t.keepalive_idle_s.is_some());
        let keepalive_helps = with.and_then(|t| match t.fate {
            Fate::Survived => Some(true),
            Fate::Unusable { .. } => None,
            _ => Some(false),
        });
        let keepalive_idle_s = with.filter(|_| keepalive_helps == Some(true)).and_then(|t| t.keepalive_idle_s);
        let pool_timeout_s = estimate_s.map(|s| {
            let low = if let Limit::Between { low_s, .. } = limit { low_s } else { s };
            ((low - (low * 0.1).max(0.5)) * 10.0).floor().max(1.0) / 10.0
        });
        Self {
            destination,
            protocol,
            limit,
            estimate_s,
            mechanism,
            reset_origin,
            keepalive_helps,
            keepalive_idle_s,
            pool_timeout_s,
            trials,
            partial,
        }
    }
}

/// The report in sentences; ends with a newline.
pub fn text(r: &Report) -> String {
    let mut out = format!("{} ({})\n", r.destination, r.protocol);
    let mut line = |s: String| {
        out.push_str("  ");
        out.push_str(&s);
        out.push('\n');
    };
    let what = match r.mechanism {
        Some(Mechanism::ServerCloses) => "the server closes the idle connection (FIN)".to_owned(),
        Some(Mechanism::PathDrops) => {
            "the path forgets the connection and swallows what is sent then, without a sign".to_owned()
        }
        Some(Mechanism::Reset) => match r.reset_origin.as_deref() {
            Some("middlebox") => "a middlebox on the path answers with a RST".to_owned(),
            Some("peer") => "the server answers with a RST: it, or a NAT that gave the connection a new mapping, had \
                             forgotten it"
                .to_owned(),
            _ => "a RST answers (whose is unknown: packets could not be looked at: that needs root and cgroup2)"
                .to_owned(),
        },
        None => String::new(),
    };
    match r.limit {
        Limit::Unknown => line("no limit can be told: no connection was usable".into()),
        Limit::NoneBelow { s } => line(format!("no limit up to {s:.1} s: every connection still worked")),
        Limit::At { s, n } => line(format!("limit at {s:.1} s of idle time (n={n}): {what}")),
        Limit::Between { low_s, high_s } => {
            line(format!("limit between {low_s:.1} s and {high_s:.1} s of idle time: {what}"));
        }
    }
    match (r.keepalive_helps, r.keepalive_idle_s) {
        (Some(true), Some(idle)) => line(format!(
            "with TCP keepalive every {idle} s a connection outlived the limit: `agent keepalive --pid PID --idle {idle}s \
             --interval {idle}s --count 3`"
        )),
        (Some(false), _) => {
            line("TCP keepalive did not help: the limit is the application's (a server or proxy)".into())
        }
        _ => {}
    }
    if let Some(pool) = r.pool_timeout_s {
        line(format!("without keepalive, let the client's pool drop connections after {pool} s of idle time"));
    }
    if let Some(Fate::Unusable { why }) = r.trials.iter().map(|t| &t.fate).find(|f| matches!(f, Fate::Unusable { .. }))
    {
        line(format!("some connections could not be used: {why}"));
    }
    if r.protocol == "tcp" || r.protocol == "tls" {
        line(
            "tested with TCP keepalive probes: they show what the path forgets and when the server closes, but not \
             whether the server would still answer a request (use --http PATH for that)"
                .into(),
        );
    }
    if r.partial {
        line("stopped early: this is what was known by then".into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(idle_s: f64, fate: Fate, keepalive_idle_s: Option<u32>) -> Trial {
        Trial { idle_s, keepalive_idle_s, fate, reset_origin: None }
    }

    #[test]
    fn a_path_that_drops_wants_keepalive() {
        let r = Report::new(
            "h:443".into(),
            "http",
            vec![
                trial(2.8, Fate::Survived, None),
                trial(3.1, Fate::Dropped, None),
                trial(7.0, Fate::Survived, Some(1)),
            ],
            false,
        );
        assert_eq!((r.mechanism, r.keepalive_idle_s), (Some(Mechanism::PathDrops), Some(1)));
        let t = text(&r);
        assert!(t.contains("limit between 2.8 s and 3.1 s") && t.contains("--idle 1s"), "{t}");
    }

    #[test]
    fn a_server_that_closes_does_not() {
        let fin = Fate::Fin { after_s: 5.0 };
        let r =
            Report::new("h:80".into(), "http", vec![trial(8.0, fin.clone(), None), trial(11.0, fin, Some(1))], false);
        assert_eq!((r.keepalive_helps, r.keepalive_idle_s, r.pool_timeout_s), (Some(false), None, Some(4.5)));
        assert!(text(&r).contains("TCP keepalive did not help"));
    }
}
