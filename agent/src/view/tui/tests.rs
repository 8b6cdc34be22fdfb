//! Screens as plain text at two sizes, made from events through the state table, compared exactly with the files in
//! `snapshots/`. After a wanted change: `AGENT_BLESS=1 cargo test -p agent --lib tui`, then read the difference.

mod fixture;
mod input;
mod random;
mod screens;
