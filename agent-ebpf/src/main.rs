//! The kernel side: what is attached where.
//!
//! | file | programs | attached to |
//! |---|---|---|
//! | `btf_tracepoints` | `btf_*` | `tp_btf`: the sockets' tracepoints with the `struct sock` itself |
//! | `classic` | `tp_*` | the same tracepoints without BTF: field positions from tracefs |
//! | `process` | `*_process_fork`, `*_process_exit` | `sched_process_fork`, `sched_process_exit`, both ways |
//! | `guard` | `guard_connect4`, `guard_connect6` | `cgroup/connect4`, `cgroup/connect6`: keepalive on new sockets |
//! | `iter` | `list_tcp`, `set_tcp`, `list_files`, `list_owners` | `iter/tcp`, `iter/task_file`: options and owners of sockets |
//! | `provenance` | `rst_provenance` | `cgroup_skb/ingress`: TTL, IP ID and sequence of RSTs |
//!
//! Every program asks the destination filter first, then the target filter, then counts, and only then writes.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod btf_tracepoints;
mod classic;
mod count;
mod detail;
mod emit;
mod filter;
mod guard;
mod iter;
mod maps;
mod options;
mod process;
mod provenance;
mod read;
mod sock;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
