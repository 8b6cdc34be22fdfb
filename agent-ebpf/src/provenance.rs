//! Who made a RST: its TTL, IP ID and sequence against those of the flow's ordinary segments. Runs for each packet
//! that the sockets of the attached cgroups receive, so everything here is ordered by how soon it can say no.

use agent_common::FlowSeen;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;

use crate::count::entry;
use crate::filter::{all, dest_mode, destination};
use crate::maps::FLOWS;
use crate::read::setting;
use crate::sock::{End, v4_mapped};

const TCP: u8 = 6;
const IPV6_HEADER: usize = 40;
const RST: u8 = 4;
/// Passes the packet on: this program only looks.
const PASS: i32 = 1;

#[cgroup_skb]
pub fn rst_provenance(ctx: SkBuffContext) -> i32 {
    look(&ctx);
    PASS
}

/// What the IP header says.
struct Ip {
    ttl: u8,
    /// 0 for IPv6, which has none.
    id: u16,
    source: [u32; 4],
    /// Where the TCP header begins.
    header: usize,
}

#[inline(always)]
fn look(ctx: &SkBuffContext) -> Option<()> {
    // With a destination filter the headers say no sooner, without one the table of sockets does.
    let filtered = dest_mode() != 0;
    let mut cookie = if filtered { 0 } else { wanted(ctx)? };
    let ip = ip_header(ctx)?;
    // Ports, sequence, acknowledgement, offset and flags, window.
    let tcp: [u8; 16] = ctx.load(ip.header).ok()?;
    if filtered {
        let remote = End { addr: ip.source, port: u16::from_be_bytes([tcp[0], tcp[1]]) };
        if !destination(&remote) {
            return None;
        }
        cookie = wanted(ctx)?;
    }
    let flow = match FLOWS.get_ptr_mut(cookie) {
        Some(flow) => flow,
        None => {
            let fresh = FlowSeen::default();
            // BPF_NOEXIST
            let _ = FLOWS.insert(cookie, fresh, 1);
            FLOWS.get_ptr_mut(cookie)?
        }
    };
    // SAFETY: a live map value; the packets of one socket are handled one after the other.
    unsafe {
        if tcp[13] & RST != 0 {
            (*flow).rst_seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            (*flow).rst_window = u16::from_be_bytes([tcp[14], tcp[15]]);
            (*flow).rst_ip_id = ip.id;
            (*flow).rst_ttl = ip.ttl;
            (*flow).rst_flags = tcp[13];
            (*flow).rst = 1;
            return None;
        }
        if (*flow).ip_id != ip.id {
            (*flow).ip_id = ip.id;
        }
        if (*flow).ttl_min == 0 || ip.ttl < (*flow).ttl_min {
            (*flow).ttl_min = ip.ttl;
        }
        if ip.ttl > (*flow).ttl_max {
            (*flow).ttl_max = ip.ttl;
        }
    }
    Some(())
}

/// Cookie of the packet's socket if it is a target's.
#[inline(always)]
fn wanted(ctx: &SkBuffContext) -> Option<u64> {
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Before 5.12 the table of sockets is keyed by addresses: then every flow of these cgroups is remembered.
    let ours = cookie != 0 && (all() || setting!(cookie_helper) == 0 || entry(cookie).is_some());
    ours.then_some(cookie)
}

/// `None` for what is no TCP, a later fragment, or IPv6 with extension headers.
#[inline(always)]
fn ip_header(ctx: &SkBuffContext) -> Option<Ip> {
    let h: [u8; 20] = ctx.load(0).ok()?;
    if h[0] >> 4 == 4 {
        let offset = u16::from_be_bytes([h[6], h[7]]) & 0x1fff;
        if h[9] != TCP || offset != 0 {
            return None;
        }
        return Some(Ip {
            ttl: h[8],
            id: u16::from_be_bytes([h[4], h[5]]),
            source: v4_mapped(u32::from_ne_bytes([h[12], h[13], h[14], h[15]])),
            header: usize::from(h[0] & 15) * 4,
        });
    }
    if h[6] != TCP {
        return None;
    }
    Some(Ip { ttl: h[7], id: 0, source: ctx.load(8).ok()?, header: IPV6_HEADER })
}
