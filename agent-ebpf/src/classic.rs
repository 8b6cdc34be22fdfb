//! The same tracepoints without BTF: fields at positions from tracefs. Only the segments of a retransmit are read from
//! the kernel's structures, where something tells their layout. Sockets are keyed by their kernel address, because most
//! of these tracepoints carry no cookie; the user side joins the two.

use agent_common::{
    ABSENT, CLASSIC_BYTES, SockStats, TracepointFields, TupleKey, flag, kind, retransmit, target_mode, totals,
};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use aya_log_ebpf::info;

use crate::count::{add32, entry, grown, hidden, leave, make_entry, make_listener, remove, retransmitted, total};
use crate::emit::{self, Head};
use crate::filter::{
    add_listener, all, current_tgid, dest_mode, destination, listens, remove_listener, target, target_mode,
};
use crate::maps::{SCRATCH, TUPLES};
use crate::read::{CLASSIC, frozen, offset, probe, setting};
use crate::sock::{AF_INET, AF_INET6, Addr, End, IPPROTO_TCP, is_full, owner_flag, state, v4_mapped};

/// One tracepoint record, copied once: a helper call per field would cost more than everything else.
struct Fields {
    data: *const u8,
    at: &'static TracepointFields,
}

macro_rules! position {
    ($fields:ident.$name:ident) => {
        frozen(&$fields.at.$name)
    };
}

impl Fields {
    /// The scratch buffer is per CPU; the kernel never nests classic tracepoint programs on one CPU.
    #[inline(always)]
    fn of(ctx: &TracePointContext, at: &'static TracepointFields) -> Option<Self> {
        let data = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: the destination is the map value; the helper checks the source.
        unsafe { bpf_probe_read_kernel(data.cast(), CLASSIC_BYTES, ctx.as_ptr().cast_const()) };
        Some(Self { data: data.cast(), at })
    }

    /// Zero for an absent field. `T` is an integer or an array of integers.
    #[inline(always)]
    fn read<T: Copy>(&self, position: u32) -> T {
        if position == ABSENT {
            // SAFETY: all-zero is a value of integers.
            return unsafe { core::mem::zeroed() };
        }
        // SAFETY: the user side lets no field reach beyond CLASSIC_BYTES; the verifier proves it again.
        unsafe { core::ptr::read_unaligned(self.data.add(position as usize).cast()) }
    }

    #[inline(always)]
    fn sk(&self) -> u64 {
        self.read(position!(self.skaddr))
    }

    #[inline(always)]
    fn state(&self) -> u8 {
        self.read::<u32>(position!(self.state)) as u8
    }

    #[inline(always)]
    fn remote(&self) -> End {
        self.end(position!(self.daddr_sockaddr), position!(self.daddr_v6), position!(self.dport))
    }

    #[inline(always)]
    fn local(&self) -> End {
        self.end(position!(self.saddr_sockaddr), position!(self.saddr_v6), position!(self.sport))
    }

    #[inline(always)]
    fn end(&self, sockaddr: u32, address: u32, port: u32) -> End {
        if sockaddr == ABSENT {
            return End { addr: self.read::<Addr>(address), port: self.read(port) };
        }
        // struct sockaddr_in: family, port, address; struct sockaddr_in6: family, port, flowinfo, address.
        let addr = if self.read::<u16>(sockaddr) as u8 == AF_INET6 {
            self.read::<Addr>(sockaddr + 8)
        } else {
            v4_mapped(self.read(sockaddr + 4))
        };
        End { addr, port: u16::from_be(self.read(sockaddr + 2)) }
    }

    /// The field where there is one (not before 5.14), else what the addresses look like.
    #[inline(always)]
    fn family(&self, remote: &End) -> u8 {
        if position!(self.family) != ABSENT {
            return self.read::<u16>(position!(self.family)) as u8;
        }
        if remote.addr[0] == 0 && remote.addr[1] == 0 && remote.addr[2] == 0xffff_0000 { AF_INET } else { AF_INET6 }
    }

    #[inline(always)]
    fn head(&self, kind: u8, sk: u64, remote: End) -> Head {
        let mut h = Head::new(kind, core::ptr::null());
        h.sk = sk;
        h.cookie = self.read(position!(self.cookie));
        h.pid = current_tgid();
        h.family = self.family(&remote);
        h.local = self.local();
        h.remote = remote;
        h
    }

