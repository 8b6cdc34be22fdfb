//! What the programs need to know of the running kernel, resolved once and handed over in `.rodata`.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_common::{ABSENT, Offsets, Settings};
use anyhow::{Context, bail};

use super::btf::Btf;
use super::vmlinux::{VMLINUX, Vmlinux};

/// `SOCK_KEEPOPEN` in `enum sock_flags`.
const KEEPOPEN: &str = "SOCK_KEEPOPEN";

/// The tracepoints and iterators that programs of ours attach to through BTF.
const TRACEPOINTS: [&str; 8] = [
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "tcp_receive_reset",
    "tcp_send_reset",
    "inet_sock_set_state",
    "tcp_destroy_sock",
    "sched_process_fork",
    "sched_process_exit",
];
const ITERATORS: [&str; 2] = ["bpf_iter_tcp", "bpf_iter_task_file"];

/// Everything that BTF tells the programs and the decoder.
#[derive(Debug, Clone)]
pub struct KernelTypes {
    pub offsets: Offsets,
    /// The settings that follow from BTF; the others are at their defaults.
    pub settings: Settings,
    /// Arguments of each BTF tracepoint of ours by name; one that is missing here the kernel lacks.
    pub tracepoints: BTreeMap<&'static str, u32>,
    /// `enum sk_rst_reason` by number, without its prefix; empty before 6.10.
    pub reset_reasons: BTreeMap<u32, Arc<str>>,
    /// Name and type id of what programs attach to.
    hooks: Vec<(String, u32, bool)>,
}

impl KernelTypes {
    /// Reads [`VMLINUX`]. Errors: the file is missing (a kernel without CONFIG_DEBUG_INFO_BTF) or cannot be parsed.
    pub fn resolve() -> anyhow::Result<Self> {
        let data = Vmlinux::open()
            .with_context(|| format!("cannot read {VMLINUX}: this kernel offers no BTF (CONFIG_DEBUG_INFO_BTF)"))?;
        let btf = Btf::parse(&data).with_context(|| format!("cannot parse {VMLINUX}"))?;
        Self::from_btf(&btf)
    }

    /// Looks everything up. Errors: `struct sock_common` is not what it has been since Linux 4.
    pub fn from_btf(btf: &Btf<'_>) -> anyhow::Result<Self> {
        let values: Vec<u32> = Offsets::PATHS.iter().map(|(path, size)| member_offset(btf, path, *size)).collect();
        let Some(offsets) = Offsets::from_slice(&values) else { bail!("the table of offsets is incomplete") };
        let needed = [offsets.skc_dport, offsets.skc_num, offsets.skc_family, offsets.skc_state, offsets.skc_daddr];
        if needed.contains(&ABSENT) {
            bail!("this kernel's BTF has no usable struct sock_common");
        }
        let tracepoints: BTreeMap<&'static str, u32> =
            TRACEPOINTS.iter().filter_map(|name| Some((*name, btf.tracepoint_arguments(name)?))).collect();
        let arguments = |name: &str| tracepoints.get(name).copied().unwrap_or(0);
        let settings = Settings {
            cookie_helper: 1,
            reset_reason: u32::from(arguments("tcp_send_reset") >= 3),
            retransmit_err: u32::from(arguments("tcp_retransmit_skb") >= 3),
            exit_group_dead: u32::from(arguments("sched_process_exit") >= 2),
            keepopen_bit: btf
                .enum_values("sock_flags")
                .iter()
                .find(|(name, _)| *name == KEEPOPEN)
                .and_then(|(_, v)| u32::try_from(*v).ok())
                .unwrap_or(ABSENT),
            ..ca_state(btf)
        };
        let reset_reasons = btf
            .enum_values("sk_rst_reason")
            .into_iter()
            .filter_map(|(name, v)| Some((u32::try_from(v).ok()?, reset_reason_name(name)?.into())))
            .collect();
        let traced = TRACEPOINTS.iter().map(|name| (format!("btf_trace_{name}"), false));
        let iterated = ITERATORS.iter().map(|name| ((*name).to_owned(), true));
        let hooks = traced.chain(iterated).filter_map(|(n, function)| btf.hook(&n).map(|id| (n, id, function)));
        Ok(Self { offsets, settings, hooks: hooks.collect(), reset_reasons, tracepoints })
    }

    /// What aya needs to attach to the hooks: BTF in which exactly they have the kernel's type ids. aya only looks up
    /// the id of a name; parsing the kernel's own BTF a second time, its way, costs many times this.
    pub fn aya(&self) -> anyhow::Result<aya::Btf> {
        let bytes = super::btf::skeleton(&self.hooks);
        aya::Btf::parse(&bytes, aya::Endianness::default()).context("cannot build the table of BTF hooks")
    }
}

/// Offset of a member that has the expected size; a member that changed its size is as good as absent.
fn member_offset(btf: &Btf<'_>, path: &str, size: u32) -> u32 {
    btf.member(path)
        .filter(|m| m.bit_size == 0 && (size == 0 || m.size == size))
        .and_then(|m| m.offset())
        .unwrap_or(ABSENT)
}

/// `icsk_ca_state` is a bit field of five or six bits in its own byte.
fn ca_state(btf: &Btf<'_>) -> Settings {
    let unknown = Settings { ca_state_byte: ABSENT, ..Settings::default() };
    let Some(m) = btf.member("inet_connection_sock.icsk_ca_state") else { return unknown };
    let (byte, shift) = (m.bit_offset / 8, m.bit_offset % 8);
    let width = if m.bit_size == 0 { 8 } else { m.bit_size };
    if shift + width > 8 {
        return unknown;
    }
    Settings { ca_state_byte: byte, ca_state_shift: shift, ca_state_mask: (1 << width) - 1, ..Settings::default() }
}

/// `SK_RST_REASON_TCP_STATE` as `TCP_STATE`; `None` for the end marker.
pub fn reset_reason_name(name: &str) -> Option<&str> {
    let name = name.strip_prefix("SK_RST_REASON_").unwrap_or(name);
    (name != "MAX" && !name.is_empty()).then_some(name)
}
