//! From state to causes: the engine and its rules. Time is passed in; nothing here reads a clock or a file.

mod asked;
mod client;
mod destination;
mod engine;
mod group;
mod hang;
mod reset;
mod rule;
mod rules;
mod ruleset;
mod stuck;
mod telling;
mod text;
mod thresholds;
mod wave;

pub use client::{Client, Clue};
pub use destination::Learned;
pub use engine::Engine;
pub use thresholds::Thresholds;
