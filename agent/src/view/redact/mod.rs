//! Redaction: stable pseudonyms for addresses, hosts and processes; command lines, paths and environment go.
//!
//! It works on events, before any view: what a view never gets it cannot leak.

mod address;
mod program;
#[cfg(test)]
mod tests;
mod text;

pub use address::Class;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::address::Addresses;
use self::program::program;
use crate::model::{
    ActionRecord, Event, EventKind, Finding, Flow, Hook, IdleLimits, Owner, Owners, Reset, Session, Shared,
    SocketUpdate, Targets,
};
use crate::state::{Snapshot, Socket};

/// Names remembered of each kind; beyond it all share one pseudonym.
const MAX_NAMES: usize = 20_000;
/// Names that are looked for inside free text: each costs a pass.
const MAX_SEARCHED: usize = 1_000;

/// Process names that say which client it is and nothing about whose.
const CLIENTS: [&str; 39] = [
    "node",
    "nodejs",
    "MainThread",
    "npm",
    "npx",
    "bun",
    "deno",
    "claude",
    "codex",
    "gemini",
    "python",
    "python3",
    "uv",
    "pip",
    "java",
    "go",
    "ruby",
    "php",
    "php-fpm",
    "perl",
    "dotnet",
    "curl",
    "wget",
    "git",
    "ssh",
    "sshd",
    "nginx",
    "caddy",
    "envoy",
    "haproxy",
    "redis-server",
    "postgres",
    "mysqld",
    "chrome",
    "chromium",
    "firefox",
    "cargo",
    "agent",
    "systemd",
];

#[derive(Debug, Default)]
pub struct Redactor {
    addresses: Addresses,
    kept_hosts: HashSet<String>,
    hosts: HashMap<String, String>,
    comms: HashMap<Arc<str>, Arc<str>>,
    /// Lower-case names to look for in free text, and what stands for them.
    names: BTreeMap<String, String>,
    memo: HashMap<String, String>,
}

impl Redactor {
    /// `keep`: hosts and addresses that stay readable, with or without a port.
    pub fn new(keep: &[String]) -> Self {
        let mut r = Self::default();
        for item in keep {
            let bare = item.trim_start_matches('[').trim_end_matches(']');
            if let Ok(ip) = bare.parse::<IpAddr>() {
                r.addresses.keep(ip);
            } else if let Ok(a) = item.parse::<SocketAddr>() {
                r.addresses.keep(a.ip());
            } else {
                let host = item.rsplit_once(':').filter(|(_, p)| p.parse::<u16>().is_ok()).map_or(&**item, |(h, _)| h);
                r.kept_hosts.insert(host.trim_end_matches('.').to_ascii_lowercase());
            }
        }
        r
    }

    /// As [`Self::new`]; the names of this machine and its user go too.
    pub fn for_this_machine(keep: &[String]) -> Self {
        let mut r = Self::new(keep);
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().to_ascii_lowercase();
        let home = std::env::var("HOME").unwrap_or_default();
        let users = ["USER", "LOGNAME", "SUDO_USER"].map(|v| std::env::var(v).unwrap_or_default());
        let user_of_home = home.rsplit('/').next().unwrap_or_default().to_owned();
        for user in users.into_iter().chain([user_of_home]) {
            let common = ["root", "user", "home", "admin", "agent", "nobody", "runner"].contains(&&*user);
            if user.len() >= 3 && !common {
                r.search(&user, text::REMOVED);
            }
        }
        for name in [host.as_str(), host.split('.').next().unwrap_or_default()] {
            if name.len() >= 3 && name != "localhost" && !r.kept_hosts.contains(name) {
                r.search(name, "this-host");
            }
        }
        r
    }

    fn search(&mut self, name: &str, new: &str) {
        if self.names.len() < MAX_SEARCHED {
            self.names.insert(name.to_ascii_lowercase(), new.to_owned());
            self.memo.clear();
        }
    }

    fn is_kept_host(&self, name: &str) -> bool {
        self.kept_hosts.contains(&name.trim_end_matches('.').to_ascii_lowercase())
    }

    /// `host-N.example` for a name; the name itself if the user keeps it.
    fn host(&mut self, name: &str) -> String {
        let key = name.trim_end_matches('.').to_ascii_lowercase();
        if key == "localhost" || self.kept_hosts.contains(&key) || is_pseudonym(&key) {
            return name.to_owned();
        }
        if let Some(known) = self.hosts.get(&key) {
            return known.clone();
        }
        if self.hosts.len() >= MAX_NAMES {
            return "host.example".into();
        }
        let new = format!("host-{}.example", self.hosts.len() + 1);
        if key.len() >= 3 {
            self.search(&key, &new);
        }
        self.hosts.insert(key, new.clone());
        new
    }

