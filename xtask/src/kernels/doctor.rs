//! The lines of `agent doctor --json`, without a JSON library: objects of strings, one per line.

/// One check, as agent/src/commands/doctor writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    pub section: String,
    pub name: String,
    /// works, limited, missing or fact.
    pub status: String,
    pub found: String,
    pub advice: String,
}

/// Every line that is a check.
pub fn checks(lines: &[String]) -> Vec<Check> {
    lines.iter().filter_map(|l| check(l)).collect()
}

fn check(line: &str) -> Option<Check> {
    let mut rest = line.trim().strip_prefix('{')?;
    let mut check = Check::default();
    while !rest.starts_with('}') {
        let (key, after) = string(rest.trim_start_matches([',', ' ']))?;
        let after = after.strip_prefix(':')?;
        let (value, after) = match after.strip_prefix("null") {
            Some(after) => (String::new(), after),
            None => string(after)?,
        };
        rest = after;
        match key.as_str() {
            "section" => check.section = value,
            "name" => check.name = value,
            "status" => check.status = value,
            "found" => check.found = value,
            "advice" => check.advice = value,
            _ => {}
        }
    }
    (!check.name.is_empty()).then_some(check)
}

/// A JSON string at the beginning of `text`, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let body = text.strip_prefix('"')?;
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &body[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                'u' => {
                    let digits: String = (0..4).filter_map(|_| chars.next()).map(|(_, c)| c).collect();
                    value.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let line = r#"{"section":"Hooks","name":"iter/tcp","status":"limited","found":"a \"b\" \u00e9","advice":null}"#;
        let c = check(line).unwrap();
        assert_eq!((c.name.as_str(), c.status.as_str()), ("iter/tcp", "limited"));
        assert_eq!((c.found.as_str(), c.advice.as_str()), ("a \"b\" é", ""));
    }

    #[test]
    fn what_is_no_check_is_left_out() {
        let lines = ["", "{", "{\"section\":\"Hooks\"", "doctor ended with 1", "{}"].map(str::to_owned);
        assert!(checks(&lines).is_empty());
    }
}
