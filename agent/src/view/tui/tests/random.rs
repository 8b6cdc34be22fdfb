//! Whatever is typed at whatever size: no panic, and every cell of the screen is harmless to a terminal.

use crossterm::event::KeyCode::{self, Char};
use crossterm::event::{Event as Input, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use proptest::prelude::*;

use super::fixture::*;
use crate::view::tui::state::{Mode, Replay};

#[derive(Clone, Debug)]
enum Step {
    Key(KeyCode),
    Click(u16, u16),
    Wheel(bool),
    Resize(u16, u16),
    /// The world changes: another set of sockets and findings.
    World(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let named = prop::sample::select(vec![
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Backspace,
    ]);
    let letters = prop::sample::select("kKxuyn/sSf?em []:4日\u{301}".chars().collect::<Vec<_>>());
    prop_oneof![
        4 => named.prop_map(Step::Key),
        4 => letters.prop_map(|c| Step::Key(Char(c))),
        1 => (0..300u16, 0..100u16).prop_map(|(x, y)| Step::Click(x, y)),
        1 => any::<bool>().prop_map(Step::Wheel),
        1 => (0..300u16, 0..100u16).prop_map(|(w, h)| Step::Resize(w, h)),
        1 => (0..4u8).prop_map(Step::World),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_panics(
        size in (0..300u16, 0..100u16),
        replay in any::<bool>(),
        steps in prop::collection::vec(step(), 0..30),
    ) {
        let mut crowd = Story::new(session());
        for port in 20_000..20_070 {
            let id = crowd.open_to(port, "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535", None, None);
            if port % 7 == 0 {
                crowd.stuck(id, 20.0, 5, u64::MAX, 100_000.0);
            }
        }
        let worlds =
            [healthy().snapshot(), trouble().snapshot(), crowd.snapshot(), Story::new(Default::default()).snapshot()];
        let mut world = 1;
        let (mut w, mut h) = size;
        let mut ui = ui();
        if replay {
            ui.options.mode = Mode::Replay(Replay {
                file: "x".repeat(300),
                position: std::time::Duration::from_secs(9),
                length: Default::default(),
                speed: f64::INFINITY,
                playing: false,
            });
        }
        for step in steps {
            let s = &worlds[world];
            let shown = screen(&mut ui, s, w, h);
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
            match step {
                Step::Key(c) => {
                    ui.handle(&Input::Key(KeyEvent::new(c, KeyModifiers::NONE)), s);
                }
                Step::Click(column, row) => {
                    let kind = MouseEventKind::Down(MouseButton::Left);
                    ui.handle(&Input::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }), s);
                }
                Step::Wheel(up) => {
                    let kind = if up { MouseEventKind::ScrollUp } else { MouseEventKind::ScrollDown };
                    let at = MouseEvent { kind, column: 5, row: 5, modifiers: KeyModifiers::NONE };
                    ui.handle(&Input::Mouse(at), s);
                }
                Step::Resize(a, b) => (w, h) = (a, b),
                Step::World(i) => world = i as usize,
            }
        }
        screen(&mut ui, &worlds[world], w, h);
    }
}
