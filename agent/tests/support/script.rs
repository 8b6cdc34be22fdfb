//! The scenario files: JSON lines. The first line names the scenario, its timings and what is expected; each other
//! line is one thing that happens. Times and numbers are sums such as `"gap + 0.5"` or `"2*gap - 1"` over the names
//! of a timing, so that one file stands for several timings.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Expr {
    Number(f64),
    Sum(String),
}

pub type Timing = BTreeMap<String, f64>;

impl Expr {
    pub fn value(&self, t: &Timing) -> f64 {
        match self {
            Expr::Number(n) => *n,
            Expr::Sum(text) => sum(text, t),
        }
    }
}

fn sum(text: &str, t: &Timing) -> f64 {
    let spaced = text.replace('+', " + ").replace('-', " - ");
    let mut sign = 1.0;
    let mut total = 0.0;
    for word in spaced.split_whitespace() {
        match word {
            "+" => sign = 1.0,
            "-" => sign = -1.0,
            term => {
                let product: f64 = term
                    .split('*')
                    .map(|f| {
                        f.parse()
                            .unwrap_or_else(|_| *t.get(f).unwrap_or_else(|| panic!("no «{f}» in the timing {t:?}")))
                    })
                    .product();
                total += sign * product;
            }
        }
    }
    total
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub scenario: String,
    pub timings: Vec<Timing>,
    /// When to look, seconds.
    pub look_at: Expr,
    /// The code of the top finding; `null` for a healthy scenario: nothing above `possible`.
    pub expect: Option<String>,
    #[serde(default)]
    pub confidence: Option<String>,
    /// The sockets of that finding.
    #[serde(default)]
    pub sockets: Vec<String>,
    #[serde(default)]
    pub numbers: BTreeMap<String, Expr>,
    /// Codes that may be open beside it; any other is an error.
    #[serde(default)]
    pub also: Vec<String>,
    /// The packet provenance program is not attached.
    #[serde(default)]
    pub no_provenance: bool,
    /// No tracepoints: samples only.
    #[serde(default)]
    pub samples_only: bool,
}

/// One thing that happens; what is absent keeps its default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    pub at: Option<Expr>,
    /// A letter; `a..e` stands for several sockets, `every` seconds apart.
    pub s: String,
    pub every: Option<Expr>,
    pub r#do: String,
    pub bytes: Option<u64>,
    pub to: Option<String>,
    pub pid: Option<u32>,
    pub comm: Option<String>,
    pub rtt_ms: Option<f64>,
    pub keepalive: Option<(u32, u32, u32)>,
    pub retries2: Option<u32>,
    pub ttl: Option<u8>,
    pub ip_id: Option<u16>,
    /// Whether a RST acknowledges.
    pub with_ack: Option<bool>,
    pub reason: Option<String>,
    /// Bytes per segment that the path swallows, from which size on.
    pub larger_than: Option<u32>,
    /// Repeat `times`, `every` seconds.
    pub times: Option<u32>,
    /// `incoming` for a socket that was accepted.
    pub incoming: bool,
    /// The connection was there before the agent.
    pub old: bool,
}

pub struct Script {
    pub head: Head,
    pub steps: Vec<Step>,
}

pub fn parse(name: &str, text: &str) -> Script {
    let mut lines = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("//"));
    let head = lines.next().unwrap_or_else(|| panic!("{name}: empty"));
    let head = serde_json::from_str(head).unwrap_or_else(|e| panic!("{name}: head: {e}"));
    let steps = lines.map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{name}: {l}: {e}"))).collect();
    Script { head, steps }
}

/// The steps in time order, with ranges of sockets and repetitions spelt out: (seconds, socket, step).
pub fn unfold(script: &Script, t: &Timing) -> Vec<(f64, String, Step)> {
    let mut out = Vec::new();
    let mut before = 0.0;
    for step in &script.steps {
        let at = step.at.as_ref().map_or(before, |e| e.value(t));
        before = at;
        let every = step.every.as_ref().map_or(0.0, |e| e.value(t));
        let names: Vec<String> = match step.s.split_once("..") {
            Some((a, b)) => (a.as_bytes()[0]..=b.as_bytes()[0]).map(|c| char::from(c).to_string()).collect(),
            None => vec![step.s.clone()],
        };
        for round in 0..step.times.unwrap_or(1) {
            for (i, name) in names.iter().enumerate() {
                let n = if step.times.is_some() { round as usize } else { i };
                out.push((at + every * n as f64, name.clone(), step.clone()));
            }
        }
    }
    out.sort_by(|a, b| a.0.total_cmp(&b.0));
    out
}
