//! What was recorded is what is read, whatever happened to the file in between.

use std::io::Cursor;
use std::path::Path;

use crate::model::{Event, EventKind, Mono};
use crate::schema::{part_path, samples};
use crate::source::replay::{Lines, Recording, Stats, last_line_time};
use crate::state::{Table, TableConfig};
use crate::view::jsonl::{Options, Recorder, Target};

fn recorded() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    let mut recorder = Recorder::create(Target::File(path.clone()), Options::default()).unwrap();
    let mut table = Table::new(TableConfig::default());
    for e in samples::all() {
        table.apply(&e);
        recorder.write(&e, &table, &samples::clock()).unwrap();
    }
    recorder.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// Reads everything; panics are the caller's failure.
fn read(bytes: Vec<u8>) -> (anyhow::Result<Vec<Event>>, Stats) {
    let lines = Lines::new(Cursor::new(bytes)).unwrap();
    let mut recording = Recording::new(Path::new("/nonexistent/r.jsonl"), lines);
    let mut events = Vec::new();
    let result = loop {
        match recording.next_event() {
            Ok(Some(e)) => events.push(e),
            Ok(None) => break Ok(events),
            Err(e) => break Err(e),
        }
    };
    (result, recording.stats().clone())
}

#[test]
fn replay_gives_the_state_of_the_run() {
    let mut live = Table::new(TableConfig::default());
    for e in samples::all() {
        live.apply(&e);
    }
    let (events, stats) = read(recorded());
    let mut replayed = Table::new(TableConfig::default());
    for e in events.unwrap() {
        replayed.apply(&e);
    }
    assert_eq!(stats.remarks(), Vec::<String>::new());
    assert_eq!(replayed.totals(), live.totals());
    assert_eq!(replayed.len(), live.len());
    for (a, b) in live.iter().zip(replayed.iter()) {
        assert_eq!((a.id, a.flow, a.state, &a.owners, a.keepalive), (b.id, b.flow, b.state, &b.owners, b.keepalive));
        assert_eq!(
            (a.counters, a.activity, a.opened, a.gives_up_at),
            (b.counters, b.activity, b.opened, b.gives_up_at)
        );
        assert_eq!(a.tcp, b.tcp);
    }
}

#[test]
fn cut_at_every_byte_it_reads_up_to_the_cut_and_says_so() {
    let whole = recorded();
    let total = read(whole.clone()).0.unwrap().len();
    for at in 0..whole.len() {
        let (events, stats) = read(whole[..at].to_vec());
        let lines = whole[..at].iter().filter(|b| **b == b'\n').count();
        match events {
            Ok(events) => {
                assert!(events.len() == lines || events.len() == lines + 1, "at {at}: {} of {lines}", events.len());
                assert!(!stats.remarks().is_empty() || events.len() == total, "at {at}");
            }
            Err(e) => assert!(lines == 0 && e.to_string().contains("recording"), "at {at}: {e}"),
        }
    }
}

#[test]
fn any_byte_may_be_anything() {
    let whole = recorded();
    for at in (0..whole.len()).step_by(17) {
        for new in [0u8, b'"', b'\n', 0xff, b'9'] {
            let mut bytes = whole.clone();
            bytes[at] = new;
            let _ = read(bytes);
        }
    }
}

#[test]
fn garbage_unknown_types_and_gaps_are_counted() {
    let mut text = String::from_utf8(recorded()).unwrap();
    let lines = text.lines().count() as u64;
    text.insert_str(text.find('\n').unwrap() + 1, "garbage\n{\"type\":\"weather\",\"seq\":9}\n\n[1,2]\n");
    let cut: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 8).map(|(_, l)| l).collect();
    let (events, stats) = read(cut.join("\n").into_bytes());
    assert_eq!(events.unwrap().len() as u64, lines - 1);
    assert_eq!((stats.unreadable, stats.unknown, stats.missing, stats.ended), (2, 1, 1, true));
    assert_eq!(stats.remarks().len(), 3, "{:?}", stats.remarks());
}

