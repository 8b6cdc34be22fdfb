//! `agent replay FILE`: a recording as `watch` would have shown it; the findings are those of today's rules.

#[cfg(test)]
mod roundtrip;
