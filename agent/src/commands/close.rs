//! `agent close`: destroy stuck sockets, so that the client sees the error now and retries.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Result, bail};

use super::{outcome, select};
use crate::action::{self, Intent, What, policy};
use crate::cli::CloseArgs;
use crate::config::{self, UsageError};
use crate::model::{ActionResult, Method};
use crate::view::text::plural;

/// Returns the exit code.
pub fn run(args: CloseArgs) -> Result<u8> {
    let targets = config::targets(args.target, true)?;
    let destinations = config::destinations(&args.destination)?;
    if destinations.is_empty() {
        bail!(UsageError("close destroys connections: say which with --dst HOST[:PORT]".into()));
    }
    let selection = select::now(&targets, destinations)?;
    let mut intent = Intent { what: What::Close, selection, method: Method::SockDiag, dry_run: true };
    if policy::needs_confirmation(&intent.what) && !args.yes {
        let preview = action::perform(&intent, None);
        let sockets = preview.count(ActionResult::WouldApply);
        if sockets == 0 {
            return super::keepalive::report(&preview, args.json, &intent);
        }
        if !std::io::stdin().is_terminal() {
            bail!("will not close {} unasked: add --yes", plural(sockets, "socket"));
        }
        outcome::print(&mut std::io::stderr().lock(), &preview, false)?;
        let process = match intent.selection.pids[..] {
            [_] => super::processes(&intent.selection.pids),
            _ => String::new(),
        };
        if !confirmed(&policy::close_effect(sockets, &process))? {
            eprintln!("nothing was closed");
            return Ok(1);
        }
        // What was shown, and nothing that was opened since.
        intent.selection.sockets = Some(preview.records.iter().filter_map(|r| r.socket).collect());
    }
    intent.dry_run = false;
    let done = action::perform(&intent, None);
    super::keepalive::report(&done, args.json, &intent)
}

fn confirmed(question: &str) -> std::io::Result<bool> {
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}
