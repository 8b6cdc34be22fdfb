use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;
use crate::model::{StateChange, TcpState};
use crate::state::TableConfig;
use crate::view::schema::samples;

/// Records `events` into `target` and returns the recorder's table.
fn record(target: Target, options: Options, events: &[Event]) -> Result<Recorder, RecordError> {
    let mut recorder = Recorder::create(target, options)?;
    let mut table = Table::new(TableConfig::default());
    let clock = samples::clock();
    for e in events {
        table.apply(e);
        recorder.write(e, &table, &clock)?;
    }
    recorder.finish()?;
    Ok(recorder)
}

fn lines_of(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn seq_has_no_gaps_and_end_is_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    record(Target::File(path.clone()), Options::default(), &samples::all()).unwrap();
    let lines = lines_of(&path);
    for (n, l) in lines.iter().enumerate() {
        assert_eq!(l["seq"], n as u64);
    }
    assert_eq!(lines[0]["type"], "session");
    assert_eq!(lines.last().unwrap()["type"], "end");
    // The sockets that changed after their last line are there once more, whole, before the end.
    let finals: Vec<_> = lines.iter().rev().skip(1).take_while(|l| l["type"] == "socket").collect();
    assert!(finals.iter().any(|l| l["socket"] == "feed" && l["counters"]["resets_received"] == 1), "{finals:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_last_change_of_state_brings_the_last_line_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    let mut recorder = Recorder::create(Target::File(path.clone()), Options::default()).unwrap();
    // Of the sockets that are gone only one stays.
    let mut table = Table::new(TableConfig { max_gone: 1, ..TableConfig::default() });
    let change = |at, from, to, last| {
        let change =
            StateChange { socket: Some(SocketId(7)), flow: None, netns: None, family: None, from, to, pid: None, last };
        Event { at: Mono(at), kind: EventKind::State(change) }
    };
    use TcpState::{Close, SynSent};
    // A connect that fails, and one more of the same socket.
    for (at, from, to, last) in
        [(1, Close, SynSent, false), (2, SynSent, Close, true), (3, Close, SynSent, false), (4, SynSent, Close, true)]
    {
        let event = change(at, from, to, last);
        table.apply(&event);
        recorder.write(&event, &table, &samples::clock()).unwrap();
    }
    let end = samples::all().pop().unwrap();
    assert!(matches!(end.kind, EventKind::End(_)));
    recorder.write(&end, &table, &samples::clock()).unwrap();
    recorder.finish().unwrap();
    let told: Vec<_> = lines_of(&path)
        .iter()
        .map(|l| (l["type"].as_str().unwrap().to_owned(), l.get("to").or(l.get("state")).cloned().unwrap_or_default()))
        .collect();
    let of = |kind: &str, state: &str| (kind.to_owned(), serde_json::Value::from(state));
    let round = [of("state", "SYN_SENT"), of("state", "CLOSE"), of("socket", "CLOSE")];
    assert_eq!(told[..6], [&round[..], &round[..]].concat());
    assert_eq!(told[6..], [("end".to_owned(), serde_json::Value::Null)]);
}

#[test]
fn a_socket_line_only_when_it_says_something_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    let update = |at: u64, change: &dyn Fn(&mut SocketUpdate)| {
        let mut u = samples::socket_update();
        change(&mut u);
        Event { at: Mono(at * 1_000_000_000), kind: EventKind::Socket(Box::new(u)) }
    };
    let events = [
        Event { at: Mono(1), kind: EventKind::Session(Box::new(samples::session())) },
        update(1, &|_| {}),
        update(2, &|_| {}),
        update(3, &|u| u.keepalive = u.keepalive.map(|k| crate::model::Keepalive { idle_s: 60, ..k })),
        update(4, &|u| (u.owners, u.keepalive) = (None, None)),
        update(5, &|u| (u.state, u.keepalive) = (Some(TcpState::CloseWait), None)),
        update(6, &|u| u.destroyed = true),
    ];
    record(Target::File(path.clone()), Options::default(), &events).unwrap();
    let times: Vec<_> =
        lines_of(&path).iter().skip(1).map(|l| l["time"].as_str().unwrap()[17..19].to_owned()).collect();
    assert_eq!(times, ["01", "03", "05", "06"]);
}

