//! The frame of a run: what was watched, with what, and how it ended.

/// First event of every run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    pub agent_version: String,
    pub kernel_release: String,
    pub arch: String,
    pub command: Vec<String>,
    pub targets: Targets,
    pub hooks: Vec<Hook>,
    /// sysctls that decide how long a hang lasts, of the agent's own namespace, by their file name.
    pub sysctl: std::collections::BTreeMap<String, Option<i64>>,
    /// What the agent cannot see or do in this run, each with its remedy.
    pub limits: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub pids: Vec<u32>,
    pub tree: bool,
    pub all: bool,
    pub comms: Vec<String>,
    pub cgroup: Option<String>,
    /// As the user wrote them.
    pub destinations: Vec<String>,
}

/// One attachment point and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    pub name: String,
    /// `tp_btf`, `tracepoint`, `cgroup_skb`, `iter`, `sock_diag`, ...
    pub backend: String,
    pub attached: bool,
    /// Why not, with the remedy.
    pub why_not: Option<String>,
}

/// Last event of a run that ended in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// `interrupted`, `duration`, `targets exited`, ...
    pub reason: String,
    pub duration: std::time::Duration,
    pub totals: Totals,
}

/// Exact totals of a run: the kernel's own counts where it counts, independent of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub sockets: u64,
    /// Segments.
    pub retransmits: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
    pub findings: u64,
    pub lost: u64,
}

/// Where events shall come from, as the user asked (`--backend`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BackendChoice {
    /// BTF tracepoints, else classic tracepoints, else sock_diag polling
    #[default]
    Auto,
    /// BTF tracepoints (tp_btf)
    Btf,
    /// Classic tracepoints, field positions from tracefs
    Tracepoint,
    /// No kernel programs: poll sock_diag (works without root for one's own processes)
    SockDiag,
}
