//! Command line and platform become one validated configuration, before any side effect; pure, so that every command
//! line can be tested for its meaning or its exact error.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{BackendChoice, DestinationArgs, ObserveArgs, RunArgs, TargetArgs, WatchArgs};
use crate::model::Code;
use crate::view::alert::{AlertOn, AlertRule};

/// What the machine is like, read once by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    pub stdin_is_terminal: bool,
    pub stdout_is_terminal: bool,
    /// `TERM` is set and not `dumb`.
    pub terminal_is_capable: bool,
}

/// A command line that means nothing; exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Where the JSON Lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    None,
    Stdout,
    File(PathBuf),
}

pub use crate::attribute::TargetSpec;

/// A run of `watch` or `run`, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchConfig {
    pub targets: TargetSpec,
    /// As written; parsed and resolved by `attribute`.
    pub destinations: Vec<crate::attribute::Destination>,
    pub destination_texts: Vec<String>,
    /// The command of `agent run`, started once everything is attached.
    pub command: Vec<std::ffi::OsString>,
    pub screen: bool,
    pub output: Output,
    pub max_size: Option<u64>,
    pub max_files: u32,
    pub duration: Option<Duration>,
    pub redact: bool,
    pub keep: Vec<String>,
    pub backend: BackendChoice,
    pub provenance: bool,
    pub kernel_log: bool,
    pub sample: Duration,
    pub max_sockets: u32,
    pub ring_size: u32,
    pub interval_report: Option<Duration>,
    pub on_finding: Option<String>,
    pub webhook: Option<String>,
    pub alert_on: AlertOn,
    pub alert_rule: AlertRule,
    pub thresholds_file: Option<PathBuf>,
    pub idle_threshold: Option<Duration>,
    pub wave_window: Option<Duration>,
}

impl WatchConfig {
    /// Whether somebody hears of the watch without its recording and without a screen.
    pub fn has_other_outlets(&self) -> bool {
        self.interval_report.is_some() || self.on_finding.is_some() || self.webhook.is_some()
    }
}

/// The ring's bounds: one page, and 1 GiB (an `u32` in the kernel's map attributes, and nobody needs more).
const RING_MIN: u64 = 4096;
const RING_MAX: u64 = 1 << 30;
/// Samples more often than this cost more than they tell.
const SAMPLE_MIN: Duration = Duration::from_millis(50);

pub fn watch(args: WatchArgs, platform: Platform) -> Result<WatchConfig, UsageError> {
    let targets = targets(args.target, true)?;
    observe(args.observe, targets, Vec::new(), platform)
}

pub fn run(args: RunArgs, platform: Platform) -> Result<WatchConfig, UsageError> {
    // The child's pid is added when it exists; its children belong to it.
    let targets = TargetSpec { tree: true, ..TargetSpec::default() };
    let command = args.command;
    // The child owns the terminal: a screen of ours would fight with it for every key.
    let platform = Platform { stdout_is_terminal: false, ..platform };
    let mut config = observe(args.observe, targets, command, platform)?;
    if config.output == Output::Stdout {
        // The child's own output must stay usable in a pipe; its events go to stdout only when asked for by name.
        config.output = Output::None;
    }
    Ok(config)
}

/// Checks targets; `required`: one must be given.
pub fn targets(args: TargetArgs, required: bool) -> Result<TargetSpec, UsageError> {
    let TargetArgs { mut pids, tree, comms, cgroup, all } = args;
    if pids.contains(&0) {
        return Err(UsageError("--pid 0 is no process".into()));
    }
    pids.sort_unstable();
    pids.dedup();
    let narrow = !pids.is_empty() || !comms.is_empty() || cgroup.is_some();
    if all && narrow {
        return Err(UsageError("--all watches every process; leave out --pid, --comm and --cgroup".into()));
    }
    if tree && pids.is_empty() && comms.is_empty() {
        return Err(UsageError("--tree follows the children of --pid or --comm; give one of them".into()));
    }
    if let Some(c) = comms.iter().find(|c| c.is_empty() || c.len() > 15) {
        return Err(UsageError(format!("--comm '{c}': a process name has 1 to 15 bytes (see /proc/PID/comm)")));
    }
    if required && !all && !narrow {
        return Err(UsageError("nothing to look at: give --pid PID, --comm NAME, --cgroup PATH or --all".into()));
    }
    Ok(TargetSpec { pids, tree, comms, cgroup, all })
}

pub fn destinations(args: &DestinationArgs) -> Result<Vec<crate::attribute::Destination>, UsageError> {
    args.destinations
        .iter()
        .map(|d| d.parse().map_err(|e: crate::attribute::BadDestination| UsageError(e.to_string())))
        .collect()
}

