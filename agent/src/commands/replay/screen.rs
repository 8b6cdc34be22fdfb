//! The screen on a recording: play, pause, seek, faster, slower.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Player;
use crate::diagnose::Thresholds;
use crate::model::Mono;
use crate::view::report;
use crate::view::tui::{Mode, Replay, ReplayCommand, Tone, Tui, UiCommand, UiOptions};

/// One press of an arrow key, in the recording's time.
const SEEK: Duration = Duration::from_secs(10);
/// Longest stretch of playing between two looks at the keyboard.
const SLICE: Duration = Duration::from_millis(40);
/// How often the keyboard is looked at while nothing else happens.
const IDLE_POLL: Duration = Duration::from_millis(250);
const SLOWEST: f64 = 0.125;
const FASTEST: f64 = 1024.0;

/// What part of the recording is played, and how fast.
pub struct Span {
    pub from: Option<Mono>,
    pub end: Mono,
    pub speed: f64,
}

struct Session<'a> {
    path: &'a Path,
    thresholds: Thresholds,
    player: Player,
    end: Mono,
    speed: f64,
    playing: bool,
    /// The recording's time and the user's, when playing began.
    anchor: (Mono, Instant),
    /// A jump under way.
    seek: Option<Mono>,
}

pub fn run(path: &Path, thresholds: Thresholds, player: Player, span: Span, stop: &Arc<AtomicBool>) -> Result<u8> {
    let start = player.start();
    let mut s = Session {
        path,
        thresholds,
        player,
        end: span.end,
        speed: span.speed,
        playing: true,
        anchor: (start, Instant::now()),
        seek: span.from,
    };
    let mode = Mode::Replay(s.line());
    let mut tui = Tui::enter(UiOptions { mode, ..UiOptions::default() })?;
    let mut said_end = false;
    while !stop.load(Ordering::Relaxed) {
        s.advance()?;
        if s.player.next_at().is_none() && !said_end {
            said_end = true;
            let remarks = s.player.stats().remarks();
            let text = remarks.first().map_or("the recording ends here".to_owned(), |r| format!("it ends here: {r}"));
            tui.say(text, Tone::Note);
        }
        tui.set_replay(s.line());
        let revision = s.player.table.revision();
        if tui.next_redraw(revision).is_zero() {
            tui.draw(&s.player.snapshot()).context("the terminal is gone")?;
        }
        let wait = tui.next_redraw(s.player.table.revision()).min(s.due());
        if crossterm::event::poll(wait).context("cannot read the keyboard")? {
            let event = crossterm::event::read().context("cannot read the keyboard")?;
            match tui.handle(&event, &s.player.snapshot()) {
                Some(UiCommand::Quit) => break,
                Some(UiCommand::Replay(command)) => {
                    s.command(command)?;
                    said_end = false;
                }
                Some(UiCommand::Export) => match report::export(&s.player.snapshot(), Path::new(".")) {
                    Ok(file) => tui.say(format!("wrote {}, redacted", file.display()), Tone::Done),
                    Err(e) => tui.say(format!("{e:#}"), Tone::Error),
                },
                // The screen offers no actions on a recording.
                Some(UiCommand::Act { .. }) | None => {}
            }
        }
    }
    Ok(0)
}

impl Session<'_> {
    /// Plays what is due, for at most [`SLICE`].
    fn advance(&mut self) -> Result<()> {
        let target = match self.seek {
            Some(to) => to,
            None if !self.playing => return Ok(()),
            None if self.speed.is_infinite() => self.end,
            None => self.anchor.0.plus(self.anchor.1.elapsed().mul_f64(self.speed)),
        };
        let began = Instant::now();
        while self.player.next_at().is_some_and(|at| at <= target) {
            self.player.step()?;
            if began.elapsed() > SLICE {
                return Ok(());
            }
        }
        self.player.pass(target);
        if self.seek.take().is_some() {
            self.anchor = (target, Instant::now());
        }
        Ok(())
    }

    /// Time until something has to be played.
    fn due(&self) -> Duration {
        if self.seek.is_some() {
            return Duration::ZERO;
        }
        match self.player.next_at() {
            Some(_) if self.playing && self.speed.is_infinite() => Duration::ZERO,
            Some(at) if self.playing => {
                let shown = self.anchor.0.plus(self.anchor.1.elapsed().mul_f64(self.speed));
                at.since(shown).div_f64(self.speed).min(IDLE_POLL)
            }
            _ => IDLE_POLL,
        }
    }

    fn command(&mut self, command: ReplayCommand) -> Result<()> {
        let now = self.player.now();
        match command {
            ReplayCommand::TogglePause => self.playing = !self.playing,
            ReplayCommand::Slower => {
                self.speed = if self.speed.is_infinite() { FASTEST } else { (self.speed / 2.0).max(SLOWEST) };
            }
            ReplayCommand::Faster => {
                self.speed = if self.speed >= FASTEST { f64::INFINITY } else { self.speed * 2.0 };
            }
            ReplayCommand::Forward => self.seek = Some(now.plus(SEEK).min(self.end)),
            ReplayCommand::Back => {
                let to = now.minus(SEEK).max(self.player.start());
                // State cannot be taken back: from the beginning again, as fast as it goes.
                self.player = Player::open(self.path, self.thresholds.clone(), None)?;
                self.seek = Some(to);
            }
        }
        self.anchor = (now, Instant::now());
        Ok(())
    }

    fn line(&self) -> Replay {
        Replay {
            file: self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            position: self.player.now().since(self.player.start()),
            length: self.end.since(self.player.start()),
            speed: self.speed,
            playing: self.playing && self.player.next_at().is_some(),
        }
    }
}
