//! The sockets' tracepoints with BTF (`tp_btf`): the arguments are the kernel's own structures.

use core::ffi::c_void;

use agent_common::{ABSENT, SockStats, flag, kind, retransmit, totals};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::info;

use crate::count::{
    add_entry, add32, entry, grown, hidden, leave, leave_behind, make_entry, make_listener, remove, retransmitted,
    total,
};
use crate::detail::{fill, how, seen_rst, tcp_sock};
use crate::emit::{self, Head};
use crate::filter::{
    add_listener, all, current_tgid, dest_mode, destination, forget_destination, listens, passed, passes,
    remove_listener, target,
};
use crate::maps::FLOWS;
use crate::read::{at, offset, plain_offset, probe, setting};
use crate::sock::{
    AF_INET, AF_INET6, End, cookie, family, fresh_key, is_full, local, lookup_key, minisock_netns, netns, owner_flag,
    remote, state, tcp_state, v4_mapped,
};

const ETH_P_IPV6: u16 = 0x86dd;
/// Header lengths without options.
const IPV4_HEADER: u16 = 20;
const IPV6_HEADER: u16 = 40;

/// Everything that a full socket's own structure says; `tp` is `sk` as a `tcp_sock`, not null.
#[inline(always)]
fn head(kind: u8, sk: *const c_void, tp: *const c_void, family: u8, remote: End) -> Head {
    let mut h = Head::new(kind, sk);
    h.cookie = cookie(sk);
    h.netns = netns(tp);
    h.local = local(sk, family);
    if h.local.port == 0 {
        // After → CLOSE. SAFETY: tp is a tcp_sock, whose beginning is the inet_sock.
        h.local.port = u16::from_be(unsafe { at(tp, offset!(inet_sport)) });
    }
    h.remote = remote;
    h.family = family;
    h.flags = flag::FULL_SOCK;
    h
}

/// The entry of a target's socket; with `--all` any socket may have one. `None` = not a target, or not a destination.
#[inline(always)]
fn member(sk: *const c_void, remote: &End) -> Option<Option<*mut SockStats>> {
    let found = entry(lookup_key(sk));
    if !passes(found, remote) {
        return None;
    }
    match found {
        Some(e) => Some(Some(e)),
        None if all() => Some(make_entry(fresh_key(sk), None, passed())),
        None => None,
    }
}

/// `tcp_retransmit_skb(sk, skb[, err])`, after `total_retrans` was raised.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn btf_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let skb: *const c_void = ctx.arg(1);
    let family = family(sk);
    let remote = remote(sk, family);
    let Some(stats) = member(sk, &remote) else { return 0 };
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return 0;
    }
    let tcp_state = tcp_state(tp);
    let how = how(tp, tcp_state);
    // From 6.18 the tracepoint also fires for a retransmit that failed; the kernel counts its segments all the same.
    let err: i32 = if setting!(retransmit_err) != 0 { ctx.arg(2) } else { 0 };
    let segments = segments(stats, tp, skb);
    total(totals::SEGMENTS, u64::from(segments));
    if let Some(stats) = stats {
        retransmitted(stats, how, segments);
    }
    if setting!(kernel_log) != 0 {
        info!(&ctx, "retransmit: cookie {:x} segments {} how {} err {}", cookie(sk), segments, how, err);
    }
    if err != 0 {
        emit::untold(kind::RETRANSMIT);
        return 0;
    }
    let mut h = head(kind::RETRANSMIT, sk, tp, family, remote);
    h.state = tcp_state;
    h.how = how;
    h.aux = segments;
    // SAFETY: skb of the tracepoint; tp is not null.
    emit::with_detail(&h, |d| unsafe { fill(d, tp, at(skb, offset!(skb_len)), None) });
    0
}

