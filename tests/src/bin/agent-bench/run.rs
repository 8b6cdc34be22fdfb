//! Programs that are measured: started in a namespace, their output counted, their cost read from the kernel.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent_tests::lab::Ns;
use agent_tests::runner::binary;
use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// After a SIGINT that was not obeyed.
const REMINDER: Duration = Duration::from_secs(2);

/// What a program used, from `wait4`.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Seconds.
    pub user: f64,
    /// In the kernel on its behalf.
    pub system: f64,
    pub wall: f64,
    pub max_rss_mib: f64,
}

/// A program that writes to a file of ours.
pub struct Program {
    child: Child,
    pub output: PathBuf,
    started: Instant,
    reaped: bool,
    _directory: TempDir,
}

impl Drop for Program {
    /// A figure that fails leaves nothing running.
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The agent with these arguments; what it would remember goes nowhere.
pub fn agent(args: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![binary("agent", "AGENT_BIN").into()];
    words.extend(args.iter().map(OsString::from));
    words
}

impl Program {
    pub fn start(ns: &Ns, words: &[OsString]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let output = directory.path().join("out");
        let (program, args) = words.split_first().context("no program")?;
        let mut command = Command::new(program);
        ns.enter_on_exec(&mut command);
        let child = command
            .args(args)
            .env("AGENT_STATE_DIR", directory.path())
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(directory.path().join("err"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, output, started: Instant::now(), reaped: false, _directory: directory })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines printed so far that hold `text`.
    pub fn lines_with(&self, text: &str) -> Result<u64> {
        use std::io::{BufRead, BufReader};
        let mut n = 0;
        for line in BufReader::new(File::open(&self.output)?).split(b'\n') {
            n += u64::from(line?.windows(text.len()).any(|w| w == text.as_bytes()));
        }
        Ok(n)
    }

    /// Calls `poke` until a line with `text` is printed: then everything is attached.
    pub fn poke_until(&mut self, text: &str, mut poke: impl FnMut()) -> Result<()> {
        let begun = Instant::now();
        loop {
            poke();
            std::thread::sleep(Duration::from_millis(20));
            if self.lines_with(text)? > 0 {
                return Ok(());
            }
            self.still_runs()?;
            ensure!(begun.elapsed() < Duration::from_secs(30), "{} shows no event: {}", self.name(), self.errors());
        }
    }

    /// An error with what it said if it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended early ({status}): {}", self.name(), self.errors()),
            None => Ok(()),
        }
    }

    fn name(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/comm", self.child.id())).unwrap_or_else(|_| "the program".into())
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.output.with_file_name("err")).unwrap_or_default()
    }

    /// SIGINT, then what it had used. Again after a while: bpftrace 0.17 goes on waiting for events if the signal comes
    /// right before it does.
    pub fn interrupt(self) -> Result<(Cost, Finished)> {
        let pid = self.child.id() as libc::pid_t;
        let ended = Arc::new(AtomicBool::new(false));
        let remind = {
            let ended = ended.clone();
            std::thread::spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    // SAFETY: no memory is involved; the child is not reaped before `ended`, so the pid is its own.
                    unsafe { libc::kill(pid, libc::SIGINT) };
                    std::thread::park_timeout(REMINDER);
                }
            })
        };
        // SAFETY: an all-zero siginfo is one; the child is ours. It is left to be reaped below.
        let waited = unsafe {
            let mut info = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, libc::WEXITED | libc::WNOWAIT)
        };
        ended.store(true, Ordering::SeqCst);
        remind.thread().unpark();
        let _ = remind.join();
        ensure!(waited == 0, "cannot wait for the program: {}", std::io::Error::last_os_error());
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<(Cost, Finished)> {
        let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
        // SAFETY: both point to memory of the right type; the child is ours and not reaped elsewhere.
        let got = unsafe { libc::wait4(self.child.id() as libc::pid_t, &raw mut status, 0, usage.as_mut_ptr()) };
        ensure!(got > 0, "cannot wait for the program: {}", std::io::Error::last_os_error());
        self.reaped = true;
        // SAFETY: zeroed, and filled by wait4.
        let usage = unsafe { usage.assume_init() };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        let cost = Cost {
            user: seconds(usage.ru_utime),
            system: seconds(usage.ru_stime),
            wall: self.started.elapsed().as_secs_f64(),
            max_rss_mib: usage.ru_maxrss as f64 / 1024.0,
        };
        let errors = self.errors();
        Ok((cost, Finished { program: self, status: ExitStatus::from_raw(status), errors }))
    }
}

/// A program's output after its end.
pub struct Finished {
    program: Program,
    pub status: ExitStatus,
    pub errors: String,
}

impl Finished {
    pub fn lines_with(&self, text: &str) -> Result<u64> {
        self.program.lines_with(text)
    }

    /// The last line.
    pub fn end(&self) -> Result<serde_json::Value> {
        let text = std::fs::read_to_string(&self.program.output)?;
        let last = text.lines().next_back().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("the last line is no JSON: {last}; {}", self.errors))
    }
}
