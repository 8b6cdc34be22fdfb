//! The kernel programs, seen from user space: load, attach, read.

mod attach;
pub mod backend;
pub mod btf;
pub mod classic;
pub mod convert;
pub mod decode;
mod find;
pub mod guard;
pub mod iter;
pub mod join;
pub mod klog;
pub mod load;
pub mod object;
pub mod offsets;
mod present;
mod refusal;
pub mod ring;
mod source;
mod sys;
pub mod tables;
mod told;
pub mod tracefs;
pub mod vmlinux;

pub use convert::Fork;
pub use load::Options;
pub use source::{EbpfSource, KernelTotals, Loaded};
