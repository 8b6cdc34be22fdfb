//! The kernel's own list of sockets, namespace after namespace, fetched on a thread of its own: the kernel fills its
//! answers on one processor while the rows are made on another.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender};

use foldhash::fast::RandomState;

use super::packed::Packed;
use crate::attribute::sysctl::{self, Sysctls};
use crate::model::TcpState;
use crate::source::diag::{Diag, NetNs, Query, States};

/// Sockets that are handed over at once: 50 KiB, less than what the allocator asks the kernel for each time.
const PART: usize = 256;

/// What comes out, in this order: a namespace, its sockets, the next namespace.
pub enum Dumped {
    Namespace(Namespace),
    Sockets(Vec<Packed>),
    /// A namespace that cannot be entered: why.
    Closed(String),
}

/// What the rows of a namespace need to know of it.
#[derive(Default)]
pub struct Namespace {
    pub inode: u32,
    pub sysctls: Sysctls,
    /// Ports that something listens on.
    pub listening: HashSet<u16, RandomState>,
}

/// Sends all sockets of the namespaces that come that pass `filter` (from `destination_filter`); returns how many
/// replies could not be read. Ends early where nobody listens any more.
pub fn dump(namespaces: Receiver<NetNs>, filter: &[u8], to: SyncSender<Dumped>) -> io::Result<u64> {
    let mut malformed = 0;
    for netns in namespaces {
        let mut diag = match Diag::open(&netns) {
            Ok(diag) => diag,
            Err(e) => {
                let why = format!("cannot enter network namespace {}: {e}", netns.inode());
                let _ = to.send(Dumped::Closed(why));
                continue;
            }
        };
        let sysctls =
            sysctl::Files::open(&netns, &sysctl::FORECAST).map(|f| Sysctls::from_map(&f.read())).unwrap_or_default();
        let mut listening = HashSet::default();
        let listeners = Query { states: States::of(&[TcpState::Listen]), info: false, filter: &[] };
        diag.dump(&listeners, |s| listening.extend([s.flow.local.port()]))?;
        let _ = to.send(Dumped::Namespace(Namespace { inode: netns.inode(), sysctls, listening }));
        let mut part = Vec::with_capacity(PART);
        diag.dump(&Query { filter, states: States::with_peer(), ..Query::default() }, |socket| {
            part.push(Packed::from(&socket));
            if part.len() == PART {
                // Nobody listens after an error in writing.
                let _ = to.send(Dumped::Sockets(std::mem::replace(&mut part, Vec::with_capacity(PART))));
            }
        })?;
        if to.send(Dumped::Sockets(part)).is_err() {
            break;
        }
        malformed += diag.malformed();
    }
    Ok(malformed)
}
