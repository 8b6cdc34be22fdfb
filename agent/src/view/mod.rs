//! What a person or a program sees. Every view reads the same immutable snapshot.

pub mod alert;
pub mod diff;
pub mod jsonl;
pub mod redact;
pub mod report;
pub use crate::schema;
pub mod text;
pub mod tui;
