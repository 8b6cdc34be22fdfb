//! `--dst`: what a user may write, and what it means. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use crate::model::{DestPrefix, mapped, sanitize};

/// One `--dst`: `HOST|IP|CIDR[:PORT]`, `[IPV6]:PORT`, `[IPV6/BITS]:PORT`, `:PORT`, `*:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// As the user wrote it.
    pub text: String,
    pub host: Host,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Any address (`:443`).
    Any,
    /// A name, to be resolved; lower case.
    Name(Arc<str>),
    /// An address or a network; IPv4 as v4-mapped, `bits` counts from the front of the 128.
    Net { addr: [u8; 16], bits: u8 },
}

impl Destination {
    /// The name to resolve, if it is one.
    pub fn name(&self) -> Option<&Arc<str>> {
        match &self.host {
            Host::Name(name) => Some(name),
            _ => None,
        }
    }

    /// The kernel's filter entry; `None` for a name, which has one per resolved address.
    pub fn prefix(&self) -> Option<DestPrefix> {
        let port = self.port.unwrap_or(0);
        match self.host {
            Host::Any => Some(DestPrefix::new([0; 16], 0, port)),
            Host::Name(_) => None,
            Host::Net { addr, bits } => Some(DestPrefix::new(addr, bits, port)),
        }
    }

    /// Whether `remote` is meant, as far as no name is concerned.
    pub fn matches(&self, remote: &SocketAddr) -> bool {
        self.prefix().is_some_and(|p| p.matches(remote))
    }
}

/// Why a `--dst` is none; the text is for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadDestination(String);

impl fmt::Display for BadDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadDestination {}

impl FromStr for Destination {
    type Err = BadDestination;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The reason quotes parts of the text, which may come from a file: a terminal must not obey them.
        let bad =
            |why: String| BadDestination(format!("--dst '{}': {}", text.escape_debug(), sanitize(why.as_bytes())));
        let (host, port) = parse(text).map_err(bad)?;
        Ok(Self { text: text.to_owned(), host, port })
    }
}

const FORMS: &str = "write a name, an address or a network, with an optional port: api.example.com:443, 192.0.2.1, \
                     10.0.0.0/8:443, [2001:db8::1]:443, :443";

