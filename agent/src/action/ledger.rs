//! What the agent changed, kept for an undo: one file, per boot, keyed by cookie.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::model::{OptionValues, SocketId};

/// Entries kept; beyond this the oldest leave, and it is said.
pub const MAX_ENTRIES: usize = 65_536;
/// A file larger than this is not ours (an entry is about 250 bytes).
const MAX_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;
const NAME: &str = "actions.json";
const TEMPORARY: &str = "actions.json.new";
const LOCK: &str = "actions.lock";

/// One socket that the agent changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The process through which it was changed.
    pub pid: u32,
    /// Before the agent's first change.
    pub before: OptionValues,
    /// After its latest.
    pub after: OptionValues,
    /// Grows with each change: which entry is the oldest.
    serial: u64,
}

/// The open file, locked against other agents as long as it lives: keep it only for one action.
#[derive(Debug)]
pub struct Ledger {
    dir: OwnedFd,
    path: PathBuf,
    _lock: OwnedFd,
    boot_id: String,
    entries: BTreeMap<u64, Entry>,
    serial: u64,
    /// Entries that left because there were too many.
    pub dropped: usize,
    changed: bool,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    boot_id: String,
    entries: Vec<SavedEntry>,
}

#[derive(Serialize, Deserialize)]
struct SavedEntry {
    socket: String,
    pid: u32,
    before: SavedValues,
    after: SavedValues,
}

#[derive(Serialize, Deserialize)]
struct SavedValues {
    enabled: bool,
    idle_s: u32,
    interval_s: u32,
    count: u32,
    user_timeout_ms: u32,
}

impl From<OptionValues> for SavedValues {
    fn from(v: OptionValues) -> Self {
        let OptionValues { enabled, idle_s, interval_s, count, user_timeout_ms } = v;
        Self { enabled, idle_s, interval_s, count, user_timeout_ms }
    }
}

impl From<&SavedValues> for OptionValues {
    fn from(v: &SavedValues) -> Self {
        let SavedValues { enabled, idle_s, interval_s, count, user_timeout_ms } = *v;
        Self { enabled, idle_s, interval_s, count, user_timeout_ms }
    }
}

/// `/var/lib/agent` for root, else `$XDG_STATE_HOME/agent` or `~/.local/state/agent`.
pub fn state_directory() -> Result<PathBuf, String> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/agent".into());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|h| h.join(".local/state")))
        .map(|d| d.join("agent"))
        .ok_or_else(|| "neither XDG_STATE_HOME nor HOME names a directory for the undo file".into())
}

impl Ledger {
    /// Opens the file of this user, or begins one.
    pub fn open() -> Result<Self, String> {
        Self::open_in(&state_directory()?)
    }

