//! A live watch.

use crate::config::WatchConfig;

pub fn run(config: WatchConfig) -> anyhow::Result<u8> {
    anyhow::bail!("{config:?}: this command is not there yet")
}
