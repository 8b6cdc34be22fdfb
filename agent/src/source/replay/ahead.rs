//! Reads a recording ahead in a thread of its own: parsing costs as much as all that follows it, and the two run side
//! by side.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::Context as _;

use super::{Recording, Stats};
use crate::model::Event;

/// Events handed over at once: waking the other thread for each would cost more than parsing it.
const BATCH: usize = 512;
/// Batches that may wait. With events of about 500 bytes, a megabyte.
const WAITING: usize = 4;

struct Batch {
    events: Vec<Event>,
    stats: Stats,
    /// Nothing comes after it.
    last: bool,
}

/// The events of a recording, parsed ahead of their use.
pub struct Ahead {
    batches: Receiver<anyhow::Result<Batch>>,
    events: std::vec::IntoIter<Event>,
    stats: Stats,
    done: bool,
}

impl Ahead {
    /// Reads on from where `recording` is. The thread ends with the recording, or when this is dropped.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(recording: Recording) -> anyhow::Result<Self> {
        let (to, batches) = sync_channel(WAITING);
        let stats = recording.stats().clone();
        let thread = std::thread::Builder::new().name("recording".into());
        thread.spawn(move || read(recording, &to)).context("cannot start a thread to read the recording")?;
        Ok(Self { batches, events: Vec::new().into_iter(), stats, done: false })
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// As [`Recording::next_event`].
    pub fn next_event(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(Some(event));
            }
            if self.done {
                return Ok(None);
            }
            let batch = self.batches.recv().context("the thread that reads the recording has ended")?;
            // Whatever it is that ends the reading, nothing comes after it.
            self.done = batch.as_ref().map_or(true, |b| b.last);
            let batch = batch?;
            self.stats = batch.stats;
            self.events = batch.events.into_iter();
        }
    }

    /// What was read and what could not be, up to the batch that is being used; at the end, of the whole recording.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

fn read(mut recording: Recording, to: &SyncSender<anyhow::Result<Batch>>) {
    loop {
        let batch = next_batch(&mut recording);
        let last = batch.as_ref().map_or(true, |b| b.last);
        // An error here says that nobody wants the rest.
        if to.send(batch).is_err() || last {
            return;
        }
    }
}

fn next_batch(recording: &mut Recording) -> anyhow::Result<Batch> {
    let mut events = Vec::with_capacity(BATCH);
    let mut last = false;
    while events.len() < BATCH && !last {
        match recording.next_event()? {
            Some(event) => events.push(event),
            None => last = true,
        }
    }
    Ok(Batch { events, stats: recording.stats().clone(), last })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::replay::Lines;

    fn recording(lines: usize, tail: &str) -> Recording {
        let mut text = String::new();
        for n in 0..lines {
            text +=
                &format!("{{\"type\":\"exit\",\"seq\":{n},\"time\":\"2026-11-23T17:00:00.000000001Z\",\"pid\":{n}}}\n");
        }
        text += tail;
        Recording::new(Path::new("/nowhere/test"), Lines::new(std::io::Cursor::new(text.into_bytes())).unwrap())
    }

    #[test]
    fn gives_what_reading_line_by_line_gives() {
        for (lines, tail) in [(1, ""), (BATCH, ""), (3 * BATCH + 7, ""), (BATCH * (WAITING + 3), "{\"type\":\"exi")] {
            let mut plain = recording(lines, tail);
            let mut ahead = Ahead::new(recording(lines, tail)).unwrap();
            loop {
                let (a, b) = (plain.next_event().unwrap(), ahead.next_event().unwrap());
                assert_eq!(a, b);
                if a.is_none() {
                    break;
                }
            }
            assert_eq!(plain.stats(), ahead.stats());
            assert_eq!(ahead.stats().events, lines as u64);
        }
    }

    #[test]
    fn an_error_comes_once_and_ends_it() {
        let later = "{\"type\":\"session\",\"seq\":9,\"time\":\"2026-11-23T17:00:00Z\",\"schema\":\"agent.events/2\",\
                     \"agent_version\":\"9\",\"kernel_release\":\"\",\"arch\":\"\"}\n";
        let mut ahead = Ahead::new(recording(0, later)).unwrap();
        assert!(ahead.next_event().unwrap_err().to_string().contains("use a later agent"));
        assert!(ahead.next_event().unwrap().is_none());
    }
}
