//! Where events come from. One trait, three kinds: kernel programs (`ebpf`), polling (`diag`), recordings (`replay`).

pub mod cgroup2;
pub mod diag;
pub mod ebpf;
pub mod replay;
