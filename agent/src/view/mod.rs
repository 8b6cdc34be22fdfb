//! What a person or a program sees. Every view reads the same immutable snapshot.

pub mod alert;
pub mod jsonl;
pub mod redact;
pub mod schema;
pub mod text;
pub mod tui;
