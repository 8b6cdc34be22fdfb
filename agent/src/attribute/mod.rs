//! Socket -> owners (a set) and destination names.

pub mod destination;
pub mod forecast;
pub mod origin;
pub mod sysctl;

pub use destination::{BadDestination, Destination, Host};
