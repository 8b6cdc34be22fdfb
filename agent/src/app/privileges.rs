//! After everything is attached the agent keeps only the capabilities that its further work needs, and can gain none
//! back. What remains, and for what, is this file's table; docs/PRIVILEGES.md is written from it.

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};

/// What a run still does after the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Processes of later may live in network namespaces that are not open yet.
    pub new_namespaces: bool,
    /// Files are made later, in directories that may be another user's: reports from the screen, rotated recordings.
    pub new_files: bool,
    /// Kernel programs are loaded.
    pub kernel: bool,
}

/// Capability, when it stays, what for.
type Need = (Capability, fn(&Work) -> bool, &'static str);

pub const NEEDS: [Need; 7] = [
    (Capability::CAP_BPF, |w| w.kernel, "read and fill the maps of the kernel programs"),
    (Capability::CAP_PERFMON, |w| w.kernel, "list owners through the BPF iterators"),
    (Capability::CAP_NET_ADMIN, |_| true, "destroy sockets when asked to (SOCK_DESTROY)"),
    (Capability::CAP_SYS_PTRACE, |_| true, "look at the descriptors of other users' processes (pidfd_getfd)"),
    (Capability::CAP_DAC_READ_SEARCH, |_| true, "list /proc/PID/fd of other users' processes"),
    (Capability::CAP_SYS_ADMIN, |w| w.new_namespaces, "enter the network namespaces of processes that start later"),
    (Capability::CAP_DAC_OVERRIDE, |w| w.new_files, "write reports and rotated recordings into the user's directory"),
];

/// The capabilities that `work` needs.
pub fn needed(work: &Work) -> CapsHashSet {
    NEEDS.iter().filter(|(_, when, _)| when(work)).map(|(cap, _, _)| *cap).collect()
}

/// Drops everything else from this thread and those it starts, and sets no_new_privs. Without any capability in hand
/// (an ordinary user) only the latter happens.
pub fn drop_to(work: &Work) -> Result<()> {
    let have = caps::read(None, CapSet::Permitted).context("cannot read the agent's own capabilities")?;
    let keep: CapsHashSet = needed(work).intersection(&have).copied().collect();
    // The bounding set first: it needs CAP_SETPCAP, which goes next. Without that capability it stays as it is, and
    // no_new_privs keeps the program from gaining anything through it.
    if have.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).context("cannot read the bounding set")?;
        for cap in bounding.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *cap)
                .with_context(|| format!("cannot drop {cap} from the bounding set"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).or_else(ignore_unsupported).context("cannot clear the ambient set")?;
    caps::set(None, CapSet::Effective, &keep).context("cannot drop capabilities")?;
    caps::set(None, CapSet::Permitted, &keep).context("cannot drop capabilities")?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).context("cannot drop inheritable capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")
}

/// Kernels before 4.3 have no ambient set: nothing to clear.
fn ignore_unsupported(_: caps::errors::CapsError) -> Result<(), caps::errors::CapsError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_watch_keeps_neither_sys_admin_nor_dac_override() {
        let kept = needed(&Work { kernel: true, ..Work::default() });
        assert!(kept.contains(&Capability::CAP_BPF) && kept.contains(&Capability::CAP_SYS_PTRACE));
        assert!(!kept.contains(&Capability::CAP_SYS_ADMIN) && !kept.contains(&Capability::CAP_DAC_OVERRIDE));
        assert_eq!(kept.len(), 5);
    }

    #[test]
    fn polling_keeps_no_bpf() {
        let kept = needed(&Work::default());
        assert!(!kept.contains(&Capability::CAP_BPF) && !kept.contains(&Capability::CAP_PERFMON));
    }
}
