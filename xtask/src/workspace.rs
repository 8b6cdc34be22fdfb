//! Where things are.

use std::path::{Path, PathBuf};

/// The folder with the workspace's Cargo.toml.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo's target directory, wherever the user's configuration put it: this program runs from TARGET/debug/xtask.
pub fn target() -> PathBuf {
    let beside = |exe: PathBuf| exe.ancestors().nth(2).map(Path::to_owned);
    std::env::current_exe().ok().and_then(beside).unwrap_or_else(|| root().join("target"))
}

/// The agent as `cargo build` leaves it.
pub fn agent(release: bool) -> PathBuf {
    target().join(if release { "release" } else { "debug" }).join("agent")
}

/// What xtask keeps between runs.
pub fn cache() -> PathBuf {
    target().join("xtask")
}
