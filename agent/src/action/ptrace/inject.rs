//! Running system calls inside a thread of another process (x86-64).
//!
//! One thread is stopped for a fraction of a millisecond, its registers are pointed at the `syscall` instruction of
//! its vdso, and stepped over it. All its signals but SIGTRAP are blocked meanwhile, so that they wait in the
//! kernel's own queue with everything they carry. Registers, signal mask and the few bytes of stack that were used
//! are put back on every path; a dedicated thread does the tracing, whose end would detach even after a panic.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Waiting for a thread to stop; one that sleeps uninterruptibly (state D) does not.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// Stops that are not the awaited one: signals and job control that arrive at the same moment.
const MAX_STRAY_STOPS: u32 = 64;
/// `PTRACE_EVENT_STOP`
const EVENT_STOP: i32 = 128;
/// The red zone that a leaf function may use below its stack pointer (System V ABI), and room for alignment. Where we
/// write, the kernel itself would put a signal frame.
const BELOW_STACK: u64 = 128 + 64;
/// Size of the kernel's `sigset_t`.
const SIGSET_BYTES: usize = 8;
const CODE_SEGMENT_64: u64 = 0x33;

/// A stopped thread; dropping it restores and resumes it.
pub(super) struct Stopped<'a> {
    tid: i32,
    saved: libc::user_regs_struct,
    mask: u64,
    memory: &'a File,
    instruction: u64,
    scratch: u64,
    old_stack: [u8; 16],
    /// SIGSTOP cannot be blocked: sent again after the detach.
    stop_again: bool,
    gone: bool,
}

