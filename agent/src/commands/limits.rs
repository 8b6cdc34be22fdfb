//! `agent limits [HOST]`: what was learned of idle limits.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::LimitsArgs;
use crate::learn::{BUCKET_NAMES, Book, Key, Limits, Loaded, Samples};
use crate::store::{self, Store};

pub fn run(args: LimitsArgs) -> Result<u8> {
    let book = match Store::open_existing(store::directory()?)? {
        None => Book::default(),
        Some(store) => match Book::load(&store)? {
            Loaded::Fresh => Book::default(),
            Loaded::Known(book) => book,
            Loaded::Unusable(why) => anyhow::bail!(why),
        },
    };
    let wanted = args.host.as_deref();
    let chosen: Vec<(&Key, &Limits)> = book.entries.iter().filter(|(k, _)| wanted.is_none_or(|h| is(k, h))).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        for (key, limits) in &chosen {
            serde_json::to_writer(&mut out, &Row { key, limits, advice: limits.advice() })?;
            out.write_all(b"\n").context("cannot write to stdout")?;
        }
        return Ok(0);
    }
    if chosen.is_empty() {
        match wanted {
            Some(host) => writeln!(out, "nothing is known of {host} yet; `agent watch` learns while it runs")?,
            None => writeln!(out, "nothing was learned yet; `agent watch` learns while it runs")?,
        }
        return Ok(0);
    }
    for (key, limits) in chosen {
        out.write_all(describe(key, limits).as_bytes()).context("cannot write to stdout")?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    key: &'a Key,
    #[serde(flatten)]
    limits: &'a Limits,
    advice: crate::learn::Advice,
}

/// Name, address with or without port.
fn is(key: &Key, host: &str) -> bool {
    let without_port = key.address.rsplit_once(':').map_or("", |(a, _)| a).trim_matches(['[', ']']);
    key.name.as_deref() == Some(host) || key.address == host || without_port == host
}

/// What is known of a destination, for a person; ends with a newline.
pub fn describe(key: &Key, l: &Limits) -> String {
    let mut text = match &key.name {
        Some(name) => format!("{name} ({})\n", key.address),
        None => format!("{}\n", key.address),
    };
    let mut line = |s: String| {
        text.push_str("  ");
        text.push_str(&s);
        text.push('\n');
    };
    line(match figure(&l.server_close) {
        Some(f) => format!("server closes idle connections after {f}"),
        None => "server: not seen to close an idle connection".into(),
    });
    match l.longest_survivor_s {
        Some(s) => line(format!("longest idle time survived: {s:.1} s (of {} sends after a gap)", l.survived)),
        None => line("no send after an idle gap was seen to survive".into()),
    }
    let mut failed = false;
    for (samples, what) in [
        (&l.path_drop, "path swallows the connection after"),
        (&l.path_reset, "path resets the connection after"),
        (&l.reset, "connection is reset (by the server, or a NAT that forgot it) after"),
    ] {
        if let Some(f) = figure(samples) {
            failed = true;
            line(format!("{what} {f}"));
        }
    }
    if !failed {
        line(match l.longest_survivor_s {
            Some(s) => format!("path: none seen to fail below {s:.1} s"),
            None => "path: none seen to fail".into(),
        });
    }
    let buckets: Vec<String> = BUCKET_NAMES
        .iter()
        .zip(l.buckets)
        .filter(|(_, b)| b.sends > 0)
        .map(|(name, b)| {
            format!("{name}: {} of {} ({:.0} %)", b.failed, b.sends, 100.0 * b.failed as f64 / b.sends as f64)
        })
        .collect();
    if !buckets.is_empty() {
        line(format!("failed sends by idle time: {}", buckets.join(", ")));
    }
    let advice = l.advice();
    match (advice.pool_timeout_s, advice.keepalive_idle_s) {
        (None, None) => {}
        (Some(pool), None) => line(format!(
            "advice: set the client's pool idle timeout to {pool} s or less; TCP keepalive does not help against a server \
             that closes idle connections"
        )),
        (None, Some(idle)) => line(format!(
            "advice: TCP keepalive with an idle time of {idle} s keeps the path's mapping (`agent keepalive --idle {idle}s`)"
        )),
        (Some(pool), Some(idle)) => line(format!(
            "advice: both are needed: a pool idle timeout of {pool} s or less against the server's limit, and TCP keepalive \
             with an idle time of {idle} s for the path"
        )),
    }
    text
}

/// `60.0 s (n=4, spread 0.2 s)`; `None` without samples.
fn figure(s: &Samples) -> Option<String> {
    Some(format!("{:.1} s (n={}, spread {:.1} s)", s.median()?, s.count, s.spread()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn says_what_is_known_and_what_would_help() {
        let key = Key { name: Some("api.example.com".into()), address: "192.0.2.1:443".into() };
        let mut l = Limits::default();
        for s in [59.9, 60.0, 60.1, 60.0] {
            l.server_close.add(Duration::from_secs_f64(s));
        }
        l.survive(Duration::from_secs(55));
        assert_eq!(
            describe(&key, &l),
            "api.example.com (192.0.2.1:443)\n  server closes idle connections after 60.0 s (n=4, spread 0.2 s)\n  \
             longest idle time survived: 55.0 s (of 1 sends after a gap)\n  path: none seen to fail below 55.0 s\n  \
             failed sends by idle time: 10-60 s: 0 of 1 (0 %)\n  advice: set the client's pool idle timeout to 53 s or less; \
             TCP keepalive does not help against a server that closes idle connections\n"
        );
        assert!(is(&key, "192.0.2.1") && is(&key, "api.example.com") && !is(&key, "192.0.2.2"));
    }
}
