//! `agent probe HOST:PORT`.

use std::io::{IsTerminal, Write};
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::ProbeArgs;
use crate::probe::{self, Fate, Options, Plan, Progress, Protocol, Report, Target};

/// `origin` tells who sent the RST of the socket with this cookie, where packets are looked at.
pub fn run(args: ProbeArgs, stop: Arc<AtomicBool>, origin: impl FnMut(u64) -> Option<String>) -> Result<u8> {
    let target = target(&args.destination)?;
    if let Some(path) = args.http.as_deref().filter(|p| !p.starts_with('/') || p.contains([' ', '\r', '\n'])) {
        bail!("--http '{}' is no path; write it like /health", path.escape_debug());
    }
    let protocol = Protocol {
        tls: args.tls.then(|| crate::probe::tls_config(args.insecure)).transpose()?,
        http: args.http.clone(),
    };
    let name = match (args.tls, args.http.is_some()) {
        (false, false) => "tcp",
        (true, false) => "tls",
        (false, true) => "http",
        (true, true) => "https",
    };
    let options = Options { max: args.max, connections: args.connections as usize };
    let plan = Plan::new(options.max, options.connections);
    eprintln!(
        "probing {} ({}) with up to {} connections at once; this takes at most {}, less if there is a limit. Ctrl-C shows \
         what is known by then.",
        args.destination,
        target.address,
        options.connections,
        humantime::format_duration(Duration::from_secs(plan.longest().as_secs()))
    );
    let bar = bar();
    let trials = probe::run(&target, &protocol, &options, &stop, origin, |p| show(&bar, p));
    bar.finish_and_clear();
    let report = Report::new(args.destination, name, trials, stop.load(Ordering::Relaxed));
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        out.write_all(b"\n").context("cannot write to stdout")?;
    } else {
        out.write_all(probe::text(&report).as_bytes()).context("cannot write to stdout")?;
    }
    let usable = report.trials.iter().any(|t| !matches!(t.fate, Fate::Unusable { .. }));
    Ok(if usable || report.partial { 0 } else { 1 })
}

fn target(destination: &str) -> Result<Target> {
    let (host, _) = destination
        .rsplit_once(':')
        .filter(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok_and(|p| p > 0))
        .with_context(|| format!("'{destination}' is no HOST:PORT; write it like api.example.com:443 or [::1]:80"))?;
    let address = destination
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve '{host}'; check the name and the resolver (/etc/resolv.conf)"))?
        .next()
        .with_context(|| format!("'{host}' has no address"))?;
    Ok(Target { host: host.trim_matches(['[', ']']).to_owned(), address })
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("  {wide_bar} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, p: Progress<'_>) {
    match p {
        Progress::Round { idle_s, takes } => {
            bar.set_length(takes.as_millis() as u64);
            bar.set_position(0);
            let longest = idle_s.iter().copied().fold(0.0, f64::max);
            bar.set_message(format!("{} connections, idle up to {longest:.1} s", idle_s.len()));
        }
        Progress::Tick { since_round } => bar.set_position(since_round.as_millis() as u64),
        Progress::Trial(t) => {
            let fate = match &t.fate {
                Fate::Survived => "still works".to_owned(),
                Fate::Fin { after_s } => format!("closed by the server after {after_s:.2} s"),
                Fate::ResetWhileIdle { after_s } => format!("reset after {after_s:.2} s"),
                Fate::ResetOnTest => "reset".to_owned(),
                Fate::Dropped => "no answer".to_owned(),
                Fate::Unusable { why } => format!("unusable: {why}"),
            };
            let keepalive = t.keepalive_idle_s.map_or(String::new(), |k| format!(" with keepalive {k} s"));
            bar.println(format!("  idle {:.1} s{keepalive}: {fate}", t.idle_s));
        }
    }
}
