//! What keys and clicks do.

use crossterm::event::KeyCode::{self, Char, Down, End, Enter, Esc, Home, PageDown, Up};
use crossterm::event::{Event as Input, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::fixture::*;
use crate::model::*;
use crate::state::Snapshot;
use crate::view::tui::keys::Screen;
use crate::view::tui::rows::Column;
use crate::view::tui::state::{Mode, Replay, UiState};
use crate::view::tui::{ReplayCommand, UiCommand, Wish};

fn one(ui: &mut UiState, s: &Snapshot, c: KeyCode) -> Option<UiCommand> {
    ui.handle(&key(c), s)
}

fn start() -> (UiState, Snapshot) {
    let (mut ui, s) = (ui(), trouble().snapshot());
    screen(&mut ui, &s, 80, 24);
    (ui, s)
}

fn order(ui: &UiState, s: &Snapshot) -> Vec<u16> {
    ui.rows.iter(s).map(|x| x.flow.map_or(0, |f| f.local.port())).collect()
}

fn mouse(ui: &mut UiState, s: &Snapshot, kind: MouseEventKind, column: u16, row: u16) {
    ui.handle(&Input::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }), s);
}

#[test]
fn what_hangs_comes_first_and_what_is_closed_last() {
    let (ui, s) = start();
    assert_eq!(order(&ui, &s), [53072, 53080, 40110, 53102, 40112, 52988]);
}

#[test]
fn only_y_lets_a_command_out() {
    let (mut ui, s) = start();
    for no in [Char('n'), Esc, Char('q')] {
        assert_eq!(one(&mut ui, &s, Char('x')), None);
        assert!(ui.confirm.is_some());
        assert_eq!(one(&mut ui, &s, Char('z')), None);
        assert!(ui.confirm.is_some(), "a stray key must not answer");
        assert_eq!(one(&mut ui, &s, no), None);
        assert!(ui.confirm.is_none());
    }
    one(&mut ui, &s, Char('x'));
    let first = SocketId(0x1000 + 53072);
    assert_eq!(one(&mut ui, &s, Char('y')), Some(UiCommand::Act { wish: Wish::Close, sockets: vec![first] }));
    one(&mut ui, &s, Char('u'));
    assert_eq!(one(&mut ui, &s, Char('y')), Some(UiCommand::Act { wish: Wish::UserTimeout, sockets: vec![first] }));
}

#[test]
fn keepalive_for_all_takes_those_that_lack_it_and_are_shown() {
    let (mut ui, s) = start();
    one(&mut ui, &s, Char('K'));
    let question = ui.confirm.clone().expect("a question");
    assert!(question.question.contains("4 sockets of claude (4182) and rg (4190)"), "{}", question.question);
    assert!(question.effects.iter().any(|e| e.starts_with("2 of them hold unacknowledged data")), "{question:?}");
    let Some(UiCommand::Act { wish: Wish::Keepalive, sockets }) = one(&mut ui, &s, Char('y')) else {
        panic!("no command")
    };
    assert_eq!(sockets.len(), 4);
    press(&mut ui, &s, &"/files".chars().map(Char).collect::<Vec<_>>());
    press(&mut ui, &s, &[Enter, Char('K')]);
    assert_eq!(ui.confirm.as_ref().expect("a question").sockets, [SocketId(0x1000 + 40112)]);
}

#[test]
fn a_closed_socket_cannot_be_changed() {
    let (mut ui, s) = start();
    press(&mut ui, &s, &[End, Char('k')]);
    assert!(ui.confirm.is_none());
    assert_eq!(ui.message.as_ref().expect("a reason").text, "this socket is closed already");
}

#[test]
fn the_selected_socket_keeps_its_row() {
    let mut story = trouble();
    let (mut ui, s) = (ui(), story.snapshot());
    screen(&mut ui, &s, 80, 24);
    press(&mut ui, &s, &[Down, Down, Down]);
    assert_eq!((ui.cursor, order(&ui, &s)[3]), (3, 53102));
    // A further socket begins to hang and moves to the top; the selected one does not move.
    let id = story.open(50001, OFF);
    story.stuck(id, 30.0, 6, 10, 700.0);
    let s = story.snapshot();
    screen(&mut ui, &s, 80, 24);
    assert_eq!((ui.cursor, order(&ui, &s)[3]), (3, 53102));
    assert_eq!(order(&ui, &s)[2], 50001);
    // When it leaves, the cursor stays on the row.
    let s2 = trouble().snapshot();
    ui.selected = Some(SocketId(1));
    screen(&mut ui, &s2, 80, 24);
    assert_eq!(ui.cursor, 3);
}

