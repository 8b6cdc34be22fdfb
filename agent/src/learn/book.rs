//! The limits of all destinations, and the file that keeps them over runs.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::limits::Limits;
use crate::store::Store;

const FILE: &str = "limits.json";
const VERSION: u32 = 1;

/// Destinations kept; the least recently learned leave first.
pub const MAX_DESTINATIONS: usize = 1024;

/// `name` is the name that the user watches by, if any: two names behind one address are two destinations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub name: Option<String>,
    /// `ip:port` or `[v6]:port`.
    pub address: String,
}

/// A set of destinations with what is known of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Book {
    pub entries: BTreeMap<Key, Limits>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    destinations: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    limits: Limits,
}

/// What reading the file came to.
#[derive(Debug, PartialEq)]
pub enum Loaded {
    Fresh,
    Known(Book),
    /// It could not be understood and was set aside, or left alone because a newer agent wrote it.
    Unusable(String),
}

impl Book {
    /// Adds what `newer` learned, then drops the oldest destinations beyond the cap.
    pub fn merge(&mut self, newer: &Book) {
        for (key, limits) in &newer.entries {
            self.entries.entry(key.clone()).or_default().merge(limits);
        }
        while self.entries.len() > MAX_DESTINATIONS {
            let oldest = self.entries.iter().min_by_key(|(_, l)| l.updated).map(|(k, _)| k.clone());
            match oldest {
                Some(key) => self.entries.remove(&key),
                None => break,
            };
        }
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let destinations =
            self.entries.iter().map(|(key, limits)| Entry { key: key.clone(), limits: limits.clone() }).collect();
        let mut bytes = serde_json::to_vec_pretty(&Document { version: VERSION, destinations })
            .context("cannot encode what was learned")?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads the file. A corrupt one is set aside, so that the next save does not lose it silently.
    pub fn load(store: &Store) -> Result<Loaded> {
        let Some(bytes) = store.read(FILE)? else { return Ok(Loaded::Fresh) };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version = serde_json::from_slice::<Version>(&bytes).map(|v| v.version);
        match version {
            Ok(v) if v > VERSION => Ok(Loaded::Unusable(format!(
                "{} was written by a newer agent (version {v}); it is left alone and nothing is learned into it",
                store.path(FILE).display()
            ))),
            _ => match serde_json::from_slice::<Document>(&bytes) {
                Ok(doc) => {
                    let mut book = Book::default();
                    book.merge(&Book { entries: doc.destinations.into_iter().map(|e| (e.key, e.limits)).collect() });
                    Ok(Loaded::Known(book))
                }
                Err(e) => {
                    let aside = store.set_aside(FILE)?;
                    Ok(Loaded::Unusable(format!(
                        "{} cannot be read ({e}); it was set aside as {}",
                        store.path(FILE).display(),
                        aside.display()
                    )))
                }
            },
        }
    }

    /// Adds what this run learned to the file: read, merged and replaced under a lock, so that two agents at once lose
    /// nothing of each other's. Gives the merged book.
    pub fn save(store: &Store, learned: &Book) -> Result<Book> {
        let _lock = store.lock(FILE)?;
        let mut book = match Self::load(store)? {
            Loaded::Known(book) => book,
            Loaded::Fresh => Book::default(),
            // Newer: never overwrite. Corrupt: it was set aside just now, begin anew.
            Loaded::Unusable(why) if store.read(FILE)?.is_some() => anyhow::bail!("{why}"),
            Loaded::Unusable(_) => Book::default(),
        };
        book.merge(learned);
        store.write(FILE, &book.to_bytes()?)?;
        Ok(book)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn book(name: Option<&str>, idle: f64, updated: i64) -> Book {
        let mut limits = Limits { updated, ..Limits::default() };
        limits.server_close.add(Duration::from_secs_f64(idle));
        let key = Key { name: name.map(str::to_owned), address: "192.0.2.1:443".into() };
        Book { entries: [(key, limits)].into() }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        (dir, store)
    }

    #[test]
    fn survives_a_restart_and_adds_up() {
        let (_dir, store) = store();
        assert_eq!(Book::load(&store).unwrap(), Loaded::Fresh);
        Book::save(&store, &book(Some("a"), 2.0, 1)).unwrap();
        Book::save(&store, &book(Some("a"), 2.2, 2)).unwrap();
        Book::save(&store, &book(Some("b"), 5.0, 3)).unwrap();
        let Loaded::Known(all) = Book::load(&store).unwrap() else { panic!() };
        assert_eq!(all.entries.len(), 2, "two names behind one address stay apart");
        let a = &all.entries[&Key { name: Some("a".into()), address: "192.0.2.1:443".into() }];
        assert_eq!(a.server_close.recent_s, [2.0, 2.2]);
        assert_eq!(a.server_close.count, 2);
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_said() {
        let (_dir, store) = store();
        store.write(FILE, b"{\"version\":1,\"destinations\":[{]").unwrap();
        let Loaded::Unusable(why) = Book::load(&store).unwrap() else { panic!() };
        assert!(why.contains("limits.json.corrupt"), "{why}");
        Book::save(&store, &book(None, 3.0, 1)).unwrap();
        assert!(matches!(Book::load(&store).unwrap(), Loaded::Known(_)));
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let (_dir, store) = store();
        let newer = br#"{"version":2,"something":"else"}"#;
        store.write(FILE, newer).unwrap();
        assert!(Book::save(&store, &book(None, 3.0, 1)).is_err());
        assert_eq!(store.read(FILE).unwrap().as_deref(), Some(&newer[..]));
    }

    #[test]
    fn the_oldest_leave_beyond_the_cap() {
        let mut all = Book::default();
        for i in 0..MAX_DESTINATIONS + 10 {
            all.merge(&book(Some(&format!("h{i}")), 1.0, i as i64));
        }
        assert_eq!(all.entries.len(), MAX_DESTINATIONS);
        assert!(!all.entries.keys().any(|k| k.name.as_deref() == Some("h9")));
    }

    #[test]
    fn two_writers_lose_nothing() {
        let (dir, _) = store();
        std::thread::scope(|scope| {
            for t in 0..4 {
                let path = dir.path().to_owned();
                scope.spawn(move || {
                    let store = Store::open(path).unwrap();
                    for i in 0..10 {
                        Book::save(&store, &book(Some(&format!("t{t}")), f64::from(i), i64::from(i))).unwrap();
                    }
                });
            }
        });
        let store = Store::open(dir.path().to_owned()).unwrap();
        let Loaded::Known(all) = Book::load(&store).unwrap() else { panic!() };
        assert_eq!(all.entries.values().map(|l| l.server_close.count).sum::<u64>(), 40);
    }
}
