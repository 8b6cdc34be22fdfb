//! The command line, as clap sees it. What the words mean together is decided in [`crate::config`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use crate::model::BackendChoice;

/// Who reset this TCP connection, how do we know, and what fixes it.
#[derive(Debug, Parser)]
#[command(name = "agent", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch sockets live: a screen on a terminal, JSON Lines otherwise
    Watch(WatchArgs),
    /// Start a command and watch it from its first packet; exits with its code
    Run(RunArgs),
    /// One look at every TCP socket of the targets: owner, keepalive, timers, queues, what is wrong
    Sockets(SocketsArgs),
    /// Force keepalive on the sockets of a running process, read it back, say what changed
    Keepalive(KeepaliveArgs),
    /// Force keepalive on existing and future sockets, until stopped
    Guard(GuardArgs),
    /// Destroy stuck sockets, so that the client sees the error now and retries
    Close(CloseArgs),
    /// A bug report from a recording
    Report(ReportArgs),
    /// Show a recording as `watch` would have
    Replay(ReplayArgs),
    /// What works on this machine, what does not, and what to do about it
    Doctor(DoctorArgs),
    /// Find how long a path and a server let a connection idle
    Probe(ProbeArgs),
    /// What was learned: how long each destination and path let a connection idle
    Limits(LimitsArgs),
    /// Compare two recordings, before and after a fix
    Diff(DiffArgs),
    /// Print the JSON Schema of the event lines
    Schema,
    /// Print shell completions
    Completions(CompletionsArgs),
    /// Print the manual page
    Man(ManArgs),
}

/// Whose sockets.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Targets")]
pub struct TargetArgs {
    /// Process to watch; may be given several times
    #[arg(long = "pid", short = 'p', value_name = "PID")]
    pub pids: Vec<u32>,
    /// Also the children of the targets, now and later
    #[arg(long)]
    pub tree: bool,
    /// Processes of this name (as in `comm`), now and later
    #[arg(long = "comm", value_name = "NAME")]
    pub comms: Vec<String>,
    /// Processes of this cgroup (a path below the cgroup2 mount, or absolute)
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Every process of the machine
    #[arg(long)]
    pub all: bool,
}

/// Which connections.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct DestinationArgs {
    /// Only connections to this name, address or network, with an optional port; may be given several times.
    /// IPv6 with a port is written `[ADDRESS]:PORT`
    #[arg(long = "dst", short = 'd', value_name = "HOST|IP|CIDR[:PORT]")]
    pub destinations: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub struct ObserveArgs {
    #[command(flatten)]
    pub destination: DestinationArgs,
    /// Record JSON Lines to this file beside the screen, `-` for stdout; a name ending in .zst is compressed
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Stop recording into one file at this size and go on in the next (FILE.1, FILE.2); e.g. 100MB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,
    /// With --max-size: keep this many files, the first and the latest, and delete those in between
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    pub max_files: u32,
    /// No screen even on a terminal: JSON Lines on stdout
    #[arg(long)]
    pub no_tui: bool,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Replace addresses and names in the recording by stable pseudonyms
    #[arg(long)]
    pub redact: bool,
    /// With --redact: destinations that stay readable
    #[arg(long, value_name = "HOST|IP")]
    pub keep: Vec<String>,
    /// Where events come from
    #[arg(long, value_enum, default_value_t)]
    pub backend: BackendChoice,
    /// Look at the packet of each RST (TTL, IP ID, sequence) to tell who sent it; on by default except with --all
    #[arg(long, overrides_with = "no_provenance")]
    pub provenance: bool,
    /// Do not look at packets
    #[arg(long)]
    pub no_provenance: bool,
    /// Print the kernel programs' own diagnostics (aya-log) on stderr
    #[arg(long)]
    pub kernel_log: bool,
    /// How often tcp_info is read
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub sample: Duration,
    /// Sockets kept in memory and in the kernel's table
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub max_sockets: u32,
    /// Size of the ring between kernel and agent (a power of two, e.g. 2MiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "2MiB")]
    pub ring_size: u64,
    /// A line for a person on stderr every so often, without a screen
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub interval_report: Option<Duration>,
    /// Run this command when an alert begins and when it ends (the finding as JSON on its stdin, and in AGENT_FINDING)
    #[arg(long, value_name = "CMD")]
    pub on_finding: Option<String>,
    /// POST the finding as JSON to this URL when an alert begins and when it ends
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Alert on these findings (e.g. idle-path-dead,stale-reuse) once they are at least likely, instead of on incidents
    /// (reset-wave) for which the alert rule holds
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    pub alert_on: Vec<String>,
    /// Alert rule: failed connections or resets a minute, per destination ...
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub alert_rate: u32,
    /// ... over this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "3m")]
    pub alert_window: Duration,
    /// Thresholds of the rules (TOML; see docs/FINDINGS.md)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// `no-keepalive` fires for sockets idle longer than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub idle_threshold: Option<Duration>,
    /// `reset-wave` looks at this much time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub wave_window: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub observe: ObserveArgs,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub struct SocketsArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub destination: DestinationArgs,
    /// One JSON line per socket, then one per finding
    #[arg(long)]
    pub json: bool,
    /// Do not look for owners (faster with many files open); then there are no findings
    #[arg(long)]
    pub no_owners: bool,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct KeepaliveValues {
    /// Idle time before the first probe (whole seconds)
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "30s")]
    pub idle: u32,
    /// Time between probes (whole seconds)
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "10s")]
    pub interval: u32,
    /// Unanswered probes before the kernel gives up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=127))]
    pub count: u32,
    /// Also bound how long sent data may stay unacknowledged (TCP_USER_TIMEOUT)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub user_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum MethodChoice {
    /// pidfd_getfd and setsockopt; MPTCP too (but for its user timeout)
    #[default]
    Pidfd,
    /// The BPF TCP iterator: thousands of sockets in one pass; no MPTCP
    Bpf,
    /// Inject the system calls into the target; only for kernels without pidfd_getfd; no MPTCP, no 32-bit,
    /// seccomp-filtered or traced process
    Ptrace,
}