#[test]
fn without_a_selection_the_cursor_follows_the_worst() {
    let mut story = healthy();
    let (mut ui, s) = (ui(), story.snapshot());
    screen(&mut ui, &s, 80, 24);
    assert_eq!(order(&ui, &s)[ui.cursor], 53072);
    let id = story.open(50001, OFF);
    story.stuck(id, 30.0, 6, 10, 700.0);
    let s = story.snapshot();
    screen(&mut ui, &s, 80, 24);
    assert_eq!(order(&ui, &s)[ui.cursor], 50001);
}

#[test]
fn every_column_sorts_both_ways_with_unknown_last() {
    let (mut ui, s) = start();
    for column in Column::ALL {
        press(&mut ui, &s, &[Char('s')]);
        assert_eq!(ui.sort.by, Some(column));
        let forward = order(&ui, &s);
        press(&mut ui, &s, &[Char('S')]);
        let mut sorted = order(&ui, &s);
        assert_eq!(sorted.len(), forward.len());
        sorted.sort_unstable();
        assert_eq!(sorted, [40110, 40112, 52988, 53072, 53080, 53102]);
        press(&mut ui, &s, &[Char('S')]);
    }
    press(&mut ui, &s, &[Char('s')]);
    assert_eq!(ui.sort.by, None);
    ui.sort = crate::view::tui::rows::Sort { by: Some(Column::GivesUp), reversed: false };
    ui.reorder(&s);
    assert_eq!(order(&ui, &s)[..2], [53072, 53080]);
    press(&mut ui, &s, &[Char('S')]);
    assert_eq!(order(&ui, &s)[..2], [53080, 53072]);
    ui.sort = crate::view::tui::rows::Sort { by: Some(Column::Idle), reversed: false };
    ui.reorder(&s);
    assert_eq!(order(&ui, &s), [53072, 53080, 52988, 40110, 53102, 40112]);
}

#[test]
fn the_filter_is_live_and_escape_clears_it() {
    let (mut ui, s) = start();
    press(&mut ui, &s, &[Char('/'), Char('r'), Char('g')]);
    assert_eq!(order(&ui, &s), [40112]);
    press(&mut ui, &s, &[Esc]);
    assert_eq!((ui.typing.is_some(), ui.filter.as_str(), order(&ui, &s).len()), (false, "", 6));
    press(&mut ui, &s, &"/NO-KEEP".chars().map(Char).collect::<Vec<_>>());
    press(&mut ui, &s, &[Enter]);
    assert_eq!(order(&ui, &s), [40110], "the top finding of the other two is another");
    // q is a letter while typing, and quits afterwards.
    press(&mut ui, &s, &[Esc, Char('/')]);
    assert_eq!(one(&mut ui, &s, Char('q')), None);
    assert_eq!(ui.filter, "q");
    press(&mut ui, &s, &[Enter]);
    assert_eq!(one(&mut ui, &s, Char('q')), Some(UiCommand::Quit));
}

#[test]
fn control_c_quits_from_everywhere() {
    let control_c = Input::Key(KeyEvent::new(Char('c'), KeyModifiers::CONTROL));
    for keys in [vec![], vec![Char('/')], vec![Char('x')], vec![Char('?')], vec![Char('f')], vec![Enter]] {
        let (mut ui, s) = start();
        press(&mut ui, &s, &keys);
        assert_eq!(ui.handle(&control_c, &s), Some(UiCommand::Quit), "{keys:?}");
    }
}

#[test]
fn a_pause_holds_the_picture_and_the_actions_mean_it() {
    let (mut ui, s) = start();
    let before = screen(&mut ui, &s, 80, 24);
    press(&mut ui, &s, &[Char(' ')]);
    let later = healthy().snapshot();
    let held = screen(&mut ui, &later, 80, 24);
    assert_eq!(held.lines().nth(6), before.lines().nth(6));
    assert!(held.contains("PAUSED"));
    press(&mut ui, &later, &[Char('x')]);
    assert_eq!(ui.confirm.take().expect("a question").sockets, [SocketId(0x1000 + 53072)]);
    press(&mut ui, &later, &[Char(' ')]);
    assert!(!screen(&mut ui, &later, 80, 24).contains("PAUSED"));
}

