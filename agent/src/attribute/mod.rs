//! Socket -> owners (a set) and destination names.
