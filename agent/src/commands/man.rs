//! `agent man`: the manual pages, generated from the command line's own definition.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::cli::{Cli, ManArgs};

pub fn run(args: &ManArgs) -> Result<u8> {
    match &args.output {
        None => super::print(&page(Cli::command())?),
        Some(directory) => write_all(directory),
    }
}

/// One page per command: agent.1, agent-watch.1, ...
fn write_all(directory: &Path) -> Result<u8> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {} for the pages", directory.display()))?;
    for (name, text) in pages()? {
        let path = directory.join(format!("{name}.1"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(0)
}

fn pages() -> Result<Vec<(String, String)>> {
    let mut main = Cli::command();
    // Gives the subcommands the options that hold everywhere.
    main.build();
    let mut all = vec![("agent".to_owned(), page(Cli::command())?)];
    for sub in main.get_subcommands().filter(|s| s.get_name() != "help") {
        let name = format!("agent-{}", sub.get_name());
        all.push((name.clone(), page(sub.clone().name(name.clone()).display_name(name))?));
    }
    Ok(all)
}

fn page(command: clap::Command) -> Result<String> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command).render(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options() {
        let pages = pages().unwrap();
        let all: Vec<_> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        assert_eq!(pages.len(), all.len() + 1);
        for command in Cli::command().get_subcommands() {
            let (_, text) = pages.iter().find(|(n, _)| *n == format!("agent-{}", command.get_name())).unwrap();
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{text}");
            for option in command.get_arguments().filter_map(|a| a.get_long()) {
                assert!(text.contains(&option.replace('-', "\\-")), "{}: {option}", command.get_name());
            }
        }
    }
}
