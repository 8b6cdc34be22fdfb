//! `agent schema`: the JSON Schema of the lines, generated from their types.

use anyhow::Result;

pub fn run() -> Result<u8> {
    let text = serde_json::to_string_pretty(&crate::schema::json_schema())?;
    super::print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    /// Other programs build on this file: a change of the types shows as a change of it.
    #[test]
    fn the_schema_in_docs_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/agent.events-1.schema.json");
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let written: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(written == crate::schema::json_schema(), "run `agent schema > docs/agent.events-1.schema.json`");
    }
}