    /// Opens the file in `directory` (made if absent, 0700). Links are not followed, and neither a directory nor a
    /// file that others may write is trusted: undo writes to sockets what it reads there.
    pub fn open_in(directory: &Path) -> Result<Self, String> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| format!("cannot read the boot id: {e}"))?
            .trim()
            .to_owned();
        let path = directory.join(NAME);
        let error = |e: Errno| match e {
            Errno::LOOP | Errno::NOTDIR => {
                format!("cannot open {}: it or its directory is a link; remove it", path.display())
            }
            e => format!("cannot open {}: {e}", path.display()),
        };
        make_directory(directory).map_err(|e| format!("cannot make {}: {e}", directory.display()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(directory, flags, Mode::empty()).map_err(error)?;
        trusted(&dir, directory, false)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&dir, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(error)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(error)?;
        let saved =
            match rustix::fs::openat(&dir, NAME, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                Ok(fd) => {
                    trusted(&fd, &path, true)?;
                    Some(parse(File::from(fd), &path)?)
                }
                Err(Errno::NOENT) => None,
                Err(e) => return Err(error(e)),
            };
        let mut ledger =
            Self { dir, path, _lock: lock, boot_id, entries: BTreeMap::new(), serial: 0, dropped: 0, changed: false };
        if let Some(saved) = saved {
            ledger.load(saved);
        }
        Ok(ledger)
    }

    /// Cookies start anew with each boot: entries of another one mean other sockets.
    fn load(&mut self, saved: Saved) {
        if saved.boot_id != self.boot_id {
            self.changed = true;
            return;
        }
        for e in &saved.entries {
            if let Ok(SocketId(cookie)) = e.socket.parse() {
                self.serial += 1;
                let entry =
                    Entry { pid: e.pid, before: (&e.before).into(), after: (&e.after).into(), serial: self.serial };
                self.entries.insert(cookie, entry);
            }
        }
    }

    pub fn get(&self, id: SocketId) -> Option<&Entry> {
        self.entries.get(&id.0)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Processes through which something was changed.
    pub fn pids(&self) -> Vec<u32> {
        let set: std::collections::BTreeSet<u32> = self.entries.values().map(|e| e.pid).collect();
        set.into_iter().collect()
    }

    pub fn sockets(&self) -> impl Iterator<Item = (SocketId, &Entry)> {
        self.entries.iter().map(|(c, e)| (SocketId(*c), e))
    }

    /// Notes a change. If the socket still had the agent's own values, the undo goes back to before those.
    pub fn note(&mut self, id: SocketId, pid: u32, before: OptionValues, after: OptionValues) {
        let before = match self.entries.get(&id.0) {
            Some(old) if old.after == before => old.before,
            _ => before,
        };
        self.changed = true;
        if before == after {
            self.entries.remove(&id.0);
            return;
        }
        self.serial += 1;
        self.entries.insert(id.0, Entry { pid, before, after, serial: self.serial });
    }

    pub fn forget(&mut self, id: SocketId) {
        self.changed |= self.entries.remove(&id.0).is_some();
    }

    /// Forgets entries for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(SocketId, &Entry) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|c, e| keep(SocketId(*c), e));
        self.changed |= self.entries.len() != before;
    }

    /// Writes the file anew beside the old one and renames it: a crash leaves one or the other, never half.
    pub fn save(&mut self) -> Result<(), String> {
        if !self.changed {
            return Ok(());
        }
        if let Some(excess) = self.entries.len().checked_sub(MAX_ENTRIES).filter(|n| *n > 0) {
            let mut serials: Vec<u64> = self.entries.values().map(|e| e.serial).collect();
            serials.sort_unstable();
            let oldest_kept = serials[excess];
            self.entries.retain(|_, e| e.serial >= oldest_kept);
            self.dropped += excess;
        }
        let text = self.text().map_err(|e| format!("cannot encode {}: {e}", self.path.display()))?;
        self.replace(&text).map_err(|e| format!("cannot write {}: {e}", self.path.display()))?;
        self.changed = false;
        Ok(())
    }

    fn text(&self) -> serde_json::Result<Vec<u8>> {
        let mut list: Vec<(&u64, &Entry)> = self.entries.iter().collect();
        list.sort_unstable_by_key(|(_, e)| e.serial);
        let entries = list
            .into_iter()
            .map(|(c, e)| SavedEntry {
                socket: SocketId(*c).to_string(),
                pid: e.pid,
                before: e.before.into(),
                after: e.after.into(),
            })
            .collect();
        serde_json::to_vec(&Saved { version: VERSION, boot_id: self.boot_id.clone(), entries })
    }

    fn replace(&self, text: &[u8]) -> std::io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.dir, TEMPORARY, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(text)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.dir, TEMPORARY, &self.dir, NAME)?;
        Ok(())
    }
}

