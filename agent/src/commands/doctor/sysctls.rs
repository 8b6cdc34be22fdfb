//! The sysctls that decide how long a connection hangs or lives, of the agent's own network namespace, with what each
//! means for a client.

use std::time::Duration;

use super::{Check, Status};
use crate::view::text;

const SECTION: &str = "Limits of this network namespace";
/// A fresh connection on a short path: RTO_MIN (include/net/tcp.h). The real start is each socket's own RTO.
const RTO_MIN: Duration = Duration::from_millis(200);
/// TCP_RTO_MAX (include/net/tcp.h), where `tcp_rto_max_ms` does not exist yet.
const RTO_MAX_MS: i64 = 120_000;
/// NATs on the way to the internet forget idle flows after minutes (RFC 5382 asks for 124, many give 5 or less).
const LONG_KEEPALIVE_S: i64 = 300;

/// One number of /proc/sys, `None` where this kernel or namespace has no such file.
pub(super) fn read(name: &str) -> Option<i64> {
    std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?.trim().parse().ok()
}

pub(super) fn checks(read: impl Fn(&str) -> Option<i64>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name: &str, unit: &str, judge: &dyn Fn(i64) -> (Status, String)| {
        let Some(value) = read(name) else { return };
        let (status, meaning) = judge(value);
        let short = name.rsplit('/').next().unwrap_or(name);
        let check = Check::new(SECTION, short, status, format!("{value}{unit}"));
        checks.push(check.advise(meaning));
    };
    add("ipv4/tcp_keepalive_time", " s", &keepalive_time);
    add("ipv4/tcp_keepalive_intvl", " s", &|v| {
        let probes = read("ipv4/tcp_keepalive_probes").unwrap_or(9);
        let gone = Duration::from_secs(u64::try_from(v.saturating_mul(probes)).unwrap_or(0));
        (
            Status::Fact,
            format!("a vanished peer is noticed {} after the first probe ({probes} probes)", text::duration(gone)),
        )
    });
    let rto_max = read("ipv4/tcp_rto_max_ms").unwrap_or(RTO_MAX_MS);
    add("ipv4/tcp_retries2", "", &|v| retries2(v, rto_max));
    add("ipv4/tcp_rto_max_ms", " ms", &|v| {
        let meaning = format!("the longest pause between two retransmits (the kernel's default is {RTO_MAX_MS})");
        (Status::Fact, if v < RTO_MAX_MS { format!("{meaning}; lowered here") } else { meaning })
    });
    add("ipv4/tcp_rto_min_us", " us", &|_| (Status::Fact, "the shortest wait for an ACK before a retransmit".into()));
    let linear = read("ipv4/tcp_syn_linear_timeouts").unwrap_or(0);
    add("ipv4/tcp_syn_retries", "", &|v| (Status::Fact, syn_retries(v, linear)));
    add("ipv4/tcp_mtu_probing", "", &|v| {
        let meaning = match v {
            0 => {
                "off: a path that swallows large packets hangs the connection (net.ipv4.tcp_mtu_probing=1 finds a way)"
            }
            1 => "on once a path that swallows large packets is suspected",
            _ => "always on",
        };
        (Status::Fact, meaning.into())
    });
    add("netfilter/nf_conntrack_tcp_timeout_established", " s", &|v| {
        let after = text::duration(Duration::from_secs(u64::try_from(v).unwrap_or(0)));
        let meaning = format!("this host's own connection tracking forgets an idle connection after {after}");
        if v < LONG_KEEPALIVE_S {
            (
                Status::Limited,
                format!("{meaning}: keepalive must be shorter, or raise it (the kernel's default is 432000)"),
            )
        } else {
            (Status::Fact, meaning)
        }
    });
    add("netfilter/nf_conntrack_tcp_loose", "", &|v| match v {
        0 => (Status::Limited, "a forgotten connection is not picked up again: its next packet is INVALID".into()),
        _ => (Status::Fact, "a forgotten connection is picked up again by its next packet".into()),
    });
    let tracked = read("netfilter/nf_conntrack_count");
    add("netfilter/nf_conntrack_max", "", &|max| match tracked {
        Some(n) if n.saturating_mul(10) >= max.saturating_mul(9) => (
            Status::Limited,
            format!("{n} connections tracked: nearly full, new ones are dropped at the limit; raise it"),
        ),
        Some(n) => (Status::Fact, format!("{n} connections tracked now")),
        None => (Status::Fact, "connections tracked at most".into()),
    });
    checks
}

