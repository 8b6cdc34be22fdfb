//! `agent doctor`: what works on this machine, what does not, and what to do about it.
//!
//! Every line is a fact read or tried at this moment, with a judgement; nothing is changed (trials use sockets and
//! kernel objects of their own, which end with them).

mod hooks;
mod kernel;
mod privileges;
mod summary;
mod sysctls;
mod trials;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::view::text;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// ✓
    Works,
    /// `~`: with limits, which `advice` names.
    Limited,
    /// ✗: `advice` says what to do.
    Missing,
    /// A fact that decides how long things take; nothing to judge.
    Fact,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub section: &'static str,
    pub name: String,
    pub status: Status,
    /// What was found, with units.
    pub found: String,
    /// What follows from it, and what to do.
    pub advice: Option<String>,
}

impl Check {
    fn new(section: &'static str, name: impl Into<String>, status: Status, found: impl Into<String>) -> Self {
        Self { section, name: name.into(), status, found: found.into(), advice: None }
    }

    fn advise(mut self, text: impl Into<String>) -> Self {
        self.advice = Some(text.into());
        self
    }
}

/// Everything that the checks are made from, read once.
struct Machine {
    kernel: kernel::Kernel,
    privileges: privileges::Privileges,
    hooks: hooks::Hooks,
    trials: trials::Trials,
}

pub fn run(args: &DoctorArgs) -> anyhow::Result<u8> {
    let checks = examine();
    let stdout = io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut out = io::BufWriter::new(stdout.lock());
    let written = if args.json {
        checks.iter().try_for_each(|check| {
            serde_json::to_writer(&mut out, check)?;
            out.write_all(b"\n")
        })
    } else {
        render(&mut out, &checks, colour, width())
    };
    match written.and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(e).context("cannot write to standard output"))
        }
        _ => Ok(0),
    }
}

fn examine() -> Vec<Check> {
    let kernel = kernel::Kernel::read();
    let privileges = privileges::Privileges::read();
    let machine = Machine { hooks: hooks::read(&kernel, &privileges), trials: trials::run(), kernel, privileges };
    let mut checks = summary::checks(&machine);
    checks.extend(kernel::checks(&machine.kernel));
    checks.extend(hooks::checks(&machine.hooks));
    checks.extend(trials::checks(&machine.trials, &machine.privileges));
    checks.extend(privileges::checks(&machine.privileges, &machine.kernel));
    checks.extend(sysctls::checks(sysctls::read));
    checks
}

/// Columns of the terminal; 100 where there is none.
fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(100, |size| usize::from(size.ws_col).clamp(60, 120))
}

fn render(out: &mut impl Write, checks: &[Check], colour: bool, width: usize) -> io::Result<()> {
    let (mut section, mut name_width, mut indent) = ("", 0, 0);
    for check in checks {
        if check.section != section {
            let names = checks.iter().filter(|c| c.section == check.section).map(|c| text::width(&c.name));
            name_width = names.max().unwrap_or(0);
            indent = name_width + 6;
            let gap = if section.is_empty() { "" } else { "\n" };
            section = check.section;
            writeln!(out, "{gap}{section}")?;
        }
        let (sign, code) = match check.status {
            Status::Works => ("✓", "32"),
            Status::Limited => ("~", "33"),
            Status::Missing => ("✗", "31"),
            Status::Fact => ("·", "2"),
        };
        let sign = if colour { format!("\x1b[{code}m{sign}\x1b[0m") } else { sign.to_owned() };
        let found = text::wrap(&check.found, width - indent);
        let advice = check.advice.as_deref().map(|a| text::wrap(a, width - indent)).unwrap_or_default();
        let mut lines = found.iter().chain(&advice);
        let first = lines.next().map_or("", String::as_str);
        writeln!(out, "  {sign} {}  {first}", text::left(&check.name, name_width))?;
        for line in lines {
            writeln!(out, "{:indent$}{line}", "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Check> {
        vec![
            Check::new("Kernel", "release", Status::Works, "6.18.5"),
            Check::new("Kernel", "BTF", Status::Missing, "absent").advise("classic tracepoints are used instead"),
            Check::new("Limits", "tcp_retries2", Status::Fact, "15"),
        ]
    }

    #[test]
    fn every_line_has_its_sign_and_advice_stands_under_what_was_found() {
        let mut out = Vec::new();
        render(&mut out, &sample(), false, 60).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Kernel\n  ✓ release  6.18.5\n  ✗ BTF      absent\n             classic tracepoints are used instead\n\
             \nLimits\n  · tcp_retries2  15\n"
        );
    }

    #[test]
    fn a_json_line_says_what_to_do() {
        let line = serde_json::to_value(&sample()[1]).unwrap();
        assert_eq!(line["status"], "missing");
        assert_eq!(line["advice"], "classic tracepoints are used instead");
    }

    #[test]
    fn this_machine_can_be_examined_and_nothing_bad_is_without_a_way_out() {
        let checks = examine();
        for wanted in ["release", "BTF", "tracefs", "tcp_send_reset", "CAP_BPF", "tcp_retries2", "pidfd_getfd"] {
            assert!(checks.iter().any(|c| c.name == wanted), "{wanted} is not checked");
        }
        for check in &checks {
            let bad = matches!(check.status, Status::Missing | Status::Limited);
            assert!(!bad || check.advice.is_some(), "{check:?} says nothing about what to do");
        }
    }
}
