//! `agent report FILE`: a bug report from a recording.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::replay::Player;
use crate::cli::{ReportArgs, ReportFormat};
use crate::diagnose::Thresholds;
use crate::view::jsonl::open_private;
use crate::view::redact::Redactor;
use crate::view::report::{Collector, Report, html, json, markdown};

/// # Errors
/// The recording cannot be read or the output cannot be written: one sentence.
pub fn run(args: &ReportArgs) -> Result<u8> {
    let redactor = (!args.no_redact).then(|| Redactor::for_this_machine(&args.keep));
    let report = make(&args.file, redactor)?;
    let text = match args.format {
        ReportFormat::Markdown => markdown(&report),
        ReportFormat::Html => html(&report),
        ReportFormat::Json => json(&report)? + "\n",
    };
    match &args.output {
        None => super::print(&text),
        Some(path) => {
            let mut file = open_private(path)?;
            file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(0)
        }
    }
}

/// Plays the whole recording, redacted from the first event on, so that no text is made of anything real.
fn make(path: &Path, redactor: Option<Redactor>) -> Result<Report> {
    let asked = redactor.is_some();
    let mut report = of(Player::open(path, Thresholds::default(), redactor)?)?;
    report.redacted |= asked;
    // The name that the user gave a file may say who they are: only its usual part stays.
    report.source = Some(match path.file_name().map(|n| n.to_string_lossy()) {
        Some(name) if !asked => name.into_owned(),
        Some(name) if name.ends_with(".zst") => "recording.jsonl.zst".into(),
        _ => "recording.jsonl".into(),
    });
    Ok(report)
}

/// The report of all that `player` plays.
///
/// # Errors
/// The recording cannot be read on.
pub fn of(mut player: Player) -> Result<Report> {
    let mut collector = Collector::default();
    while let Some(step) = player.step()? {
        if let Some(event) = &step.event {
            collector.observe(event, &player.table);
        }
        for f in &step.findings {
            collector.finding(f);
        }
    }
    collector.finish(&player.table);
    let mut report = Report::new(player.snapshot(), collector);
    report.redacted = player.stats().redacted;
    report.remarks = player.stats().remarks();
    Ok(report)
}

#[cfg(test)]
mod tests;