fn ptrace(request: libc::c_uint, tid: i32, addr: u64, data: u64) -> io::Result<()> {
    // SAFETY: requests used here take plain numbers, or pointers to live buffers of the size they write (see callers).
    let rc = unsafe { libc::ptrace(request, tid, addr, data) };
    if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How a wait ended.
enum Stop {
    /// The single step, or a real breakpoint.
    Trap,
    Event,
    Signal(i32),
}

fn wait(tid: i32) -> io::Result<Stop> {
    let started = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: writes one int.
        let rc = unsafe { libc::waitpid(tid, &mut status, libc::__WALL | libc::WNOHANG) };
        if rc == -1 {
            return Err(io::Error::last_os_error());
        }
        if rc == 0 {
            if started.elapsed() > STOP_TIMEOUT {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its thread does not stop (state D?)"));
            }
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        return Ok(match (libc::WSTOPSIG(status), status >> 16) {
            (_, EVENT_STOP) => Stop::Event,
            (libc::SIGTRAP, _) => Stop::Trap,
            (signal, _) => Stop::Signal(signal),
        });
    }
}

impl<'a> Stopped<'a> {
    /// Seizes and stops thread `tid`. `memory`: its `/proc/TID/mem`, read-write; `instruction`: the address of a
    /// `syscall` instruction.
    pub(super) fn stop(tid: i32, memory: &'a File, instruction: u64) -> io::Result<Self> {
        ptrace(libc::PTRACE_SEIZE, tid, 0, 0)?;
        let stopped = (|| {
            ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
            for _ in 0..MAX_STRAY_STOPS {
                match wait(tid)? {
                    Stop::Event => return Ok(()),
                    // Delivered as if we were not there; our own stop is still to come.
                    Stop::Signal(signal) => ptrace(libc::PTRACE_CONT, tid, 0, signal as u64)?,
                    Stop::Trap => ptrace(libc::PTRACE_CONT, tid, 0, libc::SIGTRAP as u64)?,
                }
            }
            Err(io::Error::other("its thread is drowned in signals"))
        })();
        if let Err(e) = stopped {
            let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
            return Err(e);
        }
        // SAFETY: all-zero is a value of this struct of integers.
        let mut saved: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let mut mask = 0u64;
        let read = ptrace(libc::PTRACE_GETREGS, tid, 0, (&raw mut saved) as u64)
            .and_then(|()| ptrace(libc::PTRACE_GETSIGMASK, tid, SIGSET_BYTES as u64, (&raw mut mask) as u64));
        let scratch = saved.rsp.wrapping_sub(BELOW_STACK) & !15;
        let mut old_stack = [0u8; 16];
        let ready = read.and_then(|()| {
            if saved.cs != CODE_SEGMENT_64 {
                return Err(io::Error::other("its thread runs 32-bit code"));
            }
            memory.read_exact_at(&mut old_stack, scratch)?;
            let blocked = !(1u64 << (libc::SIGTRAP - 1));
            ptrace(libc::PTRACE_SETSIGMASK, tid, SIGSET_BYTES as u64, (&raw const blocked) as u64)
        });
        if let Err(e) = ready {
            let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
            return Err(e);
        }
        Ok(Self { tid, saved, mask, memory, instruction, scratch, old_stack, stop_again: false, gone: false })
    }

    /// Runs one system call; the result as the kernel returns it (negative: errno).
    fn call(&mut self, number: i64, args: [u64; 5]) -> io::Result<i64> {
        let mut regs = self.saved;
        regs.rip = self.instruction;
        regs.rax = number as u64;
        // Not in a system call: the kernel must not restart the one that we interrupted with these arguments.
        regs.orig_rax = u64::MAX;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = args;
        let done = self.step(&mut regs);
        self.gone |= done.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH));
        done
    }

    fn step(&mut self, regs: &mut libc::user_regs_struct) -> io::Result<i64> {
        ptrace(libc::PTRACE_SETREGS, self.tid, 0, (&raw const *regs) as u64)?;
        for _ in 0..MAX_STRAY_STOPS {
            ptrace(libc::PTRACE_SINGLESTEP, self.tid, 0, 0)?;
            match wait(self.tid)? {
                Stop::Trap => {
                    ptrace(libc::PTRACE_GETREGS, self.tid, 0, (&raw mut *regs) as u64)?;
                    if regs.rip == self.instruction + 2 {
                        return Ok(regs.rax as i64);
                    }
                }
                Stop::Signal(signal) => self.stop_again |= signal == libc::SIGSTOP,
                Stop::Event => {}
            }
        }
        Err(io::Error::other("its thread did not get through the system call"))
    }

    /// getsockopt of up to eight bytes.
    pub(super) fn get(&mut self, fd: i32, level: i32, option: i32, bytes: u32) -> io::Result<u64> {
        let mut word = [0u8; 16];
        word[8..12].copy_from_slice(&bytes.to_ne_bytes());
        self.memory.write_all_at(&word, self.scratch)?;
        let args = [fd as u64, level as u64, option as u64, self.scratch, self.scratch + 8];
        errno(self.call(libc::SYS_getsockopt, args)?)?;
        self.memory.read_exact_at(&mut word, self.scratch)?;
        Ok(u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]))
    }

    /// setsockopt of an int.
    pub(super) fn set(&mut self, fd: i32, level: i32, option: i32, value: i32) -> io::Result<()> {
        self.memory.write_all_at(&value.to_ne_bytes(), self.scratch)?;
        let args = [fd as u64, level as u64, option as u64, self.scratch, 4];
        errno(self.call(libc::SYS_setsockopt, args)?).map(|_| ())
    }
}

fn errno(result: i64) -> io::Result<i64> {
    if (-4095..0).contains(&result) { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result) }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // Each step is tried whatever became of the one before: as much as possible is put back.
        let _ = self.memory.write_all_at(&self.old_stack, self.scratch);
        let _ = ptrace(libc::PTRACE_SETREGS, self.tid, 0, (&raw const self.saved) as u64);
        let _ = ptrace(libc::PTRACE_SETSIGMASK, self.tid, SIGSET_BYTES as u64, (&raw const self.mask) as u64);
        let _ = ptrace(libc::PTRACE_DETACH, self.tid, 0, 0);
        if self.stop_again {
            // SAFETY: plain numbers.
            unsafe { libc::kill(self.tid, libc::SIGSTOP) };
        }
    }
}
