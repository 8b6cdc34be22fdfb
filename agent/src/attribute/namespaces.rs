//! What the agent keeps per network namespace: a sock_diag socket, the sysctls, the ports listened on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::sysctl::{self, Sysctls};
use crate::model::{Mono, TcpState};
use crate::source::diag::{Diag, NetNs, Query, States};

/// Namespaces held at once; each costs 8 descriptors (of the 1024 that are usual) and 64 KiB. The longest unused
/// leaves first.
const MAX_NAMESPACES: usize = 64;
/// A dozen reads of open files: cheap enough that a forecast follows a changed sysctl while its user looks on.
const SYSCTL_AGE: Duration = Duration::from_secs(2);
const LISTENERS_AGE: Duration = Duration::from_secs(10);

pub struct Namespace {
    pub netns: NetNs,
    /// Or why not (no CAP_SYS_ADMIN for a foreign namespace).
    diag: Result<Diag, String>,
    sysctl_files: Option<sysctl::Files>,
    sysctls: Sysctls,
    sysctls_read: Option<Mono>,
    listeners: HashSet<u16>,
    listeners_read: Option<Mono>,
    used: Mono,
}

#[derive(Default)]
pub struct Namespaces {
    map: HashMap<u32, Namespace, RandomState>,
}

impl Namespaces {
    /// Enters `netns` into the table, opening its sock_diag socket the first time.
    pub fn enter(&mut self, netns: &NetNs, now: Mono) -> &mut Namespace {
        let inode = netns.inode();
        if self.map.len() >= MAX_NAMESPACES && !self.map.contains_key(&inode) {
            let oldest = self.map.iter().min_by_key(|(_, n)| n.used).map(|(i, _)| *i);
            if let Some(oldest) = oldest {
                self.map.remove(&oldest);
            }
        }
        let entry = self.map.entry(inode).or_insert_with(|| Namespace {
            netns: netns.clone(),
            diag: Diag::open(netns).map_err(|e| e.to_string()),
            sysctl_files: sysctl::Files::open(netns, &sysctl::FORECAST).ok(),
            sysctls: Sysctls::default(),
            sysctls_read: None,
            listeners: HashSet::new(),
            listeners_read: None,
            used: now,
        });
        entry.used = now;
        entry
    }

    pub fn get(&mut self, inode: u32) -> Option<&mut Namespace> {
        self.map.get_mut(&inode)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.map.values()
    }

    pub fn inodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.map.keys().copied()
    }

    /// Namespaces that could not be entered, with the reason.
    pub fn closed(&self) -> impl Iterator<Item = (u32, &str)> + '_ {
        self.map.iter().filter_map(|(i, n)| n.diag.as_ref().err().map(|e| (*i, e.as_str())))
    }
}

impl Namespace {
    pub fn diag(&mut self) -> io::Result<&mut Diag> {
        self.diag.as_mut().map_err(|e| io::Error::other(e.clone()))
    }

    /// The sysctls of this namespace, at most 2 s old; the kernel's defaults where they cannot be read.
    pub fn sysctls(&mut self, now: Mono) -> Sysctls {
        if self.sysctls_read.is_none_or(|t| now.since(t) >= SYSCTL_AGE) {
            self.sysctls_read = Some(now);
            if let Some(files) = &self.sysctl_files {
                self.sysctls = Sysctls::from_map(&files.read());
            }
        }
        self.sysctls
    }

    /// All sysctls of interest by name, for the session line.
    pub fn sysctl_map(&self) -> BTreeMap<String, Option<i64>> {
        sysctl::Files::open(&self.netns, &sysctl::NAMES).map(|f| f.read()).unwrap_or_default()
    }

    /// Whether something listens on local port `port`, at most 10 s ago: a connection with that local port was
    /// accepted, not made.
    pub fn listens(&mut self, port: u16, now: Mono) -> bool {
        if self.listeners_read.is_none_or(|t| now.since(t) >= LISTENERS_AGE) {
            self.listeners_read = Some(now);
            let query = Query { states: States::of(&[TcpState::Listen]), info: false, filter: &[] };
            let mut ports = HashSet::new();
            if let Ok(diag) = &mut self.diag
                && diag.dump(&query, |s| ports.extend([s.flow.local.port()])).is_ok()
            {
                self.listeners = ports;
            }
        }
        self.listeners.contains(&port)
    }
}
