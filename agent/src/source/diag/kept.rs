//! sock_diag sockets that stay open, one per namespace: a watch gives CAP_SYS_ADMIN away once everything is attached,
//! and can enter no other namespace later, when it is asked to close a connection there or to find one by its ends.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Diag, NetNs};

/// Kept at once; each costs a descriptor and up to 64 KiB. Beyond that one is opened for each use.
const MAX_KEPT: usize = 64;

/// Shared by all that ask; they wait for each other.
#[derive(Clone, Default)]
pub struct KeptDiags(Arc<Mutex<BTreeMap<u32, Diag>>>);

impl fmt::Debug for KeptDiags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().keys()).finish()
    }
}

impl KeptDiags {
    /// Opens the socket of `netns`, if it is not open yet. What cannot be opened now fails when it is used.
    pub fn keep(&self, netns: &NetNs) {
        let _ = self.with(netns, |_| Ok(()));
    }

    /// Works with the socket of `netns`, which is opened first where it is not kept.
    pub fn with<T>(&self, netns: &NetNs, work: impl FnOnce(&mut Diag) -> io::Result<T>) -> io::Result<T> {
        let mut kept = self.lock();
        if let Some(diag) = kept.get_mut(&netns.inode()) {
            return work(diag);
        }
        let mut diag = Diag::open(netns)?;
        let result = work(&mut diag);
        if kept.len() < MAX_KEPT {
            kept.insert(netns.inode(), diag);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Diag>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_serves_all_that_ask() {
        let (kept, own) = (KeptDiags::default(), NetNs::own().unwrap());
        kept.keep(&own);
        assert_eq!(kept.clone().with(&own, |d| Ok(d.netns())).unwrap(), own.inode());
        assert_eq!(kept.lock().len(), 1);
    }
}
