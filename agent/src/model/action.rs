//! What the agent did to a socket.

use super::SocketId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionKind {
    Keepalive,
    UserTimeout,
    Close,
    Undo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Pidfd,
    Bpf,
    Ptrace,
    SockDiag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionResult {
    Applied,
    Unchanged,
    Failed,
    WouldApply,
}

/// The socket options that actions read and write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OptionValues {
    pub enabled: bool,
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    pub user_timeout_ms: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionRecord {
    pub action: ActionKind,
    pub socket: Option<SocketId>,
    pub pid: Option<u32>,
    pub fd: Option<i32>,
    pub method: Method,
    pub before: Option<OptionValues>,
    pub after: Option<OptionValues>,
    pub result: ActionResult,
    /// Why it failed, was skipped or was left alone; or a warning (unacknowledged data).
    pub error: Option<String>,
    /// `ip:port` at the other end, for a person.
    pub remote: Option<String>,
    /// What the user must know although it worked, e.g. that keepalive cannot rescue unacknowledged data.
    pub note: Option<String>,
}
