//! Iterators: the options of every TCP socket of a network namespace, changed in the same pass if asked; and which
//! process holds which socket. aya-ebpf has no macro for them.

use core::ffi::c_void;

use agent_common::{ABSENT, FileRow, IPPROTO_MPTCP, OwnerRow, SetRow, TcpRow};
use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_sock_from_file};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;

use crate::detail;
use crate::options::{self, Values};
use crate::read::{at, offset};
use crate::sock::{self, AF_INET, AF_INET6, Addr, IPPROTO_TCP};

/// What `set_tcp` shall do, by cookie. Not preallocated (BPF_F_NO_PREALLOC): it is empty in most runs.
#[map]
pub static ITER_SET: HashMap<u64, SetRow> = HashMap::with_max_entries(65_536, 1);

#[repr(C)]
pub struct Meta {
    seq: *mut seq_file,
    session_id: u64,
    seq_num: u64,
}

/// `struct bpf_iter__tcp`
#[repr(C)]
pub struct TcpContext {
    meta: *mut Meta,
    /// Null in the last call.
    sk: *mut c_void,
    uid: u32,
}

/// `struct bpf_iter__task_file`
#[repr(C)]
pub struct FileContext {
    meta: *mut Meta,
    task: *mut c_void,
    fd: u32,
    pad: u32,
    file: *mut c_void,
}

/// # Safety
/// `meta` comes from the context.
#[inline(always)]
unsafe fn write<T>(meta: *mut Meta, row: &T) -> i32 {
    // SAFETY: `row` is initialised memory of that size, without padding (asserted in agent-common). Without room the
    // kernel grows the buffer and calls again for this element: 1 asks for that.
    let rc =
        unsafe { bpf_seq_write((*meta).seq, (row as *const T).cast::<c_void>(), core::mem::size_of::<T>() as u32) };
    i32::from(rc != 0)
}

/// # Safety
/// `ctx` is the context of an `iter/tcp` program.
#[inline(always)]
unsafe fn row(ctx: *mut TcpContext, sk: *mut c_void, cookie: u64, values: &Values) -> TcpRow {
    let family = sock::family(sk);
    let (local, remote) = (sock::local(sk, family), sock::remote(sk, family));
    let mut row = TcpRow {
        cookie,
        sk: sk as u64,
        netns: sock::netns(sk),
        // SAFETY: by contract.
        uid: unsafe { (*ctx).uid },
        keepalive: values.keepalive,
        idle_s: values.idle_s,
        interval_s: values.interval_s,
        count: values.count,
        user_timeout_ms: values.user_timeout_ms,
        after_keepalive: -1,
        after_idle_s: -1,
        after_interval_s: -1,
        after_count: -1,
        after_user_timeout_ms: -1,
        error: 0,
        family,
        state: sock::tcp_state(sk),
        changed: 0,
        pad: 0,
        sport: local.port,
        dport: remote.port,
        saddr: [0; 16],
        daddr: [0; 16],
        queued_bytes: queued(sk),
    };
    addresses(&mut row.saddr, local.addr);
    addresses(&mut row.daddr, remote.addr);
    row
}

/// What is in the send queue of a full socket.
#[inline(always)]
fn queued(sk: *mut c_void) -> u32 {
    if offset!(tp_write_seq) == ABSENT || offset!(tp_snd_una) == ABSENT || !sock::is_full(sock::tcp_state(sk)) {
        return u32::MAX;
    }
    let tp = detail::tcp_sock(sk);
    if tp.is_null() {
        return u32::MAX;
    }
    // SAFETY: a tcp_sock, checked.
    unsafe { at::<u32>(tp, offset!(tp_write_seq)).wrapping_sub(at(tp, offset!(tp_snd_una))) }
}

#[inline(always)]
fn addresses(to: &mut [u8; 16], from: Addr) {
    // SAFETY: both are 16 bytes; any bytes are a value. The destination may be aligned to 4 only.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr().cast::<u8>(), to.as_mut_ptr(), 16) };
}

/// One row per socket of the namespace in which the iterator was opened.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
pub extern "C" fn list_tcp(ctx: *mut TcpContext) -> i32 {
    // SAFETY: the context of this program type; sk is checked.
    unsafe {
        let sk = (*ctx).sk;
        if sk.is_null() {
            return 0;
        }
        let values = if sock::is_full(sock::tcp_state(sk)) { options::read(sk) } else { Values::UNKNOWN };
        let row = row(ctx, sk, sock::cookie(sk), &values);
        write((*ctx).meta, &row)
    }
}

