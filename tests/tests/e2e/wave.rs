//! An incident at a destination, end to end: one finding, one alert at its beginning and one at its end, whatever the
//! receiver of the alerts does.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_tests::runner::{Agent, Builder, Run};
use agent_tests::workload::Conn;
use serde_json::{Value, json};

use crate::scene::{PORT, Scene};

const SOCKETS: usize = 200;
const RESET: usize = 160;
const WAVE: Duration = Duration::from_secs(30);
/// The default window of `reset-wave`: so long after the last reset the incident is over.
const WINDOW: Duration = Duration::from_secs(60);

/// A receiver that answers everything with 500; counts the requests.
fn always_500() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            // The head and the body; a finding is larger than one segment.
            let mut buffer = [0; 64 * 1024];
            while matches!(stream.read(&mut buffer), Ok(1..)) {}
            count.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (url, asked)
}

/// Seconds of the day (UTC), of a line's time or of now.
fn day_seconds(time: &Value) -> f64 {
    let text = time.as_str().unwrap();
    let clock = text.split('T').nth(1).unwrap().trim_end_matches('Z');
    clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() % 86_400.0
}

fn near(found: f64, truth: f64, what: &str) {
    // Over midnight too.
    let off = (found - truth + 43_200.0).rem_euclid(86_400.0) - 43_200.0;
    assert!(off.abs() <= 2.0, "{what}: off by {off:.1} s");
}

/// One finding, opened and closed, of the whole wave with its beginning and its end.
fn judge(who: &str, run: &Run, first: f64, last: f64) {
    let waves = run.all(&json!({"type": "finding", "code": "reset-wave"}));
    let closed = run.all(&json!({"type": "finding", "code": "reset-wave", "status": "closed"}));
    assert_eq!(closed.len(), 1, "{who}: {}", run.describe());
    assert!(waves.iter().all(|f| f["id"] == closed[0]["id"]), "{who}: more than one finding");
    let closed = closed[0];
    let others: Vec<_> = run
        .all(&json!({"type": "finding", "status": "open"}))
        .into_iter()
        .filter(|f| f["code"] != "reset-wave")
        .map(|f| (&f["code"], &f["summary"]))
        .collect();
    // A single one of them may look like something else (its packet was missed under load): the wave is the same.
    let resets = closed["numbers"]["resets"].as_f64().unwrap();
    assert!((RESET as f64 - 2.0..=RESET as f64).contains(&resets), "{who}: {resets}, and {others:?}");
    let share = closed["numbers"]["share"].as_f64().unwrap();
    assert!((0.7..=0.85).contains(&share), "{who}: {closed}");
    let told = |text: &str| {
        let found = closed["evidence"].as_array().unwrap().iter().find(|e| e["text"].as_str().unwrap().contains(text));
        day_seconds(&found.unwrap_or_else(|| panic!("{who}: nothing of {text}: {closed}"))["time"])
    };
    near(told("the first reset"), first, "start");
    near(told("the last reset"), last, "end");
    assert!(closed["summary"].as_str().unwrap().contains("retries succeed"), "{who}: {closed}");
    assert_eq!(run.all(&json!({"type": "reset", "direction": "received"})).len(), RESET, "{who}");
}

#[test]
fn two_hundred_sockets_and_receivers_that_do_not_work() {
    let s = Scene::new(false);
    s.server.serve(s.server_at(PORT), "reset-after:100");
    let pool: Vec<Conn> = (0..SOCKETS).map(|_| s.client.connect(s.server_at(PORT))).collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alerts");
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (failing, asked) = always_500();
    let watch = |more: [String; 2]| Builder::watch(s.client.pid()).args(more).start();
    let webhook = |url: String| watch(["--webhook".into(), url]);
    let agents: Vec<(&str, Agent)> = vec![
        ("command", watch(["--on-finding".into(), format!("cat >> {}", file.display())])),
        ("hanging", webhook(format!("http://{}/", hanging.local_addr().unwrap()))),
        ("refusing", webhook(format!("http://{refusing}/"))),
        ("failing", webhook(failing)),
    ];
    let mut first = None;
    for c in &pool[..RESET] {
        first.get_or_insert_with(now);
        s.client.begin(&format!("send {} 100", c.id));
        std::thread::sleep(WAVE / RESET as u32);
    }
    let last = now() - (WAVE / RESET as u32).as_secs_f64();
    // Recovery: those that are left and new ones work.
    for c in &pool[RESET..] {
        s.client.call(&format!("send {} 10", c.id));
    }
    s.client.connect(s.server_at(PORT));
    std::thread::sleep(WINDOW);
    for (_, agent) in &agents {
        agent.expect(&json!({"type": "finding", "code": "reset-wave", "status": "closed"}));
    }
    let runs: Vec<(&str, Run)> = agents.into_iter().map(|(who, agent)| (who, agent.stop())).collect();
    for (who, run) in &runs {
        judge(who, run, first.unwrap(), last);
        assert_eq!(run.stderr.contains("webhook"), *who != "command", "{who}: {}", run.stderr);
    }
    let alerts: Vec<Value> =
        std::fs::read_to_string(file).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let told: Vec<_> = alerts.iter().map(|a| (a["code"].as_str().unwrap(), a["status"].as_str().unwrap())).collect();
    assert_eq!(told, [("reset-wave", "open"), ("reset-wave", "closed")]);
    assert!(asked.load(Ordering::Relaxed) >= 2, "the one that answers 500 is asked again");
}
