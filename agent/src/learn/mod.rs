//! What destinations and paths let a connection idle: learned from the state of sockets, kept over runs.

mod book;
mod learner;
mod limits;

pub use book::{Book, Key, Loaded, MAX_DESTINATIONS};
pub use learner::Learner;
pub use limits::{Advice, BUCKET_NAMES, Bucket, Limits, SAMPLES, SHORTEST_GAP, Samples};
