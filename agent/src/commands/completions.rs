//! `agent completions SHELL`: generated from the command line's own definition.

use anyhow::Result;
use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionsArgs};

pub fn run(args: &CompletionsArgs) -> Result<u8> {
    super::print(&script(args.shell))
}

fn script(shell: clap_complete::Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "agent", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_command_and_option_is_completed_in_every_shell() {
        for shell in clap_complete::Shell::value_variants() {
            let text = script(*shell);
            for command in Cli::command().get_subcommands() {
                assert!(text.contains(command.get_name()), "{shell}: {}", command.get_name());
                for option in command.get_arguments().filter_map(|a| a.get_long()) {
                    assert!(text.contains(option), "{shell}: {} --{option}", command.get_name());
                }
            }
        }
    }
}
