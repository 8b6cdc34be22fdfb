//! Programs that make TCP do things: each is a process of its own (`agt-workload`) that obeys lines on its stdin.
//!
//! [`Workload`] is the test's side, [`process`] the child's.

mod handle;
pub mod process;
mod raw;
mod serve;
mod sock;
mod storm;
mod table;

pub use handle::{Builder, Conn, Op, Workload};
