//! The product against the running kernel. Each test has a network of its own; they run beside each other.

mod lab;
