//! The public JSON: schema `agent.events/1`.
