//! Scenarios without a kernel: a script is played through a small model of TCP, whose events go through the fold
//! into the rules.

pub mod script;
pub mod sim;