#[test]
fn what_is_no_recording_says_so() {
    for (bytes, says) in [
        (b"".to_vec(), "is empty"),
        (b"\n\n".to_vec(), "is empty"),
        (b"hello\nworld\n".to_vec(), "no recording of agent"),
        (b"x\n".repeat(5_000), "no recording of agent"),
        (vec![0; 70 << 20], "no recording of agent"),
        (vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0], "recording"),
    ] {
        let e = read(bytes).0.unwrap_err().to_string();
        assert!(e.contains(says) && !e.contains('\n'), "{e}");
    }
    let later = String::from_utf8(recorded()).unwrap().replace("agent.events/1", "agent.events/2");
    assert!(read(later.into_bytes()).0.unwrap_err().to_string().contains("use a later agent"));
    let minor = String::from_utf8(recorded()).unwrap().replace("agent.events/1", "agent.events/1.7");
    assert!(read(minor.into_bytes()).0.is_ok());
}

#[test]
fn a_sparse_file_of_five_gigabytes_is_refused_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(5_000_000_000).unwrap();
    let e = Recording::open(file.path()).unwrap().next_event().unwrap_err();
    assert!(e.to_string().contains("no recording of agent"), "{e}");
}

/// 5,002 resets in parts of 8 kB.
fn record_in_parts(path: &std::path::Path, max_files: Option<u32>) {
    let options = Options { max_bytes: Some(8_000), max_files, ..Options::default() };
    let mut recorder = Recorder::create(Target::File(path.to_owned()), options).unwrap();
    let mut table = Table::new(TableConfig::default());
    let mut events = samples::all();
    let end = events.pop().unwrap();
    for n in 0..5_000u64 {
        let mut reset = samples::reset();
        reset.pid = Some(n as u32);
        events.push(Event { at: Mono(40_000_000_000 + n * 3_000_000), kind: EventKind::Reset(reset.into()) });
    }
    events.push(Event { at: Mono(99_000_000_000), ..end });
    for e in &events {
        table.apply(e);
        recorder.write(e, &table, &samples::clock()).unwrap();
        recorder.flush(&table, &samples::clock()).unwrap();
    }
    recorder.finish().unwrap();
}

#[test]
fn a_recording_in_parts_reads_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl.zst");
    record_in_parts(&path, None);
    let mut recording = Recording::open(&path).unwrap();
    let mut resets = 0;
    while let Some(e) = recording.next_event().unwrap() {
        resets += u32::from(matches!(e.kind, EventKind::Reset(_)));
    }
    assert_eq!(resets, 5_002);
    assert!(recording.stats().parts >= 2, "{:?}", recording.stats());
    assert_eq!(recording.stats().remarks(), Vec::<String>::new());

    // Read on over one that somebody deleted.
    let parts = recording.stats().parts;
    std::fs::remove_file(part_path(&path, 1)).unwrap();
    let mut recording = Recording::open(&path).unwrap();
    while recording.next_event().unwrap().is_some() {}
    assert_eq!((recording.stats().parts, recording.stats().parts_gone), (parts - 1, 1));
    assert!(!recording.stats().remarks().is_empty());
}

#[test]
fn the_first_and_the_latest_of_a_bounded_number_of_parts_read_as_one_with_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    record_in_parts(&path, Some(4));
    let mut numbers: Vec<u32> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().strip_prefix("r.jsonl.").map_or(0, |n| n.parse().unwrap()))
        .collect();
    numbers.sort_unstable();
    let last = numbers[3];
    assert_eq!(numbers, [0, last - 2, last - 1, last]);
    let mut recording = Recording::open(&path).unwrap();
    while recording.next_event().unwrap().is_some() {}
    let stats = recording.stats();
    assert!(stats.ended && stats.missing > 1_000, "{stats:?}");
    assert_eq!((stats.parts, stats.parts_gone), (3, last - 3));
    assert!(stats.remarks()[0].contains("files of the rotated recording deleted"), "{:?}", stats.remarks());
    assert!(last_line_time(&path).unwrap() > last_line_time(&part_path(&path, last - 1)).unwrap());

    // The same numbers of another run are none of this one.
    let other = std::fs::read_to_string(part_path(&path, last - 2)).unwrap();
    assert!(other.contains("\"started\":"));
    std::fs::write(part_path(&path, last - 2), other.replacen("\"started\":\"20", "\"started\":\"19", 1)).unwrap();
    let mut recording = Recording::open(&path).unwrap();
    while recording.next_event().unwrap().is_some() {}
    assert_eq!(recording.stats().parts, 0);
}
