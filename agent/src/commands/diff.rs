//! `agent diff A B`: two recordings, before and after a fix.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::replay::Player;
use crate::cli::DiffArgs;
use crate::diagnose::Thresholds;
use crate::view::diff::{Side, diff};
use crate::view::report::Collector;

/// # Errors
/// One of the recordings cannot be read: one sentence.
pub fn run(args: &DiffArgs) -> Result<u8> {
    let diff = diff(&side(&args.before)?, &side(&args.after)?);
    if args.json { super::print(&(serde_json::to_string_pretty(&diff)? + "\n")) } else { super::print(&diff.text()) }
}

fn side(path: &Path) -> Result<Side> {
    let mut player = Player::open(path, Thresholds::default(), None)?;
    let mut collected = Collector::default();
    let mut codes: BTreeMap<u64, &'static str> = BTreeMap::new();
    while let Some(step) = player.step()? {
        if let Some(event) = &step.event {
            collected.observe(event, &player.table);
        }
        for f in step.findings {
            codes.insert(f.id, f.code.name());
        }
    }
    collected.finish(&player.table);
    let mut findings = BTreeMap::new();
    for code in codes.into_values() {
        *findings.entry(code).or_default() += 1;
    }
    Ok(Side { collected, totals: player.table.totals(), findings, remarks: player.stats().remarks() })
}
