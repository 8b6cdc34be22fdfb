//! What the agent changed, kept for an undo: one file, per boot, keyed by cookie.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{OptionValues, SocketId};
use crate::store::{self, Lock, Store};

/// Entries kept; beyond this the oldest leave, and it is said. An entry takes about 90 bytes.
pub const MAX_ENTRIES: usize = 65_536;
const VERSION: u32 = 1;
const NAME: &str = "actions.json";

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
pub struct Ledger {
    store: Store,
    _lock: Lock,
    boot_id: String,
    entries: BTreeMap<u64, Entry>,
    serial: u64,
    /// Entries that left because there were too many.
    pub dropped: usize,
    changed: bool,
}

/// Read first: the rest of another version may look different.
#[derive(Deserialize)]
struct Head {
    version: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    version: u32,
    boot_id: Cow<'a, str>,
    /// In the order of the changes.
    #[serde(borrow)]
    entries: Vec<SavedEntry<'a>>,
}

#[derive(Serialize, Deserialize)]
struct SavedEntry<'a> {
    /// Cookie, hex.
    #[serde(borrow)]
    socket: Cow<'a, str>,
    pid: u32,
    before: SavedValues,
    after: SavedValues,
}

/// SO_KEEPALIVE, idle s, interval s, count, user timeout ms.
#[derive(Serialize, Deserialize)]
struct SavedValues(bool, u32, u32, u32, u32);

impl From<OptionValues> for SavedValues {
    fn from(v: OptionValues) -> Self {
        Self(v.enabled, v.idle_s, v.interval_s, v.count, v.user_timeout_ms)
    }
}

impl From<&SavedValues> for OptionValues {
    fn from(v: &SavedValues) -> Self {
        let SavedValues(enabled, idle_s, interval_s, count, user_timeout_ms) = *v;
        Self { enabled, idle_s, interval_s, count, user_timeout_ms }
    }
}

impl Ledger {
    /// Opens the file of this user, or begins one.
    pub fn open() -> Result<Self, String> {
        Self::open_in(store::directory().map_err(|e| format!("{e:#}"))?)
    }

    /// Opens the file in `directory`, which is made if it is missing.
    pub fn open_in(directory: PathBuf) -> Result<Self, String> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| format!("cannot read the boot id: {e}"))?
            .trim()
            .to_owned();
        let text = |e: anyhow::Error| format!("{e:#}");
        let store = Store::open(directory).map_err(text)?;
        let lock = store.lock(NAME).map_err(text)?;
        let saved = store.read(NAME).map_err(text)?;
        let mut ledger =
            Self { store, _lock: lock, boot_id, entries: BTreeMap::new(), serial: 0, dropped: 0, changed: false };
        if let Some(bytes) = saved {
            ledger.load(&bytes)?;
        }
        Ok(ledger)
    }

    fn load(&mut self, bytes: &[u8]) -> Result<(), String> {
        let path = self.store.path(NAME);
        let broken = |e: serde_json::Error| {
            format!("{} cannot be understood ({e}); remove it (what it held can then not be undone)", path.display())
        };
        let head: Head = serde_json::from_slice(bytes).map_err(broken)?;
        match head.version {
            Some(VERSION) => {}
            Some(v) => {
                let path = path.display();
                return Err(format!("{path} has version {v}, this agent knows {VERSION}; use the agent that wrote it"));
            }
            None => return Err(format!("{} has no version; remove it", path.display())),
        }
        let saved: Saved<'_> = serde_json::from_slice(bytes).map_err(broken)?;
        // Cookies start anew with each boot: entries of another one mean other sockets.
        if saved.boot_id != self.boot_id {
            self.changed = true;
            return Ok(());
        }
        for e in &saved.entries {
            if let Ok(SocketId(cookie)) = e.socket.parse() {
                self.serial += 1;
                let entry =
                    Entry { pid: e.pid, before: (&e.before).into(), after: (&e.after).into(), serial: self.serial };
                self.entries.insert(cookie, entry);
            }
        }
        Ok(())
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

    /// Writes the file, if anything changed.
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
        let text = self.text().map_err(|e| format!("cannot encode {}: {e}", self.store.path(NAME).display()))?;
        self.store.write(NAME, &text).map_err(|e| format!("{e:#}"))?;
        self.changed = false;
        Ok(())
    }

    fn text(&self) -> serde_json::Result<Vec<u8>> {
        let mut list: Vec<(&u64, &Entry)> = self.entries.iter().collect();
        list.sort_unstable_by_key(|(_, e)| e.serial);
        let entries = list
            .into_iter()
            .map(|(c, e)| SavedEntry {
                socket: SocketId(*c).to_string().into(),
                pid: e.pid,
                before: e.before.into(),
                after: e.after.into(),
            })
            .collect();
        serde_json::to_vec(&Saved { version: VERSION, boot_id: self.boot_id.as_str().into(), entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

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
        let mut l = Ledger::open_in(dir.clone()).unwrap();
        assert!(l.is_empty());
        l.note(SocketId(0xab), 7, values(1), values(2));
        l.save().unwrap();
        drop(l);
        assert_eq!(std::fs::metadata(dir.join(NAME)).unwrap().mode() & 0o777, 0o600);
        let l = Ledger::open_in(dir).unwrap();
        let e = l.get(SocketId(0xab)).unwrap();
        assert_eq!((e.pid, e.before, e.after), (7, values(1), values(2)));
        assert_eq!(l.pids(), [7]);
    }

    #[test]
    fn a_second_change_keeps_the_first_before_unless_somebody_came_between() {
        let (_t, dir) = place();
        let mut l = Ledger::open_in(dir).unwrap();
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
        let mut l = Ledger::open_in(dir.clone()).unwrap();
        l.boot_id = "other".into();
        l.note(SocketId(1), 7, values(1), values(2));
        l.save().unwrap();
        drop(l);
        assert!(Ledger::open_in(dir).unwrap().is_empty());
    }

    #[test]
    fn links_other_versions_and_nonsense_are_refused() {
        let (_t, dir) = place();
        drop(Ledger::open_in(dir.clone()).unwrap());
        let refusal = || Ledger::open_in(dir.clone()).err().unwrap();
        symlink("/etc/passwd", dir.join(NAME)).unwrap();
        assert!(refusal().contains("link"));
        std::fs::remove_file(dir.join(NAME)).unwrap();
        std::fs::write(dir.join(NAME), r#"{"version":2}"#).unwrap();
        assert!(refusal().contains("version 2"));
        std::fs::write(dir.join(NAME), "nonsense").unwrap();
        assert!(refusal().contains("cannot be understood"));
    }

    #[test]
    fn the_oldest_leave_when_it_is_full_and_the_file_stays_readable() {
        let (_t, dir) = place();
        let mut l = Ledger::open_in(dir.clone()).unwrap();
        let wide = OptionValues {
            idle_s: 32_767,
            interval_s: 32_767,
            count: 127,
            user_timeout_ms: 2_147_483_647,
            ..values(1)
        };
        for n in 0..MAX_ENTRIES as u64 + 3 {
            l.note(SocketId(n + 1), 4_000_000, values(1), wide);
        }
        l.save().unwrap();
        assert_eq!(l.dropped, 3);
        drop(l);
        let l = Ledger::open_in(dir).unwrap();
        assert!(l.get(SocketId(3)).is_none() && l.get(SocketId(4)).is_some());
    }
}
