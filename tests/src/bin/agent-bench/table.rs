//! Medians, ratios and the table.

use std::fmt::Write;

/// One figure, measured.
pub struct Row {
    pub figure: &'static str,
    pub measured: String,
    pub goal: &'static str,
    /// `None`: nothing to compare with here.
    pub met: Option<bool>,
}

/// Repeated measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// NaN without a measurement.
    pub fn median(&self) -> f64 {
        let n = self.0.len();
        match (self.0.get(n.saturating_sub(1) / 2), self.0.get(n / 2)) {
            (Some(a), Some(b)) => f64::midpoint(*a, *b),
            _ => f64::NAN,
        }
    }

    /// `median unit (least-most, n)`.
    pub fn text(&self, unit: &str, digits: usize) -> String {
        let (first, last) = (self.0.first().unwrap_or(&f64::NAN), self.0.last().unwrap_or(&f64::NAN));
        format!("{:.digits$} {unit} ({first:.digits$}-{last:.digits$}, n={})", self.median(), self.0.len())
    }

    pub fn ratio_to(&self, other: &Self) -> f64 {
        self.median() / other.median()
    }
}

/// The table with its heading.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from("| figure | measured: median (least-most, rounds) | to reach | |\n|---|---|---|---|\n");
    for r in rows {
        let met = match r.met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None if r.goal == "-" => "",
            None => "no peer here",
        };
        let _ = writeln!(out, "| {} | {} | {} | {met} |", r.figure, r.measured, r.goal);
    }
    out
}
