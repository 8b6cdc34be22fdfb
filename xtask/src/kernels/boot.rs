//! One test machine: QEMU with software emulation, its output read as it comes, and ended by force when its time is
//! up.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::packages::Kernel;
use super::qemu;

/// The full suite's processes, with 10,000 sockets at once among them, take 0.7 GiB.
const MEMORY_MIB: u32 = 1024;

/// What a machine said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// As the kernel calls itself; empty if it never came up.
    pub release: String,
    /// `agent doctor --json`.
    pub doctor: Vec<String>,
    /// What the test program printed.
    pub tests: Vec<String>,
    /// The same of those tests that had failed, run again alone.
    pub again: Vec<String>,
    /// The test program's last exit code; `None` = the machine did not come to its end.
    pub exit: Option<i32>,
    pub took: Duration,
}

/// Boots and waits. `console` gets what the kernel prints, for a person to read when there is no answer.
pub fn run(kernel: &Kernel, initramfs: &Path, console: &Path, limit: Duration) -> Result<Answer> {
    let begin = Instant::now();
    let mut machine = Machine(start(kernel, initramfs, console)?);
    let out = machine.0.stdout.take().context("QEMU's output is not piped")?;
    let (send, lines) = channel();
    // Ends with QEMU, whose end closes the pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if send.send(text).is_err() {
                break;
            }
        }
    });
    let mut answer = Answer::default();
    let mut section = Section::Boot;
    loop {
        match lines.recv_timeout(limit.saturating_sub(begin.elapsed())) {
            Ok(line) => {
                section = answer.take(line, section, true);
                // It powers off by itself; what hangs then is of no interest any more.
                if answer.exit.is_some() {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("{}: no end within {} s", kernel.release, limit.as_secs());
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    answer.took = begin.elapsed();
    Ok(answer)
}

/// What the machine's lines belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Boot,
    Doctor,
    Tests,
    Again,
}

impl Answer {
    /// As text in the machine's own form, to be kept.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("=== release {}", self.release), format!("=== took {}", self.took.as_secs())];
        lines.push("=== doctor".into());
        lines.extend(self.doctor.iter().cloned());
        lines.push("=== tests".into());
        lines.extend(self.tests.iter().cloned());
        if !self.again.is_empty() {
            lines.push("=== again".into());
            lines.extend(self.again.iter().cloned());
        }
        lines.extend(self.exit.map(|code| format!("=== exit {code}")));
        lines.join("\n") + "\n"
    }

    /// What [`Self::text`] wrote.
    pub fn of_text(text: &str) -> Self {
        let mut answer = Self::default();
        let mut section = Section::Boot;
        for line in text.lines() {
            section = answer.take(line.to_owned(), section, false);
        }
        answer
    }

    /// Puts a line where it belongs; `show`: tests are shown as they end.
    fn take(&mut self, line: String, section: Section, show: bool) -> Section {
        let Some(mark) = line.strip_prefix("=== ") else {
            match section {
                Section::Boot => eprintln!("{line}"),
                Section::Doctor => self.doctor.push(line),
                Section::Tests | Section::Again => {
                    if show {
                        // A reader that went away must not end the run.
                        let _ = writeln!(std::io::stdout(), "{line}");
                    }
                    if section == Section::Tests { self.tests.push(line) } else { self.again.push(line) }
                }
            }
            return section;
        };
        let (word, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        match word {
            "release" => self.release = rest.to_owned(),
            "doctor" => return Section::Doctor,
            "tests" => return Section::Tests,
            "again" => return Section::Again,
            "took" => self.took = Duration::from_secs(rest.parse().unwrap_or(0)),
            "exit" => self.exit = rest.parse().ok(),
            _ => {}
        }
        section
    }
}

/// A running QEMU, ended when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(kernel: &Kernel, initramfs: &Path, console: &Path) -> Result<Child> {
    // `nice`: a machine takes all the processor time that it can get.
    let mut c = Command::new("nice");
    c.arg(qemu::PROGRAM);
    // Never a list of accelerators with kvm first: where it is there but does not work, QEMU ends instead of going on.
    c.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m"]).arg(MEMORY_MIB.to_string());
    c.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
    c.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    c.args(["-append", "console=ttyS0 panic=-1 oops=panic rdinit=/init quiet loglevel=4"]);
    c.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    c.stdin(Stdio::null()).stdout(Stdio::piped());
    c.spawn().with_context(|| format!("cannot start {}", qemu::PROGRAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_belong_to_the_mark_before_them() {
        let mut a = Answer::default();
        let mut section = Section::Boot;
        let said =
            ["=== release 6.12", "=== doctor", "{}", "=== tests", "test x ... ok", "=== again", "y", "=== exit 101"];
        for line in said {
            section = a.take(line.to_owned(), section, false);
        }
        assert_eq!((a.release.as_str(), a.exit), ("6.12", Some(101)));
        assert_eq!(Answer::of_text(&a.text()), a);
        assert_eq!(a.again, ["y"]);
        assert_eq!((a.doctor, a.tests), (vec!["{}".to_owned()], vec!["test x ... ok".to_owned()]));
    }
}
