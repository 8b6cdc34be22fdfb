//! Destinations given by name: resolved, and followed when DNS changes.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::destination::Destination;
use crate::model::{DestMask, DestPrefix, Mono, canonical};

/// How often names are resolved again. Shorter than most records live, long enough to be no load.
pub const REFRESH: Duration = Duration::from_secs(30);
/// A resolver that does not answer must not hold up the start.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses kept per name, old ones included: sockets live on after DNS has moved. The longest unseen leave first.
const MAX_ADDRESSES: usize = 64;

/// Addresses of a name, or why there are none.
type Answer = Result<Vec<IpAddr>, String>;

/// One look-up of every name.
#[derive(Debug, Default)]
pub struct Lookup {
    answers: Vec<(Arc<str>, Answer)>,
}

/// The user's destinations with what their names resolve to.
#[derive(Debug, Default)]
pub struct Names {
    destinations: Vec<Destination>,
    /// Those of them that are no names, for [`Self::matches`], which is asked for every new connection.
    fixed: Vec<DestMask>,
    /// Per name: addresses with the time when DNS last gave them.
    addresses: HashMap<Arc<str>, Vec<(IpAddr, Mono)>>,
}

impl Names {
    pub fn new(destinations: Vec<Destination>) -> Self {
        let fixed = destinations.iter().filter_map(Destination::prefix).map(DestMask::from).collect();
        Self { destinations, fixed, addresses: HashMap::new() }
    }

    /// Resolves everything now, for commands that take one look. Blocks for at most the look-up's timeout.
    pub fn resolved(destinations: Vec<Destination>, now: Mono) -> Result<Self, String> {
        let mut this = Self::new(destinations);
        if this.has_names() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| format!("cannot start the resolver: {e}"))?;
            let lookup = runtime.block_on(this.lookup());
            // A resolver thread that still waits must not hold up the exit.
            runtime.shutdown_background();
            this.apply_first(lookup, now)?;
        }
        Ok(this)
    }

    /// No `--dst`: everything is meant.
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }

    pub fn has_names(&self) -> bool {
        self.destinations.iter().any(|d| d.name().is_some())
    }

    /// Resolves all names at once, without borrowing `self`: [`Self::apply`] takes the result.
    pub fn lookup(&self) -> impl Future<Output = Lookup> + Send + 'static {
        let mut names: Vec<Arc<str>> = self.destinations.iter().filter_map(|d| d.name().cloned()).collect();
        names.sort();
        names.dedup();
        async move {
            let mut answers = Vec::with_capacity(names.len());
            let tasks: Vec<_> = names.iter().map(|n| resolve(n.clone())).collect();
            for (name, answer) in names.into_iter().zip(futures_util::future::join_all(tasks).await) {
                answers.push((name, answer));
            }
            Lookup { answers }
        }
    }

    /// Takes the answers in; whether any address is new. A name that failed keeps its addresses.
    pub fn apply(&mut self, lookup: Lookup, now: Mono) -> bool {
        let mut changed = false;
        for (name, answer) in lookup.answers {
            let Ok(ips) = answer else { continue };
            let known = self.addresses.entry(name).or_default();
            for ip in ips {
                match known.iter_mut().find(|(k, _)| *k == ip) {
                    Some((_, seen)) => *seen = now,
                    None => {
                        known.push((ip, now));
                        changed = true;
                    }
                }
            }
            known.sort_by_key(|(_, seen)| std::cmp::Reverse(*seen));
            known.truncate(MAX_ADDRESSES);
        }
        changed
    }

    /// As [`Self::apply`], but a name that does not resolve is an error: for the start.
    pub fn apply_first(&mut self, lookup: Lookup, now: Mono) -> Result<(), String> {
        for (name, answer) in &lookup.answers {
            match answer {
                Err(e) => return Err(format!("--dst {name}: cannot resolve the name: {e}")),
                Ok(ips) if ips.is_empty() => return Err(format!("--dst {name}: the name has no address")),
                Ok(_) => {}
            }
        }
        self.apply(lookup, now);
        Ok(())
    }

    /// Entries for the kernel's filter.
    pub fn prefixes(&self) -> Vec<DestPrefix> {
        let mut out: Vec<DestPrefix> = self
            .destinations
            .iter()
            .flat_map(|d| match (d.prefix(), d.name()) {
                (Some(p), _) => vec![p],
                (None, Some(name)) => self.of(name).map(|ip| DestPrefix::host(ip, d.port.unwrap_or(0))).collect(),
                (None, None) => Vec::new(),
            })
            .collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    fn of(&self, name: &str) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.get(name).into_iter().flatten().map(|(ip, _)| *ip)
    }

    /// Whether a connection to `remote` is meant.
    pub fn matches(&self, remote: &SocketAddr) -> bool {
        let by_name = |d: &Destination| {
            d.port.is_none_or(|p| p == remote.port())
                && d.name().is_some_and(|n| self.of(n).any(|ip| ip == remote.ip()))
        };
        self.is_empty() || self.fixed.iter().any(|m| m.matches(remote)) || self.destinations.iter().any(by_name)
    }

    /// The user's name for this remote end. Of several names that resolve to one address, the one that was given with
    /// this port; by the address alone the first is taken.
    pub fn name_of(&self, remote: &SocketAddr) -> Option<Arc<str>> {
        let named = |d: &&Destination| d.name().is_some_and(|name| self.of(name).any(|known| known == remote.ip()));
        let mut all = self.destinations.iter().filter(named);
        let by_port = all.clone().find(|d| d.port == Some(remote.port()));
        by_port.or_else(|| all.find(|d| d.port.is_none())).and_then(|d| d.name().cloned())
    }
}

