//! Cookies of connections that classic tracepoints show only by their ends, asked of sock_diag.

use std::collections::HashMap;

use crate::model::{Flow, SocketId};
use crate::source::diag::{Diag, NetNs};

/// Network namespaces kept open at once.
const NAMESPACES: usize = 64;
/// `INET_DIAG_NOCOOKIE`: whichever socket has these ends.
const ANY: SocketId = SocketId(u64::MAX);

/// Looks connections up in their processes' network namespaces.
#[derive(Default)]
pub struct Finder {
    open: HashMap<u32, Diag>,
}

impl Finder {
    /// The socket that process `pid` opened with these ends; `None` if it is gone, or the process is.
    pub fn find(&mut self, pid: u32, flow: &Flow) -> Option<SocketId> {
        let netns = NetNs::of_pid(pid).ok()?;
        if !self.open.contains_key(&netns.inode()) {
            if self.open.len() >= NAMESPACES {
                self.open.clear();
            }
            self.open.insert(netns.inode(), Diag::open(&netns).ok()?);
        }
        let found = self.open.get_mut(&netns.inode())?.get(flow, 0, ANY).ok()??;
        Some(found.id)
    }
}
