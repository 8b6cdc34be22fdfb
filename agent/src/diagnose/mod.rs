//! From state to findings: one rule per file, an engine that opens, updates, ranks and closes.