    fn comm(&mut self, comm: &Arc<str>) -> Arc<str> {
        if CLIENTS.contains(&&**comm) || comm.strip_prefix("process-").is_some_and(|n| n.parse::<u32>().is_ok()) {
            return comm.clone();
        }
        if let Some(known) = self.comms.get(comm) {
            return known.clone();
        }
        if self.comms.len() >= MAX_NAMES {
            return "process".into();
        }
        let new = format!("process-{}", self.comms.len() + 1);
        if comm.len() >= 3 {
            self.search(&comm.to_ascii_lowercase(), &new);
        }
        let new: Arc<str> = new.into();
        self.comms.insert(comm.clone(), new.clone());
        new
    }

    /// A destination as a user or a rule writes it: `name`, `name:port`, `ip`, `ip:port`, a network.
    fn destination(&mut self, text: &str) -> String {
        // A bare name has no dot by which free text would know it for a host.
        let plain =
            |s: &str| !s.is_empty() && s.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_' || c == '.');
        match text.rsplit_once(':') {
            _ if text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() => self.text(text),
            Some((host, port)) if plain(host) && port.parse::<u16>().is_ok() && host.parse::<IpAddr>().is_err() => {
                format!("{}:{port}", self.host(host))
            }
            None if plain(text) => self.host(text),
            _ => self.text(text),
        }
    }

    fn flow(&mut self, flow: Option<Flow>) -> Option<Flow> {
        flow.map(|f| Flow { local: self.addresses.socket(f.local), remote: self.addresses.socket(f.remote) })
    }

    /// A name the user keeps keeps its address, too.
    fn named(&mut self, name: &Option<Arc<str>>, flow: Option<Flow>) -> Option<Arc<str>> {
        let name = name.as_ref()?;
        if self.is_kept_host(name)
            && let Some(f) = flow
        {
            self.addresses.keep(f.remote.ip());
        }
        Some(self.host(name).into())
    }

    fn owners(&mut self, owners: &[Owner]) -> Owners {
        owners.iter().map(|o| Owner { comm: self.comm(&o.comm), program: program(&o.program), ..o.clone() }).collect()
    }

    fn texts(&mut self, all: &[String]) -> Vec<String> {
        all.iter().map(|t| self.text(t)).collect()
    }

    /// The event with pseudonyms.
    pub fn event(&mut self, event: &Event) -> Event {
        let kind = match &event.kind {
            EventKind::Session(s) => EventKind::Session(Box::new(self.session(s))),
            EventKind::Socket(u) => EventKind::Socket(Box::new(self.update(u))),
            EventKind::State(c) => {
                let mut c = c.clone();
                c.flow = self.flow(c.flow);
                EventKind::State(c)
            }
            EventKind::Retransmit(r) => {
                let mut r = r.clone();
                r.flow = self.flow(r.flow);
                EventKind::Retransmit(r)
            }
            EventKind::Reset(r) => EventKind::Reset(Box::new(self.reset(r))),
            EventKind::Sample(_) | EventKind::Exit { .. } | EventKind::Lost(_) => event.kind.clone(),
            EventKind::Finding(f) => EventKind::Finding(Box::new(self.finding(f))),
            EventKind::Action(a) => EventKind::Action(Box::new(self.action(a))),
            EventKind::Limits(l) => EventKind::Limits(Box::new(self.limits(l))),
            EventKind::End(e) => {
                let mut e = e.clone();
                e.reason = self.text(&e.reason);
                EventKind::End(e)
            }
        };
        Event { at: event.at, kind }
    }

