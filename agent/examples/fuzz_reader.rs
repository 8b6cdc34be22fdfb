//! Throws damaged recordings at everything that reads them: the reader, the state, the rules, redaction and the three
//! report formats. `cargo run -p agent --example fuzz_reader -- SECONDS [SEED]` (part of `cargo xtask test --fuzz`).
//!
//! From the recordings in agent/tests/recordings: beside the damage of `fuzz`, numbers are made extreme, words changed
//! and lines swapped.

use std::io::Cursor;
use std::path::Path;
use std::process::ExitCode;

use agent::commands::replay::Player;
use agent::commands::report;
use agent::diagnose::Thresholds;
use agent::source::replay::{Lines, Recording};
use agent::view::redact::Redactor;
use agent::view::report::{html, json, markdown};

#[path = "fuzz/mod.rs"]
mod fuzz;

use fuzz::Random;

/// Values at the edges of every number in a line.
const EXTREMES: [&str; 16] = [
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "-0.0",
    "1e-308",
    "null",
];
const WORDS: [&str; 14] = [
    "\"session\"",
    "\"socket\"",
    "\"reset\"",
    "\"retransmit\"",
    "\"sample\"",
    "\"state\"",
    "\"end\"",
    "\"finding\"",
    "\"ESTABLISHED\"",
    "\"CLOSE\"",
    "\"SYN_SENT\"",
    "\"1677-09-21T00:12:43.145224193Z\"",
    "\"2262-04-11T23:47:16.854775807Z\"",
    "[]",
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().and_then(|a| a.parse().ok()).unwrap_or(60);
    let seed = args.next().and_then(|a| a.parse().ok()).unwrap_or(0x5eed_u64);
    // A panic is a finding of this program, not noise on its terminal.
    std::panic::set_hook(Box::new(|_| {}));
    let result = seeds()
        .map_err(|e| format!("cannot read agent/tests/recordings: {e}"))
        .and_then(|seeds| fuzz::hunt("recordings", seconds, seed, &seeds, damage, run));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("fuzz_reader: {why}");
            ExitCode::FAILURE
        }
    }
}

fn seeds() -> std::io::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings"))? {
        let path = entry?.path();
        if path.is_file() {
            let mut bytes = std::fs::read(path)?;
            bytes.truncate(fuzz::MAX_BYTES);
            all.push(bytes);
        }
    }
    Ok(all)
}

/// True if the input was taken for a recording.
fn run(input: &[u8]) -> bool {
    let Ok(lines) = Lines::new(Cursor::new(input.to_vec())) else { return false };
    let recording = Recording::new(Path::new("/nonexistent/fuzz"), lines);
    let Ok(player) = Player::of(recording, Thresholds::default(), Some(Redactor::new(&[]))) else { return false };
    let Ok(report) = report::of(player) else { return false };
    let text = markdown(&report);
    assert!(text.chars().count() < agent::view::report::MAX_CHARS, "the Markdown is too long");
    let page = html(&report);
    assert!(!page.contains("NaN"), "a picture has no place for NaN");
    assert!(json(&report).is_ok(), "the JSON cannot be written");
    true
}

fn damage(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len());
    match random.below(3) {
        // A number or a word after a colon gives way to another.
        0 | 1 => {
            let Some(colon) = input[at..].iter().position(|b| *b == b':').map(|n| at + n + 1) else { return };
            let end = input[colon..]
                .iter()
                .position(|b| matches!(b, b',' | b'}' | b']' | b'\n'))
                .map_or(input.len(), |n| colon + n);
            let new = if random.below(2) == 0 {
                EXTREMES[random.below(EXTREMES.len())]
            } else {
                WORDS[random.below(WORDS.len())]
            };
            input.splice(colon..end, new.bytes());
        }
        // Whole lines change places.
        _ => {
            let mut lines: Vec<&[u8]> = input.split_inclusive(|b| *b == b'\n').collect();
            if lines.len() > 1 {
                let (a, b) = (random.below(lines.len()), random.below(lines.len()));
                lines.swap(a, b);
                *input = lines.concat();
            }
        }
    }
}
