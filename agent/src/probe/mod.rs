//! `agent probe`: how long does this server, and the path to it, let a connection idle? Connections idle in parallel
//! for growing times and are then tested; the limit is narrowed down where it was crossed.
//!
//! It is gentle: at most 16 connections at once, each used once, nothing is retried.

mod connection;
mod plan;
mod report;
mod run;
mod tls;

pub use connection::{Protocol, Target};
pub use plan::{Fate, Limit, Plan, Trial};
pub use report::{Report, text};
pub use run::{Options, Progress, run};
pub use tls::config as tls_config;
