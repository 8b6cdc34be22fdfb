//! Small files that outlive a run (what was learned, what was changed): 0600, whole or not at all, never through a
//! link, one writer at a time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};

/// A state file that is larger than this is not ours.
const MAX_BYTES: u64 = 16 << 20;

/// `/var/lib/agent` for root, `$XDG_STATE_HOME/agent` or `~/.local/state/agent` for others; `AGENT_STATE_DIR`
/// overrides both.
pub fn directory() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("AGENT_STATE_DIR").filter(|d| !d.is_empty()) {
        return Ok(dir.into());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/agent".into());
    }
    if let Some(dir) = std::env::var_os("XDG_STATE_HOME").filter(|d| Path::new(d).is_absolute()) {
        return Ok(PathBuf::from(dir).join("agent"));
    }
    match std::env::var_os("HOME").filter(|h| !h.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".local/state/agent")),
        None => bail!("no place for state files: neither AGENT_STATE_DIR, XDG_STATE_HOME nor HOME is set"),
    }
}

/// A directory of state files, held open: what happens to the path afterwards does not matter.
pub struct Store {
    dir: OwnedFd,
    path: PathBuf,
}

/// Held while a file is read, changed and written back; released when dropped.
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] File);

impl Store {
    /// Opens the directory, making it (0700) where it is missing.
    pub fn open(path: PathBuf) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the state directory {}", path.display()))?;
        let dir = fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open the state directory {}", path.display()))?;
        Ok(Self { dir, path })
    }

    /// Opens the directory only if it is there: a reader makes nothing.
    pub fn open_existing(path: PathBuf) -> Result<Option<Self>> {
        match fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { dir, path })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot open the state directory {}", path.display())),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The file's bytes; `None` if there is none. A link, a device or a file of more than 16 MiB is refused.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => bail!("{} is a symbolic link; remove it", path.display()),
            Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
        };
        let file = File::from(fd);
        let meta = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            bail!("{} is no state file of ours ({} bytes); move it away", path.display(), meta.len());
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        file.take(MAX_BYTES).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(bytes))
    }

    /// Replaces the file: written beside it, flushed to disk, renamed over it. A crash or a full disk at any moment
    /// leaves the old content, and at most one unfinished file, which the next write takes over. The caller holds the
    /// file's [`Lock`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        let temporary = format!(".{name}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = (|| -> std::io::Result<()> {
            let fd = fs::openat(&self.dir, temporary.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
            let mut file = File::from(fd);
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::renameat(&self.dir, temporary.as_str(), &self.dir, name)?;
            Ok(())
        })();
        if let Err(e) = written {
            let _ = fs::unlinkat(&self.dir, temporary.as_str(), AtFlags::empty());
            return Err(e).with_context(|| format!("cannot write {}; the old content stays", path.display()));
        }
        Ok(())
    }

    /// Moves a file that cannot be understood out of the way; gives the new name.
    pub fn set_aside(&self, name: &str) -> Result<PathBuf> {
        let aside = format!("{name}.corrupt");
        fs::renameat(&self.dir, name, &self.dir, aside.as_str())
            .with_context(|| format!("cannot set {} aside", self.path(name).display()))?;
        Ok(self.path(&aside))
    }

    /// Waits for the lock of a file.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let lock_name = format!("{name}.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.dir, lock_name.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("cannot open {}", self.path(&lock_name).display()))?;
        let file = File::from(fd);
        fs::flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", self.path(&lock_name).display()))?;
        Ok(Lock(file))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn writes_whole_files_that_only_the_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("a/b")).unwrap();
        assert_eq!(store.read("x").unwrap(), None);
        store.write("x", b"one").unwrap();
        store.write("x", b"two").unwrap();
        assert_eq!(store.read("x").unwrap().as_deref(), Some(&b"two"[..]));
        let mode = std::fs::metadata(store.path("x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names: Vec<_> =
            std::fs::read_dir(dir.path().join("a/b")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["x"], "no temporary file stays");
    }

    #[test]
    fn refuses_links() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        std::fs::write(dir.path().join("target"), b"precious").unwrap();
        symlink(dir.path().join("target"), dir.path().join("x")).unwrap();
        let e = store.read("x").unwrap_err().to_string();
        assert!(e.ends_with("x is a symbolic link; remove it"), "{e}");
        // Writing replaces the link, never what it points to.
        store.write("x", b"new").unwrap();
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"precious");
    }

    #[test]
    fn sets_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        store.write("x", b"{").unwrap();
        let aside = store.set_aside("x").unwrap();
        assert_eq!(std::fs::read(aside).unwrap(), b"{");
        assert_eq!(store.read("x").unwrap(), None);
    }
}