fn observe(
    args: ObserveArgs,
    targets: TargetSpec,
    command: Vec<std::ffi::OsString>,
    platform: Platform,
) -> Result<WatchConfig, UsageError> {
    let destinations = destinations(&args.destination)?;
    let to_stdout = args.json.as_deref().is_some_and(|p| p.as_os_str() == "-");
    let interactive = platform.stdin_is_terminal && platform.stdout_is_terminal && platform.terminal_is_capable;
    let screen = !args.no_tui && !to_stdout && interactive;
    let output = match args.json {
        Some(_) if to_stdout => Output::Stdout,
        Some(path) => Output::File(path),
        None if screen => Output::None,
        None => Output::Stdout,
    };
    if args.max_size.is_some() && !matches!(output, Output::File(_)) {
        return Err(UsageError("--max-size needs --json FILE: only a file can be rotated".into()));
    }
    if let Some(n) = args.max_size.filter(|n| *n < 65_536) {
        return Err(UsageError(format!("--max-size {n} is too small; 64KiB is the least")));
    }
    if args.redact && matches!(output, Output::None) {
        return Err(UsageError("--redact needs --json FILE: the screen is not redacted".into()));
    }
    if !args.keep.is_empty() && !args.redact {
        return Err(UsageError("--keep needs --redact".into()));
    }
    if args.interval_report.is_some() && screen {
        return Err(UsageError("--interval-report is for a run without a screen; add --no-tui".into()));
    }
    if args.sample < SAMPLE_MIN {
        return Err(UsageError("--sample: 50ms is the least".into()));
    }
    if !args.ring_size.is_power_of_two() || !(RING_MIN..=RING_MAX).contains(&args.ring_size) {
        return Err(UsageError(format!("--ring-size {} must be a power of two from 4096 to 1GiB", args.ring_size)));
    }
    if args.max_sockets == 0 || args.max_sockets > 4_194_304 {
        return Err(UsageError("--max-sockets must be from 1 to 4194304".into()));
    }
    if let Some(url) = args.webhook.as_deref().filter(|u| !u.starts_with("http://") && !u.starts_with("https://")) {
        return Err(UsageError(format!("--webhook '{url}' is no http:// or https:// URL")));
    }
    if args.provenance && args.backend == BackendChoice::SockDiag {
        return Err(UsageError("--provenance needs kernel programs; leave out --backend sock-diag".into()));
    }
    let alert_on = alert_on(&args.alert_on)?;
    // The one per-packet program costs every process in the cgroup: by default only where a target was named.
    let provenance = !args.no_provenance && (args.provenance || !targets.all);
    Ok(WatchConfig {
        targets,
        destinations,
        destination_texts: args.destination.destinations,
        command,
        screen,
        output,
        max_size: args.max_size,
        max_files: args.max_files,
        duration: args.duration,
        redact: args.redact,
        keep: args.keep,
        backend: args.backend,
        provenance,
        kernel_log: args.kernel_log,
        sample: args.sample,
        max_sockets: args.max_sockets,
        ring_size: args.ring_size as u32,
        interval_report: args.interval_report,
        on_finding: args.on_finding,
        webhook: args.webhook,
        alert_on,
        alert_rule: AlertRule { per_minute: args.alert_rate, window: args.alert_window },
        thresholds_file: args.config,
        idle_threshold: args.idle_threshold,
        wave_window: args.wave_window,
    })
}

