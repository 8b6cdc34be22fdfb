//! Recorded events as a source.
