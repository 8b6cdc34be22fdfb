//! Exact pictures.

use std::path::PathBuf;
use std::time::Duration;

use crossterm::event::KeyCode::{self, Char};
use ratatui::layout::Rect;

use super::fixture::*;
use crate::model::{EventKind, Lost};
use crate::state::Snapshot;
use crate::view::tui::state::{Mode, Replay, UiState};

/// Compares with `snapshots/NAME-WxH.txt` at both sizes; writes the file instead where AGENT_BLESS is set.
fn picture(name: &str, ui: &mut UiState, snapshot: &Snapshot) {
    for (w, h) in [(80, 24), (160, 50)] {
        let got = screen(ui, snapshot, w, h);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("src/view/tui/tests/snapshots")
            .join(format!("{name}-{w}x{h}.txt"));
        if std::env::var_os("AGENT_BLESS").is_some() {
            std::fs::write(&path, &got).expect("written");
            continue;
        }
        let want = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; AGENT_BLESS=1 writes it", path.display()));
        assert!(got == want, "{name} at {w}x{h} differs from {}.\nGot:\n{got}\nWant:\n{want}", path.display());
    }
}

fn typed(ui: &mut UiState, snapshot: &Snapshot, text: &str) {
    let keys: Vec<KeyCode> = text.chars().map(Char).collect();
    press(ui, snapshot, &keys);
}

#[test]
fn normal() {
    picture("normal", &mut ui(), &healthy().snapshot());
}

#[test]
fn findings() {
    picture("findings", &mut ui(), &trouble().snapshot());
}

#[test]
fn findings_screen() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    press(&mut ui, &s, &[Char('f')]);
    picture("findings-screen", &mut ui, &s);
}

#[test]
fn empty() {
    picture("empty", &mut ui(), &Story::new(session()).snapshot());
}

#[test]
fn filter() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    typed(&mut ui, &s, "/api estab");
    picture("filter", &mut ui, &s);
    typed(&mut ui, &s, " nothing");
    picture("filter-none", &mut ui, &s);
}

#[test]
fn sorted() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    typed(&mut ui, &s, "sssss");
    picture("sorted-by-idle", &mut ui, &s);
}

#[test]
fn confirm() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    typed(&mut ui, &s, "K");
    picture("confirm-keepalive-all", &mut ui, &s);
    typed(&mut ui, &s, "nx");
    picture("confirm-close", &mut ui, &s);
    typed(&mut ui, &s, "nu");
    picture("confirm-user-timeout", &mut ui, &s);
}

#[test]
fn detail() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    press(&mut ui, &s, &[KeyCode::Enter]);
    picture("detail", &mut ui, &s);
}

#[test]
fn detail_of_a_reset_socket() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    press(&mut ui, &s, &[KeyCode::End, KeyCode::Enter]);
    picture("detail-reset", &mut ui, &s);
}

#[test]
fn help() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    typed(&mut ui, &s, "?");
    picture("help", &mut ui, &s);
}

#[test]
fn lost_events_and_limits() {
    let mut session = session();
    session.hooks.push(hook("tcp_retransmit_synack", "tp_btf", false));
    session.limits.push("resets for no socket are invisible before 6.10".into());
    let mut story = Story::new(session);
    let id = story.open(53072, OFF);
    story.sample(id, ago(1.0), 2.0, 30, 100);
    story.event(ago(0.5), EventKind::Lost(Lost { ring_full: 1_020, recursion_misses: 4, table_full: 0 }));
    picture("lost", &mut ui(), &story.snapshot());
}

#[test]
fn the_detail_shows_what_was_learned_of_the_destination() {
    let mut story = Story::new(session());
    story.open_to(53072, "192.0.2.7:443", Some("api.example.com"), OFF);
    let unknown = story.snapshot();
    let mut ui = ui();
    screen(&mut ui, &unknown, 120, 30);
    press(&mut ui, &unknown, &[KeyCode::Enter]);
    assert!(!screen(&mut ui, &unknown, 120, 30).contains("idle limits"));
    story.event(ago(0.5), EventKind::Limits(Box::new(crate::schema::samples::limits())));
    let got = screen(&mut ui, &story.snapshot(), 120, 30);
    assert!(
        got.contains("server closes after 60.0 s (n=4); reset after 350.0 s (n=1); longest survivor 55.1 s"),
        "{got}"
    );
    assert!(got.contains("pool idle timeout ≤ 53.0 s, keepalive idle ≤ 116 s"), "{got}");
}

#[test]
fn polling() {
    let mut session = session();
    session.hooks = vec![hook("sock_diag", "sock_diag", true)];
    session.limits = vec![
        "no kernel programs without root: what happens between two looks (1 s) is not seen; sudo agent watch sees it"
            .into(),
        "only your own processes".into(),
    ];
    let mut story = Story::new(session);
    story.open(53072, OFF);
    picture("polling", &mut ui(), &story.snapshot());
}

#[test]
fn paused() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    typed(&mut ui, &s, " ");
    let later = Story::new(session()).snapshot();
    picture("paused", &mut ui, &later);
}

#[test]
fn replay() {
    let (mut ui, s) = (ui(), trouble().snapshot());
    ui.options.mode = Mode::Replay(Replay {
        file: "/var/tmp/hang-2026-11-23.jsonl.zst".into(),
        position: Duration::from_secs(83),
        length: Duration::from_secs(600),
        speed: 4.0,
        playing: true,
    });
    picture("replay", &mut ui, &s);
}

#[test]
fn a_tiny_terminal_says_so() {
    let s = trouble().snapshot();
    let got = screen(&mut ui(), &s, 20, 5);
    assert_eq!(got, "The terminal is\n20x5; this needs at\nleast 40x8. q quits.\n\n\n");
}

#[test]
fn names_cannot_steer_the_terminal() {
    let mut story = Story::new(session());
    story.open_to(40000, "10.0.0.1:443", Some("evil\x1b[2J\u{202e}.example"), OFF);
    let got = screen(&mut ui(), &story.snapshot(), 120, 30);
    assert!(!got.contains('\x1b') && !got.contains('\u{202e}'), "{got}");
    assert!(got.contains("evil\u{fffd}[2J"), "{got}");
}

/// Narrow and low terminals: the answer and the socket stay.
#[test]
fn small_terminals() {
    let s = trouble().snapshot();
    for (w, h) in [(40, 8), (60, 15), (79, 20)] {
        let got = screen(&mut ui(), &s, w, h);
        assert!(got.contains("idle-path-dead"), "{w}x{h}:\n{got}");
        assert!(got.contains("13:38"), "{w}x{h}:\n{got}");
    }
    assert_eq!(ui().area, Rect::default());
}
