//! The fold: one record per socket, capped, with tombstones for late events; an immutable snapshot for the views.

mod fold;
#[cfg(test)]
mod fold_tests;
mod history;
mod socket;
mod spare;
mod table;

pub use history::{HISTORY_LEN, History, HistoryKind};
pub use socket::{Activity, Socket};
pub use table::{Snapshot, Table, TableConfig};