async fn resolve(name: Arc<str>) -> Answer {
    match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((&*name, 0u16))).await {
        Err(_) => Err(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())),
        Ok(Err(e)) => {
            // std wraps getaddrinfo's text.
            let text = e.to_string();
            Err(text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned())
        }
        Ok(Ok(found)) => {
            let mut ips: Vec<IpAddr> = found.map(|a| canonical(a.ip())).collect();
            ips.sort_unstable();
            ips.dedup();
            Ok(ips)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(destinations: &[&str]) -> Names {
        Names::new(destinations.iter().map(|d| d.parse().unwrap()).collect())
    }

    fn answer(name: &str, ips: &[&str]) -> Lookup {
        Lookup { answers: vec![(name.into(), Ok(ips.iter().map(|i| i.parse().unwrap()).collect()))] }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_follow_dns_and_old_ones_stay() {
        let mut n = names(&["api.test:443", "10.0.0.0/8"]);
        assert!(!n.matches(&at("192.0.2.1:443")));
        assert!(n.apply(answer("api.test", &["192.0.2.1", "2001:db8::1"]), Mono(1)));
        assert!(n.matches(&at("192.0.2.1:443")) && n.matches(&at("[2001:db8::1]:443")) && n.matches(&at("10.9.9.9:1")));
        assert!(!n.matches(&at("192.0.2.1:80")));
        assert_eq!(n.prefixes().len(), 3);
        assert!(!n.apply(answer("api.test", &["192.0.2.1"]), Mono(2)), "nothing new");
        assert!(n.apply(answer("api.test", &["192.0.2.9"]), Mono(3)));
        assert!(n.matches(&at("192.0.2.1:443")) && n.matches(&at("192.0.2.9:443")));
        assert_eq!(n.name_of(&"192.0.2.1:443".parse().unwrap()).as_deref(), Some("api.test"));
        assert_eq!(n.name_of(&"10.9.9.9:443".parse().unwrap()), None);
    }

    #[test]
    fn a_rotating_name_does_not_grow_without_bound() {
        let mut n = names(&["api.test"]);
        for i in 0..200u8 {
            n.apply(answer("api.test", &[&format!("192.0.2.{i}")]), Mono(u64::from(i)));
        }
        assert_eq!(n.prefixes().len(), MAX_ADDRESSES);
        assert!(n.matches(&at("192.0.2.199:1")) && !n.matches(&at("192.0.2.0:1")));
    }

    #[test]
    fn only_the_first_look_up_must_succeed() {
        let failed = || Lookup { answers: vec![("no.test".into(), Err("Name or service not known".into()))] };
        let mut n = names(&["no.test"]);
        assert_eq!(
            n.apply_first(failed(), Mono(0)),
            Err("--dst no.test: cannot resolve the name: Name or service not known".into())
        );
        assert!(!n.apply(failed(), Mono(0)));
    }

    #[test]
    fn without_destinations_everything_is_meant() {
        assert!(names(&[]).matches(&at("192.0.2.1:1")));
    }

    #[tokio::test]
    async fn localhost_resolves() {
        let mut n = names(&["localhost:80"]);
        let lookup = n.lookup().await;
        n.apply_first(lookup, Mono(1)).unwrap();
        assert!(n.matches(&at("127.0.0.1:80")));
    }
}
