//! The fold: one record per socket, capped, with tombstones for late events; an immutable snapshot for the views.

mod fold;
#[cfg(test)]
mod fold_tests;
mod socket;
mod table;

pub use socket::{Activity, HISTORY_LEN, History, HistoryKind, Socket};
pub use table::{Snapshot, Table, TableConfig};
