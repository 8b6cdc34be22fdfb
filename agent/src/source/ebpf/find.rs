//! Cookies of connections that classic tracepoints show only by their ends, asked of sock_diag.

use crate::model::{Flow, SocketId};
use crate::source::diag::{KeptDiags, NetNs};

/// `INET_DIAG_NOCOOKIE`: whichever socket has these ends.
const ANY: SocketId = SocketId(u64::MAX);

/// The socket that process `pid` opened with these ends, in the process's network namespace; `None` if it is gone, or
/// the process is.
pub fn find(diags: &KeptDiags, pid: u32, flow: &Flow) -> Option<SocketId> {
    let netns = NetNs::of_pid(pid).ok()?;
    let found = diags.with(&netns, |diag| diag.get(flow, 0, ANY)).ok()??;
    Some(found.id)
}
