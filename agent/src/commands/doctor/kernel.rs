//! The kernel and what it offers in files: BTF, tracefs, cgroup2, the clock.

use crate::source::cgroup2;
use std::collections::HashSet;
use std::path::PathBuf;

use super::{Check, Status};
use crate::source::ebpf::tracefs;

const SECTION: &str = "Kernel";
const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) struct Kernel {
    pub release: String,
    /// (6, 18) of `6.18.5-arch1`.
    pub version: (u32, u32),
    pub arch: String,
    /// Every name in the kernel's BTF; `None` without BTF.
    pub btf: Option<HashSet<Box<[u8]>>>,
    pub btf_bytes: usize,
    /// Where tracefs is mounted and its events can be read.
    pub tracefs: Result<PathBuf, String>,
    pub cgroup2: Option<PathBuf>,
    /// Timer ticks a second (CONFIG_HZ).
    pub hz: Option<u64>,
    /// The mode that is in force: `none`, `integrity`, `confidentiality`; `None` where the kernel has no lockdown.
    pub lockdown: Option<String>,
}

impl Kernel {
    pub(super) fn read() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let btf = std::fs::read(BTF).ok();
        Self {
            version: version(&release),
            release,
            arch: uname.machine().to_string_lossy().into_owned(),
            btf_bytes: btf.as_ref().map_or(0, Vec::len),
            btf: btf.as_deref().and_then(btf_names),
            tracefs: tracefs_of(&mounts),
            cgroup2: cgroup2::mount(),
            hz: coarse_tick().and_then(|tick_ns| 1_000_000_000_u64.checked_div(tick_ns)),
            lockdown: std::fs::read_to_string("/sys/kernel/security/lockdown").ok().as_deref().and_then(chosen),
        }
    }

    /// The kernel's BTF has this name.
    pub(super) fn btf_has(&self, name: &str) -> bool {
        self.btf.as_ref().is_some_and(|names| names.contains(name.as_bytes()))
    }
}

/// The first Linux that counts the runs it skips of programs on classic tracepoints (`trace_call_bpf`).
const SKIPPED_COUNTED: (u32, u32) = (6, 7);

/// (major, minor) of a release string; zeros where it has none.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The string section of a raw BTF blob (see Documentation/bpf/btf.rst: magic, version, flags, hdr_len, type_off,
/// type_len, str_off, str_len). `None` if it is not one.
fn btf_names(raw: &[u8]) -> Option<HashSet<Box<[u8]>>> {
    let number = |at: usize| Some(u32::from_ne_bytes(raw.get(at..at + 4)?.try_into().ok()?) as usize);
    let magic = u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?);
    let (header, offset, length) = (number(4)?, number(16)?, number(20)?);
    let begin = header.checked_add(offset)?;
    let strings = raw.get(begin..begin.checked_add(length)?)?;
    // Only the names that are asked for later: a vmlinux has some 100,000.
    let wanted = |name: &&[u8]| [&b"btf_trace_"[..], b"bpf_", b"tcp_"].iter().any(|p| name.starts_with(p));
    (magic == 0xeb9f).then(|| strings.split(|b| *b == 0).filter(wanted).map(Box::from).collect())
}

fn tracefs_of(mounts: &str) -> Result<PathBuf, String> {
    let place = tracefs::mount_point(mounts).ok_or("not mounted")?;
    match std::fs::read_dir(place.join("events")) {
        Ok(_) => Ok(place),
        Err(e) => Err(format!("{}: {e}", place.display())),
    }
}

/// The coarse clock steps once a tick.
fn coarse_tick() -> Option<u64> {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    (tick.tv_sec == 0).then(|| u64::try_from(tick.tv_nsec).ok()).flatten().filter(|ns| *ns > 0)
}

/// `none [integrity] confidentiality` gives `integrity`.
fn chosen(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|w| w.strip_prefix('[')?.strip_suffix(']')).map(str::to_owned)
}

