//! What is known of how long a destination, and the path to it, let a connection idle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How often one thing happened, and after what idle times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleFigure {
    pub count: u64,
    pub median: Duration,
    pub shortest: Duration,
    /// Largest minus smallest.
    pub spread: Duration,
}

/// Everything known of one destination, earlier runs included, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleLimits {
    /// The name it is watched by, if any: two names behind one address are two destinations.
    pub name: Option<Arc<str>>,
    pub remote: SocketAddr,
    /// The server sent FIN on an idle connection.
    pub server_closes: Option<IdleFigure>,
    /// The next send was swallowed.
    pub path_drops: Option<IdleFigure>,
    /// The next send was answered by a RST that the server did not make.
    pub path_resets: Option<IdleFigure>,
    /// The next send was answered by a RST of the server's, or nobody knows whose.
    pub resets: Option<IdleFigure>,
    /// Sends after a gap that were answered, and the longest such gap.
    pub survived: u64,
    pub longest_survivor: Option<Duration>,
    /// Advice: at most this long may a client's pool keep a connection.
    pub pool_timeout: Option<Duration>,
    /// Advice: keepalive must begin this early, whole seconds.
    pub keepalive_idle: Option<Duration>,
}

impl IdleLimits {
    /// The shortest silence after which the path was found dead.
    pub fn path_killed(&self) -> Option<Duration> {
        [self.path_drops, self.path_resets].into_iter().flatten().map(|f| f.shortest).min()
    }
}
