//! The screen of a live watch: input in, frames out, confirmed wishes to the actions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::event::{Event as Input, EventStream};
use futures_util::StreamExt;

use super::live::Live;
use crate::action::{Intent, Selection, Wanted, What};
use crate::model::{Method, SocketId};
use crate::state::Snapshot;
use crate::view::tui::{Tone, Tui, UiCommand, UiOptions, Values, Wish};

pub struct Screen {
    tui: Tui,
    input: EventStream,
    values: Values,
    /// Made when something changed; input between two frames points at what is shown.
    snapshot: Snapshot,
    revision: u64,
}

impl Screen {
    pub fn enter(live: &Live) -> Result<Self> {
        let values = Values::default();
        let target_names: BTreeMap<u32, String> = live
            .attribution()
            .pids()
            .map(|pid| {
                let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
                (pid, crate::model::sanitize(comm.trim_ascii_end()))
            })
            .collect();
        let tui = Tui::enter(UiOptions { values, target_names, ..UiOptions::default() })?;
        Ok(Self { tui, input: EventStream::new(), values, snapshot: live.snapshot(), revision: u64::MAX })
    }

    /// How long until a frame is due.
    pub fn next_frame(&self, live: &Live) -> Duration {
        self.tui.next_redraw(live.revision())
    }

    pub fn draw(&mut self, live: &mut Live) -> Result<()> {
        self.look(live);
        self.tui.set_notes(live.notes());
        self.tui.draw(&self.snapshot).context("the terminal is gone")
    }

    fn look(&mut self, live: &Live) {
        if self.revision == live.revision() {
            // Nothing but the time has moved.
            self.snapshot.at = crate::model::Mono::now();
        } else {
            self.revision = live.revision();
            self.snapshot = live.snapshot();
        }
    }

    pub async fn next_input(&mut self) -> Result<Input> {
        match self.input.next().await {
            Some(event) => event.context("cannot read the terminal"),
            None => anyhow::bail!("the terminal is gone"),
        }
    }

    /// Takes one input; true: the user wants to leave.
    pub fn input(&mut self, input: Input, live: &mut Live) -> bool {
        match self.tui.handle(&input, &self.snapshot) {
            Some(UiCommand::Quit) => return true,
            Some(UiCommand::Act { wish, sockets }) => self.act(wish, &sockets, live),
            Some(UiCommand::Export) => match self.export() {
                Ok(path) => self.tui.say(format!("report written to {}", path.display()), Tone::Done),
                Err(e) => self.tui.say(format!("{e:#}"), Tone::Error),
            },
            Some(UiCommand::Replay(_)) | None => {}
        }
        false
    }

    fn act(&mut self, wish: Wish, sockets: &[SocketId], live: &mut Live) {
        let v = self.values;
        let (what, method) = match wish {
            Wish::Keepalive => (What::Set(Wanted::keepalive(v.idle_s, v.interval_s, v.count, None)), Method::Pidfd),
            Wish::UserTimeout => (
                What::Set(Wanted {
                    keepalive: None,
                    user_timeout_ms: Some(v.user_timeout.as_millis().min(u128::from(u32::MAX)) as u32),
                }),
                Method::Pidfd,
            ),
            Wish::Close => (What::Close, Method::SockDiag),
        };
        let selection = Selection::sockets(live.pids_of(sockets), sockets.iter().copied());
        live.act(Intent { what, selection, method, dry_run: false });
    }

    /// What the actions that just ended came to.
    pub fn say_outcome(&mut self, done: &[crate::model::Event]) {
        self.tui.say_outcome(done);
    }

    pub fn say_error(&mut self, text: &str) {
        self.tui.say(text, Tone::Error);
    }

    /// Writes what is on the screen into the current directory.
    fn export(&self) -> Result<PathBuf> {
        crate::view::report::export(&self.snapshot, Path::new("."))
    }
}
