//! Free text: addresses, host names, paths, keys and known names go, the sentence stays readable.

use std::net::{IpAddr, SocketAddr};

use super::Redactor;

pub(super) const REMOVED: &str = "<removed>";
const PATH: &str = "<path>";

/// Text with dots that is no host name: what the rules' own sentences use.
const OUR_WORDS: [&str; 14] = [
    "node.js",
    "http.agent",
    "http.client",
    "http.transport",
    "net.connect",
    "net.dialer",
    "e.g",
    "i.e",
    "agent.events",
    "socket.setkeepalive",
    "asyncio.open",
    "httpx.limits",
    "requests.adapters",
    "aiohttp.tcpconnector",
];

/// Beginnings of kernel and API names, which look like keys or hosts.
const OUR_PREFIXES: [&str; 10] =
    ["net.ipv4.", "net.ipv6.", "net.core.", "net.netfilter.", "tcp_", "nf_", "so_", "inet_", "cap_", "--"];

fn separates(c: char) -> bool {
    c.is_whitespace() || "\"'`()<>{},;|=«»→←…&$!*".contains(c)
}

impl Redactor {
    /// `text` without what identifies. Works word by word: a word that is an address, a host, a path or looks like a key
    /// is replaced, and names learned from sockets and from this machine go wherever they stand.
    pub fn text(&mut self, text: &str) -> String {
        if let Some(done) = self.memo.get(text) {
            return done.clone();
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        // A word after `NAME=` is a value: what kind of name decides.
        let mut secret_next = false;
        while !rest.is_empty() {
            let end = rest.find(separates).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if !word.is_empty() {
                let assigned = after.starts_with('=');
                if secret_next {
                    out.push_str(REMOVED);
                } else {
                    let new = self.word(word);
                    out.push_str(&new);
                }
                secret_next = assigned && names_a_secret(word);
            }
            let Some(c) = after.chars().next() else { break };
            if c != '=' {
                secret_next = false;
            }
            out.push(c);
            rest = &after[c.len_utf8()..];
        }
        let out = self.known_names(out);
        if self.memo.len() >= 1_024 {
            self.memo.clear();
        }
        self.memo.insert(text.to_owned(), out.clone());
        out
    }

    fn word(&mut self, word: &str) -> String {
        // Punctuation around a word is the sentence's, except the bracket that begins an IPv6 address.
        let core = word.trim_start_matches(['-', '.', ':', '#', '~']).trim_end_matches(['.', ':', '-', '?', '#', ']']);
        let core = if core.starts_with('[') && word.contains("]") {
            let from = word.find('[').unwrap_or(0);
            word[from..].trim_end_matches(['.', '-', '?', '#'])
        } else {
            core
        };
        // `::1` and `~/x` begin with what was trimmed.
        if let Some(new) = self.address(word) {
            return new;
        }
        if word.starts_with("~/") {
            return PATH.into();
        }
        if core.is_empty() {
            return word.to_owned();
        }
        let Some(at) = word.find(core) else { return REMOVED.into() };
        let (before, after) = (&word[..at], &word[at + core.len()..]);
        format!("{before}{}{after}", self.core(core))
    }

    fn core(&mut self, word: &str) -> String {
        if let Some(new) = self.address(word) {
            return new;
        }
        if let Some((scheme, rest)) = word.split_once("://") {
            let host = self.host_and_path(rest);
            let scheme = if scheme.bytes().all(|b| b.is_ascii_alphabetic()) { scheme } else { REMOVED };
            return format!("{scheme}://{host}");
        }
        let lower = word.to_ascii_lowercase();
        if let Some((user, host)) = word.split_once('@')
            && !user.is_empty()
        {
            return format!("{REMOVED}@{}", self.host_and_path(host));
        }
        if word.contains('/') || word.contains('\\') {
            if lower.starts_with("/proc/sys/net/") || is_triple(word) || is_alternative(word) {
                return word.to_owned();
            }
            if word.starts_with('/') || word.contains('\\') || word.starts_with('.') {
                return PATH.into();
            }
            return self.host_and_path(word);
        }
        if let Some((host, port)) = word.rsplit_once(':')
            && port.parse::<u16>().is_ok()
            && is_host(host)
        {
            return self.host_with_port(host, port);
        }
        if is_host(word) {
            return self.host(word);
        }
        if looks_like_a_key(word) {
            return REMOVED.into();
        }
        self.dotted_quads(word)
    }

    fn host_with_port(&mut self, host: &str, port: &str) -> String {
        let port = match port.parse::<u16>() {
            Ok(p) if !self.is_kept_host(host) => self.addresses.port(p).to_string(),
            _ => port.to_owned(),
        };
        format!("{}:{port}", self.host(host))
    }

    /// `host[:port][/path]`.
    fn host_and_path(&mut self, text: &str) -> String {
        let (authority, path) = match text.find(['/', '?', '#']) {
            Some(at) => (&text[..at], true),
            None => (text, false),
        };
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let host = match self.address(authority) {
            Some(new) => new,
            None => match authority.rsplit_once(':') {
                Some((host, port)) => self.host_with_port(host, port),
                None => self.host(authority),
            },
        };
        if path { format!("{host}/{PATH}") } else { host }
    }

    /// An address, with or without a port, a prefix length or a zone.
    fn address(&mut self, word: &str) -> Option<String> {
        if let Ok(a) = word.parse::<SocketAddr>() {
            return Some(self.addresses.socket(a).to_string());
        }
        let bare = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')).unwrap_or(word);
        let bare = bare.split_once('%').map_or(bare, |(a, _)| a);
        if let Ok(a) = bare.parse::<IpAddr>() {
            return Some(self.addresses.ip(a).to_string());
        }
        let (net, bits) = bare.split_once('/')?;
        let (net, bits) = (net.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
        Some(format!("{}/{bits}", self.addresses.ip(net)))
    }

    /// Addresses that stand inside a word: `a10.1.2.3b`, `10.1.2.3-10.1.2.9`.
    fn dotted_quads(&mut self, word: &str) -> String {
        let mut out = String::new();
        let mut rest = word;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            out.push_str(&rest[..at]);
            let run = &rest[at..];
            let end = run.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(run.len());
            let (number, after) = run.split_at(end);
            match number.trim_end_matches('.').parse::<IpAddr>() {
                Ok(ip) => out.push_str(&self.addresses.ip(ip).to_string()),
                Err(_) if number.matches('.').count() >= 3 => out.push_str(REMOVED),
                Err(_) => out.push_str(number),
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// Names of hosts and processes that were seen in their own fields, and of this machine.
    fn known_names(&self, mut text: String) -> String {
        for (name, new) in &self.names {
            text = replace_word(&text, name, new);
        }
        text
    }
}

/// Replaces `name` in any case, where no letter or digit touches it on either side; longer names also inside words.
fn replace_word(text: &str, name: &str, new: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::new();
    let mut from = 0;
    while let Some(at) = lower[from..].find(name).map(|n| n + from) {
        let end = at + name.len();
        let touches = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let inside = touches(lower[..at].chars().next_back()) || touches(lower[end..].chars().next());
        out.push_str(&text[from..at]);
        out.push_str(if inside && name.len() < 6 { &text[at..end] } else { new });
        from = end;
    }
    out.push_str(&text[from..]);
    out
}

fn names_a_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let environment = name.len() > 1 && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    environment
        || ["key", "token", "secret", "passw", "auth", "cred", "cookie", "user", "host", "home"]
            .iter()
            .any(|s| lower.contains(s))
}

/// `30s/10s/3`: keepalive values.
fn is_triple(word: &str) -> bool {
    word.split('/').all(|p| p.len() <= 6 && p.trim_end_matches('s').bytes().all(|b| b.is_ascii_digit()))
}

/// `NAT/firewall`, `and/or`, `cgroup/connect4`: two short plain words. A path has more parts or other characters.
fn is_alternative(word: &str) -> bool {
    let parts: Vec<&str> = word.split('/').collect();
    parts.len() == 2
        && parts
            .iter()
            .all(|p| (1..=12).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

/// At least two labels, the last one of letters. `IdleConnTimeout` in the last place is code, no host.
fn is_host(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    if OUR_WORDS.contains(&&*lower) || OUR_PREFIXES.iter().any(|p| lower.starts_with(p)) {
        return false;
    }
    let labels: Vec<&str> = word.split('.').collect();
    let Some(last) = labels.last() else { return false };
    let camel = last.as_bytes().windows(2).any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase());
    labels.len() >= 2
        && labels.iter().all(|l| !l.is_empty() && l.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_'))
        && last.chars().count() >= 2
        && last.chars().all(char::is_alphabetic)
        && !camel
}

/// Long, with letters and digits, and no name of the kernel's: an API key, a hash, an account number.
fn looks_like_a_key(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let ours = OUR_PREFIXES.iter().any(|p| lower.starts_with(p));
    let time = crate::schema::Time::parse(word).is_some();
    let known_start = ["sk-", "ghp_", "gho_", "xox", "akia", "eyj", "glpat-", "npm_", "pypi-"];
    let digits = word.bytes().any(|b| b.is_ascii_digit());
    let letters = word.bytes().any(|b| b.is_ascii_alphabetic());
    !ours && !time && ((word.len() >= 16 && digits && letters) || known_start.iter().any(|p| lower.starts_with(p)))
}

#[cfg(test)]
mod tests {
    use super::super::Redactor;

    fn clean(text: &str) -> String {
        Redactor::new(&[]).text(text)
    }

    #[test]
    fn sentences_of_the_rules_stay_as_they_are() {
        for text in [
            "the path forgot this idle connection; 8 retransmits, backoff 7, 94 KiB stuck; gives up in 13:38",
            "set SO_KEEPALIVE 30s/10s/3 on 5 sockets; TCP_USER_TIMEOUT rescues it, net.ipv4.tcp_retries2 is 15",
            "undici keepAliveTimeout, Go http.Transport.IdleConnTimeout, hyper pool_idle_timeout 90 s",
            "TTL 64, the flow has 63; IP ID 0 (a NAT/firewall)",
            "agent keepalive --pid 4182 --idle 30s --interval 10s --count 3",
            "302.0 s idle, 0.25 % of 1,204 segments, e.g. node.js",
            "at 2026-11-23T17:00:00.000000001Z",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn what_identifies_goes() {
        for (text, gone) in [
            ("connect to 93.184.216.34:443 failed", "93.184.216.34"),
            ("from [2a00:1450::5]:443.", "2a00:1450::5"),
            ("(2a00:1450::5)", "2a00:1450::5"),
            ("range 10.1.2.3-10.1.2.9", "10.1.2.3"),
            ("x10.1.2.3y", "10.1.2.3"),
            ("route 10.9.0.0/16,", "10.9.0.0"),
            ("peer vault.corp.internal:8200 silent", "vault"),
            ("see https://alice:pw@git.corp.example/alice/repo?token=abc", "alice"),
            ("see https://git.corp.example/alice/repo", "corp"),
            ("cannot open /home/alice/.config/agent.toml: denied", "alice"),
            ("~/alice/x", "alice"),
            ("C:\\Users\\alice", "alice"),
            ("mail alice@corp.example", "alice"),
            ("API_KEY=hunter2", "hunter2"),
            ("--api-key=hunter2 on", "hunter2"),
            ("Bearer sk-ant-REDACTME", "REDACTME"),
            ("id 0123456789abcdef0123", "0123456789abcdef0123"),
            ("fe80::1%eth-alice", "alice"),
        ] {
            let out = clean(text);
            assert!(!out.contains(gone), "{text} -> {out}");
        }
    }
}
