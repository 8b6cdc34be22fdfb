//! agent's own commands: `cargo xtask COMMAND`. Everything a person or a CI machine does with the sources goes through
//! here, so that one command is enough on a fresh machine and both do the same thing.

mod apt;
mod bench;
mod build;
mod demo;
mod kernels;
mod licences;
mod linker;
mod lint;
mod process;
mod setup;
mod test;
mod test_tools;
#[allow(dead_code, reason = "agent/build.rs uses the rest")]
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
agent's own commands

Usage: cargo xtask COMMAND

  setup [--tests] [--lints] [--install-nightly]
                     install what is missing to build (and to test, and to lint); every other command does so itself.
                     --install-nightly lets rustup fetch a nightly compiler where the distribution has none for BPF
  build [--release]  build the agent (target/debug/agent or target/release/agent)
  run [--debug] [--] ARGS...
                     build the release and run it as root, e.g. `cargo xtask run -- watch --pid 4242`
  test [--unit | --end-to-end | --fuzz] [--debug] [NAME...]
                     every test: of the crates, then of the built agent against the running kernel (as root);
                     NAME: only tests whose name contains it
  test --kernels [--quick] [--debug] [VERSION...] [NAME...]
                     the end-to-end tests in virtual machines with Debian's kernels (5.10, 6.1, 6.12, 6.18 and the
                     newest if none is named); a run of the whole suite updates docs/KERNELS.md. --quick: a test or two of
                     each feature
  bench [--install-peers] [FIGURE...]
                     measure the release against its goals and, where they are installed, beside other tools; all
                     figures together rewrite docs/BENCHMARKS.md
  lint               formatting, clippy and documentation, warnings are errors; the kernel programs included
  demo [-- ARGS...]  a client with pooled connections behind a NAT that forgets them, and the agent on it; ARGS go to
                     `agent watch`
";

fn main() -> ExitCode {
    match dispatch(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(mut args: Vec<String>) -> Result<ExitCode> {
    if args.is_empty() || matches!(args[0].as_str(), "help" | "-h" | "--help") {
        print!("{USAGE}");
        return Ok(if args.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS });
    }
    let command = args.remove(0);
    match command.as_str() {
        "setup" => setup::command(args),
        "build" => build::command(args),
        "run" => build::run(args),
        "test" => test::command(args),
        "lint" => lint::command(args),
        "bench" => bench::command(args),
        "demo" => demo::command(args),
        unknown => bail!("there is no command '{unknown}'; `cargo xtask help` lists them"),
    }
}

/// Takes the flags named in `known` out of `args`; any other word that begins with `-` is an error. What is left are
/// plain words. Words after `--` are never flags.
fn take_flags(args: &mut Vec<String>, known: &[&str]) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    let mut words = Vec::new();
    let mut given = std::mem::take(args).into_iter();
    for arg in given.by_ref() {
        if arg == "--" {
            break;
        } else if known.contains(&arg.as_str()) {
            flags.push(arg);
        } else if arg.starts_with('-') {
            bail!("there is no flag '{arg}' here; `cargo xtask help` lists them");
        } else {
            words.push(arg);
        }
    }
    words.extend(given);
    *args = words;
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_and_words_are_told_apart() {
        let mut args = words("--debug one -- --two");
        assert_eq!(take_flags(&mut args, &["--debug"]).unwrap(), words("--debug"));
        assert_eq!(args, words("one --two"));
    }

    #[test]
    fn an_unknown_flag_is_an_error_that_names_it() {
        let error = take_flags(&mut words("--nope"), &["--debug"]).unwrap_err().to_string();
        assert!(error.contains("'--nope'"), "{error}");
    }

    #[test]
    fn an_unknown_command_is_an_error_that_names_it() {
        let error = dispatch(words("bulid")).unwrap_err().to_string();
        assert!(error.contains("'bulid'"), "{error}");
    }
}
