//! The agent on a terminal of its own: what its screen shows, and the keys that a user presses.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::wait::patience;

/// Rows and columns of every test's terminal.
const SIZE: (u16, u16) = (40, 140);

/// A program and the screen that it draws. Dropped, the program is killed.
pub struct Terminal {
    child: Child,
    master: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts `command` in a session of its own whose terminal this is.
    pub fn start(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("the terminal's other end");
        let size = Winsize { ws_row: SIZE.0, ws_col: SIZE.1, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("the terminal's size");
        let name = ptsname(&master, Vec::new()).expect("the terminal's name").into_string().expect("an ASCII path");
        let end: OwnedFd = File::options().read(true).write(true).open(name).expect("the terminal's other end").into();
        let copy = || Stdio::from(end.try_clone().expect("a descriptor"));
        command.stdin(copy()).stdout(copy()).stderr(copy()).env("TERM", "xterm-256color");
        // SAFETY: two system calls without pointers; descriptor 0 is the terminal by then.
        unsafe {
            command.pre_exec(|| match (libc::setsid(), libc::ioctl(0, libc::TIOCSCTTY, 0)) {
                (1.., 0) => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let master = File::from(master);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(SIZE.0, SIZE.1, 0)));
        let (mut from, to) = (master.try_clone().expect("a descriptor"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut part = [0; 8192];
            // EIO: the last of its programs has ended.
            while let Ok(n @ 1..) = from.read(&mut part) {
                to.lock().unwrap_or_else(PoisonError::into_inner).process(&part[..n]);
            }
        });
        Self { child, master, screen }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is on the screen now.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until the screen has `text`; panics with what it has.
    pub fn expect(&self, text: &str) -> String {
        self.expect_that(&format!("{text:?}"), |screen| screen.contains(text))
    }

    /// Waits until the screen is as `wanted`.
    pub fn expect_that(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + patience();
        loop {
            let screen = self.text();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "the screen does not show {what}, but:\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Waits for the program to end by itself; true: without an error.
    pub fn ends_well(mut self) -> bool {
        let deadline = Instant::now() + patience();
        loop {
            match self.child.try_wait().expect("the program can be waited for") {
                Some(status) => return status.success(),
                None => assert!(Instant::now() < deadline, "it does not end; its screen:\n{}", self.text()),
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Gives the terminal another size, of which its program hears by SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("the terminal's size");
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen_mut().set_size(rows, columns);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
