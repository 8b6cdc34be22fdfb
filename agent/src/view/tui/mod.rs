//! The screen. [`Tui`] owns the terminal: raw mode, alternate screen and mouse are taken on entry and given back on
//! drop and on a panic; SIGINT and SIGTERM are the app's, which drops the `Tui`. Everything else is pure:
//! [`UiState`] changes with input, `render` draws it.

mod confirm;
mod input;
mod keys;
mod outcome;
mod render;
mod rows;
mod state;
mod theme;

use std::io::{self, Stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use crossterm::event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture, Event};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

pub use confirm::{Confirm, Values, Wish};
pub use input::{ReplayCommand, UiCommand};
pub use keys::{BINDINGS, Screen, UiAction};
pub use state::{Mode, Replay, Tone, UiOptions, UiState};
pub use theme::Theme;

use crate::state::Snapshot;

/// At most ten frames a second: faster than that nobody reads.
pub const FRAME: Duration = Duration::from_millis(100);
/// Countdowns and idle times show whole seconds.
const TICK: Duration = Duration::from_secs(1);
/// How long a message stays, if no key takes it away sooner: a sentence of 100 characters can be read in it.
const MESSAGE_TIME: Duration = Duration::from_secs(8);

/// Whether the terminal is ours, so that it is given back exactly once, whoever comes first: drop or panic.
static TAKEN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The screen on the real terminal.
pub struct Tui {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    state: UiState,
    /// Input or a message changed something since the last frame.
    dirty: bool,
    /// When the last frame was drawn (by the user's clock, which is not a recording's), and of which revision.
    drawn: Option<(Instant, u64)>,
    message_since: Option<Instant>,
    mouse: bool,
}

impl Tui {
    /// Takes the terminal. Fails where stdout is none.
    pub fn enter(options: UiOptions) -> anyhow::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                before(info);
            }));
        });
        let hint = "cannot take over the terminal; --no-tui prints JSON Lines instead";
        crossterm::terminal::enable_raw_mode().context(hint)?;
        TAKEN.store(true, Ordering::SeqCst);
        let taken =
            execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, EnableBracketedPaste, cursor::Hide)
                .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match taken {
            Ok(terminal) => Ok(Self {
                terminal,
                state: UiState::new(options),
                dirty: true,
                drawn: None,
                message_since: None,
                mouse: true,
            }),
            Err(e) => {
                restore();
                Err(e).context(hint)
            }
        }
    }

    /// Takes an input event; `snapshot` is what there is now. The command, if any, was confirmed by the user.
    pub fn handle(&mut self, event: &Event, snapshot: &Snapshot) -> Option<UiCommand> {
        self.dirty = true;
        if matches!(event, Event::Key(_)) {
            // A key takes the old message away; a new one has its full time.
            self.message_since = None;
        }
        let command = self.state.handle(event, snapshot);
        if self.state.mouse != self.mouse {
            self.mouse = self.state.mouse;
            // Without the mouse the screen still works.
            let _ = if self.mouse {
                execute!(io::stdout(), EnableMouseCapture)
            } else {
                execute!(io::stdout(), DisableMouseCapture)
            };
        }
        command
    }

    /// Whether a frame is due: something changed (`revision` is that of the state table), or a second passed, so that
    /// countdowns go on; and the last frame is at least [`FRAME`] old.
    pub fn needs_redraw(&self, revision: u64) -> bool {
        self.next_redraw(revision).is_zero()
    }

    /// How long the app may sleep before the next frame is due, if no event comes.
    pub fn next_redraw(&self, revision: u64) -> Duration {
        let Some((at, seen)) = self.drawn else { return Duration::ZERO };
        let changed = self.dirty || (self.state.paused.is_none() && revision != seen);
        (if changed { FRAME } else { TICK }).saturating_sub(at.elapsed())
    }

    /// Draws a frame of `snapshot`, whose `at` is the present. Errors mean that the terminal is gone.
    pub fn draw(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.drawn = Some((Instant::now(), snapshot.revision));
        self.dirty = false;
        if self.message_since.is_some_and(|t| t.elapsed() > MESSAGE_TIME) {
            self.state.message = None;
        }
        self.message_since = self.state.message.as_ref().map(|_| self.message_since.unwrap_or_else(Instant::now));
        let held = self.state.paused.clone();
        let shown = held.as_deref().unwrap_or(snapshot);
        let state = &mut self.state;
        self.terminal.draw(|frame| {
            state.prepare(shown, frame.area());
            render::draw(state, shown, frame);
        })?;
        Ok(())
    }

    /// Says something in the last line for a while: what an export wrote, why an action failed.
    pub fn say(&mut self, text: impl Into<String>, tone: Tone) {
        self.state.say(text, tone);
        self.message_since = Some(Instant::now());
        self.dirty = true;
    }

    /// What came up during the run and stays true, to stand below the header.
    pub fn set_notes(&mut self, notes: &[String]) {
        if self.state.notes != notes {
            self.state.notes = notes.to_vec();
            self.dirty = true;
        }
    }

    /// Says what actions came to; nothing if there is none among the events.
    pub fn say_outcome(&mut self, events: &[crate::model::Event]) {
        if let Some((text, tone)) = outcome::line(events) {
            self.say(text, tone);
        }
    }

    /// How far a replay has come; nothing in a live run.
    pub fn set_replay(&mut self, replay: Replay) {
        if let Mode::Replay(r) = self.state.mode_mut()
            && *r != replay
        {
            *r = replay;
            self.dirty = true;
        }
    }
}

impl Drop for Tui {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, if it is ours. Errors are of no use any more: the terminal may be gone.
fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), DisableMouseCapture, DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

#[cfg(test)]
mod tests;
