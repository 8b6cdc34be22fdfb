//! Alerts against real commands and a real listener.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use super::*;
use crate::model::Confidence;

fn finding(id: u64, status: FindingStatus) -> Finding {
    Finding {
        id,
        code: Code::ResetWave,
        confidence: Confidence::Certain,
        status,
        opened: Mono(1),
        sockets: Vec::new(),
        pid: None,
        destination: Some("api.example.com:443".into()),
        summary: "16 resets".into(),
        evidence: Vec::new(),
        rivals: Vec::new(),
        advice: Vec::new(),
        gives_up_in_s: None,
        numbers: Default::default(),
    }
}

fn clock() -> WallClock {
    WallClock::new(1_800_000_000_000_000_000, Mono(0))
}

fn wave(alerts: &mut Alerts) {
    for i in 0..15 {
        alerts.failure(Mono(i), "api.example.com:443");
    }
}

fn quick(mut sink: Sink) -> Sink {
    sink.timeout = Duration::from_millis(300);
    sink.backoff = vec![Duration::from_millis(1); sink.backoff.len()];
    sink
}

#[test]
fn one_run_at_the_start_and_one_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let command = format!("{{ echo $AGENT_FINDING_CODE $AGENT_FINDING_STATUS; cat; }} >> {}", log.display());
    let mut a = Alerts::new(vec![Sink::command(command)], AlertOn::Incidents, AlertRule::default());
    a.finding(Mono(1), &clock(), &finding(1, FindingStatus::Open));
    wave(&mut a);
    a.check(Mono(20), &clock());
    a.finding(Mono(21), &clock(), &finding(1, FindingStatus::Open));
    a.check(Mono(22), &clock());
    a.finding(Mono(30), &clock(), &finding(1, FindingStatus::Closed));
    let outcomes = a.finish(Duration::from_secs(20));
    assert_eq!(outcomes.iter().filter(|o| o.ok).count(), 2, "{outcomes:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    let heads: Vec<&str> = text.lines().filter(|l| l.starts_with("reset-wave")).collect();
    assert_eq!(heads, ["reset-wave open", "reset-wave closed"]);
    let json: Vec<serde_json::Value> =
        text.lines().filter(|l| l.starts_with('{')).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(json.len(), 2);
    assert_eq!(json[0]["destination"], "api.example.com:443");
}

#[test]
fn an_incident_below_the_rule_is_not_told() {
    let mut a = Alerts::new(vec![Sink::command("exit 0".into())], AlertOn::Incidents, AlertRule::default());
    a.finding(Mono(1), &clock(), &finding(1, FindingStatus::Open));
    a.finding(Mono(2), &clock(), &finding(1, FindingStatus::Closed));
    assert_eq!(a.finish(Duration::from_secs(5)), []);
}

#[test]
fn a_command_that_hangs_is_killed_and_said() {
    let sink = quick(Sink::command("sleep 60".into()));
    let mut a = Alerts::new(vec![sink], AlertOn::Codes(vec![Code::ResetWave]), AlertRule::default());
    a.finding(Mono(1), &clock(), &finding(1, FindingStatus::Open));
    let outcomes = a.finish(Duration::from_secs(20));
    assert_eq!(outcomes.len(), 1);
    assert!(!outcomes[0].ok && outcomes[0].text.contains("killed after"), "{outcomes:?}");
}

/// Serves `answers` connections with `status`, gives what was posted.
fn server(status: &'static str, answers: usize) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut bodies = Vec::new();
        for _ in 0..answers {
            let (mut c, _) = listener.accept().unwrap();
            c.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut data = Vec::new();
            let mut buf = [0u8; 4096];
            // The request is whole when its closing brace is there: the body is one JSON object.
            while !data.ends_with(b"}") {
                match c.read(&mut buf) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => data.extend_from_slice(&buf[..n]),
                }
            }
            let _ = write!(c, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let text = String::from_utf8_lossy(&data).into_owned();
            bodies.push(text.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default());
        }
        bodies
    });
    (url, thread)
}

fn told(url: String) -> Vec<Outcome> {
    let sink = Sink { timeout: Duration::from_secs(5), ..quick(Sink::webhook(url)) };
    let mut a = Alerts::new(vec![sink], AlertOn::Codes(vec![Code::ResetWave]), AlertRule::default());
    a.finding(Mono(1), &clock(), &finding(1, FindingStatus::Open));
    a.finish(Duration::from_secs(30))
}

#[test]
fn a_webhook_gets_the_finding() {
    let (url, server) = server("204 No Content", 1);
    let outcomes = told(url);
    assert!(outcomes.len() == 1 && outcomes[0].ok, "{outcomes:?}");
    let body: serde_json::Value = serde_json::from_str(&server.join().unwrap()[0]).unwrap();
    assert_eq!((&body["code"], &body["status"]), (&"reset-wave".into(), &"open".into()));
}

#[test]
fn a_server_error_is_tried_again_and_then_said() {
    let (url, server) = server("500 Internal Server Error", 4);
    let outcomes = told(url);
    assert_eq!(server.join().unwrap().len(), 4, "one try and three more");
    assert!(!outcomes[0].ok && outcomes[0].text.contains("after 4 tries: HTTP status 500"), "{outcomes:?}");
}

#[test]
fn a_refusal_is_not_tried_again() {
    let (url, server) = server("404 Not Found", 1);
    let outcomes = told(url);
    server.join().unwrap();
    assert!(outcomes[0].text.contains("after 1 tries: HTTP status 404"), "{outcomes:?}");
}

#[test]
fn nobody_listening_is_said() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcomes = told(format!("http://{free}/"));
    assert!(!outcomes[0].ok && outcomes[0].text.contains("after 4 tries"), "{outcomes:?}");
}

#[test]
fn a_receiver_that_hangs_does_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sink = Sink::webhook(format!("http://{}/", listener.local_addr().unwrap()));
    let mut a = Alerts::new(vec![sink], AlertOn::Codes(vec![Code::ResetWave]), AlertRule::default());
    for id in 0..40 {
        a.finding(Mono(id), &clock(), &finding(id, FindingStatus::Open));
    }
    assert!(a.dropped >= 40 - QUEUE as u64 - 1, "the queue is bounded: {}", a.dropped);
    let outcomes = a.finish(Duration::from_millis(50));
    assert!(outcomes.iter().any(|o| o.text.contains("still being sent")), "{outcomes:?}");
}
