//! `demo`: builds the agent and the demo's network (tests/src/bin/agent-demo.rs) and becomes it, as root.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::process::{as_root, cargo, must};
use crate::{build, setup, test_tools, workspace};

pub fn command(mut args: Vec<String>) -> Result<ExitCode> {
    if args.first().is_some_and(|a| a == "--") {
        args.remove(0);
    }
    setup::for_building()?;
    test_tools::programs(&["ip", "nft", "python3"])?;
    build::build(true)?;
    must(cargo().args(["build", "--quiet", "--package", "agent-tests", "--bin", "agent-demo"]))?;
    let demo = workspace::target().join("debug").join("agent-demo");
    let mut command = as_root("env")?;
    command
        .arg(format!("AGENT_BIN={}", workspace::agent(true).display()))
        .args(build::user_wishes())
        .arg(&demo)
        .args(args);
    Err(command.exec()).with_context(|| format!("cannot start {}", demo.display()))
}