fn alert_on(codes: &[String]) -> Result<AlertOn, UsageError> {
    if codes.is_empty() {
        return Ok(AlertOn::Incidents);
    }
    if codes == ["all"] {
        return Ok(AlertOn::Codes(Code::ALL.to_vec()));
    }
    let codes: Result<Vec<Code>, UsageError> = codes
        .iter()
        .map(|c| {
            Code::from_name(c).ok_or_else(|| {
                let known: Vec<&str> = Code::ALL.iter().map(|c| c.name()).collect();
                UsageError(format!("--alert-on '{c}' is no finding; there are: all, {}", known.join(", ")))
            })
        })
        .collect();
    codes.map(AlertOn::Codes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const TERMINAL: Platform =
        Platform { stdin_is_terminal: true, stdout_is_terminal: true, terminal_is_capable: true };
    const PIPE: Platform = Platform { stdout_is_terminal: false, ..TERMINAL };

    fn parse(line: &str, platform: Platform) -> Result<WatchConfig, String> {
        let cli = Cli::try_parse_from(std::iter::once("agent").chain(line.split_whitespace()))
            .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
        match cli.command {
            Command::Watch(args) => watch(args, platform).map_err(|e| e.to_string()),
            Command::Run(args) => run(args, platform).map_err(|e| e.to_string()),
            other => Err(format!("not a watch: {other:?}")),
        }
    }

    #[test]
    fn a_terminal_gets_a_screen_and_a_pipe_gets_json() {
        let c = parse("watch --pid 7", TERMINAL).unwrap();
        assert!(c.screen);
        assert_eq!(c.output, Output::None);
        assert_eq!(c.targets.pids, [7]);
        assert!(c.provenance);
        assert_eq!(c.sample, Duration::from_secs(1));
        let c = parse("watch --pid 7", PIPE).unwrap();
        assert!(!c.screen);
        assert_eq!(c.output, Output::Stdout);
        let c = parse("watch --pid 7 --json -", TERMINAL).unwrap();
        assert!(!c.screen);
        assert_eq!(c.output, Output::Stdout);
        let c = parse("watch --pid 7 --json x.jsonl", TERMINAL).unwrap();
        assert!(c.screen);
        assert_eq!(c.output, Output::File("x.jsonl".into()));
    }

    #[test]
    fn a_dumb_terminal_gets_no_screen() {
        let c = parse("watch --pid 7", Platform { terminal_is_capable: false, ..TERMINAL }).unwrap();
        assert!(!c.screen);
    }

    #[test]
    fn provenance_is_off_for_all_unless_asked() {
        assert!(!parse("watch --all", PIPE).unwrap().provenance);
        assert!(parse("watch --all --provenance", PIPE).unwrap().provenance);
        assert!(!parse("watch --pid 1 --no-provenance", PIPE).unwrap().provenance);
    }

    #[test]
    fn run_keeps_stdout_for_the_child() {
        let c = parse("run -- curl -v x", TERMINAL).unwrap();
        assert_eq!(c.output, Output::None);
        assert!(!c.screen && c.targets.tree);
        assert_eq!(c.command, ["curl", "-v", "x"]);
    }

    #[test]
    fn pids_are_sorted_and_unique() {
        assert_eq!(parse("watch -p 9 -p 3 -p 9", PIPE).unwrap().targets.pids, [3, 9]);
    }

    #[test]
    fn each_mistake_has_its_message() {
        for (line, message) in [
            ("watch", "nothing to look at: give --pid PID, --comm NAME, --cgroup PATH or --all"),
            ("watch --pid 0", "--pid 0 is no process"),
            ("watch --all --pid 4", "--all watches every process; leave out --pid, --comm and --cgroup"),
            ("watch --all --tree", "--tree follows the children of --pid or --comm; give one of them"),
            (
                "watch --comm a-name-that-is-too-long",
                "--comm 'a-name-that-is-too-long': a process name has 1 to 15 bytes (see /proc/PID/comm)",
            ),
            ("watch --pid 1 --max-size 1MB", "--max-size needs --json FILE: only a file can be rotated"),
            ("watch --pid 1 --json f --max-size 10kB", "--max-size 10000 is too small; 64KiB is the least"),
            ("watch --pid 1 --keep x", "--keep needs --redact"),
            ("watch --pid 1 --sample 1ms", "--sample: 50ms is the least"),
            ("watch --pid 1 --ring-size 5000", "--ring-size 5000 must be a power of two from 4096 to 1GiB"),
            ("watch --pid 1 --max-sockets 0", "--max-sockets must be from 1 to 4194304"),
            ("watch --pid 1 --webhook ftp://x", "--webhook 'ftp://x' is no http:// or https:// URL"),
            (
                "watch --pid 1 --duration soon",
                "error: invalid value 'soon' for '--duration <TIME>': 'soon' is no duration; write it like 30s, 2m or 500ms",
            ),
            (
                "watch --pid 1 --duration 0s",
                "error: invalid value '0s' for '--duration <TIME>': a duration must be longer than 0",
            ),
            ("watch --pid x", "error: invalid value 'x' for '--pid <PID>': invalid digit found in string"),
            (
                "watch --pid 1 --provenance --backend sock-diag",
                "--provenance needs kernel programs; leave out --backend sock-diag",
            ),
        ] {
            assert_eq!(parse(line, PIPE), Err(message.to_owned()), "{line}");
        }
        assert_eq!(
            parse("watch --pid 1 --redact", TERMINAL),
            Err("--redact needs --json FILE: the screen is not redacted".into())
        );
        assert_eq!(
            parse("watch --pid 1 --interval-report 1m", TERMINAL),
            Err("--interval-report is for a run without a screen; add --no-tui".into())
        );
    }
}