fn make_directory(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn trusted(fd: &OwnedFd, path: &Path, file: bool) -> Result<(), String> {
    let stat = rustix::fs::fstat(fd).map_err(|e| format!("cannot look at {}: {e}", path.display()))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if file && kind != rustix::fs::FileType::RegularFile {
        return Err(format!("{} is no ordinary file; remove it", path.display()));
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(format!(
            "{} belongs to or may be written by somebody else: what it says is not trusted; remove it",
            path.display()
        ));
    }
    Ok(())
}

fn parse(file: File, path: &Path) -> Result<Saved, String> {
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("{} is too large to be the agent's; remove it", path.display()));
    }
    let broken = |e: serde_json::Error| {
        format!("{} cannot be understood ({e}); remove it (what it held can then not be undone)", path.display())
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(broken)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(v) if v == u64::from(VERSION) => serde_json::from_value(value).map_err(broken),
        Some(v) => {
            Err(format!("{} has version {v}, this agent knows {VERSION}; use the agent that wrote it", path.display()))
        }
        None => Err(format!("{} has no version; remove it", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn values(idle_s: u32) -> OptionValues {
        OptionValues { enabled: true, idle_s, interval_s: 10, count: 3, user_timeout_ms: 0 }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let t = tempfile::tempdir().unwrap();
        let dir = t.path().join("state/agent");
        (t, dir)
    }

    #[test]
    fn survives_a_restart_and_is_private() {
        let (_t, dir) = place();
        let mut l = Ledger::open_in(&dir).unwrap();
        assert!(l.is_empty());
        l.note(SocketId(0xab), 7, values(1), values(2));
        l.save().unwrap();
        drop(l);
        let meta = std::fs::metadata(dir.join(NAME)).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        let l = Ledger::open_in(&dir).unwrap();
        let e = l.get(SocketId(0xab)).unwrap();
        assert_eq!((e.pid, e.before, e.after), (7, values(1), values(2)));
        assert_eq!(l.pids(), [7]);
    }

    #[test]
    fn a_second_change_keeps_the_first_before_unless_somebody_came_between() {
        let (_t, dir) = place();
        let mut l = Ledger::open_in(&dir).unwrap();
        let id = SocketId(1);
        l.note(id, 7, values(1), values(2));
        l.note(id, 7, values(2), values(3));
        assert_eq!((l.get(id).unwrap().before, l.get(id).unwrap().after), (values(1), values(3)));
        l.note(id, 7, values(9), values(4));
        assert_eq!(l.get(id).unwrap().before, values(9));
        l.note(id, 7, values(4), values(9));
        assert!(l.get(id).is_none(), "back at the beginning: nothing to undo");
    }

    #[test]
    fn entries_of_another_boot_are_dropped() {
        let (_t, dir) = place();
        let mut l = Ledger::open_in(&dir).unwrap();
        l.boot_id = "other".into();
        l.note(SocketId(1), 7, values(1), values(2));
        l.save().unwrap();
        drop(l);
        assert!(Ledger::open_in(&dir).unwrap().is_empty());
    }

    #[test]
    fn links_foreign_writers_and_other_versions_are_refused() {
        let (t, dir) = place();
        drop(Ledger::open_in(&dir).unwrap());
        symlink("/etc/passwd", dir.join(NAME)).unwrap();
        assert!(Ledger::open_in(&dir).unwrap_err().contains("link"));
        std::fs::remove_file(dir.join(NAME)).unwrap();
        std::fs::write(dir.join(NAME), r#"{"version":2}"#).unwrap();
        assert!(Ledger::open_in(&dir).unwrap_err().contains("version 2"));
        std::fs::set_permissions(dir.join(NAME), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Ledger::open_in(&dir).unwrap_err().contains("not trusted"));
        std::fs::remove_file(dir.join(NAME)).unwrap();
        std::fs::write(dir.join(NAME), "nonsense").unwrap();
        assert!(Ledger::open_in(&dir).unwrap_err().contains("cannot be understood"));
        let alias = t.path().join("alias");
        symlink(&dir, &alias).unwrap();
        assert!(Ledger::open_in(&alias).is_err());
    }

    #[test]
    fn a_planted_temporary_link_is_not_written_through() {
        let (t, dir) = place();
        let mut l = Ledger::open_in(&dir).unwrap();
        let victim = t.path().join("victim");
        std::fs::write(&victim, "safe").unwrap();
        symlink(&victim, dir.join(TEMPORARY)).unwrap();
        l.note(SocketId(1), 7, values(1), values(2));
        l.save().unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "safe");
    }

    #[test]
    fn the_oldest_leave_when_it_is_full() {
        let (_t, dir) = place();
        let mut l = Ledger::open_in(&dir).unwrap();
        for n in 0..MAX_ENTRIES as u64 + 3 {
            l.note(SocketId(n + 1), 7, values(1), values(2));
        }
        l.save().unwrap();
        assert_eq!(l.dropped, 3);
        assert!(l.get(SocketId(3)).is_none() && l.get(SocketId(4)).is_some());
    }
}
