//! A network of test hosts on one machine: client – router – server, in network namespaces of their own.
//!
//! Nothing here has a name in a file system or in the host's network: a namespace lives as long as a descriptor or a
//! process in it, so that a test that panics or is killed leaves nothing behind.

pub mod cmd;
mod net;
mod ns;
mod rules;

pub use cmd::{become_on_exec, run_tool, tool};
pub use net::{Addresses, Lab};
pub use ns::{Ns, Snmp};
pub use rules::{Invalid, Nat, Way};

/// Ends the test with a clear message unless it runs as root: a skipped test would look like a passed one.
pub fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes network namespaces and loads kernel programs: run it as root (cargo xtask test does)"
    );
}