/// Segments of this retransmit: what `total_retrans` grew by since the last look, so that nothing is missed where a
/// run of this program was; for the first look, what the skb holds.
#[inline(always)]
fn segments(stats: Option<*mut SockStats>, tp: *const c_void, skb: *const c_void) -> u32 {
    // SAFETY: skb of the tracepoint, tp is not null; stats is a live map value and the socket is locked.
    unsafe {
        let held: u16 = if offset!(skb_cb) == ABSENT || offset!(cb_gso_segs) == ABSENT {
            1
        } else {
            at(skb, offset!(skb_cb) + plain_offset!(cb_gso_segs))
        };
        let held = if held == 0 { 1 } else { u32::from(held) };
        let (Some(stats), false) = (stats, offset!(tp_total_retrans) == ABSENT) else { return held };
        grown(stats, at(tp, offset!(tp_total_retrans)), held)
    }
}

/// `tcp_retransmit_synack(sk, req)`: `sk` is the listener, the addresses are in the request.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn btf_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // A request_sock begins with sock_common too.
    let req: *const c_void = ctx.arg(1);
    let family = family(req);
    let remote = remote(req, family);
    if !destination(&remote) {
        return 0;
    }
    // A listener's entry says nothing of destinations.
    let stats = match entry(lookup_key(sk)) {
        None if all() => make_entry(fresh_key(sk), None, 0),
        None => return 0,
        found => found,
    };
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return 0;
    }
    total(totals::SEGMENTS, 1);
    if let Some(stats) = stats {
        retransmitted(stats, retransmit::SYNACK, 1);
    }
    let mut h = head(kind::RETRANSMIT_SYNACK, sk, tp, family, remote);
    h.flags = 0;
    h.local = local(req, family);
    h.state = state::SYN_RECV;
    h.how = retransmit::SYNACK;
    h.aux = 1;
    emit::record(&h);
    0
}

/// `tcp_receive_reset(sk)`, before the state change.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn btf_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let family = family(sk);
    let remote = remote(sk, family);
    let refused = tcp_state(sk) == state::SYN_SENT && without_entry();
    let stats = if refused {
        let found = entry(lookup_key(sk));
        if !passes(found, &remote) {
            return 0;
        }
        found
    } else {
        let Some(stats) = member(sk, &remote) else { return 0 };
        stats
    };
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return 0;
    }
    if let Some(stats) = stats {
        received_reset(stats);
    }
    if setting!(kernel_log) != 0 {
        info!(&ctx, "reset received: cookie {:x} state {}", cookie(sk), tcp_state(sk));
    }
    let mut h = head(kind::RECEIVE_RESET, sk, tp, family, remote);
    h.state = tcp_state(tp);
    let rst = seen_rst(h.cookie);
    // SAFETY: tp is not null.
    let told = emit::with_detail(&h, |d| unsafe { fill(d, tp, 0, rst) });
    if !told
        && refused
        && stats.is_none()
        && let Some(stats) = make_entry(fresh_key(sk), None, passed())
    {
        received_reset(stats);
    }
    0
}

#[inline(always)]
fn received_reset(stats: *mut SockStats) {
    // SAFETY: a live map value.
    unsafe { add32(&raw mut (*stats).resets_received, 1) };
}

