//! The command of `agent run`: forked first, so that its pid is known and watched, and let go (exec) only once every
//! hook is attached: its first packet is seen.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

/// A child that waits for [`Child::release`].
pub struct Child {
    pub pid: u32,
    name: String,
    gate: std::fs::File,
    done: oneshot::Receiver<std::io::Result<ExitStatus>>,
}

/// The program's file name, without what a thread's name may not hold.
fn thread_name(program: &str) -> String {
    program.rsplit('/').next().unwrap_or(program).replace('\0', "")
}

impl Child {
    /// Forks the command; it does not run yet.
    pub fn prepare(command: &[OsString]) -> Result<Self> {
        let Some((program, args)) = command.split_first() else { bail!("no command to run") };
        let name = program.to_string_lossy().into_owned();
        let (pid_read, pid_write) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let (gate_read, gate_write) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let mut command = Command::new(program);
        command.args(args);
        // SAFETY: between fork and exec only getpid, write and read are called: all async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
                rustix::io::write(pid_write.as_fd(), &pid.to_ne_bytes())?;
                let mut byte = [0u8; 1];
                // 0 bytes: the agent ended before it let us go; then this command must not run at all.
                match rustix::io::read(gate_read.as_fd(), &mut byte)? {
                    0 => Err(std::io::Error::from_raw_os_error(libc::ECANCELED)),
                    _ => Ok(()),
                }
            });
        }
        let (tell, done) = oneshot::channel();
        // `spawn` returns only after exec, hence a thread of its own.
        std::thread::Builder::new()
            // The fork has the thread's name until it runs the program: events of that moment already name it.
            .name(thread_name(&name))
            .spawn(move || {
                let result = command.spawn();
                // The closure in `command` holds our copies of the pipes' far ends.
                drop(command);
                let _ = tell.send(result.and_then(|mut child| child.wait()));
            })
            .context("cannot start a thread")?;
        let mut pid = [0u8; 4];
        std::fs::File::from(pid_read).read_exact(&mut pid).with_context(|| format!("cannot start '{name}'"))?;
        Ok(Self { pid: u32::from_ne_bytes(pid), name, gate: gate_write.into(), done })
    }

    /// Lets the command run.
    pub fn release(&mut self) -> Result<()> {
        self.gate.write_all(b"x").with_context(|| format!("cannot start '{}'", self.name))
    }

    /// Waits for its end; gives the exit code as a shell would (128 + signal).
    pub async fn wait(&mut self) -> Result<u8> {
        let status = (&mut self.done)
            .await
            .context("the thread that waited for the command ended")?
            .with_context(|| format!("cannot run '{}'", self.name))?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => code as u8,
            (None, Some(signal)) => 128 + signal as u8,
            (None, None) => 1,
        })
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}