#[derive(Debug, Args)]
pub struct KeepaliveArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub destination: DestinationArgs,
    #[command(flatten)]
    pub values: KeepaliveValues,
    #[arg(long, value_enum, default_value_t)]
    pub method: MethodChoice,
    /// Say what would change, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Put back what the agent changed, and only that
    #[arg(long, conflicts_with = "dry_run")]
    pub undo: bool,
    /// One JSON line per action instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Several targets are meant together; with --cgroup, --pid and --comm mean only those processes that are in it.
#[derive(Debug, Args)]
pub struct GuardArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub destination: DestinationArgs,
    #[command(flatten)]
    pub values: KeepaliveValues,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// One JSON line per action instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CloseArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub destination: DestinationArgs,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    Markdown,
    Html,
    Json,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Recording made with `watch --json FILE`
    pub file: PathBuf,
    #[arg(long, value_enum, default_value = "markdown")]
    pub format: ReportFormat,
    /// Write here instead of stdout
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Keep addresses and names as they are
    #[arg(long)]
    pub no_redact: bool,
    /// Destinations that stay readable
    #[arg(long, value_name = "HOST|IP")]
    pub keep: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Recording made with `watch --json FILE`
    pub file: PathBuf,
    /// `1x`, `4x`, ... or `max`
    #[arg(long, value_name = "FACTOR", default_value = "1x")]
    pub speed: String,
    /// Begin at this time of day (local), e.g. 12:03:04, or RFC 3339
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Print what would be found instead of a screen
    #[arg(long)]
    pub no_tui: bool,
    /// Thresholds of the rules (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What to connect to
    #[arg(value_name = "HOST:PORT")]
    pub destination: String,
    /// Speak TLS
    #[arg(long)]
    pub tls: bool,
    /// Do not verify the server's certificate (for test servers)
    #[arg(long, requires = "tls")]
    pub insecure: bool,
    /// Speak HTTP/1.1: ask for this path
    #[arg(long, value_name = "PATH")]
    pub http: Option<String>,
    /// Longest idle time tried
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15m")]
    pub max: Duration,
    /// Connections open at once (at most 16)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub connections: u32,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LimitsArgs {
    /// Only this destination
    pub host: Option<String>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    pub before: PathBuf,
    pub after: PathBuf,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write one page per command into this directory
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// `30s`, `2m`, `1h30m`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let d = humantime::parse_duration(text)
        .map_err(|_| format!("'{text}' is no duration; write it like 30s, 2m or 500ms"))?;
    if d.is_zero() { Err("a duration must be longer than 0".into()) } else { Ok(d) }
}

/// A duration in whole seconds, 1 to 32767: what TCP_KEEPIDLE and TCP_KEEPINTVL take.
fn parse_seconds(text: &str) -> Result<u32, String> {
    let d = parse_duration(text)?;
    if d.subsec_nanos() != 0 || d.as_secs() > 32_767 {
        return Err(format!("'{text}' must be whole seconds from 1s to 32767s"));
    }
    Ok(d.as_secs() as u32)
}

/// `100MB`, `2MiB`, `65536`.
fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "k" | "kB" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        _ => return Err(format!("'{text}' is no size; write it like 100MB or 2MiB")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("'{text}' is no size; write it like 100MB or 2MiB"))
}
