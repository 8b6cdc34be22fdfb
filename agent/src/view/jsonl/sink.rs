//! Where lines go: a file (plain or zstd) or standard output. Only whole lines are ever left behind.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, OFlags, Uid};

/// Why recording stopped. The watch goes on without it.
#[derive(Debug)]
pub enum RecordError {
    /// The reader of standard output went away (SIGPIPE): not a failure, a reason to end.
    ReaderGone,
    /// One sentence for the user.
    Failed(String),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReaderGone => f.write_str("the reader of standard output went away"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for RecordError {}

/// A failed write and how much of it was kept.
#[derive(Debug)]
pub(super) struct SinkError {
    pub error: RecordError,
    /// Whole lines of the buffer that are not in the file.
    pub unwritten_lines: u64,
}

/// Bytes given back after a write that found no room, so that an `end` line fits where the disk is full.
const END_ROOM: usize = 1_024;

/// Waiting for a reader of a pipe at the end of a run: as long as it reads at all, and this long after it stops.
const PATIENCE: Duration = Duration::from_millis(800);

/// What a pipe takes without blocking once it polls writable (`PIPE_BUF`, pipe(7)).
const PIPE_BUF: usize = 4_096;

pub(super) enum Sink {
    File {
        path: PathBuf,
        file: File,
        /// Bytes that belong to whole lines.
        len: u64,
        zstd: Option<Box<zstd::stream::write::Encoder<'static, Vec<u8>>>>,
    },
    Stdout {
        out: File,
        /// A pipe: written only when it has room, so that a reader that pauses does not stop the agent.
        pipe: bool,
    },
}

impl Sink {
    pub fn stdout() -> Result<Self, RecordError> {
        let failed = |e: io::Error| RecordError::Failed(format!("cannot use standard output: {e}"));
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 0).map_err(|e| failed(e.into()))?;
        let out = File::from(fd);
        let pipe = out.metadata().map_err(failed)?.file_type().is_fifo();
        Ok(Self::Stdout { out, pipe })
    }

    /// Creates or empties `path`, readable by its owner alone.
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        let file = open_private(path).map_err(|why| RecordError::Failed(why.to_string()))?;
        let zstd = if path.extension().is_some_and(|e| e == "zst") || inner_is_zst(path) {
            let encoder = zstd::stream::write::Encoder::new(Vec::new(), 3)
                .map_err(|e| RecordError::Failed(format!("cannot start zstd for {}: {e}", path.display())))?;
            Some(Box::new(encoder))
        } else {
            None
        };
        Ok(Self::File { path: path.to_owned(), file, len: 0, zstd })
    }

