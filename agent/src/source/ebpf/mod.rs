//! The kernel programs, seen from user space: load, attach, read.
