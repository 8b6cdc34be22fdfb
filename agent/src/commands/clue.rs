//! What a process is, so that advice can name its client's own settings.

use crate::diagnose::Clue;

/// From /proc; empty where it cannot be read.
pub fn of(pid: u32) -> Clue {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = cmdline.split(|b| *b == 0).map(crate::model::sanitize).collect();
    let exe = exe.map(|p| p.display().to_string()).unwrap_or_default();
    Clue { exe, cmdline: words.join(" ").trim_end().to_owned() }
}
