//! A growing list of JSON lines that several readers wait on.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How many times longer than on real hardware things take: 1, or what AGENT_TEST_SLOWNESS says (`cargo xtask test
/// --kernels` sets it in its emulated machines). Every limit of time in the tests is multiplied by it.
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| match std::env::var("AGENT_TEST_SLOWNESS") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("AGENT_TEST_SLOWNESS is no number: {text}")),
        Err(_) => 1,
    })
}

/// How long anything may take on a busy machine before the test says that it does not happen.
pub fn patience() -> Duration {
    Duration::from_secs(25) * slowness()
}

/// What a child has printed so far.
#[derive(Debug, Default)]
pub struct Printed {
    pub lines: Vec<Value>,
    /// Lines that are no JSON, with their number.
    pub broken: Vec<(usize, String)>,
    /// The text after the last line feed at the end, empty in a whole output.
    pub rest: String,
    pub ended: bool,
}

/// Shared by the thread that reads and the tests that wait.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<(Mutex<Printed>, Condvar)>);

impl Lines {
    /// Reads `from` until its end. One thread reads and another one parses, or in a storm a child would wait for the
    /// parser, and the time that it takes to end would be the parser's.
    pub fn read_from(mut from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        let (send, chunks) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            loop {
                match from.read(&mut chunk) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                    Ok(n) if send.send(chunk[..n].to_vec()).is_err() => break,
                    Ok(_) => {}
                }
            }
        });
        std::thread::spawn(move || {
            let mut line = Vec::new();
            for chunk in chunks {
                for part in chunk.split_inclusive(|b| *b == b'\n') {
                    line.extend_from_slice(part);
                    if part.ends_with(b"\n") {
                        writer.push(&String::from_utf8_lossy(&line));
                        line.clear();
                    }
                }
            }
            if !line.is_empty() {
                writer.push(&String::from_utf8_lossy(&line));
            }
            writer.lock().ended = true;
            writer.0.1.notify_all();
        });
        lines
    }

    fn push(&self, text: &str) {
        let mut p = self.lock();
        match text.strip_suffix('\n') {
            None => p.rest = text.to_owned(),
            Some(line) => match serde_json::from_str(line) {
                Ok(value) => p.lines.push(value),
                Err(_) => {
                    let number = p.lines.len() + p.broken.len();
                    p.broken.push((number, line.to_owned()));
                }
            },
        }
        drop(p);
        self.0.1.notify_all();
    }

    pub fn lock(&self) -> MutexGuard<'_, Printed> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds what it wants; `None` at the deadline or when the output has ended without it.
    pub fn wait<T>(&self, patience: Duration, mut look: impl FnMut(&Printed) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut p = self.lock();
        loop {
            if let Some(found) = look(&p) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || p.ended {
                return None;
            }
            p = self.0.1.wait_timeout(p, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Asks `condition` every 10 ms until it holds; panics with `what` after [`patience`]. For facts that the kernel tells
/// only when asked, like counters.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen within {:?}: {what}", patience());
        std::thread::sleep(Duration::from_millis(10));
    }
}
