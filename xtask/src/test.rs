//! `test`: first what needs no kernel, as the calling user; then the built agent against the running kernel, as root.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{as_root, cargo, is_root, line, say};
use crate::test_tools::{self, Variables};
use crate::{build, kernels, setup, take_flags, workspace};

/// What libtest's `test result:` lines of one `cargo test` add up to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
    ignored: u32,
}

struct Outcome {
    name: &'static str,
    count: Count,
    /// cargo's exit code: also what did not compile or crashed, which no count shows.
    ok: bool,
    took: Duration,
    /// Names of the tests that failed, as libtest prints them.
    failed: Vec<String>,
    /// Names of those that failed beside others and passed alone.
    unsteady: Vec<String>,
}

/// More failures than this are no accident of a busy machine: nothing is run again.
const AGAIN_AT_MOST: usize = 3;

pub fn command(mut args: Vec<String>) -> Result<ExitCode> {
    let flags = take_flags(&mut args, &["--unit", "--end-to-end", "--debug", "--fuzz", "--kernels", "--quick"])?;
    let given = |flag: &str| flags.iter().any(|f| f == flag);
    let (unit, end_to_end) = match (given("--unit"), given("--end-to-end")) {
        (false, false) => (true, true),
        only => only,
    };
    setup::for_building()?;
    if given("--fuzz") {
        return fuzz(&args);
    }
    if given("--kernels") {
        return kernels::run(&args, !given("--debug"), given("--quick"));
    }
    let mut outcomes = Vec::new();
    if unit {
        outcomes.push(run_unit(&args)?);
    }
    if end_to_end {
        let variables = test_tools::ensure()?;
        outcomes.push(run_end_to_end(&args, variables, !given("--debug"))?);
    }
    summary(&outcomes, &args)
}

/// A minute of damaged recordings (or as many seconds as are named), then a sixth of it of what the kernel and the user
/// say, for each parser. Unoptimised, so that overflows are found.
fn fuzz(args: &[String]) -> Result<ExitCode> {
    let seconds: u64 = match args.first() {
        Some(a) => a.parse().with_context(|| format!("--fuzz takes seconds, not '{a}'"))?,
        None => 60,
    };
    let mut ok = true;
    for (example, seconds) in [("fuzz_reader", seconds), ("fuzz_parsers", seconds.div_ceil(6))] {
        say(format!("{example}: damaged input, {seconds} s a target"));
        let mut command = cargo();
        command.args(["run", "--quiet", "--package", "agent", "--example", example, "--", &seconds.to_string()]);
        command.args(args.iter().skip(1));
        ok &= command.status().with_context(|| format!("cannot run `{}`", line(&command)))?.success();
    }
    Ok(ExitCode::from(u8::from(!ok)))
}

fn run_unit(names: &[String]) -> Result<Outcome> {
    say("tests of the crates");
    let mut command = cargo();
    command.args([
        "test",
        "--workspace",
        "--exclude",
        "agent-ebpf",
        "--exclude",
        "agent-tests",
        "--no-fail-fast",
        "--",
    ]);
    command.args(names);
    let outcome = count("crates", command)?;
    if names.is_empty() {
        confusion()?;
    }
    Ok(outcome)
}

