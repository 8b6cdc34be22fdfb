//! From a key, click or wheel to a change of [`UiState`] or a command for the app.

use std::sync::Arc;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::confirm::{Confirm, Wish, lacks_keepalive};
use super::keys::{self, Screen, UiAction};
use super::render;
use super::state::{Mode, Tone, UiState};
use crate::model::{Shared, SocketId};
use crate::state::{Snapshot, Socket};

/// What the app has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum UiCommand {
    Quit,
    Export,
    /// Confirmed by the user.
    Act {
        wish: Wish,
        sockets: Vec<SocketId>,
    },
    Replay(ReplayCommand),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayCommand {
    TogglePause,
    Back,
    Forward,
    Slower,
    Faster,
}

/// Rows or lines per notch of the wheel.
const WHEEL: usize = 3;
/// A filter longer than this helps nobody.
const FILTER_MAX: usize = 200;

impl UiState {
    /// Takes an input event. `snapshot` is the live one; while paused, the held picture is what the user points at.
    pub fn handle(&mut self, event: &Event, snapshot: &Snapshot) -> Option<UiCommand> {
        let held = self.paused.clone();
        let snapshot = held.as_deref().unwrap_or(snapshot);
        // The rows may have been made of an older snapshot: a key must never reach a socket that moved.
        self.prepare(snapshot, self.area);
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(key, snapshot),
            Event::Mouse(mouse) => {
                self.mouse(mouse, snapshot);
                None
            }
            Event::Paste(text) if self.typing.is_some() => {
                text.chars().for_each(|c| self.type_char(c));
                self.reorder(snapshot);
                None
            }
            _ => None,
        }
    }

    fn key(&mut self, key: &KeyEvent, snapshot: &Snapshot) -> Option<UiCommand> {
        self.message = None;
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(UiCommand::Quit);
        }
        if let Some(question) = self.confirm.take() {
            return self.answer(question, key);
        }
        if self.typing.is_some() {
            self.type_key(key, snapshot);
            return None;
        }
        match keys::lookup(key, self.screen, self.is_replay()) {
            Some(action) => self.act(action, snapshot),
            None => {
                if self.is_replay() && keys::acts_only_live(key) {
                    self.say("this is a recording: its sockets cannot be changed", Tone::Note);
                }
                None
            }
        }
    }

    /// `y` says yes; `n`, Esc and `q` say no; anything else leaves the question open.
    fn answer(&mut self, question: Confirm, key: &KeyEvent) -> Option<UiCommand> {
        match key.code {
            KeyCode::Char('y' | 'Y') => {
                return Some(UiCommand::Act { wish: question.wish, sockets: question.sockets });
            }
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => self.say("nothing was changed", Tone::Note),
            _ => self.confirm = Some(question),
        }
        None
    }

    fn type_key(&mut self, key: &KeyEvent, snapshot: &Snapshot) {
        match key.code {
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = None;
            }
            KeyCode::Enter => self.typing = None,
            KeyCode::Backspace if self.filter.is_empty() => self.typing = None,
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char('u' | 'w') if key.modifiers.contains(KeyModifiers::CONTROL) => self.filter.clear(),
            KeyCode::Char(c) if !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => {
                self.type_char(c);
            }
            KeyCode::Up => return self.step(-1, snapshot),
            KeyCode::Down => return self.step(1, snapshot),
            _ => return,
        }
        self.reorder(snapshot);
    }

    fn type_char(&mut self, c: char) {
        if !c.is_control() && self.filter.len() < FILTER_MAX {
            self.filter.push(c);
        }
    }

    fn act(&mut self, action: UiAction, snapshot: &Snapshot) -> Option<UiCommand> {
        match action {
            UiAction::Up => self.step(-1, snapshot),
            UiAction::Down => self.step(1, snapshot),
            UiAction::PageUp => self.page(-1, snapshot),
            UiAction::PageDown => self.page(1, snapshot),
            UiAction::First => self.jump(false, snapshot),
            UiAction::Last => self.jump(true, snapshot),
            UiAction::Open => self.open(snapshot),
            UiAction::Back => self.back(snapshot),
            UiAction::Findings => {
                let to = if self.screen == Screen::Findings { Screen::Table } else { Screen::Findings };
                if self.screen == Screen::Table
                    && let Some(s) = self.current(snapshot)
                    && let Some(f) = self.rows.finding(snapshot, s.id)
                {
                    self.finding = Some(f.id);
                }
                self.show(to);
            }
            UiAction::Help if self.screen == Screen::Help => self.show(self.before_help),
            UiAction::Help => {
                self.before_help = self.screen;
                self.show(Screen::Help);
            }
            UiAction::Filter => self.typing = Some(self.filter.clone()),
            UiAction::Sort => {
                self.sort = self.sort.next();
                self.reorder(snapshot);
            }
            UiAction::Reverse => {
                self.sort.reversed = !self.sort.reversed;
                self.reorder(snapshot);
            }
            UiAction::Pause if self.is_replay() => return Some(UiCommand::Replay(ReplayCommand::TogglePause)),
            UiAction::Pause => {
                self.paused = if self.paused.is_some() { None } else { Some(Arc::new(snapshot.clone())) };
            }
            UiAction::Keepalive => self.ask_selected(Wish::Keepalive, snapshot),
            UiAction::Close => self.ask_selected(Wish::Close, snapshot),
            UiAction::UserTimeout => self.ask_selected(Wish::UserTimeout, snapshot),
            UiAction::KeepaliveAll => {
                let lacking: Vec<Shared<Socket>> =
                    self.rows.iter(snapshot).filter(|s| lacks_keepalive(s)).cloned().collect();
                self.ask(Wish::Keepalive, &lacking, snapshot);
            }
            UiAction::SeekBack => return Some(UiCommand::Replay(ReplayCommand::Back)),
            UiAction::SeekForward => return Some(UiCommand::Replay(ReplayCommand::Forward)),
            UiAction::Slower => return Some(UiCommand::Replay(ReplayCommand::Slower)),
            UiAction::Faster => return Some(UiCommand::Replay(ReplayCommand::Faster)),
            UiAction::Export => return Some(UiCommand::Export),
            UiAction::Mouse => {
                self.mouse = !self.mouse;
                let text =
                    if self.mouse { "the mouse moves in here" } else { "the mouse selects text; m takes it back" };
                self.say(text, Tone::Note);
            }
            UiAction::Quit => return Some(UiCommand::Quit),
        }
        None
    }

    fn show(&mut self, screen: Screen) {
        self.screen = screen;
        self.scroll = 0;
    }

    fn ask_selected(&mut self, wish: Wish, snapshot: &Snapshot) {
        let socket: Vec<Shared<Socket>> = self.current(snapshot).cloned().into_iter().collect();
        if socket.is_empty() {
            self.say("no socket is selected", Tone::Note);
        } else {
            // It stays under the cursor, where the result is shown.
            self.select(snapshot, self.cursor);
            self.ask(wish, &socket, snapshot);
        }
    }

    fn ask(&mut self, wish: Wish, sockets: &[Shared<Socket>], snapshot: &Snapshot) {
        match Confirm::build(wish, sockets, snapshot, self.options.values) {
            Ok(question) => self.confirm = Some(question),
            Err(why) => self.say(why, Tone::Note),
        }
    }

    fn step(&mut self, by: isize, snapshot: &Snapshot) {
        match self.screen {
            Screen::Table => self.select(snapshot, self.cursor.saturating_add_signed(by)),
            Screen::Findings => self.step_finding(by, snapshot),
            Screen::Detail | Screen::Help => self.scroll_by(by),
        }
    }

    fn step_finding(&mut self, by: isize, snapshot: &Snapshot) {
        let last = snapshot.findings.len().saturating_sub(1);
        let to = self.finding_index(snapshot).saturating_add_signed(by).min(last);
        self.finding = snapshot.findings.get(to).map(|f| f.id);
        self.scroll = 0;
    }

    fn page(&mut self, by: isize, snapshot: &Snapshot) {
        match self.screen {
            Screen::Table => {
                let height = render::rows_height(self, snapshot).max(2) as isize;
                self.select(snapshot, self.cursor.saturating_add_signed(by * (height - 1)));
            }
            _ => self.scroll_by(by * (self.text_height.max(2) as isize - 1)),
        }
    }

    fn jump(&mut self, end: bool, snapshot: &Snapshot) {
        match self.screen {
            Screen::Table => self.select(snapshot, if end { usize::MAX } else { 0 }),
            _ => self.scroll = if end { self.text_lines.saturating_sub(self.text_height) } else { 0 },
        }
    }

    fn scroll_by(&mut self, by: isize) {
        let max = self.text_lines.saturating_sub(self.text_height);
        self.scroll = self.scroll.saturating_add_signed(by).min(max);
    }

    fn open(&mut self, snapshot: &Snapshot) {
        match self.screen {
            Screen::Table if self.current(snapshot).is_some() => {
                self.select(snapshot, self.cursor);
                self.show(Screen::Detail);
            }
            Screen::Detail => self.show(Screen::Table),
            Screen::Findings => {
                let Some(f) = snapshot.findings.get(self.finding_index(snapshot)) else { return };
                let row = f.sockets.iter().find_map(|id| self.rows.position(snapshot, *id));
                match row {
                    Some(row) => {
                        self.select(snapshot, row);
                        self.show(Screen::Table);
                    }
                    None => self.say("none of its sockets is in the table", Tone::Note),
                }
            }
            _ => {}
        }
    }

    fn back(&mut self, snapshot: &Snapshot) {
        match self.screen {
            Screen::Help => self.show(self.before_help),
            Screen::Detail | Screen::Findings => self.show(Screen::Table),
            Screen::Table if !self.filter.is_empty() => {
                self.filter.clear();
                self.reorder(snapshot);
            }
            Screen::Table => {
                self.selected = None;
                self.pin = None;
                self.follow = true;
            }
        }
    }

    fn mouse(&mut self, mouse: &MouseEvent, snapshot: &Snapshot) {
        if self.confirm.is_some() {
            return;
        }
        match mouse.kind {
            MouseEventKind::ScrollDown => self.wheel(WHEEL as isize, snapshot),
            MouseEventKind::ScrollUp => self.wheel(-(WHEEL as isize), snapshot),
            MouseEventKind::Down(MouseButton::Left) => self.click(mouse.column, mouse.row, snapshot),
            _ => {}
        }
    }

    fn wheel(&mut self, by: isize, snapshot: &Snapshot) {
        if self.screen == Screen::Table {
            let max = self.rows.len().saturating_sub(render::rows_height(self, snapshot));
            self.offset = self.offset.saturating_add_signed(by).min(max);
            self.follow = false;
        } else {
            self.scroll_by(by);
        }
    }

    fn click(&mut self, x: u16, y: u16, snapshot: &Snapshot) {
        match render::hit(self, snapshot, x, y) {
            Some(render::Hit::Title(column)) => {
                self.sort = self.sort.toggle(column);
                self.reorder(snapshot);
            }
            Some(render::Hit::Row(row)) if self.selected.is_some() && row == self.cursor => self.open(snapshot),
            Some(render::Hit::Row(row)) => {
                let offset = self.offset;
                self.select(snapshot, row);
                self.offset = offset;
            }
            Some(render::Hit::Finding(id)) => {
                self.finding = Some(id);
                self.show(Screen::Findings);
            }
            None => {}
        }
    }

    pub fn mode_mut(&mut self) -> &mut Mode {
        &mut self.options.mode
    }
}