    /// The entry of a target's socket: by its address, or by its ends if it was open before the agent. `Err` = not a
    /// target.
    #[inline(always)]
    fn member(&self, sk: u64, remote: &End) -> Result<Option<*mut SockStats>, ()> {
        if let Some(e) = entry(sk) {
            return Ok(Some(e));
        }
        if all() || self.in_tuples(remote) { Ok(make_entry(sk, None, 0)) } else { Err(()) }
    }

    #[inline(always)]
    fn in_tuples(&self, remote: &End) -> bool {
        if target_mode() & target_mode::TUPLES == 0 {
            return false;
        }
        let local = self.local();
        // SAFETY: Addr is 16 bytes of integers.
        let key = unsafe {
            TupleKey {
                saddr: core::mem::transmute::<Addr, [u8; 16]>(local.addr),
                daddr: core::mem::transmute::<Addr, [u8; 16]>(remote.addr),
                sport: local.port,
                dport: remote.port,
            }
        };
        TUPLES.get_ptr(key).is_some()
    }
}

#[tracepoint]
pub fn tp_retransmit_skb(ctx: TracePointContext) -> u32 {
    let Some(f) = Fields::of(&ctx, &CLASSIC.retransmit_skb) else { return 0 };
    let remote = f.remote();
    if !destination(&remote) {
        return 0;
    }
    let sk = f.sk();
    let Ok(stats) = f.member(sk, &remote) else { return 0 };
    let state = f.state();
    // Nothing here tells an RTO from a fast retransmit.
    let how = if state == state::SYN_SENT || state == state::SYN_RECV { retransmit::SYN } else { retransmit::UNKNOWN };
    let segments = segments(&f, stats);
    total(totals::SEGMENTS, u64::from(segments));
    if let Some(stats) = stats {
        retransmitted(stats, how, segments);
    }
    if setting!(kernel_log) != 0 {
        info!(&ctx, "retransmit: state {}", state);
    }
    let at = &f;
    if at.read::<u32>(position!(at.err)) != 0 {
        emit::untold(kind::RETRANSMIT);
        return 0;
    }
    let mut h = f.head(kind::RETRANSMIT, sk, remote);
    h.state = state;
    h.how = how;
    h.aux = segments;
    h.flags = flag::FULL_SOCK;
    emit::record(&h);
    0
}

/// Segments of this retransmit. The record does not tell, but the socket and the buffer that it points to do where the
/// kernel has BTF to say where; without it a buffer counts as one.
#[inline(always)]
fn segments(f: &Fields, stats: Option<*mut SockStats>) -> u32 {
    if position!(f.skbaddr) == ABSENT || offset!(cb_gso_segs) == ABSENT || offset!(tp_total_retrans) == ABSENT {
        return 1;
    }
    let skb: u64 = f.read(position!(f.skbaddr));
    // SAFETY: integers; the helper gives zero where it cannot read.
    let held: u16 = unsafe { probe(skb + u64::from(offset!(skb_cb)) + u64::from(offset!(cb_gso_segs))) };
    let held = if held == 0 { 1 } else { u32::from(held) };
    let Some(stats) = stats else { return held };
    // SAFETY: as above; a live map value, and the kernel holds the socket's lock here.
    unsafe { grown(stats, probe(f.sk() + u64::from(offset!(tp_total_retrans))), held) }
}

#[tracepoint]
pub fn tp_retransmit_synack(ctx: TracePointContext) -> u32 {
    let Some(f) = Fields::of(&ctx, &CLASSIC.retransmit_synack) else { return 0 };
    let remote = f.remote();
    if !destination(&remote) {
        return 0;
    }
    let sk = f.sk();
    // The listener may be older than the agent: then its port tells.
    let stats = match f.member(sk, &remote) {
        Ok(stats) => stats,
        Err(()) if listens(0, f.local().port) => make_entry(sk, None, 0),
        Err(()) => return 0,
    };
    total(totals::SEGMENTS, 1);
    if let Some(stats) = stats {
        retransmitted(stats, retransmit::SYNACK, 1);
    }
    let mut h = f.head(kind::RETRANSMIT_SYNACK, sk, remote);
    h.state = state::SYN_RECV;
    h.how = retransmit::SYNACK;
    h.aux = 1;
    emit::record(&h);
    0
}

