//! Where everything is. Pure arithmetic, shared by drawing, scrolling and mouse clicks.

use ratatui::layout::Rect;

/// Below this nothing useful fits: a message is shown instead.
pub const MIN_WIDTH: u16 = 40;
pub const MIN_HEIGHT: u16 = 8;

/// How much room the changing parts ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub alert: bool,
    pub findings: u16,
    pub replay: bool,
}

/// The frame around every screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub header: Rect,
    pub alert: Rect,
    pub findings: Rect,
    pub rule: Rect,
    pub body: Rect,
    pub replay: Rect,
    pub footer: Rect,
}

/// The parts of the table screen's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub titles: Rect,
    pub rows: Rect,
    pub rule: Rect,
    pub pane: Rect,
}

pub fn fits(area: Rect) -> bool {
    area.width >= MIN_WIDTH && area.height >= MIN_HEIGHT
}

/// Most lines that findings may take on the table screen: the table must remain the larger part.
pub fn findings_max(area: Rect) -> u16 {
    match area.height {
        0..12 => 1,
        12..20 => 2,
        20..30 => 4,
        30..44 => 5,
        _ => 7,
    }
}

struct Cutter(Rect);

impl Cutter {
    fn top(&mut self, height: u16) -> Rect {
        let height = height.min(self.0.height);
        let r = Rect { height, ..self.0 };
        self.0.y += height;
        self.0.height -= height;
        r
    }

    fn bottom(&mut self, height: u16) -> Rect {
        let height = height.min(self.0.height);
        self.0.height -= height;
        Rect { y: self.0.y + self.0.height, height, ..self.0 }
    }
}

pub fn frame(area: Rect, needs: Needs) -> Frame {
    let mut c = Cutter(area);
    let footer = c.bottom(1);
    let header = c.top(1);
    let replay = c.bottom(u16::from(needs.replay));
    let alert = c.top(u16::from(needs.alert));
    let findings = c.top(needs.findings);
    let rule = c.top(1);
    Frame { header, alert, findings, rule, body: c.0, replay, footer }
}

pub fn body(body: Rect) -> Body {
    let mut c = Cutter(body);
    // A tall screen has room for a whole back-off below the table; a low one for what happened last.
    let pane = match body.height {
        0..9 => 0,
        9..14 => 4,
        14..28 => body.height / 3 + 1,
        h => h * 2 / 5,
    };
    let pane = c.bottom(pane);
    let rule = c.bottom(u16::from(pane.height > 0));
    let titles = c.top(1);
    Body { titles, rows: c.0, rule, pane }
}

/// A box of the given inner size in the middle of `area`, cut to it.
pub fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let width = width.min(area.width);
    let height = height.min(area.height);
    Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_screen_without_overlap() {
        for height in 0..100 {
            for findings in 0..8 {
                for (alert, replay) in [(false, false), (true, true)] {
                    let area = Rect::new(0, 0, 80, height);
                    let f = frame(area, Needs { alert, findings, replay });
                    let b = body(f.body);
                    let parts =
                        [f.header, f.alert, f.findings, f.rule, b.titles, b.rows, b.rule, b.pane, f.replay, f.footer];
                    let mut y = 0;
                    for p in parts.iter().filter(|p| p.height > 0) {
                        assert_eq!(p.y, y, "at height {height}: {f:?} {b:?}");
                        y += p.height;
                    }
                    assert_eq!(y, height);
                }
            }
        }
    }

    #[test]
    fn the_table_keeps_at_least_half_of_an_ordinary_terminal() {
        let f = frame(Rect::new(0, 0, 80, 24), Needs { findings: 3, ..Needs::default() });
        assert!(body(f.body).rows.height >= 9);
    }
}
