//! The product against the running kernel: a network of namespaces ([`lab`]), programs that make things happen in it
//! ([`workload`]), the agent as a child process ([`runner`]) and a way to say what its lines must hold ([`expect`]).

pub mod expect;
pub mod kernel;
pub mod lab;
pub mod mounts;
pub mod nginx;
pub mod runner;
pub mod terminal;
pub mod wait;
pub mod workload;