pub(super) fn checks(kernel: &Kernel) -> Vec<Check> {
    let check = |name: &'static str, status, found: String| Check::new(SECTION, name, status, found);
    let release = format!("{} ({})", kernel.release, kernel.arch);
    let mut checks = vec![if kernel.version >= (5, 8) {
        check("release", Status::Works, release)
    } else {
        check("release", Status::Missing, release)
            .advise("the ring buffer and the owners' iterator came with Linux 5.8; only --backend sock-diag works here")
    }];
    checks.push(match &kernel.btf {
        Some(_) => check("BTF", Status::Works, format!("{BTF}, {:.1} MB", kernel.btf_bytes as f64 / 1e6)),
        None => check("BTF", Status::Limited, format!("no {BTF}")).advise(
            "classic tracepoints are used instead: no round-trip details, no kind of retransmit, no owners' iterator; a \
             kernel with CONFIG_DEBUG_INFO_BTF has all of it",
        ),
    });
    checks.push(match &kernel.tracefs {
        Ok(place) if kernel.version < SKIPPED_COUNTED => check("tracefs", Status::Limited, place.display().to_string())
            .advise(
                "classic tracepoints (without BTF, or --backend tracepoint): an event that the kernel skips, because \
                 its processor is in another BPF program, is not counted as lost before Linux 6.7",
            ),
        Ok(place) => check("tracefs", Status::Works, place.display().to_string()),
        Err(why) if why == "not mounted" => check("tracefs", Status::Limited, why.clone()).advise(
            "only needed without BTF and for --backend tracepoint: mount -t tracefs tracefs /sys/kernel/tracing",
        ),
        Err(why) => check("tracefs", Status::Limited, why.clone()).advise("run with sudo to see its events"),
    });
    checks.push(match &kernel.cgroup2 {
        Some(place) => check("cgroup2", Status::Works, place.display().to_string()),
        None => check("cgroup2", Status::Limited, "not mounted".into())
            .advise("no look at RST packets (--provenance) and no `agent guard`: mount -t cgroup2 none /sys/fs/cgroup"),
    });
    checks.push(match kernel.lockdown.as_deref() {
        None | Some("none") => check("lockdown", Status::Works, "off".into()),
        Some("confidentiality") => check("lockdown", Status::Missing, "confidentiality".into()).advise(
            "programs may not read kernel memory: only --backend sock-diag works; boot with lockdown=integrity",
        ),
        Some(mode) => check("lockdown", Status::Works, format!("{mode}, which lets kernel programs read")),
    });
    checks.push(match kernel.hz {
        Some(hz) => check(
            "clock",
            Status::Fact,
            format!(
                "{hz} ticks a second: the kernel's TCP timers step by {:.0} ms; events carry nanoseconds",
                1e3 / hz as f64
            ),
        ),
        None => check("clock", Status::Fact, "the kernel does not tell its tick; events carry nanoseconds".into()),
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_a_version() {
        assert_eq!(version("6.18.5-arch1"), (6, 18));
        assert_eq!(version("5.10.0-35-cloud-amd64"), (5, 10));
        assert_eq!(version("odd"), (0, 0));
    }

    #[test]
    fn without_a_mount_there_is_no_tracefs() {
        assert_eq!(tracefs_of("proc /proc proc rw 0 0\n"), Err("not mounted".into()));
    }

    #[test]
    fn the_lockdown_mode_is_the_bracketed_one() {
        assert_eq!(chosen("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(chosen("[none] integrity confidentiality\n").as_deref(), Some("none"));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn names_come_out_of_btf_and_a_cut_blob_is_none() {
        let strings = b"\0btf_trace_tcp_send_reset\0bpf_iter__tcp\0other\0";
        let mut raw = Vec::new();
        raw.extend(0xeb9f_u16.to_ne_bytes());
        raw.extend([1, 0]);
        for n in [24_u32, 0, 0, 0, strings.len() as u32] {
            raw.extend(n.to_ne_bytes());
        }
        raw.extend(strings);
        let names = btf_names(&raw).unwrap();
        assert!(names.contains(&b"btf_trace_tcp_send_reset"[..]) && names.contains(&b"bpf_iter__tcp"[..]));
        for cut in 0..raw.len() {
            assert!(btf_names(&raw[..cut]).is_none(), "cut at {cut}");
        }
    }
}
