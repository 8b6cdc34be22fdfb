//! Where live events come from: kernel programs where they can be had, else nothing but polling.

use std::path::PathBuf;

use anyhow::Result;

use crate::attribute::{Attribution, Names};
use crate::config::WatchConfig;
use crate::model::{Counters, Event, Hook, Lost, SocketId};
use crate::source::ebpf::{EbpfSource, KernelTotals, Options};

pub struct Feed {
    kernel: Option<EbpfSource>,
    hooks: Vec<Hook>,
    limits: Vec<String>,
}

impl Feed {
    pub fn attach(config: &WatchConfig, names: &Names) -> Result<Self> {
        let options = Options {
            backend: config.backend,
            all: config.targets.all,
            pids: config.targets.pids.iter().map(|p| (*p, config.targets.tree)).collect(),
            tree: config.targets.tree,
            destinations: (!names.is_empty()).then(|| names.prefixes()),
            provenance: if config.provenance { cgroups(config) } else { Vec::new() },
            kernel_log: config.kernel_log,
            ring_size: config.ring_size,
            max_sockets: config.max_sockets,
        };
        let loaded = crate::source::ebpf::load(&options)?;
        let mut limits = loaded.limits;
        let mut hooks = loaded.hooks;
        if loaded.source.is_none() {
            hooks.push(Hook { name: "sock_diag".into(), backend: "sock_diag".into(), attached: true, why_not: None });
            limits.push(format!(
                "polling sock_diag every {} ms: resets and retransmits between two looks are seen only by their traces",
                config.sample.as_millis()
            ));
        }
        Ok(Self { kernel: loaded.source, hooks, limits })
    }

    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// Tells the kernel side whose sockets to watch; safe to repeat.
    pub fn know(&mut self, attribution: &Attribution) {
        let Some(kernel) = &mut self.kernel else { return };
        kernel.know(attribution.pids(), attribution.sockets().map(known), attribution.listeners());
    }

    pub fn set_destinations(&mut self, names: &Names) -> Result<()> {
        match &mut self.kernel {
            Some(k) if !names.is_empty() => k.set_destinations(&names.prefixes()),
            _ => Ok(()),
        }
    }

    /// The next events; without kernel programs it waits for ever (the caller's ticks poll). Cancel-safe.
    pub async fn next(&mut self, out: &mut Vec<Event>) -> Result<()> {
        match &mut self.kernel {
            Some(k) => k.next_batch(out).await,
            None => std::future::pending().await,
        }
    }

    /// What is in the ring now, without waiting; false once it is empty.
    pub fn poll(&mut self, out: &mut Vec<Event>) -> bool {
        self.kernel.as_mut().is_some_and(|k| k.drain(out) > 0)
    }

    /// Exact totals of the kernel, if it counts.
    pub fn totals(&self) -> Option<KernelTotals> {
        self.kernel.as_ref().and_then(|k| k.totals().ok())
    }

    pub fn lost(&mut self) -> Lost {
        self.kernel.as_mut().map(EbpfSource::take_lost).unwrap_or_default()
    }

    /// Exact counts of sockets whose detail may have been lost.
    pub fn counters(&mut self) -> Vec<(SocketId, Counters, bool)> {
        self.kernel.as_mut().map(EbpfSource::sweep).unwrap_or_default()
    }
}

fn known(k: &crate::attribute::Known) -> crate::source::ebpf::KnownSocket {
    crate::source::ebpf::KnownSocket { id: k.id, flow: k.flow, listener: k.listener, gone: k.gone.is_some() }
}

/// The cgroup2 directories whose packets are looked at: those of the targets, or the root of all.
fn cgroups(config: &WatchConfig) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    if let Some(c) = crate::attribute::targets::cgroup_of_spec(&config.targets) {
        dirs.push(c);
    }
    dirs.extend(config.targets.pids.iter().filter_map(|p| crate::source::ebpf::cgroup_of(*p)));
    if dirs.is_empty() {
        dirs.extend(crate::source::ebpf::cgroup_root());
    }
    dirs.sort();
    dirs.dedup();
    dirs
}
