//! The sockets of a workload process, by number.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::sock;

#[derive(Debug, Clone)]
pub enum Entry {
    Stream(Arc<TcpStream>),
    Listener(Arc<TcpListener>),
}

impl AsRawFd for Entry {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Entry::Stream(s) => s.as_raw_fd(),
            Entry::Listener(l) => l.as_raw_fd(),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    next: u32,
    entries: HashMap<u32, Entry>,
}

/// All sockets of the process. A number is never used twice.
#[derive(Debug, Default)]
pub struct Table(Mutex<Inner>);

impl Table {
    /// Takes a socket in and describes it: `id`, `fd`, `cookie`, `local`, `remote` (null where there is none yet).
    pub fn add(&self, entry: Entry) -> io::Result<Value> {
        let described = describe(&entry)?;
        let mut t = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = t.next;
        t.next += 1;
        t.entries.insert(id, entry);
        Ok(merge(described, json!({"id": id})))
    }

    pub fn get(&self, id: u32) -> io::Result<Entry> {
        let t = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        t.entries.get(&id).cloned().ok_or_else(|| io::Error::other(format!("no socket {id}")))
    }

    pub fn stream(&self, id: u32) -> io::Result<Arc<TcpStream>> {
        match self.get(id)? {
            Entry::Stream(s) => Ok(s),
            Entry::Listener(_) => Err(io::Error::other(format!("socket {id} is a listener"))),
        }
    }

    /// Every connection.
    pub fn streams(&self) -> Vec<Arc<TcpStream>> {
        let t = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = |e: &Entry| if let Entry::Stream(s) = e { Some(Arc::clone(s)) } else { None };
        t.entries.values().filter_map(stream).collect()
    }

    /// The descriptor closes when nobody uses it any more.
    pub fn remove(&self, id: u32) -> io::Result<Entry> {
        let mut t = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        t.entries.remove(&id).ok_or_else(|| io::Error::other(format!("no socket {id}")))
    }
}

/// The socket's identity. A socket that is gone from the network has no remote address any more.
pub fn describe(entry: &Entry) -> io::Result<Value> {
    let text = |a: io::Result<SocketAddr>| a.ok().map(|a| a.to_string());
    let (local, remote) = match entry {
        Entry::Stream(s) => (text(s.local_addr()), text(s.peer_addr())),
        Entry::Listener(l) => (text(l.local_addr()), None),
    };
    let fd = entry.as_raw_fd();
    Ok(json!({"fd": fd, "cookie": format!("{:x}", sock::cookie(fd)?), "local": local, "remote": remote}))
}

/// The fields of both objects.
pub fn merge(mut a: Value, b: Value) -> Value {
    if let (Value::Object(a), Value::Object(b)) = (&mut a, b) {
        a.extend(b);
    }
    a
}