#[test]
fn the_mouse_sorts_selects_opens_and_scrolls() {
    let (mut ui, s) = start();
    let picture = screen(&mut ui, &s, 80, 24);
    let lines: Vec<&str> = picture.lines().collect();
    let titles = lines.iter().position(|l| l.contains("DESTINATION")).expect("titles") as u16;
    let x = lines[titles as usize].chars().take_while(|c| *c != 'L').count() as u16;
    let click = MouseEventKind::Down(MouseButton::Left);
    mouse(&mut ui, &s, click, x, titles);
    assert_eq!((ui.sort.by, ui.sort.reversed), (Some(Column::Local), false));
    mouse(&mut ui, &s, click, x, titles);
    assert!(ui.sort.reversed);
    mouse(&mut ui, &s, click, 10, titles + 2);
    assert_eq!((ui.cursor, ui.screen), (1, Screen::Table));
    mouse(&mut ui, &s, click, 10, titles + 2);
    assert_eq!(ui.screen, Screen::Detail);
    mouse(&mut ui, &s, MouseEventKind::ScrollDown, 10, 10);
    assert_eq!(ui.scroll, 3);
    press(&mut ui, &s, &[Esc]);
    let risk = lines.iter().position(|l| l.contains("▲ no-keepalive")).expect("the second finding") as u16;
    mouse(&mut ui, &s, click, 10, risk);
    assert_eq!((ui.screen, ui.finding), (Screen::Findings, Some(2)));
}

#[test]
fn scrolling_a_long_table() {
    let mut story = Story::new(session());
    for port in 10_000..10_300 {
        story.open(port, OFF);
    }
    let (mut ui, s) = (ui(), story.snapshot());
    let rows = |ui: &mut UiState| screen(ui, &s, 80, 24).lines().filter(|l| l.contains("ESTAB")).count();
    let visible = rows(&mut ui);
    assert!(visible >= 9);
    press(&mut ui, &s, &[End]);
    assert!(screen(&mut ui, &s, 80, 24).contains("▶  api.anthropic.com:443 10299"));
    assert_eq!(rows(&mut ui), visible);
    press(&mut ui, &s, &[Home, PageDown]);
    screen(&mut ui, &s, 80, 24);
    assert_eq!(ui.cursor, visible - 1);
    // The wheel looks around without moving the cursor; a key comes back to it.
    mouse(&mut ui, &s, MouseEventKind::ScrollDown, 10, 10);
    assert!(screen(&mut ui, &s, 80, 24).contains(&format!("{}–{} of 300 sockets", 4, 3 + visible)));
    press(&mut ui, &s, &[Up]);
    screen(&mut ui, &s, 80, 24);
    assert!(ui.cursor >= ui.offset && ui.cursor < ui.offset + visible);
}

#[test]
fn enter_on_a_finding_leads_to_its_socket() {
    let (mut ui, s) = start();
    press(&mut ui, &s, &[Char('f'), Down, Enter]);
    assert_eq!((ui.screen, ui.cursor), (Screen::Table, 0));
    press(&mut ui, &s, &[Down, Down, Char('f')]);
    assert_eq!(ui.finding, Some(2), "the finding of the socket under the cursor");
    press(&mut ui, &s, &[Char('?')]);
    assert_eq!(ui.screen, Screen::Help);
    press(&mut ui, &s, &[Esc]);
    assert_eq!(ui.screen, Screen::Findings);
}

#[test]
fn a_replay_seeks_and_refuses_to_act() {
    let (mut ui, s) = start();
    ui.options.mode = Mode::Replay(Replay {
        file: "a.jsonl".into(),
        position: Default::default(),
        length: std::time::Duration::from_secs(10),
        speed: 1.0,
        playing: true,
    });
    let commands = [
        (KeyCode::Left, ReplayCommand::Back),
        (KeyCode::Right, ReplayCommand::Forward),
        (Char('['), ReplayCommand::Slower),
        (Char(']'), ReplayCommand::Faster),
        (Char(' '), ReplayCommand::TogglePause),
    ];
    for (k, command) in commands {
        assert_eq!(one(&mut ui, &s, k), Some(UiCommand::Replay(command)));
    }
    assert_eq!(one(&mut ui, &s, Char('x')), None);
    assert!(ui.confirm.is_none());
    assert!(ui.message.as_ref().expect("said").text.contains("recording"));
    assert_eq!(one(&mut ui, &s, Char('e')), Some(UiCommand::Export));
}
