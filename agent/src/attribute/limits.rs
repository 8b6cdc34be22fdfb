//! What cannot be seen, in words with a remedy.

use std::collections::BTreeMap;

use rustix::io::Errno;

/// Rebuilt at each refresh.
#[derive(Debug, Default)]
pub struct Limits {
    /// Processes whose descriptors cannot be listed.
    pub hidden: u32,
    /// Processes whose descriptors cannot be duplicated, by reason.
    pub no_getfd: BTreeMap<&'static str, u32>,
    /// Processes whose network namespace cannot be named.
    pub no_netns: u32,
    /// Namespaces that cannot be entered, with the reason.
    pub closed_namespaces: Vec<String>,
}

impl Limits {
    pub fn sentences(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.hidden > 0 {
            out.push(format!(
                "{} not visible (another user's, with capabilities that the agent lacks, or /proc is mounted with \
                 hidepid); run with sudo, outside a container",
                count(self.hidden, "process is", "processes are")
            ));
        }
        for (why, n) in &self.no_getfd {
            out.push(format!("keepalive of {} cannot be read: {why}", count(*n, "process", "processes")));
        }
        if self.no_netns > 0 && self.hidden == 0 {
            out.push(format!(
                "the network namespace of {} cannot be read; run with sudo or grant CAP_SYS_PTRACE (outside a container, \
                 where the process has capabilities that the agent lacks)",
                count(self.no_netns, "process", "processes")
            ));
        }
        for why in &self.closed_namespaces {
            // A watch of given processes keeps that right only while it starts.
            out.push(format!("{why}; run with sudo or grant CAP_SYS_ADMIN; start again if it is newer than this run"));
        }
        out
    }
}

/// Why `pidfd_getfd` is refused, and what helps.
pub fn getfd_refused(e: Errno) -> &'static str {
    match e {
        Errno::NOSYS => "this kernel has no pidfd_getfd (it came with 5.6)",
        Errno::PERM | Errno::ACCESS => {
            "not permitted (another user's process, or kernel.yama.ptrace_scope); run with sudo or grant \
             CAP_SYS_PTRACE"
        }
        Errno::MFILE | Errno::NFILE => "the agent has too many files open; raise its limit (ulimit -n)",
        _ => "pidfd_getfd failed",
    }
}

fn count(n: u32, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_remedy() {
        let mut l = Limits { hidden: 2, ..Limits::default() };
        l.no_getfd.insert(getfd_refused(Errno::PERM), 1);
        l.closed_namespaces.push("cannot enter network namespace 7: Operation not permitted".into());
        assert_eq!(
            l.sentences(),
            [
                "2 processes are not visible (another user's, with capabilities that the agent lacks, or /proc is mounted \
                 with hidepid); run with sudo, outside a container",
                "keepalive of 1 process cannot be read: not permitted (another user's process, or \
                 kernel.yama.ptrace_scope); run with sudo or grant CAP_SYS_PTRACE",
                "cannot enter network namespace 7: Operation not permitted; run with sudo or grant CAP_SYS_ADMIN; start \
                 again if it is newer than this run",
            ]
        );
        assert!(Limits::default().sentences().is_empty());
    }
}