fn parse(text: &str) -> Result<(Host, Option<u16>), String> {
    if text.is_empty() {
        return Err(format!("it is empty; {FORMS}"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let port = match (scheme, host.contains(':')) {
            ("https" | "wss", false) => ":443",
            ("http" | "ws", false) => ":80",
            _ => "",
        };
        return Err(format!("it is a URL; write only host and port: {host}{port}"));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((inner, after)) = rest.split_once(']') else {
            return Err("the closing ']' is missing; write [ADDRESS]:PORT".into());
        };
        let port = match after.strip_prefix(':') {
            Some(p) => Some(port(p)?),
            None if after.is_empty() => None,
            None => return Err("after ']' only :PORT may follow".into()),
        };
        let host = net(inner)?;
        if matches!(host, Host::Net { addr, .. } if Ipv6Addr::from(addr).to_ipv4_mapped().is_some())
            && !inner.contains(':')
        {
            return Err(format!("brackets are for IPv6 addresses; write {inner}"));
        }
        return Ok((host, port));
    }
    // More than one colon without brackets: an IPv6 address or network, which leaves no place for a port.
    if text.matches(':').count() > 1 {
        return Ok((net(text)?, None));
    }
    match text.split_once(':') {
        None if text == "*" => Ok((Host::Any, None)),
        None => Ok((name_or_net(text)?, None)),
        Some(("" | "*", p)) => Ok((Host::Any, Some(port(p)?))),
        Some((host, p)) => Ok((name_or_net(host)?, Some(port(p)?))),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(p) if p > 0 && !text.starts_with('+') => Ok(p),
        _ => Err(format!("'{text}' is no port; a port is a number from 1 to 65535")),
    }
}

/// Only characters that an IPv4 address or network has: such a text is never meant as a name.
fn looks_numeric(text: &str) -> bool {
    text.rsplit('.').next().is_some_and(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()))
}

fn name_or_net(text: &str) -> Result<Host, String> {
    if text.contains('/') || looks_numeric(text) { net(text) } else { name(text) }
}

fn net(text: &str) -> Result<Host, String> {
    let (addr_text, bits_text) = match text.split_once('/') {
        Some((a, b)) => (a, Some(b)),
        None => (text, None),
    };
    if let Some((_, zone)) = addr_text.split_once('%') {
        return Err(format!("an address with a zone cannot be filtered; leave %{zone} out"));
    }
    let addr: IpAddr = if addr_text.contains(':') {
        addr_text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| {
            format!("'{addr_text}' is no IPv6 address; with a port it is written [ADDRESS]:PORT, e.g. [::1]:443")
        })?
    } else {
        addr_text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| {
            if bits_text.is_some() {
                format!("'{addr_text}' is no network address; write 10.0.0.0/8 or 2001:db8::/32")
            } else {
                format!("'{addr_text}' is no IPv4 address (four numbers from 0 to 255)")
            }
        })?
    };
    let (width, skip) = if addr.is_ipv4() { (32u8, 96u8) } else { (128, 0) };
    let bits = match bits_text {
        None => width,
        Some(b) => b
            .parse::<u8>()
            .ok()
            .filter(|n| *n <= width && !b.starts_with('+'))
            .ok_or_else(|| format!("'/{b}' is no prefix length; {addr} takes /0 to /{width}"))?,
    };
    let masked = DestPrefix::new(mapped(addr), skip + bits, 0);
    Ok(Host::Net { addr: masked.addr, bits: masked.bits })
}

