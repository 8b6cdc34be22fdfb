//! A subset matcher for JSON lines: an expectation names the fields that matter, the line may have more.
//!
//! - an object matches if each of its fields matches; an expected `null` must be there and be null
//! - an array matches if each of its elements matches a different element of the actual one, in any order
//! - `{"$ge": n}`, `{"$le": n}`: a number in a range; `{"$some": true}`: anything but null;
//!   `{"$in": [..]}`: one of; `{"$has": "text"}`: a string that holds it
//! - any other value must be equal
//!
//! An expectation that could not fail is refused with a panic.

use serde_json::Value;

/// Whether `actual` holds everything that `expected` names.
pub fn matches(expected: &Value, actual: &Value) -> bool {
    refuse_empty(expected);
    misses(expected, actual, "").is_empty()
}

fn refuse_empty(expected: &Value) {
    let empty = match expected {
        Value::Null => true,
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    };
    assert!(!empty, "an empty expectation matches anything: name at least one field");
}

/// Each place where `actual` differs, as `path: expected X, is Y`.
pub fn misses(expected: &Value, actual: &Value, path: &str) -> Vec<String> {
    let miss =
        |what: String| vec![format!("{}: expected {what}, is {actual}", if path.is_empty() { "." } else { path })];
    match expected {
        Value::Object(fields) => {
            if let Some((operator, value)) = fields.iter().next().filter(|(k, _)| k.starts_with('$')) {
                return if operates(operator, value, actual) { vec![] } else { miss(format!("{operator} {value}")) };
            }
            let Some(object) = actual.as_object() else { return miss("an object".into()) };
            fields
                .iter()
                .flat_map(|(name, value)| match object.get(name) {
                    Some(there) => misses(value, there, &format!("{path}.{name}")),
                    None => vec![format!("{path}.{name}: expected {value}, is not there")],
                })
                .collect()
        }
        Value::Array(elements) => {
            let Some(there) = actual.as_array() else { return miss("an array".into()) };
            let mut free: Vec<&Value> = there.iter().collect();
            let mut missing = Vec::new();
            for element in elements {
                match free.iter().position(|a| misses(element, a, "").is_empty()) {
                    Some(i) => drop(free.remove(i)),
                    None => missing.extend(miss(format!("an element {element}"))),
                }
            }
            missing
        }
        scalar if scalar == actual => vec![],
        scalar => miss(scalar.to_string()),
    }
}

fn operates(operator: &str, value: &Value, actual: &Value) -> bool {
    let numbers = actual.as_f64().zip(value.as_f64());
    match operator {
        "$ge" => numbers.is_some_and(|(a, v)| a >= v),
        "$le" => numbers.is_some_and(|(a, v)| a <= v),
        "$some" => !actual.is_null(),
        "$in" => value.as_array().is_some_and(|all| all.contains(actual)),
        "$has" => actual.as_str().zip(value.as_str()).is_some_and(|(a, v)| a.contains(v)),
        _ => panic!("no such operator: {operator}"),
    }
}

/// The lines that come nearest to an expectation, for a person who reads a failed test.
pub fn nearest(expected: &Value, lines: &[Value]) -> String {
    let mut ranked: Vec<(Vec<String>, &Value)> = lines.iter().map(|line| (misses(expected, line, ""), line)).collect();
    ranked.sort_by_key(|(misses, _)| misses.len());
    let mut text = format!("expected {expected}\n");
    for (misses, line) in ranked.iter().take(4) {
        text += &format!("  near: {line}\n    {}\n", misses.join("\n    "));
    }
    text + &format!("  among {} lines", lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_only_what_matters() {
        let line = json!({"type": "reset", "pid": 7, "packet": {"ttl": 63}, "owners": [{"pid": 7}, {"pid": 8}]});
        assert!(matches(&json!({"type": "reset", "packet": {"ttl": 63}}), &line));
        assert!(matches(&json!({"owners": [{"pid": 8}]}), &line));
        assert!(matches(&json!({"pid": {"$ge": 7}, "type": {"$in": ["reset", "x"]}}), &line));
        assert!(!matches(&json!({"packet": {"ttl": 64}}), &line));
        assert!(!matches(&json!({"owners": [{"pid": 8}, {"pid": 8}]}), &line), "one element cannot serve twice");
        assert!(!matches(&json!({"absent": null}), &line), "null must be there");
        assert!(!matches(&json!({"pid": {"$ge": 8}}), &line));
        assert!(!matches(&json!({"pid": "7"}), &line));
    }

    #[test]
    #[should_panic(expected = "empty expectation")]
    fn an_empty_expectation_is_refused() {
        matches(&json!({}), &json!({"type": "reset"}));
    }

    #[test]
    fn the_nearest_line_comes_first() {
        let lines = [json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3, "c": 4})];
        let text = nearest(&json!({"a": 1, "b": 3, "c": 5}), &lines);
        let first = text.lines().nth(1).unwrap();
        assert!(first.contains("\"c\":4"), "{text}");
        assert!(text.contains(".c: expected 5, is 4"), "{text}");
    }
}