    fn session(&mut self, s: &Session) -> Session {
        let plain =
            |t: &str, extra: &str| t.len() <= 64 && t.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c));
        let kernel = if plain(&s.kernel_release, ".-+~_") {
            // The local part of a self-built kernel's version may carry a name.
            let end =
                s.kernel_release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.kernel_release.len());
            let (number, local) = s.kernel_release.split_at(end);
            let distribution =
                ["amd64", "arm64", "generic", "cloud", "azure", "aws", "gcp", "el", "fc", "arch", "wsl2", "rc"];
            let known = local.to_ascii_lowercase().split(['-', '.', '+', '_', '~']).all(|part| {
                let letters = part.trim_matches(|c: char| c.is_ascii_digit());
                letters.is_empty()
                    || letters == "deb"
                    || letters == "bpo"
                    || letters == "ubuntu"
                    || letters == "microsoft"
                    || letters == "standard"
                    || letters == "x86_64"
                    || letters == "x86"
                    || distribution.contains(&letters)
                    || distribution.contains(&part)
            });
            if known { s.kernel_release.clone() } else { number.to_owned() }
        } else {
            text::REMOVED.into()
        };
        Session {
            agent_version: if plain(&s.agent_version, ".-+") { s.agent_version.clone() } else { text::REMOVED.into() },
            kernel_release: kernel,
            arch: if plain(&s.arch, "_-") { s.arch.clone() } else { text::REMOVED.into() },
            command: command(&s.command),
            targets: Targets {
                pids: s.targets.pids.clone(),
                tree: s.targets.tree,
                all: s.targets.all,
                comms: s.targets.comms.iter().map(|c| self.comm(&c.as_str().into()).to_string()).collect(),
                cgroup: s.targets.cgroup.as_ref().map(|_| text::REMOVED.into()),
                destinations: s.targets.destinations.iter().map(|d| self.destination(d)).collect(),
            },
            hooks: (s.hooks.iter())
                .map(|h| Hook {
                    name: self.text(&h.name),
                    backend: self.text(&h.backend),
                    attached: h.attached,
                    why_not: h.why_not.as_ref().map(|w| self.text(w)),
                })
                .collect(),
            sysctl: (s.sysctl.iter()).filter(|(k, _)| plain(k, "_./")).map(|(k, v)| (k.clone(), *v)).collect(),
            limits: self.texts(&s.limits),
        }
    }

    fn update(&mut self, u: &SocketUpdate) -> SocketUpdate {
        let mut new = u.clone();
        new.remote_name = self.named(&u.remote_name, u.flow);
        new.flow = self.flow(u.flow);
        new.owners = u.owners.as_ref().map(|o| self.owners(o));
        new
    }

    fn reset(&mut self, r: &Reset) -> Reset {
        let mut new = r.clone();
        new.flow = self.flow(r.flow);
        if !r.origin_why.is_empty() {
            new.origin_why = self.text(&r.origin_why).into();
        }
        if let Some(reason) = &r.kernel_reason
            && !reason.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        {
            new.kernel_reason = Some(self.text(reason).into());
        }
        new
    }

    fn finding(&mut self, f: &Finding) -> Finding {
        let mut new = f.clone();
        new.destination = f.destination.as_ref().map(|d| self.destination(d));
        new.summary = self.text(&f.summary);
        for e in &mut new.evidence {
            e.text = self.text(&e.text);
        }
        new.rivals = self.texts(&f.rivals);
        new.advice = self.texts(&f.advice);
        new
    }

    fn action(&mut self, a: &ActionRecord) -> ActionRecord {
        let mut new = a.clone();
        new.error = a.error.as_ref().map(|t| self.text(t));
        new.note = a.note.as_ref().map(|t| self.text(t));
        new.remote = a.remote.as_ref().map(|t| self.destination(t));
        new
    }

    fn limits(&mut self, l: &IdleLimits) -> IdleLimits {
        let flow = Flow { local: l.remote, remote: l.remote };
        let name = self.named(&l.name, Some(flow));
        IdleLimits { name, remote: self.addresses.socket(l.remote), ..l.clone() }
    }

    /// A whole picture for a report: sockets with their timelines, findings, session.
    pub fn snapshot(&mut self, s: &Snapshot) -> Snapshot {
        // Sockets first: their names are then known when texts are looked at.
        let sockets: Vec<Socket> = s.sockets.iter().map(|x| self.socket(x)).collect();
        let sockets = (sockets.into_iter().zip(&s.sockets))
            .map(|(mut new, old)| {
                new.history.clone_from(&old.history);
                for words in new.history.words_mut() {
                    *words = self.text(words).into();
                }
                if let Some(r) = old.last_reset.get() {
                    new.last_reset.put(&self.reset(r));
                }
                Shared::new(new)
            })
            .collect();
        Snapshot {
            session: Arc::new(self.session(&s.session)),
            sockets,
            limits: s.limits.iter().map(|l| Arc::new(self.limits(l))).collect(),
            findings: s.findings.iter().map(|f| Arc::new(self.finding(f))).collect(),
            ..s.clone()
        }
    }

    /// A socket as a `socket` line needs it; its history, which lines do not carry, is left out.
    pub fn socket(&mut self, s: &Socket) -> Socket {
        let mut new = s.clone();
        new.history.clear();
        new.last_reset.clear();
        new.remote_name = self.named(&s.remote_name, s.flow);
        new.flow = self.flow(s.flow);
        new.owners = self.owners(&s.owners);
        new
    }
}

fn is_pseudonym(host: &str) -> bool {
    host == "host.example"
        || host.strip_prefix("host-").and_then(|h| h.strip_suffix(".example")).is_some_and(|n| n.parse::<u32>().is_ok())
}

/// The agent's own command line without any value: `agent watch --pid …`.
fn command(words: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for (n, word) in words.iter().enumerate() {
        let flag = word.strip_prefix("--").map(|w| w.split('=').next().unwrap_or_default());
        let known = ["watch", "run", "guard", "keepalive", "close", "replay", "report", "probe"];
        match flag {
            _ if n == 0 => out.push("agent".into()),
            Some("") => break,
            Some(name) if name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') => out.push(format!("--{name}")),
            None if n == 1 && known.contains(&&**word) => out.push(word.clone()),
            _ => {
                if out.last().is_some_and(|w| w != "…") {
                    out.push("…".into());
                }
            }
        }
    }
    out
}
