//! One file per command that is not a live watch: parse nothing, print, return.
pub mod limits;
pub mod probe;
