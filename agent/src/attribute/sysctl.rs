//! The sysctls that decide how long TCP tries, read inside the network namespace they belong to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::source::diag::NetNs;

/// Names below `/proc/sys/net/ipv4` (IPv6 TCP uses them too). From which kernel, where not all have it:
/// `tcp_syn_linear_timeouts` 6.5, `tcp_rto_min_us` 6.11, `tcp_rto_max_ms` 6.15.
pub const NAMES: [&str; 12] = [
    "tcp_retries1",
    "tcp_retries2",
    "tcp_rto_max_ms",
    "tcp_rto_min_us",
    "tcp_syn_retries",
    "tcp_syn_linear_timeouts",
    "tcp_synack_retries",
    "tcp_orphan_retries",
    "tcp_keepalive_time",
    "tcp_keepalive_intvl",
    "tcp_keepalive_probes",
    "tcp_thin_linear_timeouts",
];

/// Those of [`NAMES`] that [`Sysctls`] is made of.
pub const FORECAST: [&str; 6] = [
    "tcp_retries2",
    "tcp_rto_max_ms",
    "tcp_rto_min_us",
    "tcp_syn_retries",
    "tcp_syn_linear_timeouts",
    "tcp_orphan_retries",
];

/// Values of one network namespace. A sysctl that this kernel lacks has the value the kernel has built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctls {
    pub retries2: u32,
    pub rto_max: Duration,
    pub rto_min: Duration,
    pub syn_retries: u32,
    pub syn_linear_timeouts: u32,
    pub orphan_retries: u32,
    /// Length of a tick (1/HZ), from the coarse clock's resolution: the grain of all of TCP's timers. Zero: timers
    /// fire to the point.
    pub jiffy: Duration,
}

impl Default for Sysctls {
    /// The kernel's defaults (`include/net/tcp.h`); no linear SYN timeouts, as before 6.5.
    fn default() -> Self {
        Self {
            retries2: 15,
            rto_max: Duration::from_secs(120),
            rto_min: Duration::from_millis(200),
            syn_retries: 6,
            syn_linear_timeouts: 0,
            orphan_retries: 0,
            jiffy: Duration::ZERO,
        }
    }
}

impl Sysctls {
    /// From name and value, as [`Files::read`] returns them.
    pub fn from_map(map: &BTreeMap<String, Option<i64>>) -> Self {
        let d = Self::default();
        let of = |name: &str| map.get(name).copied().flatten().and_then(|v| u32::try_from(v).ok());
        Self {
            retries2: of("tcp_retries2").unwrap_or(d.retries2),
            rto_max: of("tcp_rto_max_ms").map_or(d.rto_max, |ms| Duration::from_millis(u64::from(ms))),
            rto_min: of("tcp_rto_min_us").map_or(d.rto_min, |us| Duration::from_micros(u64::from(us))),
            syn_retries: of("tcp_syn_retries").unwrap_or(d.syn_retries),
            syn_linear_timeouts: of("tcp_syn_linear_timeouts").unwrap_or(d.syn_linear_timeouts),
            orphan_retries: of("tcp_orphan_retries").unwrap_or(d.orphan_retries),
            jiffy: jiffy(),
        }
    }
}

/// CLOCK_MONOTONIC_COARSE advances once per tick; its resolution is the tick.
fn jiffy() -> Duration {
    let t = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    Duration::from_nanos(u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// The sysctls of one network namespace, held open: `/proc/sys/net` shows the namespace of the thread that opens a file,
/// and the right to enter another's is given up after the start.
pub struct Files(Vec<(&'static str, Option<File>)>);

impl Files {
    /// Those of `names`. Errors: `netns` cannot be entered.
    pub fn open(netns: &NetNs, names: &[&'static str]) -> io::Result<Self> {
        let open = |name| (name, File::open(format!("/proc/sys/net/ipv4/{name}")).ok());
        netns.inside(|| Ok(Self(names.iter().copied().map(open).collect())))
    }

    /// Their values as they are now; `None` where the kernel has no such sysctl.
    pub fn read(&self) -> BTreeMap<String, Option<i64>> {
        self.0.iter().map(|(name, file)| ((*name).to_owned(), file.as_ref().and_then(number))).collect()
    }
}

/// The whole of a file that holds one number.
fn number(file: &File) -> Option<i64> {
    // More than any i64 takes.
    let mut text = [0; 32];
    let n = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.get(..n)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_has_its_built_in_value() {
        let map = BTreeMap::from([
            ("tcp_retries2".to_owned(), Some(5)),
            ("tcp_rto_max_ms".to_owned(), None),
            ("tcp_syn_linear_timeouts".to_owned(), Some(4)),
            ("tcp_orphan_retries".to_owned(), Some(-1)),
        ]);
        let s = Sysctls::from_map(&map);
        let want = Sysctls { retries2: 5, syn_linear_timeouts: 4, jiffy: s.jiffy, ..Sysctls::default() };
        assert_eq!(s, want);
        assert!((Duration::from_millis(1)..=Duration::from_millis(10)).contains(&s.jiffy), "{:?}", s.jiffy);
    }

    #[test]
    fn this_kernel_has_retries2() {
        let files = Files::open(&NetNs::own().unwrap(), &FORECAST).unwrap();
        let map = files.read();
        assert!(map["tcp_retries2"].is_some_and(|v| v > 0), "{map:?}");
        assert_eq!(map, files.read(), "a second look reads from the beginning too");
    }
}