/// RFC 1123 names, and underscores, which resolvers take.
fn name(text: &str) -> Result<Host, String> {
    if !text.is_ascii() {
        return Err(format!("'{text}' has letters outside ASCII; write its xn-- form"));
    }
    let bare = text.strip_suffix('.').unwrap_or(text);
    let label_ok = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if bare.len() > 253 || !bare.split('.').all(label_ok) {
        return Err(format!("'{text}' is no host name; {FORMS}"));
    }
    Ok(Host::Name(bare.to_ascii_lowercase().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Destination {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    fn error(text: &str) -> String {
        text.parse::<Destination>().expect_err(text).to_string()
    }

    fn v4(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
        Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets()
    }

    fn v6(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn forms_that_are_taken() {
        let net = |text: &str| match parsed(text) {
            Destination { host: Host::Net { addr, bits }, port, .. } => (addr, bits, port),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(net("192.0.2.1"), (v4(192, 0, 2, 1), 128, None));
        assert_eq!(net("192.0.2.1:443"), (v4(192, 0, 2, 1), 128, Some(443)));
        assert_eq!(net("10.0.0.0/8:443"), (v4(10, 0, 0, 0), 104, Some(443)));
        assert_eq!(net("10.1.2.3/8"), (v4(10, 0, 0, 0), 104, None), "host bits are masked");
        assert_eq!(net("0.0.0.0/0"), (v4(0, 0, 0, 0), 96, None), "all of IPv4, not of IPv6");
        assert_eq!(net("::1"), (v6("::1"), 128, None));
        assert_eq!(net("[::1]"), (v6("::1"), 128, None));
        assert_eq!(net("[::1]:443"), (v6("::1"), 128, Some(443)));
        assert_eq!(net("2001:db8::/32"), (v6("2001:db8::"), 32, None));
        assert_eq!(net("[2001:db8::/32]:443"), (v6("2001:db8::"), 32, Some(443)));
        assert_eq!(net("::ffff:192.0.2.1"), (v4(192, 0, 2, 1), 128, None), "v4-mapped is IPv4");
        for any in [":443", "*:443"] {
            assert_eq!((parsed(any).host, parsed(any).port), (Host::Any, Some(443)), "{any}");
        }
        let d = parsed("API.Example.com.:8443");
        assert_eq!((d.host, d.port), (Host::Name("api.example.com".into()), Some(8443)));
        assert_eq!(parsed("localhost").host, Host::Name("localhost".into()));
        assert_eq!(parsed("my_service-1").host, Host::Name("my_service-1".into()));
        assert_eq!(parsed("3com.com").host, Host::Name("3com.com".into()));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, want) in [
            ("", format!("it is empty; {FORMS}")),
            ("1.2.3.400", "'1.2.3.400' is no IPv4 address (four numbers from 0 to 255)".into()),
            ("1.2.3", "'1.2.3' is no IPv4 address (four numbers from 0 to 255)".into()),
            ("10.0.0.0/33", "'/33' is no prefix length; 10.0.0.0 takes /0 to /32".into()),
            ("10.0.0.0/", "'/' is no prefix length; 10.0.0.0 takes /0 to /32".into()),
            ("2001:db8::/129", "'/129' is no prefix length; 2001:db8:: takes /0 to /128".into()),
            ("host/24", "'host' is no network address; write 10.0.0.0/8 or 2001:db8::/32".into()),
            ("host:0", "'0' is no port; a port is a number from 1 to 65535".into()),
            ("host:99999", "'99999' is no port; a port is a number from 1 to 65535".into()),
            ("host:https", "'https' is no port; a port is a number from 1 to 65535".into()),
            (":", "'' is no port; a port is a number from 1 to 65535".into()),
            ("[::1", "the closing ']' is missing; write [ADDRESS]:PORT".into()),
            ("[::1]443", "after ']' only :PORT may follow".into()),
            ("[1.2.3.4]:443", "brackets are for IPv6 addresses; write 1.2.3.4".into()),
            (
                "2001:db8::1:99999",
                "'2001:db8::1:99999' is no IPv6 address; with a port it is written [ADDRESS]:PORT, e.g. [::1]:443"
                    .into(),
            ),
            ("fe80::1%eth0", "an address with a zone cannot be filtered; leave %eth0 out".into()),
            ("-bad.com", format!("'-bad.com' is no host name; {FORMS}")),
            ("a b", format!("'a b' is no host name; {FORMS}")),
            ("münchen.de", "'münchen.de' has letters outside ASCII; write its xn-- form".into()),
            ("https://api.example.com/v1", "it is a URL; write only host and port: api.example.com:443".into()),
        ] {
            assert_eq!(error(text), format!("--dst '{text}': {want}"));
        }
    }

    #[test]
    fn errors_show_no_control_characters() {
        for text in ["\u{1b}[2J", "\u{1b}]0;x:1", "a:\u{7}", "[\u{1b}]:1", "1.2.3.4/\u{1b}", "é\u{202e}"] {
            let shown = text.parse::<Destination>().unwrap_err().to_string();
            assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown:?}");
        }
    }

    #[test]
    fn matching_is_by_prefix_and_port() {
        let at = |t: &str| t.parse::<SocketAddr>().unwrap();
        assert!(parsed("10.0.0.0/8:443").matches(&at("10.200.3.4:443")));
        assert!(!parsed("10.0.0.0/8:443").matches(&at("10.200.3.4:80")));
        assert!(!parsed("10.0.0.0/8").matches(&at("11.0.0.1:80")));
        assert!(parsed("0.0.0.0/0").matches(&at("11.0.0.1:80")));
        assert!(!parsed("0.0.0.0/0").matches(&at("[::1]:80")));
        assert!(parsed(":443").matches(&at("[::1]:443")));
        assert!(parsed("2001:db8::/33").matches(&at("[2001:db8:7fff::1]:1")));
        assert!(!parsed("2001:db8::/33").matches(&at("[2001:db8:8000::1]:1")));
        assert!(!parsed("example.com").matches(&at("192.0.2.1:443")), "a name matches only once resolved");
    }
}
