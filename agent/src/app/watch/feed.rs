//! Where live events come from: kernel programs where they can be had, else nothing but polling.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::attribute::{Attribution, Names};
use crate::config::WatchConfig;
use crate::model::{Event, Flow, Hook, Lost, Reset};
use crate::source::cgroup2;
use crate::source::diag::KeptDiags;
use crate::source::ebpf::klog::KernelLog;
use crate::source::ebpf::{EbpfSource, Fork, KernelTotals, Loaded, Options};

pub struct Feed {
    kernel: Option<Box<EbpfSource>>,
    hooks: Vec<Hook>,
    limits: Vec<String>,
    tree: bool,
    /// What the kernel side was told already.
    pids: BTreeSet<u32>,
    listeners: BTreeSet<(u32, u16)>,
    lost: bool,
}

impl Feed {
    /// Loads and attaches what this machine allows; with `--backend` a failure is one.
    pub fn attach(config: &WatchConfig, names: &Names, diags: &KeptDiags) -> Result<Self> {
        let prefixes = (!names.is_empty()).then(|| names.prefixes());
        let options = Options {
            backend: config.backend,
            all: config.targets.all,
            pids: config.targets.pids.iter().map(|p| (*p, config.targets.tree)).collect(),
            tree: config.targets.tree,
            destinations: prefixes,
            provenance: if config.provenance { cgroups(config) } else { Vec::new() },
            kernel_log: config.kernel_log,
            ring_size: config.ring_size,
            max_sockets: config.max_sockets,
            diags: diags.clone(),
            ..Options::default()
        };
        let mut feed = Self {
            kernel: None,
            hooks: Vec::new(),
            limits: Vec::new(),
            tree: config.targets.tree,
            pids: config.targets.pids.iter().copied().collect(),
            listeners: BTreeSet::new(),
            lost: false,
        };
        match EbpfSource::load(&options)? {
            Loaded::Source(source) => {
                feed.hooks = source.hooks().to_vec();
                feed.limits = source.limits().to_vec();
                if config.provenance && options.provenance.is_empty() {
                    feed.limits.push(
                        "no cgroup2 is mounted, so packets cannot be looked at: who sent a RST stays unknown where the \
                         socket's own facts do not tell (mount -t cgroup2 none /sys/fs/cgroup)"
                            .into(),
                    );
                }
                feed.kernel = Some(source);
            }
            Loaded::Polling { hooks, limits } => {
                feed.hooks = hooks;
                feed.hooks.push(Hook {
                    name: "sock_diag".into(),
                    backend: "sock_diag".into(),
                    attached: true,
                    why_not: None,
                });
                feed.limits = limits;
                feed.limits.push(format!(
                    "polling sock_diag every {} ms: what happens between two looks is seen only by its traces",
                    config.sample.as_millis()
                ));
            }
        }
        Ok(feed)
    }

    pub fn has_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// Whether sockets that an event told of are to be told back to the kernel side, too.
    pub fn wants_met(&self) -> bool {
        self.kernel.as_ref().is_some_and(|k| !k.tells_cookies())
    }

    /// Tells the kernel side whose sockets to watch, as far as it does not know yet.
    pub fn know(&mut self, attribution: &mut Attribution) -> Result<()> {
        let Some(kernel) = &mut self.kernel else {
            while attribution.take_new().is_some() {}
            return Ok(());
        };
        let pids: BTreeSet<u32> = attribution.pids().collect();
        for pid in pids.difference(&self.pids) {
            kernel.add_pid(*pid, self.tree)?;
        }
        for pid in self.pids.difference(&pids) {
            kernel.remove_pid(*pid)?;
        }
        self.pids = pids;
        while let Some(new) = attribution.take_new() {
            if let Err(e) = kernel.add_socket(new.id, new.flow.filter(connected), None) {
                attribution.put_back(new);
                return Err(e);
            }
        }
        for (netns, port) in attribution.listeners() {
            if self.listeners.insert((netns, port)) {
                kernel.add_listener(netns, port)?;
            }
        }
        Ok(())
    }

    pub fn set_destinations(&mut self, names: &Names) -> Result<()> {
        match &mut self.kernel {
            Some(k) if !names.is_empty() => k.set_destinations(Some(&names.prefixes())),
            _ => Ok(()),
        }
    }

    /// The kernel programs' own diagnostics, if they were asked for.
    pub fn kernel_log(&mut self) -> Option<KernelLog> {
        self.kernel.as_mut()?.take_kernel_log()
    }

    /// Until there may be events; without kernel programs for ever (the caller's ticks poll). Cancel-safe.
    pub async fn ready(&mut self) -> Result<()> {
        match &mut self.kernel {
            Some(k) => k.ready().await.context("cannot read the ring"),
            None => std::future::pending().await,
        }
    }

    /// Appends the events of at most `most` records to `out`; fewer: there are no more for now.
    pub fn take(&mut self, most: usize, out: &mut Vec<Event>) -> usize {
        self.kernel.as_mut().map_or(0, |k| k.take(most, out))
    }

    /// Takes the memory of a RST back that was told: the next ones are put there.
    pub fn reuse(&mut self, reset: Box<Reset>) {
        if let Some(k) = &mut self.kernel {
            k.reuse(reset);
        }
    }

    /// Counts what nobody has the time to read any more as lost.
    pub fn abandon(&mut self) {
        if let Some(k) = &mut self.kernel {
            k.abandon();
        }
    }

    /// Children of tree targets since the last call.
    pub fn forks(&mut self) -> Vec<Fork> {
        self.kernel.as_mut().map(|k| k.take_forks()).unwrap_or_default()
    }

    /// Exact totals of the kernel, if it counts.
    pub fn totals(&self) -> Option<KernelTotals> {
        self.kernel.as_ref().and_then(|k| k.totals().ok())
    }

    pub fn lost(&mut self) -> Lost {
        let lost = self.kernel.as_mut().and_then(|k| k.take_lost().ok()).unwrap_or_default();
        self.lost |= lost.total() > 0;
        lost
    }

    /// Exact counts of every socket, if some of the detail was lost since the last call or it is the end: it reads the
    /// kernel's whole table.
    pub fn sweep(&mut self, end: bool) -> Vec<Event> {
        let mut out = Vec::new();
        if std::mem::take(&mut self.lost) || end {
            // What cannot be read now stays in the table for the next time.
            let _ = self.kernel.as_mut().map(|k| k.sweep(end, &mut out));
        }
        out
    }
}

fn connected(flow: &Flow) -> bool {
    flow.remote.port() != 0
}

/// The cgroup2 directories whose packets are looked at: those of the targets, else (names, everything) the root.
fn cgroups(config: &WatchConfig) -> Vec<PathBuf> {
    let t = &config.targets;
    let mut dirs: Vec<PathBuf> = t.pids.iter().filter_map(|p| cgroup2::of_process(*p)).collect();
    dirs.extend(t.cgroup.clone());
    if t.pids.is_empty() && t.cgroup.is_none() {
        dirs.extend(cgroup2::mount());
    }
    dirs.sort();
    // A program on a cgroup sees the packets of those below it, too.
    let mut outer: Vec<PathBuf> = Vec::new();
    for d in dirs {
        if !outer.iter().any(|o| d.starts_with(o)) {
            outer.push(d);
        }
    }
    outer
}