#[tracepoint]
pub fn tp_receive_reset(ctx: TracePointContext) -> u32 {
    let Some(f) = Fields::of(&ctx, &CLASSIC.receive_reset) else { return 0 };
    let remote = f.remote();
    if !destination(&remote) {
        return 0;
    }
    let sk = f.sk();
    let Ok(stats) = f.member(sk, &remote) else { return 0 };
    if let Some(stats) = stats {
        // SAFETY: a live map value.
        unsafe { add32(&raw mut (*stats).resets_received, 1) };
    }
    if setting!(kernel_log) != 0 {
        info!(&ctx, "reset received: port {}", remote.port);
    }
    let mut h = f.head(kind::RECEIVE_RESET, sk, remote);
    h.flags = flag::FULL_SOCK;
    // The record does not tell the state. The user side remembers it from the changes, but one of those may have been
    // skipped: the kernel runs no second classic program on a CPU where one is running.
    if offset!(skc_state) != ABSENT {
        // SAFETY: integers; the helper gives zero where it cannot read.
        h.state = unsafe { probe(sk + u64::from(offset!(skc_state))) };
    }
    emit::record(&h);
    0
}

#[tracepoint]
pub fn tp_send_reset(ctx: TracePointContext) -> u32 {
    let Some(f) = Fields::of(&ctx, &CLASSIC.send_reset) else { return 0 };
    let remote = f.remote();
    let sk = f.sk();
    let known = entry(sk);
    // After → CLOSE a socket may have lost its addresses: membership decides.
    if known.is_none() && !destination(&remote) {
        return 0;
    }
    let state = f.state();
    let full = sk != 0 && is_full(state);
    let stats = if known.is_some() || !full {
        if known.is_none() && !all() {
            return 0;
        }
        known
    } else {
        let Ok(stats) = f.member(sk, &remote) else { return 0 };
        stats
    };
    if let Some(stats) = stats {
        // SAFETY: a live map value.
        unsafe { add32(&raw mut (*stats).resets_sent, 1) };
    }
    let at = &f;
    let reason: u32 = at.read(position!(at.reason));
    if setting!(kernel_log) != 0 {
        info!(&ctx, "reset sent: state {} reason {}", state, reason);
    }
    let mut h = f.head(kind::SEND_RESET, sk, remote);
    h.state = state;
    h.reason = reason;
    h.flags = if full { flag::FULL_SOCK } else { 0 };
    if position!(at.reason) != ABSENT {
        h.flags |= flag::HAS_REASON;
    }
    emit::record(&h);
    0
}

#[tracepoint]
pub fn tp_set_state(ctx: TracePointContext) -> u32 {
    let Some(f) = Fields::of(&ctx, &CLASSIC.set_state) else { return 0 };
    let at = &f;
    if at.read::<u16>(position!(at.protocol)) != IPPROTO_TCP {
        return 0;
    }
    let old = f.state();
    let new = at.read::<u32>(position!(at.new_state)) as u8;
    if old == state::LISTEN && new == state::SYN_RECV {
        return 0;
    }
    let remote = f.remote();
    let by_key = new == state::CLOSE || new == state::LISTEN;
    if !by_key && !destination(&remote) {
        return 0;
    }
    let sk = f.sk();
    let known = entry(sk).is_some();
    let wanted = if new == state::LISTEN {
        let ours = known || all() || target(current_tgid()).is_some();
        if ours {
            make_listener(sk);
            if !all() {
                add_listener(0, f.local().port);
            }
        }
        ours && dest_mode() == 0
    } else if new == state::CLOSE {
        if old == state::LISTEN && known {
            remove_listener(0, f.local().port);
        }
        let shown = known && (old != state::LISTEN || dest_mode() == 0);
        shown || ((all() || f.in_tuples(&remote)) && destination(&remote))
    } else if known {
        true
    } else {
        let ours = all()
            || (new == state::SYN_SENT && target(current_tgid()).is_some())
            || (old == state::SYN_RECV && new == state::ESTABLISHED && listens(0, f.local().port))
            || f.in_tuples(&remote);
        if ours {
            make_entry(sk, None, 0);
        }
        ours
    };
    if !wanted {
        return 0;
    }
    if setting!(kernel_log) != 0 {
        info!(&ctx, "state: {} -> {}", old, new);
    }
    let mut h = f.head(kind::STATE, sk, remote);
    h.state = old;
    h.new_state = new;
    h.flags = flag::FULL_SOCK | owner_flag(old, new);
    emit::record(&h);
    0
}

#[tracepoint]
pub fn tp_destroy_sock(ctx: TracePointContext) -> u32 {
    let Some(f) = Fields::of(&ctx, &CLASSIC.destroy_sock) else { return 0 };
    let sk = f.sk();
    let Some(stats) = entry(sk) else { return 0 };
    if hidden(stats) {
        remove(sk);
        return 0;
    }
    let mut h = f.head(kind::DESTROY, sk, f.remote());
    h.flags = flag::FULL_SOCK;
    leave(&h, sk, stats);
    0
}
