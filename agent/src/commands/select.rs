//! Targets and destinations of an action, resolved.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::action::Selection;
use crate::attribute::{Destination, Names, TargetSpec, targets};
use crate::model::Mono;

/// What the user meant, with what that is at this moment.
pub struct Selected {
    pub selection: Selection,
    pub names: Names,
    /// The directory of `--cgroup`.
    pub cgroup: Option<PathBuf>,
}

/// Finds the processes and looks the names up. Errors: a process or cgroup that does not exist, a name that does not
/// resolve.
pub async fn select(spec: &TargetSpec, destinations: Vec<Destination>) -> Result<Selected> {
    let cgroup = targets::check(spec).map_err(|e| anyhow!(e))?;
    let pids = targets::discover(spec, cgroup.as_deref(), &BTreeSet::new());
    let mut names = Names::new(destinations);
    if names.has_names() {
        let answers = names.lookup().await;
        names.apply_first(answers, Mono::now()).map_err(|e| anyhow!(e))?;
    }
    let selection = Selection {
        pids: pids.into_iter().collect(),
        found: spec.is_open_ended(),
        sockets: None,
        destinations: names.prefixes(),
    };
    Ok(Selected { selection, names, cgroup })
}

/// As [`select`], for a command that does one thing.
pub fn now(spec: &TargetSpec, destinations: Vec<Destination>) -> Result<Selection> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    Ok(runtime.block_on(select(spec, destinations))?.selection)
}
