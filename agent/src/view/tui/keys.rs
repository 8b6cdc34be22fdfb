//! One table of keys. What a key does, the footer's hints and the help screen all come from it, so that they cannot
//! drift apart.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What the user wants of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UiAction {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Back,
    Findings,
    Filter,
    Sort,
    Reverse,
    Pause,
    Keepalive,
    KeepaliveAll,
    Close,
    UserTimeout,
    SeekBack,
    SeekForward,
    Slower,
    Faster,
    Export,
    Mouse,
    Help,
    Quit,
}

/// What fills the screen below the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Screen {
    Table,
    Detail,
    Findings,
    Help,
}

/// Where a binding's hint is shown besides the help screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// In the footer; the lower number is the last to be dropped when the line is short.
    Footer(u8),
    /// Beside the title of the lower pane.
    Pane,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// Only while sockets can be changed.
    Live,
    Replay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Move,
    Look,
    Act,
    Replay,
    Program,
}

impl Group {
    pub const ALL: [Group; 5] = [Self::Move, Self::Look, Self::Act, Self::Replay, Self::Program];

    pub fn title(self) -> &'static str {
        match self {
            Self::Move => "Move",
            Self::Look => "Look closer",
            Self::Act => "Act on sockets (each asks first)",
            Self::Replay => "Replay",
            Self::Program => "Program",
        }
    }
}

pub struct Binding {
    pub action: UiAction,
    pub keys: &'static [(KeyCode, KeyModifiers)],
    /// The keys as a person reads them.
    pub label: &'static str,
    /// One or two words for a hint line.
    pub hint: &'static str,
    /// A sentence for the help screen.
    pub help: &'static str,
    pub group: Group,
    pub place: Hint,
    pub when: When,
    pub screens: &'static [Screen],
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;
const ALL: &[Screen] = &[Screen::Table, Screen::Detail, Screen::Findings, Screen::Help];
const TABLE: &[Screen] = &[Screen::Table];
const SOCKETS: &[Screen] = &[Screen::Table, Screen::Detail];
const NO_HELP: &[Screen] = &[Screen::Table, Screen::Detail, Screen::Findings];
const CLOSER: &[Screen] = &[Screen::Detail, Screen::Findings, Screen::Help];

macro_rules! bindings {
    ($($action:ident $keys:expr, $label:literal, $hint:literal, $group:ident, $place:expr, $when:ident, $screens:ident, $help:literal;)+) => {
        pub const BINDINGS: &[Binding] = &[$(Binding {
            action: UiAction::$action, keys: &$keys, label: $label, hint: $hint, help: $help,
            group: Group::$group, place: $place, when: When::$when, screens: $screens,
        }),+];
    };
}

use Hint::{Footer, Pane};
use KeyCode::Char;

bindings! {
    Up [(KeyCode::Up, NONE)], "↑", "", Move, Hint::None, Always, ALL, "The socket, finding or line above.";
    Down [(KeyCode::Down, NONE)], "↓", "", Move, Hint::None, Always, ALL, "The one below.";
    PageUp [(KeyCode::PageUp, NONE)], "PgUp", "", Move, Hint::None, Always, ALL, "A page up; on the findings screen it scrolls the text.";
    PageDown [(KeyCode::PageDown, NONE)], "PgDn", "", Move, Hint::None, Always, ALL, "A page down.";
    First [(KeyCode::Home, NONE)], "Home", "", Move, Hint::None, Always, ALL, "The first.";
    Last [(KeyCode::End, NONE)], "End", "", Move, Hint::None, Always, ALL, "The last.";
    SeekBack [(KeyCode::Left, NONE)], "←", "back", Replay, Footer(1), Replay, NO_HELP, "10 s back.";
    SeekForward [(KeyCode::Right, NONE)], "→", "on", Replay, Footer(1), Replay, NO_HELP, "10 s on.";
    Slower [(Char('['), NONE)], "[", "slower", Replay, Footer(2), Replay, NO_HELP, "Half the speed.";
    Faster [(Char(']'), NONE)], "]", "faster", Replay, Footer(2), Replay, NO_HELP, "Twice the speed.";
    Keepalive [(Char('k'), NONE)], "k", "keepalive", Act, Footer(2), Live, SOCKETS, "Force keepalive on the selected socket.";
    KeepaliveAll [(Char('K'), NONE)], "K", "all", Act, Footer(3), Live, SOCKETS, "Force keepalive on every socket shown that lacks it.";
    Close [(Char('x'), NONE)], "x", "close", Act, Footer(2), Live, SOCKETS, "Close the selected socket, so that its process sees the error now and can retry.";
    UserTimeout [(Char('u'), NONE)], "u", "user timeout", Act, Footer(5), Live, SOCKETS, "Bound how long the selected socket waits for an ACK (TCP_USER_TIMEOUT).";
    Open [(KeyCode::Enter, NONE)], "⏎", "detail", Look, Pane, Always, NO_HELP, "Everything about the selected socket; on a finding: go to its first socket.";
    Findings [(Char('f'), NONE)], "f", "findings", Look, Pane, Always, NO_HELP, "The findings, with evidence, rivals and advice in full.";
    Filter [(Char('/'), NONE)], "/", "filter", Look, Footer(4), Always, TABLE, "Show only sockets whose destination, port, state, process or finding has all the words.";
    Sort [(Char('s'), NONE)], "s", "sort", Look, Footer(4), Always, TABLE, "Sort by the next column; a click on a column's title does it too.";
    Reverse [(Char('S'), NONE)], "S", "", Look, Hint::None, Always, TABLE, "The other direction.";
    Pause [(Char(' '), NONE)], "space", "pause", Look, Footer(2), Always, NO_HELP, "Hold the picture still; nothing is lost meanwhile.";
    Back [(KeyCode::Esc, NONE), (KeyCode::Backspace, NONE)], "esc", "back", Look, Footer(1), Always, CLOSER, "Back to the table; there it clears the filter, then lets go of the selection.";
    Back [(KeyCode::Esc, NONE)], "esc", "", Look, Hint::None, Always, TABLE, "";
    Export [(Char('e'), NONE)], "e", "export", Program, Footer(6), Always, NO_HELP, "Write what is known to files for a bug report.";
    Mouse [(Char('m'), NONE)], "m", "", Program, Hint::None, Always, ALL, "Hand the mouse back to the terminal, to select text; again to take it.";
    Quit [(Char('q'), NONE), (Char('c'), CTRL)], "q", "quit", Program, Footer(0), Always, ALL, "Quit; Ctrl-C does it too.";
    Help [(Char('?'), NONE), (KeyCode::F(1), NONE)], "?", "help", Program, Footer(0), Always, ALL, "This page, and back.";
}

impl Binding {
    fn applies(&self, screen: Screen, replay: bool) -> bool {
        self.screens.contains(&screen) && self.available(replay)
    }