    /// Bytes on disk.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Stdout { .. } => 0,
        }
    }

    pub fn is_compressed(&self) -> bool {
        matches!(self, Self::File { zstd: Some(_), .. })
    }

    /// Takes whole lines out of `buffer`. What a slow pipe does not take stays in it.
    pub fn take(&mut self, buffer: &mut Vec<u8>) -> Result<(), SinkError> {
        match self {
            Self::File { path, file, len, zstd } => {
                let result = match zstd {
                    None => append(file, len, buffer, true),
                    Some(z) => {
                        let compressed =
                            z.write_all(buffer).and_then(|()| z.flush()).map(|()| std::mem::take(z.get_mut()));
                        compressed
                            .map_err(|e| (e, 0))
                            .and_then(|bytes| append(file, len, &bytes, false).map_err(|(e, _)| (e, 0)))
                    }
                };
                let taken = match &result {
                    Ok(()) => buffer.len(),
                    Err((_, kept)) => *kept,
                };
                let unwritten_lines = lines(&buffer[taken..]);
                buffer.clear();
                result.map_err(|(e, _)| SinkError {
                    error: RecordError::Failed(format!(
                        "cannot write the recording {}: {e}; it ends with its last whole line",
                        path.display()
                    )),
                    unwritten_lines,
                })
            }
            Self::Stdout { out, pipe: false } => {
                let result = out.write_all(buffer);
                buffer.clear();
                result.map_err(stdout_error)
            }
            Self::Stdout { out, pipe: true } => {
                let mut sent = 0;
                let result = loop {
                    if sent == buffer.len() {
                        break Ok(());
                    }
                    match writable(out, Duration::ZERO) {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(e) => break Err(e),
                    }
                    let end = buffer.len().min(sent + PIPE_BUF);
                    match out.write(&buffer[sent..end]) {
                        Ok(n) => sent += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                        Err(e) => break Err(e),
                    }
                };
                buffer.drain(..sent);
                result.map_err(stdout_error)
            }
        }
    }

    /// Writes the rest and closes: for a pipe, as long as its reader reads.
    pub fn finish(&mut self, buffer: &mut Vec<u8>) -> Result<(), SinkError> {
        self.take(buffer)?;
        match self {
            Self::File { path, file, len, zstd } => {
                if let Some(mut z) = zstd.take() {
                    let closed = z.do_finish().map(|()| std::mem::take(z.get_mut()));
                    closed.and_then(|end| append(file, len, &end, false).map_err(|(e, _)| e)).map_err(|e| {
                        SinkError {
                            error: RecordError::Failed(format!("cannot close the recording {}: {e}", path.display())),
                            unwritten_lines: 0,
                        }
                    })?;
                }
                Ok(())
            }
            Self::Stdout { .. } => {
                while !buffer.is_empty() {
                    let before = buffer.len();
                    if let Self::Stdout { out, .. } = self {
                        writable(out, PATIENCE).map_err(stdout_error)?;
                    }
                    self.take(buffer)?;
                    if buffer.len() == before {
                        let why = "the reader of standard output does not read; the last lines are not written";
                        return Err(SinkError {
                            error: RecordError::Failed(why.into()),
                            unwritten_lines: lines(buffer),
                        });
                    }
                }
                Ok(())
            }
        }
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

fn stdout_error(e: io::Error) -> SinkError {
    let error = match e.kind() {
        io::ErrorKind::BrokenPipe => RecordError::ReaderGone,
        _ => RecordError::Failed(format!("cannot write to standard output: {e}")),
    };
    SinkError { error, unwritten_lines: 0 }
}

fn writable(out: &File, wait: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    let mut fds = [PollFd::new(out, PollFlags::OUT)];
    match poll(&mut fds, Some(&timeout)) {
        // ERR (the reader went away) counts as writable: the write then says so.
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Appends all of `bytes`. On failure cuts the file back: to the end of a line that was written whole (`by_line`; with
/// room for an `end` line), or to where it was. The error carries how many of `bytes` stayed.
fn append(file: &mut File, len: &mut u64, bytes: &[u8], by_line: bool) -> Result<(), (io::Error, usize)> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return Err(cut(file, len, bytes, done, by_line, io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(cut(file, len, bytes, done, by_line, e)),
        }
    }
    *len += bytes.len() as u64;
    Ok(())
}

fn cut(file: &mut File, len: &mut u64, bytes: &[u8], done: usize, by_line: bool, why: io::Error) -> (io::Error, usize) {
    let whole = &bytes[..done.saturating_sub(END_ROOM)];
    let kept = if by_line { whole.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) } else { 0 };
    *len += kept as u64;
    // Best effort: a device that cannot be cut (/dev/full) keeps nothing anyway.
    if file.set_len(*len).is_ok() {
        let _ = rustix::fs::seek(&*file, rustix::fs::SeekFrom::Start(*len));
    }
    (why, kept)
}

/// `NAME.zst.3`: the third continuation of a compressed recording.
fn inner_is_zst(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.as_encoded_bytes().iter().all(u8::is_ascii_digit))
        && path.file_stem().is_some_and(|s| Path::new(s).extension().is_some_and(|e| e == "zst"))
}

/// Opens `path` for writing: 0600, never through a link, a regular file (then emptied), a pipe or a device.
///
/// # Errors
/// One sentence with the path and the way out.
pub fn open_private(path: &Path) -> io::Result<File> {
    let name = path.display();
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY).bits() as i32;
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(flags);
    let sentence = |e: io::Error| {
        let what = match e.raw_os_error() {
            Some(libc::ELOOP) => format!("cannot record to {name}: it is a symbolic link; name the file it points to"),
            Some(libc::EISDIR) => format!("cannot record to {name}: it is a directory; name a file in it"),
            _ => format!("cannot record to {name}: {e}; name a file in a directory you may write to"),
        };
        io::Error::new(e.kind(), what)
    };
    let (file, new) = match options.clone().create_new(true).open(path) {
        Ok(file) => (file, true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (options.open(path).map_err(sentence)?, false),
        Err(e) => return Err(sentence(e)),
    };
    let meta = file.metadata().map_err(sentence)?;
    if meta.is_file() {
        // Somebody else's name for a file of ours, or of theirs: emptying it is not ours to do.
        if meta.nlink() > 1 {
            return Err(io::Error::other(format!("cannot record to {name}: it has other hard links; name a new file")));
        }
        file.set_len(0).map_err(sentence)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600)).map_err(|e| sentence(e.into()))?;
        if new {
            give_to_sudo_user(&file);
        }
    }
    Ok(file)
}

/// Under sudo, a new recording belongs to the user who asked for it: `agent report` then needs no root. Without the
/// right to give files away (capabilities dropped) it stays root's.
fn give_to_sudo_user(file: &File) {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok().filter(|n| *n != 0 && *n != u32::MAX);
    if rustix::process::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID"))
    {
        let _ = rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
}
