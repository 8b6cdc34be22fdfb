//! Which columns fit a width, and where they stand.

use ratatui::layout::Rect;

use crate::view::tui::rows::Column;
use crate::view::tui::state::UiState;

/// A destination this wide shows `api.anthropic.com:443` whole.
const DESTINATION_GOOD: u16 = 21;
const DESTINATION_MAX: u16 = 48;
/// Below this a destination tells nothing.
const DESTINATION_MIN: u16 = 12;
const SPARK: u16 = 8;

/// The columns that fit, with their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    pub list: Vec<(Column, u16, u16)>,
    /// Short forms of states and origins.
    pub narrow: bool,
    pub spark: bool,
}

/// Cursor and the finding's shape, before the first column.
fn prefix(narrow: bool) -> u16 {
    if narrow { 3 } else { 5 }
}

fn width_of(column: Column, narrow: bool, spark: bool) -> u16 {
    match column {
        Column::Destination => 0,
        Column::Local => 5,
        Column::Owner => 15,
        Column::State if narrow => 9,
        Column::State => 11,
        Column::Keepalive if narrow => 10,
        Column::Keepalive => 11,
        Column::Idle | Column::Rtt | Column::SendQueue => 6,
        Column::Retransmits if spark => 5 + SPARK,
        Column::Retransmits if narrow => 4,
        Column::Retransmits => 7,
        Column::Reset if narrow => 7,
        Column::Reset => 12,
        Column::GivesUp => 8,
        Column::Finding => 16,
    }
}

/// What leaves as the screen narrows, in this order; the first time RETRANS loses only its sparkline.
const LEAVING: [Column; 10] = [
    Column::Finding,
    Column::Owner,
    Column::Rtt,
    Column::SendQueue,
    Column::Retransmits,
    Column::Local,
    Column::Reset,
    Column::Keepalive,
    Column::Retransmits,
    Column::Idle,
];
/// Of `LEAVING`, those that are extras on a wide screen: everything else has room at 120 columns.
const EXTRAS: usize = 2;
/// Of `LEAVING`, those that are gone at 80 columns; from there on the destination gives way too.
const GONE_AT_80: usize = 5;

/// Chooses the columns for a width. The owner is shown only where there are `several`.
pub fn columns(width: u16, several: bool) -> Columns {
    let wide = (0..=EXTRAS).map(|gone| (gone, false, 2)).chain([(EXTRAS, false, 1)]);
    let narrow = (EXTRAS..=LEAVING.len()).map(|gone| (gone, true, 1));
    let mut least = None;
    for (gone, narrow, gap) in wide.chain(narrow) {
        let leaving = &LEAVING[..gone];
        let retrans = leaving.iter().filter(|c| **c == Column::Retransmits).count();
        let spark = retrans == 0;
        let stays = |c: &Column| match c {
            Column::Retransmits => retrans < 2,
            Column::Owner => several && !leaving.contains(c),
            c => !leaving.contains(c),
        };
        let list: Vec<Column> = Column::ALL.into_iter().filter(stays).collect();
        // Where there is room, the last column keeps off the edge.
        let margin = u16::from(!narrow);
        let widths: u16 = list.iter().map(|c| width_of(*c, narrow, spark) + gap).sum();
        let room = width.saturating_sub(widths - gap + prefix(narrow) + margin);
        let want = if gone > GONE_AT_80 { DESTINATION_MIN } else { DESTINATION_GOOD };
        let columns = place(list, room, narrow, spark, gap);
        if room >= want {
            return columns;
        }
        least = Some(columns);
    }
    least.unwrap_or(Columns { list: Vec::new(), narrow: true, spark: false })
}

fn place(list: Vec<Column>, room: u16, narrow: bool, spark: bool, gap: u16) -> Columns {
    let destination = room.min(DESTINATION_MAX);
    let mut x = prefix(narrow);
    let list = list
        .into_iter()
        .map(|c| {
            let w = if c == Column::Destination { destination } else { width_of(c, narrow, spark) };
            let place = (c, x, w);
            x += w + gap;
            place
        })
        .collect();
    Columns { list, narrow, spark }
}

/// Which column's title is at `x`.
pub fn column_at(ui: &UiState, titles: Rect, x: u16) -> Option<Column> {
    let x = x.checked_sub(titles.x)?;
    columns(titles.width, several(ui))
        .list
        .into_iter()
        .find(|(_, at, w)| (*at..*at + *w).contains(&x))
        .map(|(c, _, _)| c)
}

pub fn several(ui: &UiState) -> bool {
    ui.rows.names.len() > 1
}

pub fn is_right(column: Column) -> bool {
    matches!(column, Column::Local | Column::Idle | Column::Rtt | Column::SendQueue | Column::GivesUp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: u16) -> Vec<Column> {
        columns(width, true).list.iter().map(|(c, _, _)| *c).collect()
    }

    #[test]
    fn columns_leave_in_order() {
        assert_eq!(shown(160), Column::ALL);
        assert_eq!(shown(120), [&Column::ALL[..2], &Column::ALL[3..11]].concat());
        assert!(!columns(120, false).narrow);
        let order = [Column::Finding, Column::Owner, Column::Rtt, Column::SendQueue];
        let mut gone = 0;
        for width in (80..=200).rev() {
            let c = columns(width, true);
            let list = shown(width);
            while gone < order.len() && !list.contains(&order[gone]) {
                gone += 1;
            }
            for later in &order[gone..] {
                assert!(list.contains(later), "{later:?} left too early at {width}");
            }
            assert!(c.spark || gone == 4, "the sparkline left before SENDQ at {width}");
            let (_, _, destination) = c.list[0];
            assert!(width > 160 || destination < DESTINATION_GOOD + 20, "{width} wastes its room: {c:?}");
        }
    }

    #[test]
    fn eighty_columns_show_all_but_three_and_a_whole_destination() {
        let c = columns(80, true);
        let names: Vec<Column> = c.list.iter().map(|(c, _, _)| *c).collect();
        use Column::*;
        assert_eq!(names, [Destination, Local, State, Keepalive, Idle, Retransmits, Reset, GivesUp]);
        assert!(!c.spark);
        assert!(c.list[0].2 >= DESTINATION_GOOD, "{c:?}");
    }

    #[test]
    fn columns_fit_the_width() {
        for (width, several) in (40..300).flat_map(|w| [(w, false), (w, true)]) {
            let c = columns(width, several);
            let (_, x, w) = *c.list.last().expect("columns");
            assert!(x + w <= width, "{width}: {c:?}");
            assert!(c.list.iter().any(|(c, _, w)| *c == Column::Destination && *w >= DESTINATION_MIN), "{width}");
        }
    }
}