/// `tcp_send_reset(sk, skb[, reason])`: `sk` is null for a RST that belongs to no socket; it may be a minisock.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn btf_send_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let skb: *const c_void = ctx.arg(1);
    let (reason, reason_flag): (u32, u8) =
        if setting!(reset_reason) != 0 { (ctx.arg(2), flag::HAS_REASON) } else { (0, 0) };
    if sk.is_null() {
        return without_socket(skb, reason, reason_flag);
    }
    let state = tcp_state(sk);
    // A listener answers for connections it has no socket for: the packet has the addresses.
    let for_listener = state == state::LISTEN && !skb.is_null();
    let (family, remote, answering) = if for_listener {
        answered(skb)
    } else {
        let family = family(sk);
        (family, remote(sk, family), End::NONE)
    };
    let mut stats = entry(lookup_key(sk));
    // A socket that has lost its addresses is judged by its membership alone.
    let passes = passes(if for_listener { None } else { stats }, &remote);
    if remote.port != 0 && !passes {
        return 0;
    }
    if stats.is_none() && !(all() && passes) {
        return 0;
    }
    let tp = if is_full(state) { tcp_sock(sk) } else { core::ptr::null() };
    // No entry for a minisock: no tcp_destroy_sock would take it away again.
    if stats.is_none() && !tp.is_null() {
        stats = make_entry(fresh_key(sk), None, if for_listener { 0 } else { passed() });
    }
    if let Some(stats) = stats {
        // SAFETY: a live map value.
        unsafe { add32(&raw mut (*stats).resets_sent, 1) };
    }
    if setting!(kernel_log) != 0 {
        info!(&ctx, "reset sent: cookie {:x} state {} reason {}", cookie(sk), state, reason);
    }
    if tp.is_null() {
        let mut h = Head::new(kind::SEND_RESET, sk);
        h.cookie = cookie(sk);
        h.netns = minisock_netns(sk);
        h.local = local(sk, family);
        h.remote = remote;
        h.family = family;
        h.state = state;
        h.reason = reason;
        h.flags = reason_flag;
        emit::record(&h);
        return 0;
    }
    let mut h = head(kind::SEND_RESET, sk, tp, family, remote);
    if for_listener {
        h.local = answering;
    }
    h.state = state;
    h.reason = reason;
    h.flags |= reason_flag;
    // SAFETY: tp is not null.
    emit::with_detail(&h, |d| unsafe { fill(d, tp, 0, None) });
    0
}

/// A RST for no socket: an event of the whole machine only.
#[inline(always)]
fn without_socket(skb: *const c_void, reason: u32, reason_flag: u8) -> i32 {
    if !all() || skb.is_null() {
        return 0;
    }
    let (family, remote, local) = answered(skb);
    if !destination(&remote) {
        return 0;
    }
    let mut h = Head::new(kind::SEND_RESET, core::ptr::null());
    // SAFETY: BTF-typed reads from the skb of the tracepoint; a null device reads as zero.
    unsafe {
        let dev: *const c_void = at(skb, offset!(skb_dev));
        let net: *const c_void = at(dev, offset!(dev_net));
        h.netns = at(net, offset!(net_inum));
    }
    h.local = local;
    h.remote = remote;
    h.family = family;
    h.state = state::CLOSE;
    h.reason = reason;
    h.flags = reason_flag;
    emit::record(&h);
    0
}

