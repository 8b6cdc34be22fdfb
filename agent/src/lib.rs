//! The parts of `agent`. Data flows one way: `source` -> `attribute` -> `state` -> `diagnose` -> `view`; what the user
//! wants done flows the other: key or command -> `action`, whose outcome comes back as an event.

pub mod action;
pub mod app;
pub mod attribute;
pub mod cli;
pub mod commands;
pub mod config;
pub mod diagnose;
pub mod learn;
pub mod memory;
pub mod model;
pub mod probe;
pub mod schema;
pub mod source;
pub mod state;
pub mod store;
pub mod view;