/// `tcp_keepalive_time` alone does nothing: that is the most common misbelief about it.
fn keepalive_time(seconds: i64) -> (Status, String) {
    let only = "only for sockets with SO_KEEPALIVE; without it this number does nothing";
    if seconds > LONG_KEEPALIVE_S {
        (
            Status::Limited,
            format!("{only}. Most paths forget sooner: a client should set TCP_KEEPIDLE, or `agent keepalive` does"),
        )
    } else {
        (Status::Fact, only.into())
    }
}

fn retries2(retries: i64, rto_max_ms: i64) -> (Status, String) {
    let longest = Duration::from_millis(u64::try_from(rto_max_ms).unwrap_or(0));
    let gives_up = model_timeout(u32::try_from(retries).unwrap_or(0), RTO_MIN, longest);
    (
        Status::Fact,
        format!(
            "unanswered data hangs for {} or longer (starting from an RTO of 200 ms) before the application sees \
             ETIMEDOUT; TCP_USER_TIMEOUT bounds it for one socket",
            text::duration(gives_up)
        ),
    )
}

/// ip-sysctl.rst, `tcp_syn_retries`: the linear retries come first and on top (6 and 4: 131 s).
fn syn_retries(retries: i64, linear: i64) -> String {
    let count = |n: i64| u32::try_from(n).unwrap_or(0).min(127);
    // From 1 s (RFC 6298).
    let doubling = model_timeout(count(retries), Duration::from_secs(1), Duration::from_secs(120));
    let waits = doubling + Duration::from_secs(u64::from(count(linear)));
    format!("a connect to a silent address fails after {}", text::duration(waits))
}

/// The kernel's `tcp_model_timeout` (net/ipv4/tcp_timer.c): `retries` waits that double from `first` up to `longest`,
/// and the last one.
fn model_timeout(retries: u32, first: Duration, longest: Duration) -> Duration {
    let mut wait = first.min(longest);
    let mut sum = wait;
    for _ in 0..retries.min(255) {
        wait = (wait * 2).min(longest);
        sum += wait;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_model() {
        // ip-sysctl.rst: tcp_retries2 15 is "924.6 seconds"; 8 is "100 seconds or more".
        let model = |n| model_timeout(n, RTO_MIN, Duration::from_secs(120)).as_secs_f64();
        assert!((model(15) - 924.6).abs() < 0.01, "{}", model(15));
        assert!((model(8) - 102.2).abs() < 0.01, "{}", model(8));
        assert!((model(5) - 12.6).abs() < 0.01, "{}", model(5));
    }

    #[test]
    fn a_connect_gives_up_when_the_kernels_documentation_says() {
        assert!(syn_retries(6, 0).contains(&text::duration(Duration::from_secs(127))));
        assert!(syn_retries(6, 4).contains(&text::duration(Duration::from_secs(131))));
    }

    #[test]
    fn what_this_kernel_lacks_is_left_out() {
        let checks = checks(|name| (name == "ipv4/tcp_retries2").then_some(15));
        assert_eq!(checks.len(), 1);
        assert!(checks[0].advice.as_ref().unwrap().contains(&text::duration(Duration::from_millis(924_600))));
    }

    #[test]
    fn keepalive_time_says_that_it_does_nothing_alone() {
        let (status, meaning) = keepalive_time(7200);
        assert_eq!(status, Status::Limited);
        assert!(meaning.starts_with("only for sockets with SO_KEEPALIVE"));
        assert_eq!(keepalive_time(60).0, Status::Fact);
    }
}
