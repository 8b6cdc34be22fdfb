//! Socket -> owners (a set) and destination names.

pub mod destination;

pub use destination::{BadDestination, Destination, Host};
