//! What a process runs: a known public program and the number of its version stay, everything else goes.

use std::sync::Arc;

use crate::model::Component;

/// Programs and packages that say which client it is and nothing about whose. A package of the user's own is not here.
const PUBLIC: [&str; 25] = [
    "Node.js",
    "Python",
    "Java",
    "Go",
    "Bun",
    "Deno",
    "libcurl",
    "claude",
    "curl",
    "wget",
    "git",
    "nginx",
    "caddy",
    "envoy",
    "haproxy",
    "redis-server",
    "npm",
    "pnpm",
    "yarn",
    "@anthropic-ai/claude-code",
    "@openai/codex",
    "@google/gemini-cli",
    "@github/copilot",
    "opencode-ai",
    "@sourcegraph/amp",
];

pub(super) fn program(all: &Option<Arc<[Component]>>) -> Option<Arc<[Component]>> {
    let public = |c: &&Component| PUBLIC.contains(&&*c.name);
    let kept: Vec<Component> = (all.iter().flat_map(|a| a.iter()).filter(public))
        .map(|c| Component { name: c.name.clone(), version: numbers(&c.version).into() })
        .filter(|c| !c.version.is_empty())
        .collect();
    (!kept.is_empty()).then(|| kept.into())
}

/// The first three numbers: what a distribution or a user appends to them may be a name, and four may be an address.
fn numbers(version: &str) -> String {
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let parts: Vec<&str> = version[..end].split('.').take(3).filter(|p| !p.is_empty() && p.len() <= 6).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[(&str, &str)]) -> String {
        let all: Vec<Component> =
            parts.iter().map(|(n, v)| Component { name: (*n).into(), version: (*v).into() }).collect();
        let kept = program(&Some(all.into()));
        let kept = kept.iter().flat_map(|a| a.iter());
        kept.map(|c| format!("{} {};", c.name, c.version)).collect()
    }

    #[test]
    fn public_names_and_numbers_stay() {
        assert_eq!(of(&[("Node.js", "20.19.2"), ("@acme/secret", "1.0.0")]), "Node.js 20.19.2;");
        assert_eq!(of(&[("curl", "7.88.1-10+alice")]), "curl 7.88.1;");
        assert_eq!(of(&[("nginx", "203.0.113.77")]), "nginx 203.0.113;");
        assert_eq!(of(&[("alice", "1.2.3"), ("Go", "x")]), "");
        assert_eq!(of(&[]), "");
    }
}
