//! One network namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace without a name in the file system: gone with its last descriptor and process.
#[derive(Debug)]
pub struct Ns {
    file: File,
    name: String,
}

/// Counters of /proc/net/snmp, netstat and snmp6 of one namespace, as `Tcp.RetransSegs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snmp(BTreeMap<String, i64>);

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Ns {
    /// A new namespace with its loopback up. `role` is for messages.
    pub fn new(role: &str) -> Result<Self> {
        let name = format!("agt-{}-{}-{role}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // A thread of its own: unshare and setns change the calling thread for good.
        let made = std::thread::spawn(|| -> Result<File> {
            // SAFETY: CLONE_NEWNET alone shares no memory or descriptors anew.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace; run as root")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow::anyhow!("the thread that makes {name} panicked"))??;
        let ns = Self { file, name };
        // Duplicate address detection keeps a new address silent for a second or two: SYNs would be retransmitted.
        ns.sysctl("net.ipv6.conf.default.accept_dad", 0)?;
        ns.sysctl("net.ipv6.conf.default.router_solicitations", 0)?;
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number that the kernel shows as the namespace's inode.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// A path by which other programs can open the namespace while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `f` on a thread inside the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<T> {
                    move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                        .with_context(|| format!("cannot enter {}", self.name))?;
                    Ok(f())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes `command` start inside the namespace. Only the network changes: `ip netns exec` would hide tracefs.
    pub fn enter_on_exec(&self, command: &mut Command) {
        let fd: RawFd = self.file.as_raw_fd();
        // SAFETY: setns is one system call, safe between fork and exec; the descriptor is open because the caller
        // holds `self` while it spawns.
        unsafe {
            command.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
    }

    /// Runs `ip ARGS`; several lines are a batch.
    pub fn ip(&self, lines: &str) -> Result<String> {
        super::run_tool(self, "ip", &["-batch", "-"], lines)
    }

    /// Loads nft rules.
    pub fn nft(&self, rules: &str) -> Result<String> {
        super::run_tool(self, "nft", &["-f", "-"], rules)
    }

    /// Packets counted by the named counter of table `inet lab`.
    pub fn nft_counter(&self, name: &str) -> Result<u64> {
        let out = super::run_tool(self, "nft", &["list", "counter", "inet", "lab", name], "")?;
        let words: Vec<&str> = out.split_whitespace().collect();
        words
            .iter()
            .position(|w| *w == "packets")
            .and_then(|i| words.get(i + 1)?.parse().ok())
            .with_context(|| format!("nft printed no packet count for counter {name}: {out}"))
    }

    /// Writes a sysctl of this namespace, e.g. `net.ipv4.tcp_retries2`.
    pub fn sysctl(&self, name: &str, value: impl ToString) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = value.to_string();
        self.run(|| std::fs::write(&path, &value))?.with_context(|| format!("cannot write {value} to {path}"))
    }

    pub fn read_sysctl(&self, name: &str) -> Result<String> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let text = self.run(|| std::fs::read_to_string(&path))?.with_context(|| format!("cannot read {path}"))?;
        Ok(text.trim().to_owned())
    }

    /// The kernel's own counters of this namespace: the truth that events are compared with.
    pub fn snmp(&self) -> Result<Snmp> {
        self.run(|| -> Result<Snmp> {
            let mut all = BTreeMap::new();
            // Not /proc/net: that shows the namespace of the process's first thread.
            for file in ["snmp", "netstat"] {
                let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.chunks_exact(2) {
                    let (Some((section, names)), Some((_, values))) =
                        (pair[0].split_once(": "), pair[1].split_once(": "))
                    else {
                        continue;
                    };
                    for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                        all.insert(format!("{section}.{name}"), value.parse()?);
                    }
                }
            }
            Ok(Snmp(all))
        })?
    }
}

impl Snmp {
    /// A counter by `Section.Name`; panics on a name that the kernel does not have.
    pub fn get(&self, name: &str) -> i64 {
        *self.0.get(name).unwrap_or_else(|| panic!("this kernel has no counter {name}"))
    }

    /// How much `name` has grown since `earlier`.
    pub fn since(&self, earlier: &Self, name: &str) -> i64 {
        self.get(name) - earlier.get(name)
    }
}
