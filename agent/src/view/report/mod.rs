//! A report to hand over: Markdown for an issue, one HTML file, or one JSON document. All three are drawn from the same
//! [`Report`], which is redacted before it is made unless the user says otherwise.

mod collect;
mod html;
mod json;
mod markdown;
mod parts;
mod series;
mod svg;

pub use collect::{Collector, Destination};
pub use html::html;
pub use json::json;
pub use markdown::{MAX_CHARS, markdown};
pub use series::{Bin, IdleHistogram, Series};

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::{Finding, FindingStatus, Mono, Shared};
use crate::state::{Snapshot, Socket};
use crate::view::jsonl::open_private;
use crate::view::redact::Redactor;

/// Sockets that a report shows at most, the ones with most to tell.
const MAX_SOCKETS: usize = 60;

/// Everything a report says.
#[derive(Debug)]
pub struct Report {
    /// Time, clock, session, totals; its sockets and findings are those at the end.
    pub snapshot: Snapshot,
    /// First event.
    pub start: Mono,
    /// Open ones first, then closed ones; the most important first.
    pub findings: Vec<Arc<Finding>>,
    /// The worst first.
    pub sockets: Vec<Shared<Socket>>,
    /// Sockets seen that are not shown.
    pub sockets_left_out: u64,
    pub collected: Collector,
    /// What a reader must know of the recording: cut, gaps.
    pub remarks: Vec<String>,
    pub redacted: bool,
    /// Name of the recording, without its directory; `None` for a report of a live screen.
    pub source: Option<String>,
}

impl Report {
    /// Of a snapshot, with what was collected on the way to it (nothing, for a live screen).
    pub fn new(snapshot: Snapshot, collected: Collector) -> Self {
        let mut findings: Vec<Arc<Finding>> = snapshot.findings.clone();
        let open: HashSet<u64> = findings.iter().map(|f| f.id).collect();
        let mut past: Vec<Arc<Finding>> = collected.findings().filter(|f| !open.contains(&f.id)).cloned().collect();
        past.sort_by(|a, b| b.confidence.cmp(&a.confidence).then(a.code.cmp(&b.code)).then(a.opened.cmp(&b.opened)));
        findings.extend(past);

        let told: HashSet<_> = findings.iter().take(8).flat_map(|f| f.sockets.iter().copied()).collect();
        let mut known = HashSet::new();
        let mut sockets: Vec<(u64, Shared<Socket>)> = (snapshot.sockets.iter().chain(collected.held()))
            .filter(|s| known.insert(s.id))
            .map(|s| (collect::score(s) + u64::from(told.contains(&s.id)) * 1_000, s.clone()))
            .collect();
        // Ties in the order in which they were first seen.
        sockets.sort_by(|(a, x), (b, y)| b.cmp(a).then(x.first_seen.cmp(&y.first_seen)));
        let seen = snapshot.totals.sockets.max(sockets.len() as u64);
        sockets.truncate(MAX_SOCKETS);
        let sockets: Vec<_> = sockets.into_iter().map(|(_, s)| s).collect();
        let start = collected.start().or(sockets.iter().map(|s| s.first_seen).min()).unwrap_or(snapshot.at);
        Self {
            sockets_left_out: seen.saturating_sub(sockets.len() as u64),
            start,
            findings,
            sockets,
            snapshot,
            collected,
            remarks: Vec::new(),
            redacted: false,
            source: None,
        }
    }

    /// The finding that the report is about.
    pub fn main(&self) -> Option<&Arc<Finding>> {
        let open = self.findings.iter().find(|f| f.status == FindingStatus::Open);
        // An advice on sockets that did not suffer must not hide a reset that is over.
        let grave = |f: &&Arc<Finding>| f.code != crate::model::Code::NoKeepalive;
        self.findings
            .iter()
            .filter(grave)
            .find(|f| f.status == FindingStatus::Open)
            .or_else(|| self.findings.iter().find(grave).or(open))
    }

    /// The socket whose timeline says most: one of the main finding's, else the worst.
    pub fn worst(&self) -> Option<&Shared<Socket>> {
        let of_main = self.main().and_then(|f| self.sockets.iter().find(|s| f.sockets.contains(&s.id)));
        of_main.or_else(|| self.sockets.first())
    }
}

/// Writes a redacted Markdown report of what a screen shows into `directory`; a new file, readable by the user alone.
///
/// # Errors
/// The file cannot be written: one sentence.
pub fn export(snapshot: &Snapshot, directory: &Path) -> anyhow::Result<PathBuf> {
    let mut report = Report::new(Redactor::for_this_machine(&[]).snapshot(snapshot), Collector::default());
    report.redacted = true;
    let time = snapshot.clock.rfc3339(snapshot.at);
    let stamp: String = time.chars().take(19).filter(char::is_ascii_digit).collect();
    let mut path = directory.join(format!("agent-report-{stamp}.md"));
    for n in 2..100 {
        if !path.exists() {
            break;
        }
        path = directory.join(format!("agent-report-{stamp}-{n}.md"));
    }
    let mut file = open_private(&path)?;
    file.write_all(markdown(&report).as_bytes())
        .map_err(|e| anyhow::anyhow!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}
