//! `agent schema`: the JSON Schema of the lines, generated from their types.

use anyhow::Result;

pub fn run() -> Result<u8> {
    let text = serde_json::to_string_pretty(&crate::schema::json_schema())?;
    super::print(&format!("{text}\n"))
}
