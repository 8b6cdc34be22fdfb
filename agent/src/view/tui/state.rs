//! What the user has done to the screen: selection, sorting, filter, pause, which screen, what is being asked.
//! Changed by keys and by [`UiState::prepare`]; drawing only reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ratatui::layout::Rect;

use super::confirm::{Confirm, Values};
use super::keys::Screen;
use super::render;
use super::rows::{Rows, Sort};
use super::theme::Theme;
use crate::model::{Shared, SocketId};
use crate::state::{Snapshot, Socket};

/// Where the events come from: decides which keys exist and whether there is a replay line.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    Live,
    Replay(Replay),
}

/// How far a replay has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// The recording's name.
    pub file: String,
    /// Time since the recording's first event, of `length`.
    pub position: Duration,
    pub length: Duration,
    /// 1.0 is as it was; infinite is as fast as it goes.
    pub speed: f64,
    pub playing: bool,
}

/// What the screen has to be told at the start.
#[derive(Clone, Debug)]
pub struct UiOptions {
    pub mode: Mode,
    pub theme: Theme,
    pub values: Values,
    /// Names of the target processes, known before any socket is.
    pub target_names: BTreeMap<u32, String>,
}

impl Default for UiOptions {
    fn default() -> Self {
        Self { mode: Mode::Live, theme: Theme::from_env(), values: Values::default(), target_names: BTreeMap::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Done,
    Note,
    Error,
}

/// Stays until the next key, or until [`super::Tui`] finds it old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub text: String,
    pub tone: Tone,
}

#[derive(Debug)]
pub struct UiState {
    pub options: UiOptions,
    pub screen: Screen,
    /// Where `?` goes back to.
    pub before_help: Screen,
    /// `None`: the cursor rests on the first row, whichever socket that is.
    pub selected: Option<SocketId>,
    /// Row that the selected socket keeps although the order changes around it.
    pub pin: Option<usize>,
    pub sort: Sort,
    pub filter: String,
    /// The filter is being typed; what it was before, for Esc.
    pub typing: Option<String>,
    /// The picture held still.
    pub paused: Option<Arc<Snapshot>>,
    pub confirm: Option<Confirm>,
    pub message: Option<Message>,
    /// What came up during the run and stays true: the targets have ended, the recording failed.
    pub notes: Vec<String>,
    /// Finding shown on the findings screen, by id; `None`: the first.
    pub finding: Option<u64>,
    /// First visible line of the detail, findings or help text.
    pub scroll: usize,
    /// First visible row of the table.
    pub offset: usize,
    /// The table scrolls so that the cursor stays visible; the wheel lets go of it.
    pub follow: bool,
    pub mouse: bool,
    pub area: Rect,
    pub rows: Rows,
    /// Row of the cursor; valid after [`Self::prepare`].
    pub cursor: usize,
    /// Length of the text that `scroll` moves over, and how much of it is visible: known after [`Self::prepare`].
    pub text_lines: usize,
    pub text_height: usize,
}

impl UiState {
    pub fn new(options: UiOptions) -> Self {
        Self {
            options,
            screen: Screen::Table,
            before_help: Screen::Table,
            selected: None,
            pin: None,
            sort: Sort::default(),
            filter: String::new(),
            typing: None,
            paused: None,
            confirm: None,
            message: None,
            notes: Vec::new(),
            finding: None,
            scroll: 0,
            offset: 0,
            follow: true,
            mouse: true,
            area: Rect::default(),
            rows: Rows::default(),
            cursor: 0,
            text_lines: 0,
            text_height: 0,
        }
    }

    pub fn theme(&self) -> Theme {
        self.options.theme
    }

    pub fn is_replay(&self) -> bool {
        matches!(self.options.mode, Mode::Replay(_))
    }

    /// The socket under the cursor.
    pub fn current<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Shared<Socket>> {
        self.rows.get(snapshot, self.cursor)
    }

    /// Index of the finding shown on the findings screen.
    pub fn finding_index(&self, snapshot: &Snapshot) -> usize {
        self.finding.and_then(|id| snapshot.findings.iter().position(|f| f.id == id)).unwrap_or(0)
    }

    /// Brings everything derived up to date with `snapshot` and the size of the screen; to be called before a drawing
    /// of the same two.
    pub fn prepare(&mut self, snapshot: &Snapshot, area: Rect) {
        self.area = area;
        let pin = self.selected.zip(self.pin);
        self.rows.update(snapshot, self.sort, &self.filter, pin);
        let last = self.rows.len().saturating_sub(1);
        match self.selected.and_then(|id| self.rows.position(snapshot, id)) {
            Some(row) => self.cursor = row,
            // The selected socket has left: the one that took its row is next to it.
            None if self.selected.is_some() => {
                let row = self.cursor.min(last);
                self.select(snapshot, row);
            }
            None => self.cursor = 0,
        }
        let height = render::rows_height(self, snapshot);
        let max = self.rows.len().saturating_sub(height);
        if self.follow && height > 0 {
            if self.cursor < self.offset {
                self.offset = self.cursor;
            } else if self.cursor >= self.offset + height {
                self.offset = self.cursor + 1 - height;
            }
        }
        self.offset = self.offset.min(max);
        (self.text_lines, self.text_height) = render::text_extent(self, snapshot);
        self.scroll = self.scroll.min(self.text_lines.saturating_sub(self.text_height));
    }

    /// Puts the cursor on `row` and keeps its socket there.
    pub fn select(&mut self, snapshot: &Snapshot, row: usize) {
        let row = row.min(self.rows.len().saturating_sub(1));
        self.cursor = row;
        self.selected = self.rows.get(snapshot, row).map(|s| s.id);
        self.pin = self.selected.map(|_| row);
        self.follow = true;
    }

    /// After a new sort or filter the selected socket goes where it belongs, and stays there.
    pub fn reorder(&mut self, snapshot: &Snapshot) {
        self.pin = None;
        self.rows.update(snapshot, self.sort, &self.filter, None);
        self.pin = self.selected.and_then(|id| self.rows.position(snapshot, id));
        self.follow = true;
        if self.selected.is_none() {
            self.offset = 0;
        }
    }

    pub fn say(&mut self, text: impl Into<String>, tone: Tone) {
        self.message = Some(Message { text: text.into(), tone });
    }
}