    /// Whether the binding exists in this kind of run at all.
    pub fn available(&self, replay: bool) -> bool {
        match self.when {
            When::Always => true,
            When::Live => !replay,
            When::Replay => replay,
        }
    }

    fn takes(&self, key: &KeyEvent) -> bool {
        // Terminals differ in whether an upper-case letter comes with SHIFT: the letter itself says it.
        let modifiers = key.modifiers.difference(KeyModifiers::SHIFT);
        self.keys.iter().any(|(code, m)| *code == key.code && *m == modifiers)
    }
}

/// What `key` means on `screen`; `None` if nothing.
pub fn lookup(key: &KeyEvent, screen: Screen, replay: bool) -> Option<UiAction> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    BINDINGS.iter().find(|b| b.applies(screen, replay) && b.takes(key)).map(|b| b.action)
}

/// A key that would act on a live socket: said, not ignored, in a recording.
pub fn acts_only_live(key: &KeyEvent) -> bool {
    BINDINGS.iter().any(|b| b.when == When::Live && b.takes(key))
}

/// Bindings whose hint belongs to `place` on `screen`, in the table's order.
pub fn hints(screen: Screen, replay: bool, pane: bool) -> impl Iterator<Item = (&'static Binding, u8)> {
    BINDINGS.iter().filter(move |b| b.applies(screen, replay)).filter_map(move |b| match b.place {
        Footer(p) if !pane => Some((b, p)),
        Pane if pane => Some((b, 0)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode, m: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, m)
    }

    #[test]
    fn every_key_has_one_meaning_per_screen() {
        for screen in ALL {
            for replay in [false, true] {
                for b in BINDINGS.iter().filter(|b| b.applies(*screen, replay)) {
                    for (code, m) in b.keys {
                        let key = press(*code, *m);
                        let takers = BINDINGS.iter().filter(|o| o.applies(*screen, replay) && o.takes(&key)).count();
                        assert_eq!(takers, 1, "{} on {screen:?}", b.label);
                        assert_eq!(lookup(&key, *screen, replay), Some(b.action));
                    }
                }
            }
        }
    }

    #[test]
    fn every_action_has_a_key_and_a_sentence() {
        use UiAction::*;
        let all = [
            Up,
            Down,
            PageUp,
            PageDown,
            First,
            Last,
            Open,
            Back,
            Findings,
            Filter,
            Sort,
            Reverse,
            Pause,
            Keepalive,
            KeepaliveAll,
            Close,
            UserTimeout,
            SeekBack,
            SeekForward,
            Slower,
            Faster,
            Export,
            Mouse,
            Help,
            Quit,
        ];
        for a in all {
            let b = BINDINGS.iter().find(|b| b.action == a).unwrap_or_else(|| panic!("{a:?} has no key"));
            assert!(b.help.ends_with('.'), "{a:?}: {}", b.help);
            if b.place != Hint::None {
                assert!(!b.hint.is_empty(), "{a:?}");
            }
        }
    }

    #[test]
    fn letters_with_and_without_shift_and_control() {
        let table = Screen::Table;
        assert_eq!(lookup(&press(Char('K'), KeyModifiers::SHIFT), table, false), Some(UiAction::KeepaliveAll));
        assert_eq!(lookup(&press(Char('K'), NONE), table, false), Some(UiAction::KeepaliveAll));
        assert_eq!(lookup(&press(Char('k'), NONE), table, false), Some(UiAction::Keepalive));
        assert_eq!(lookup(&press(Char('c'), CTRL), table, false), Some(UiAction::Quit));
        assert_eq!(lookup(&press(Char('c'), NONE), table, false), None);
        assert_eq!(lookup(&press(Char('q'), KeyModifiers::ALT), table, false), None);
    }

    #[test]
    fn a_recording_cannot_be_changed() {
        for c in ['k', 'K', 'x', 'u'] {
            let key = press(Char(c), NONE);
            assert_eq!(lookup(&key, Screen::Table, true), None);
            assert!(acts_only_live(&key));
        }
        assert_eq!(lookup(&press(KeyCode::Left, NONE), Screen::Table, true), Some(UiAction::SeekBack));
        assert_eq!(lookup(&press(KeyCode::Left, NONE), Screen::Table, false), None);
    }
}