/// Which scenario opened which finding: the tests before have made sure that the file is what they saw.
fn confusion() -> Result<()> {
    let path = workspace::root().join("docs/CONFUSION.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table = text.lines().filter(|l| l.starts_with('|') && !l.starts_with("|---"));
    let rows: Vec<Vec<&str>> = table.map(|l| l.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let Some((head, rows)) = rows.split_first() else { bail!("{} holds no table", path.display()) };
    println!("\nscenarios and the findings they open (docs/CONFUSION.md; T: on top at every timing)");
    for (n, code) in head.iter().enumerate().skip(1) {
        println!("{:>34}: {code}", column(n));
    }
    let letters: String = (1..head.len()).map(|n| format!("{:>3}", column(n))).collect();
    println!("{:<38}{letters}", "");
    for row in rows {
        let marks: String = row[1..].iter().map(|m| format!("{:>3}", m.trim_matches('*').replace("**", ""))).collect();
        println!("{:<38}{}", row[0], marks.trim_end());
    }
    Ok(())
}

/// `a`, `b`, ...
fn column(n: usize) -> char {
    (b'a'..=b'z').map(char::from).nth(n - 1).unwrap_or('?')
}

fn run_end_to_end(names: &[String], mut variables: Variables, release: bool) -> Result<Outcome> {
    say("building the agent");
    build::build(release)?;
    say("end-to-end tests against the running kernel, as root");
    variables.push(("AGENT_BIN", workspace::agent(release).into()));
    let config = if is_root() { None } else { Some(runner(&variables)?) };
    let tests = |threads: &str, names: &[String]| {
        let mut command = cargo();
        command.args(config.iter().flat_map(|c| ["--config", c]));
        command.envs(variables.iter().cloned()).env("RUST_TEST_THREADS", threads);
        command.args(["test", "--package", "agent-tests", "--no-fail-fast", "--"]).args(names);
        count("end-to-end", command)
    };
    // Most of a test's time is waiting for timers of TCP: more of them at once than there are processors.
    let mut outcome = tests("4", names)?;
    if outcome.failed.is_empty() || outcome.failed.len() > AGAIN_AT_MOST {
        return Ok(outcome);
    }
    say(format!("again, alone: {}", outcome.failed.join(" ")));
    let exact: Vec<String> = std::iter::once("--exact".to_owned()).chain(outcome.failed.iter().cloned()).collect();
    let again = tests("1", &exact)?;
    outcome.alone(again);
    Ok(outcome)
}

impl Outcome {
    /// Takes in what became of the failed tests when they ran alone: only if all of them pass do they count as passed.
    fn alone(&mut self, again: Self) {
        self.took += again.took;
        if again.ok && again.count.failed == 0 && again.count.passed as usize == self.failed.len() {
            self.count.passed += self.count.failed;
            self.count.failed = 0;
            self.ok = true;
            self.unsteady = std::mem::take(&mut self.failed);
        }
    }
}

/// A configuration with which cargo builds as the user but runs the test programs through sudo.
fn runner(variables: &[(&str, OsString)]) -> Result<String> {
    let sudo = as_root("env")?;
    let mut words: Vec<String> =
        std::iter::once(sudo.get_program()).chain(sudo.get_args()).map(|w| w.to_string_lossy().into_owned()).collect();
    words.extend(variables.iter().map(|(name, value)| format!("{name}={}", value.to_string_lossy())));
    let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    Ok(format!("target.'cfg(unix)'.runner = [{}]", quoted.join(", ")))
}

/// Runs the tests, shows their output as it comes and adds up the results.
fn count(name: &'static str, mut command: Command) -> Result<Outcome> {
    let begin = Instant::now();
    let shown = line(&command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{shown}`"))?;
    let mut sum = Count::default();
    let mut failed = Vec::new();
    let out = child.stdout.take().context("the tests' output is not piped")?;
    for text in BufReader::new(out).lines() {
        let text = text.with_context(|| format!("cannot read the output of `{shown}`"))?;
        sum.add(&text);
        failed.extend(failure(&text));
        writeln!(std::io::stdout(), "{text}")?;
    }
    let ok = child.wait().with_context(|| format!("cannot wait for `{shown}`"))?.success();
    Ok(Outcome { name, count: sum, ok, took: begin.elapsed(), failed, unsteady: Vec::new() })
}

/// `test findings::stuck::path_outage_v4 ... FAILED`
fn failure(line: &str) -> Option<String> {
    Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned())
}

impl Count {
    /// `test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s`
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next().and_then(|n| n.parse::<u32>().ok()), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

fn summary(outcomes: &[Outcome], names: &[String]) -> Result<ExitCode> {
    println!();
    let mut total = Count::default();
    for o in outcomes {
        let Count { passed, failed, ignored } = o.count;
        total =
            Count { passed: total.passed + passed, failed: total.failed + failed, ignored: total.ignored + ignored };
        let broken = if !o.ok && failed == 0 { ", BROKEN: it did not run to its end (see above)" } else { "" };
        println!("{:>10}: {passed} passed, {failed} failed, {:.0} s{broken}", o.name, o.took.as_secs_f64());
    }
    for o in outcomes.iter().filter(|o| !o.unsteady.is_empty()) {
        println!("unsteady, failed beside other tests and passed alone: {}", o.unsteady.join(" "));
    }
    if total.ignored > 0 {
        println!("{} tests are switched off (#[ignore])", total.ignored);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.passed + total.failed == 0 && outcomes.iter().all(|o| o.ok) {
        bail!("no test's name contains {}", names.join(" or "));
    }
    let ok = outcomes.iter().all(|o| o.ok) && total.failed == 0;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(passed: u32, failed: &[&str], ok: bool) -> Outcome {
        let count = Count { passed, failed: failed.len() as u32, ignored: 0 };
        let failed = failed.iter().map(|f| (*f).to_owned()).collect();
        Outcome { name: "crates", count, ok, took: Duration::ZERO, failed, unsteady: Vec::new() }
    }

    #[test]
    fn failures_are_known_by_name() {
        assert_eq!(failure("test a::b_v4 ... FAILED").as_deref(), Some("a::b_v4"));
        assert_eq!(failure("test a::b_v4 ... ok"), None);
        assert_eq!(failure("test result: FAILED. 3 passed; 2 failed"), None);
    }

    #[test]
    fn only_a_test_that_passes_alone_is_unsteady() {
        let after = |passed, failed: &[&str], ok| {
            let mut first = outcome(7, &["a", "b"], false);
            first.alone(outcome(passed, failed, ok));
            (first.count.passed, first.count.failed, first.ok, first.unsteady.len())
        };
        assert_eq!(after(2, &[], true), (9, 0, true, 2));
        assert_eq!(after(1, &["b"], false), (7, 2, false, 0));
        assert_eq!(after(1, &[], true), (7, 2, false, 0), "one of the two did not run");
        assert_eq!(after(2, &[], false), (7, 2, false, 0), "it broke");
    }

    #[test]
    fn results_add_up() {
        let mut sum = Count::default();
        sum.add("running 3 tests");
        sum.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        sum.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s");
        assert_eq!(sum, Count { passed: 15, failed: 2, ignored: 1 });
    }

    #[test]
    fn a_run_that_broke_fails_although_no_test_did() {
        let code = |ok| format!("{:?}", summary(&[outcome(1, &[], ok)], &[]).unwrap());
        assert_eq!(code(true), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(false), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn a_filter_that_matches_nothing_is_an_error() {
        assert!(summary(&[outcome(0, &[], true)], &["nope".into()]).unwrap_err().to_string().contains("nope"));
    }
}
