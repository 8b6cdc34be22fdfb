//! Forks and exits of the targets, at the level of thread groups.

use core::ffi::c_void;

use agent_common::{ABSENT, kind};
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};

use crate::count::total;
use crate::emit::{self, Head};
use crate::filter::{current_tgid, target};
use crate::guard;
use crate::maps::PIDS;
use crate::read::{at, field, offset, setting};

/// A child of a `--tree` target becomes one.
#[inline(always)]
fn forked(parent: u32, child: u32) {
    let tree = match target(parent) {
        Some(tree) => tree,
        None => guard::named_with_children(),
    };
    if tree == 0 || parent == child {
        return;
    }
    if PIDS.insert(child, tree, 0).is_err() {
        total(agent_common::totals::TABLE_FULL, 1);
    }
    if guard::on() {
        return;
    }
    let mut head = Head::new(kind::FORK, core::ptr::null());
    head.pid = child;
    head.aux = parent;
    head.flags = agent_common::flag::PID_IS_OWNER;
    emit::record(&head);
}

#[inline(always)]
fn exited(tgid: u32) {
    if target(tgid).is_none() {
        return;
    }
    let _ = PIDS.remove(tgid);
    if guard::on() {
        return;
    }
    let mut head = Head::new(kind::EXIT, core::ptr::null());
    head.pid = tgid;
    head.flags = agent_common::flag::PID_IS_OWNER;
    emit::record(&head);
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn btf_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: *const c_void = ctx.arg(0);
    let child: *const c_void = ctx.arg(1);
    // SAFETY: task_struct pointers of the tracepoint.
    unsafe {
        let (tgid, pid): (u32, u32) = (at(child, offset!(task_tgid)), at(child, offset!(task_pid)));
        // A thread has its leader's tgid.
        if tgid == pid {
            forked(at(parent, offset!(task_tgid)), tgid);
        }
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn btf_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: *const c_void = ctx.arg(0);
    // The leader may end before its threads: the group is gone with the last of them.
    let dead = if setting!(exit_group_dead) != 0 {
        let group_dead: u32 = ctx.arg(1);
        group_dead & 1 != 0
    } else {
        // SAFETY: a task_struct pointer of the tracepoint.
        unsafe {
            let signal: *const c_void = at(task, offset!(task_signal));
            at::<u32>(signal, offset!(signal_live)) == 0
        }
    };
    if dead {
        // SAFETY: as above.
        exited(unsafe { at(task, offset!(task_tgid)) });
    }
    0
}

/// The classic tracepoint does not say whether the child is a thread: the user side looks.
#[tracepoint]
pub fn tp_process_fork(ctx: TracePointContext) -> u32 {
    // SAFETY: the position comes from the tracepoint's format.
    let child: u32 = unsafe { ctx.read_at(field!(process_fork.child_pid) as usize) }.unwrap_or(0);
    forked(current_tgid(), child);
    0
}

#[tracepoint]
pub fn tp_process_exit(ctx: TracePointContext) -> u32 {
    let tgid = current_tgid();
    let at_dead = field!(process_exit.group_dead);
    // SAFETY: positions come from the tracepoint's format.
    unsafe {
        let pid: u32 = ctx.read_at(field!(process_exit.pid) as usize).unwrap_or(0);
        let dead = if at_dead == ABSENT {
            // Before `group_dead`: the leader's end stands for the group's.
            pid == tgid
        } else {
            ctx.read_at::<u8>(at_dead as usize).unwrap_or(0) != 0
        };
        if dead {
            exited(tgid);
        }
        if pid != tgid && PIDS.get(pid).is_some() {
            // A thread that `tp_process_fork` could not tell from a process.
            let _ = PIDS.remove(pid);
        }
    }
    0
}
