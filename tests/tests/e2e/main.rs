//! The product against the running kernel. Each test has a network of its own; they run beside each other.

mod actions;
mod attribution;
mod bad_input;
mod clients;
mod counts;
mod events;
mod faults;
mod filters;
mod findings;
mod keepalive;
mod lab;
mod lifecycle;
mod limits;
mod methods;
mod scene;
mod screen;
mod sockets;
mod state_file;
mod wave;
