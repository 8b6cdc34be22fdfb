//! Other tools that watch TCP, where they are installed.

use std::ffi::OsString;
use std::path::PathBuf;

/// A program on PATH or among the administrator's.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(also).map(|d| d.join(program)).find(|p| p.is_file())
}

/// Every RST received and sent and every change of state, in few words: ports and one address.
const EVENTS: &str = r#"
tracepoint:tcp:tcp_receive_reset { printf("reset received %d %d %s\n", args->sport, args->dport, ntop(args->daddr)) }
tracepoint:tcp:tcp_send_reset { printf("reset sent %d %p\n", pid, args->skaddr) }
tracepoint:sock:inet_sock_set_state {
    printf("state %d %d %d %d %s\n", args->sport, args->dport, args->oldstate, args->newstate, ntop(args->daddr))
}
"#;
/// The same with what the agent's lines tell of them too: when, which socket, both its ends, whose it is.
const FACTS: &str = r#"
tracepoint:tcp:tcp_receive_reset {
    printf("reset received %llu %p %s:%d %s:%d\n", nsecs, args->skaddr,
        ntop(args->saddr), args->sport, ntop(args->daddr), args->dport)
}
tracepoint:tcp:tcp_send_reset { printf("reset sent %llu %d %p %d\n", nsecs, pid, args->skaddr, args->state) }
tracepoint:sock:inet_sock_set_state {
    printf("state %llu %p %d %s:%d %s:%d %d %d\n", nsecs, args->skaddr, pid,
        ntop(args->saddr), args->sport, ntop(args->daddr), args->dport, args->oldstate, args->newstate)
}
"#;
/// Without the changes of state.
const RESETS: &str = r#"
tracepoint:tcp:tcp_receive_reset { printf("reset received %d %d %s\n", args->sport, args->dport, ntop(args->daddr)) }
tracepoint:tcp:tcp_send_reset { printf("reset sent %d %p\n", pid, args->skaddr) }
"#;

/// What prints every change of state: its name, its command, and what each such line holds; `None` for one that has
/// nothing to say of refused connections.
pub fn tracers() -> Vec<(&'static str, Vec<OsString>, Option<&'static str>)> {
    let command = |program: &str, args: &[&str]| -> Option<Vec<OsString>> {
        let mut words = vec![find(program)?.into()];
        words.extend(args.iter().map(OsString::from));
        Some(words)
    };
    let perf = ["trace", "-a", "-e", "sock:inet_sock_set_state", "-o", "/dev/stdout"];
    let all = [
        ("perf trace", command("perf", &perf), Some("inet_sock_set_state")),
        ("tcpstates", command("tcpstates-bpfcc", &[]), Some("SYN_SENT")),
        ("tcplife", command("tcplife-bpfcc", &[]), None),
        ("tcpretrans", command("tcpretrans-bpfcc", &[]), None),
    ];
    all.into_iter().filter_map(|(name, words, mark)| Some((name, words?, mark))).collect()
}

fn bpftrace(program: &str) -> Option<Vec<OsString>> {
    Some(vec![find("bpftrace")?.into(), "-e".into(), program.into()])
}

pub fn bpftrace_events() -> Option<Vec<OsString>> {
    bpftrace(EVENTS)
}

pub fn bpftrace_facts() -> Option<Vec<OsString>> {
    bpftrace(FACTS)
}

pub fn bpftrace_resets() -> Option<Vec<OsString>> {
    bpftrace(RESETS)
}