/// Changes the sockets in [`ITER_SET`], one row for each of them.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
pub extern "C" fn set_tcp(ctx: *mut TcpContext) -> i32 {
    // SAFETY: the context of this program type; sk is checked; the map value is copied out by fields.
    unsafe {
        let sk = (*ctx).sk;
        if sk.is_null() || !sock::is_full(sock::tcp_state(sk)) {
            return 0;
        }
        let cookie = sock::cookie(sk);
        let Some(set) = ITER_SET.get_ptr_mut(cookie) else { return 0 };
        let wanted = Values {
            keepalive: (*set).keepalive,
            idle_s: (*set).idle_s,
            interval_s: (*set).interval_s,
            count: (*set).count,
            user_timeout_ms: (*set).user_timeout_ms,
        };
        let kept = Values {
            keepalive: (*set).if_keepalive,
            idle_s: (*set).if_idle_s,
            interval_s: (*set).if_interval_s,
            count: (*set).if_count,
            user_timeout_ms: (*set).if_user_timeout_ms,
        };
        let now = options::read(sk);
        let mut before = kept;
        if (*set).done == 0 {
            before = now;
            // What cannot be read could not be put back: leave it. (Only the reading of SO_KEEPALIVE came late, in
            // 6.1.)
            if now.keepalive != -1 && now.meet(&kept) && !now.meet(&wanted) {
                (*set).error = options::set(sk, &wanted, &now);
                (*set).if_keepalive = now.keepalive;
                (*set).if_idle_s = now.idle_s;
                (*set).if_interval_s = now.interval_s;
                (*set).if_count = now.count;
                (*set).if_user_timeout_ms = now.user_timeout_ms;
                (*set).done = 1;
            }
        }
        let mut row = row(ctx, sk, cookie, &before);
        if (*set).done != 0 {
            row.changed = 1;
            row.error = (*set).error;
            let after = options::read(sk);
            row.after_keepalive = after.keepalive;
            row.after_idle_s = after.idle_s;
            row.after_interval_s = after.interval_s;
            row.after_count = after.count;
            row.after_user_timeout_ms = after.user_timeout_ms;
        }
        write((*ctx).meta, &row)
    }
}

/// By the name of its `struct proto` (`TCP`, `TCPv6`, `MPTCP`, `MPTCPv6`; kTLS and sockmap change the structure and keep
/// the name): all sockets share a few of them, where `sk_protocol` is a cache line of each, read from memory.
///
/// # Safety
/// `sk` is a full socket.
#[inline(always)]
unsafe fn protocol(sk: *mut c_void) -> u16 {
    // SAFETY: by contract; the structure lives as long as the protocol's module.
    unsafe {
        let prot: *mut c_void = at(sk, offset!(skc_prot));
        if prot.is_null() || offset!(proto_name) == ABSENT {
            return at(sk, offset!(sk_protocol));
        }
        let name: u32 = at(prot, offset!(proto_name));
        match &name.to_ne_bytes() {
            b"TCP\0" | b"TCPv" => IPPROTO_TCP,
            b"MPTC" => IPPROTO_MPTCP,
            _ => 0,
        }
    }
}

/// The TCP or MPTCP socket that a file is, with its family and protocol; null for other files.
///
/// # Safety
/// `file` comes from the context.
#[inline(always)]
unsafe fn tcp_of(file: *mut c_void) -> (*mut c_void, u8, u16) {
    let other = (core::ptr::null_mut(), 0, 0);
    // SAFETY: the file is checked by the callers; every pointer read from it before it is followed.
    unsafe {
        let socket: *mut c_void = bpf_sock_from_file(file.cast()).cast();
        if socket.is_null() {
            return other;
        }
        let sk: *mut c_void = at(socket, offset!(socket_sk));
        if sk.is_null() {
            return other;
        }
        let family = sock::family(sk);
        if family != AF_INET && family != AF_INET6 {
            return other;
        }
        let protocol = protocol(sk);
        if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
            return other;
        }
        (sk, family, protocol)
    }
}

/// One row per TCP socket among the open files of every thread group, in all network namespaces.
#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
pub extern "C" fn list_files(ctx: *mut FileContext) -> i32 {
    // SAFETY: the context of this program type; both pointers are checked.
    unsafe {
        let (task, file) = ((*ctx).task, (*ctx).file);
        if task.is_null() || file.is_null() {
            return 0;
        }
        let (sk, family, protocol) = tcp_of(file);
        if sk.is_null() {
            return 0;
        }
        let (local, remote) = (sock::local(sk, family), sock::remote(sk, family));
        let mut row = FileRow {
            cookie: sock::cookie(sk),
            sk: sk as u64,
            tgid: at(task, offset!(task_tgid)),
            fd: (*ctx).fd,
            comm: at(task, offset!(task_comm)),
            netns: sock::netns(sk),
            protocol,
            family,
            state: sock::tcp_state(sk),
            sport: local.port,
            dport: remote.port,
            pad: [0; 4],
            saddr: [0; 16],
            daddr: [0; 16],
        };
        addresses(&mut row.saddr, local.addr);
        addresses(&mut row.daddr, remote.addr);
        write((*ctx).meta, &row)
    }
}

/// The same in short, for all of a machine: what it does not need is not fetched from memory.
#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
pub extern "C" fn list_owners(ctx: *mut FileContext) -> i32 {
    // SAFETY: the context of this program type; both pointers are checked.
    unsafe {
        let (task, file) = ((*ctx).task, (*ctx).file);
        if task.is_null() || file.is_null() {
            return 0;
        }
        let (sk, _, protocol) = tcp_of(file);
        if sk.is_null() {
            return 0;
        }
        let row = OwnerRow {
            cookie: sock::cookie(sk),
            comm: at(task, offset!(task_comm)),
            tgid: at(task, offset!(task_tgid)),
            fd: (*ctx).fd,
            netns: sock::netns(sk),
            protocol,
            pad: 0,
        };
        write((*ctx).meta, &row)
    }
}
