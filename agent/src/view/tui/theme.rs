//! What colours mean, in one place: red = hangs or was reset, yellow = at risk, green = the agent's own doing,
//! dim = closed or secondary. Only the terminal's own sixteen colours are used, so that the user's palette decides how
//! they look; everything also reads without them (shapes carry the same meaning).

use ratatui::style::{Color, Modifier, Style};

use crate::model::{Code, Confidence, Finding};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    colour: bool,
}

/// How bad a finding is: decides shape and colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is broken yet, or it is not sure.
    Risk,
    /// A connection hangs or was lost.
    Problem,
}

impl Severity {
    pub fn of(finding: &Finding) -> Self {
        let risk_by_nature =
            matches!(finding.code, Code::NoKeepalive | Code::CloseWaitLeak | Code::LossyPath | Code::AppWaiting);
        if risk_by_nature || finding.confidence == Confidence::Possible { Self::Risk } else { Self::Problem }
    }

    pub fn shape(self) -> &'static str {
        match self {
            Self::Problem => "●",
            Self::Risk => "▲",
        }
    }
}

impl Theme {
    /// With colour, unless `NO_COLOR` is set to anything but the empty string (no-color.org).
    pub fn from_env() -> Self {
        Self::new(std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
    }

    pub fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn fg(self, c: Color) -> Style {
        if self.colour { Style::new().fg(c) } else { Style::new() }
    }

    pub fn plain(self) -> Style {
        Style::new()
    }

    pub fn bad(self) -> Style {
        self.fg(Color::Red)
    }

    pub fn risk(self) -> Style {
        self.fg(Color::Yellow)
    }

    pub fn own(self) -> Style {
        self.fg(Color::Green)
    }

    pub fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Keys, in hints: they must be found at a glance.
    pub fn key(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// A badge that must not be overlooked (`PAUSED`, lost events).
    pub fn badge(self, meaning: Style) -> Style {
        meaning.add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    pub fn severity(self, s: Severity) -> Style {
        match s {
            Severity::Problem => self.bad(),
            Severity::Risk => self.risk(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_no_style_carries_one() {
        let t = Theme::new(false);
        for s in [t.plain(), t.bad(), t.risk(), t.own(), t.faint(), t.strong(), t.key(), t.badge(t.bad())] {
            assert_eq!((s.fg, s.bg), (None, None));
        }
        assert_eq!(Theme::new(true).bad().fg, Some(Color::Red));
    }
}
