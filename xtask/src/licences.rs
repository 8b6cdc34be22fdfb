//! Every crate that the workspace pulls in against the `allow` list of deny.toml.

use anyhow::{Context, Result, bail};

use crate::process::{cargo, line};
use crate::workspace;

pub fn check() -> Result<()> {
    let path = workspace::root().join("deny.toml");
    let deny = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let allowed = allow_list(&deny);
    let mut tree = cargo();
    tree.args(["tree", "--workspace", "--target", "all", "--edges", "normal,build,dev", "--prefix", "none"]);
    tree.args(["--format", "{p}|{l}"]);
    let done = tree.output().with_context(|| format!("cannot run `{}`", line(&tree)))?;
    if !done.status.success() {
        bail!("`{}` failed:\n{}", line(&tree), String::from_utf8_lossy(&done.stderr));
    }
    let text = String::from_utf8_lossy(&done.stdout);
    let mut refused: Vec<&str> = text
        .lines()
        .map(|l| l.trim_end_matches(" (*)"))
        .filter(|l| l.split_once('|').is_some_and(|(_, licence)| !satisfied(licence, &allowed)))
        .collect();
    refused.sort_unstable();
    refused.dedup();
    if !refused.is_empty() {
        bail!("licences that deny.toml does not allow:\n{}", refused.join("\n"));
    }
    Ok(())
}

/// The quoted words between `allow = [` and `]`, comments left out.
fn allow_list(deny: &str) -> Vec<String> {
    let lines = deny.lines().skip_while(|l| l.trim() != "allow = [").skip(1).take_while(|l| l.trim() != "]");
    lines.filter_map(|l| l.split('"').nth(1)).map(str::to_owned).collect()
}

/// An SPDX expression: OR binds weaker than AND; `/` is an old way to write OR.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let result = any(&mut rest, allowed);
    // No licence at all, or what cannot be read to its end, is not allowed.
    result && rest.is_empty()
}

fn any(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut result = all(rest, allowed);
    while let [word, tail @ ..] = *rest
        && *word == "OR"
    {
        *rest = tail;
        result |= all(rest, allowed);
    }
    result
}

fn all(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut result = one(rest, allowed);
    while let [word, tail @ ..] = *rest
        && *word == "AND"
    {
        *rest = tail;
        result &= one(rest, allowed);
    }
    result
}

fn one(rest: &mut &[&str], allowed: &[String]) -> bool {
    match *rest {
        ["(", tail @ ..] => {
            *rest = tail;
            let result = any(rest, allowed);
            if let [")", tail @ ..] = *rest {
                *rest = tail;
                return result;
            }
            false
        }
        [name, "WITH", exception, tail @ ..] => {
            *rest = tail;
            allowed.contains(&format!("{name} WITH {exception}"))
        }
        [name, tail @ ..] => {
            *rest = tail;
            allowed.iter().any(|a| a == name)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_defines_them() {
        let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for good in [
            "MIT",
            "GPL-2.0-only OR MIT",
            "Apache-2.0/MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0",
        ] {
            assert!(satisfied(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-2.0-only", "MIT AND GPL-2.0-only", "Apache-2.0", "(MIT", "MIT GPL-2.0-only"] {
            assert!(!satisfied(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn the_list_is_what_deny_toml_allows() {
        let deny = "[licenses]\nallow = [\n    \"MIT\",\n    \"ISC\", # why\n]\nother = [\"GPL\"]\n";
        assert_eq!(allow_list(deny), ["MIT", "ISC"]);
    }
}