/// The ends of the packet that a RST answers, seen from this host: family, remote, local.
#[inline(always)]
fn answered(skb: *const c_void) -> (u8, End, End) {
    // SAFETY: header offsets of the skb; the headers have no BTF type, so they are probed: at once where the ports
    // follow the addresses.
    unsafe {
        let head: u64 = at(skb, offset!(skb_head));
        let network: u16 = at(skb, offset!(skb_network_header));
        let transport: u16 = at(skb, offset!(skb_transport_header));
        let ip = head + u64::from(network);
        let ends = |ports: u32| {
            let bytes = ports.to_ne_bytes();
            (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
        };
        if at::<u16>(skb, offset!(skb_protocol)) == ETH_P_IPV6.to_be() {
            let a: [u32; 9] = probe(ip + 8);
            let follows = transport == network.wrapping_add(IPV6_HEADER);
            let (from, to) = ends(if follows { a[8] } else { probe(head + u64::from(transport)) });
            let (source, sink) = ([a[0], a[1], a[2], a[3]], [a[4], a[5], a[6], a[7]]);
            return (AF_INET6, End { addr: source, port: from }, End { addr: sink, port: to });
        }
        let a: [u32; 3] = probe(ip + 12);
        let follows = transport == network.wrapping_add(IPV4_HEADER);
        let (from, to) = ends(if follows { a[2] } else { probe(head + u64::from(transport)) });
        (AF_INET, End { addr: v4_mapped(a[0]), port: from }, End { addr: v4_mapped(a[1]), port: to })
    }
}

/// `inet_sock_set_state(sk, old, new)`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn btf_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let (old, new) = (old as u8, new as u8);
    // The clone of a listener carries its cookie until just after this.
    if old == state::LISTEN && new == state::SYN_RECV {
        return 0;
    }
    let family = family(sk);
    let remote = remote(sk, family);
    let stats = entry(lookup_key(sk));
    let known = stats.is_some();
    if let (Some(stats), state::SYN_SENT) = (stats, new) {
        forget_destination(stats);
    }
    // A listener has no remote end, and a socket may have lost it: those are judged by their membership.
    if remote.port != 0 && !passes(stats, &remote) {
        return 0;
    }
    // Null for other protocols: SCTP, and MPTCP above its subflows, have this tracepoint too.
    let tp = tcp_sock(sk);
    if tp.is_null() || (!known && !all() && !becomes_target(tp, old, new, family)) {
        return 0;
    }
    let wanted = if new == state::LISTEN {
        listening(sk, tp, family)
    } else if old == state::LISTEN {
        if known {
            remove_listener(netns(tp), local(tp, family).port);
        }
        dest_mode() == 0
    } else {
        if !known && (new == state::ESTABLISHED || (new == state::SYN_SENT && !without_entry())) {
            adopt(sk, tp, if remote.port == 0 { 0 } else { passed() });
        }
        known || remote.port != 0 || dest_mode() == 0
    };
    if !wanted {
        return 0;
    }
    if setting!(kernel_log) != 0 {
        info!(&ctx, "state: cookie {:x} {} -> {}", cookie(sk), old, new);
    }
    let mut h = head(kind::STATE, sk, tp, family, remote);
    h.state = old;
    h.new_state = new;
    let by_owner = owner_flag(old, new);
    if by_owner != 0 {
        h.pid = current_tgid();
    }
    let last = new == state::CLOSE && !known && without_entry();
    h.flags |= by_owner | if last { flag::LAST } else { 0 };
    if !emit::record(&h) && last {
        leave_behind(fresh_key(sk));
    }
    0
}

/// Whether a connection that is not made yet goes without an entry: with `--all` nothing has to tell it from others, and
/// what happens to it until then is in its records. An entry costs more than a record, and a client whose server is gone
/// makes thousands of such connections. Before 5.12 sockets are told apart by entries under their addresses.
#[inline(always)]
fn without_entry() -> bool {
    all() && setting!(cookie_helper) != 0
}

/// connect() and listen() run in the process itself; what a listener accepts is known by its port.
#[inline(always)]
fn becomes_target(tp: *const c_void, old: u8, new: u8, family: u8) -> bool {
    if new == state::SYN_SENT || new == state::LISTEN {
        target(current_tgid()).is_some()
    } else {
        old == state::SYN_RECV && new == state::ESTABLISHED && listens(netns(tp), local(tp, family).port)
    }
}

/// Takes a new socket in; a full table is counted, the event goes on.
#[inline(always)]
fn adopt(sk: *const c_void, tp: *const c_void, seen: u32) {
    // SAFETY: tp is not null.
    let baseline = (offset!(tp_total_retrans) != ABSENT).then(|| unsafe { at(tp, offset!(tp_total_retrans)) });
    add_entry(fresh_key(sk), baseline, seen);
}

/// listen() of a target: its port recognises accepted sockets. True if the event itself is wanted: with a
/// destination filter a listener matches nothing.
#[inline(always)]
fn listening(sk: *const c_void, tp: *const c_void, family: u8) -> bool {
    make_listener(fresh_key(sk));
    if !all() {
        add_listener(netns(tp), local(tp, family).port);
    }
    dest_mode() == 0
}

/// `tcp_destroy_sock(sk)`: the end; addresses may be gone.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn btf_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let key = lookup_key(sk);
    let Some(stats) = entry(key) else { return 0 };
    if hidden(stats) {
        remove(key);
        return 0;
    }
    let tp = tcp_sock(sk);
    if tp.is_null() {
        return 0;
    }
    let family = family(tp);
    let mut h = head(kind::DESTROY, sk, tp, family, remote(tp, family));
    h.state = tcp_state(tp);
    leave(&h, key, stats);
    if setting!(provenance) != 0 {
        let _ = FLOWS.remove(h.cookie);
    }
    0
}
