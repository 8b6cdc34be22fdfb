//! The kernel programs, seen from user space: load, attach, read.

pub mod btf;
pub mod object;
pub mod offsets;
pub mod tracefs;