#[test]
fn samples_are_written_when_something_changed_and_at_most_once_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    let sample = |ms: u64, bytes: u64, age: u64| Event {
        at: Mono(ms * 1_000_000),
        kind: EventKind::Sample(Box::new(Sample {
            socket: SocketId(1),
            state: TcpState::Established,
            tcp: crate::model::TcpMetrics {
                bytes_sent: Some(bytes),
                last_sent_ms: Some(age),
                ..crate::model::TcpMetrics::default()
            },
            gives_up_in: None,
        })),
    };
    let events = [
        sample(1_000, 1, 0),
        sample(2_000, 1, 1_000),
        sample(3_000, 2, 0),
        sample(3_500, 3, 0),
        sample(4_100, 3, 600),
        sample(5_100, 3, 1_600),
    ];
    record(Target::File(path.clone()), Options::default(), &events).unwrap();
    let sent: Vec<_> = lines_of(&path).iter().map(|l| l["tcp"]["bytes_sent"].as_u64().unwrap()).collect();
    assert_eq!(sent, [1, 2, 3]);
}

#[test]
fn links_directories_and_foreign_names_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    std::fs::write(&real, "precious").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let hard = dir.path().join("hard");
    std::fs::hard_link(&real, &hard).unwrap();
    for (path, says) in [
        (link, "it is a symbolic link"),
        (hard, "other hard links"),
        (dir.path().to_owned(), "it is a directory"),
        (dir.path().join("no/such"), "No such file"),
    ] {
        let e = Recorder::create(Target::File(path), Options::default()).err().unwrap().to_string();
        assert!(e.contains(says), "{e}");
    }
    assert_eq!(std::fs::read_to_string(real).unwrap(), "precious");
}

#[test]
fn a_full_disk_is_one_error_and_the_run_goes_on() {
    let mut recorder = Recorder::create(Target::File("/dev/full".into()), Options::default()).unwrap();
    let table = Table::new(TableConfig::default());
    let clock = samples::clock();
    let mut errors = Vec::new();
    for e in samples::all().iter().cycle().take(300) {
        if let Err(e) = recorder.write(e, &table, &clock) {
            errors.push(e.to_string());
        }
    }
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("No space left") && errors[0].contains("/dev/full"), "{}", errors[0]);
    assert!(!recorder.is_open());
    recorder.finish().unwrap();
}

#[test]
fn parts_stay_below_the_size_and_each_reads_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    let mut events = samples::all();
    let end = events.pop().unwrap();
    let reset = Event { at: Mono(0), kind: EventKind::Reset(samples::reset().into()) };
    for n in 0..2_000u64 {
        events.push(Event { at: Mono(40_000_000_000 + n * 1_000_000), ..reset.clone() });
    }
    events.push(Event { at: Mono(90_000_000_000), ..end });
    let options = Options { max_bytes: Some(300_000), ..Options::default() };
    let recorder = record(Target::File(path.clone()), options, &events).unwrap();
    let mut seq = 0;
    let mut parts = 0;
    while let Ok(meta) = std::fs::metadata(part_path(&path, parts)) {
        assert!(meta.size() < 305_000, "{}", meta.size());
        let lines = lines_of(&part_path(&path, parts));
        assert_eq!((lines[0]["type"].as_str(), lines[0]["part"].as_u64()), (Some("session"), Some(parts.into())));
        assert!(lines.iter().any(|l| l["type"] == "socket" && l["socket"] == "feed"), "part {parts}");
        for l in lines {
            assert_eq!(l["seq"], seq);
            seq += 1;
        }
        parts += 1;
    }
    assert!(parts > 3 && seq == recorder.lines(), "{parts} parts, {seq} lines");
}

#[test]
fn a_name_ending_in_zst_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, packed) = (dir.path().join("r.jsonl"), dir.path().join("r.jsonl.zst"));
    record(Target::File(plain.clone()), Options::default(), &samples::all()).unwrap();
    record(Target::File(packed.clone()), Options::default(), &samples::all()).unwrap();
    let unpacked = zstd::decode_all(std::fs::File::open(packed).unwrap()).unwrap();
    assert_eq!(unpacked, std::fs::read(plain).unwrap());
}

#[test]
fn a_redacted_recording_holds_no_address_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    let options = Options { redactor: Some(Redactor::new(&[])), ..Options::default() };
    record(Target::File(path.clone()), options, &samples::all()).unwrap();
    assert_eq!(lines_of(&path)[0]["redacted"], true);
    let text = std::fs::read_to_string(path).unwrap();
    for secret in ["10.1.0.2", "192.0.2.7", "2001:db8::7", "api.example.com", "worker", "user.slice"] {
        assert!(!text.contains(secret), "{secret}");
    }
}
