//! Throws damaged recordings at everything that reads them: the reader, the state, the rules, redaction and the three
//! report formats. `cargo run --release -p agent --example fuzz_reader -- SECONDS [SEED]` (what `cargo xtask test
//! --fuzz` runs); a panic or a report without end stops it with the input saved.
//!
//! Mutational, from the recordings in agent/tests/recordings and from one whose lines are damaged on purpose: bytes
//! flipped, cut, repeated, spliced between files, numbers made extreme, keys swapped.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::commands::replay::Player;
use agent::commands::report;
use agent::diagnose::Thresholds;
use agent::source::replay::{Lines, Recording};
use agent::view::redact::Redactor;
use agent::view::report::{html, json, markdown};

/// Of one input; the largest seed is a few hundred KiB and takes milliseconds.
const SLOW: Duration = Duration::from_secs(10);
/// Longest input made.
const MAX_BYTES: usize = 512 << 10;

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

/// xorshift64*: reproducible from its seed, and no cryptography is needed here.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`; 0 if there is nothing below.
    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().and_then(|a| a.parse().ok()).unwrap_or(60);
    let seed = args.next().and_then(|a| a.parse().ok()).unwrap_or(0x5eed_u64);
    let seeds = match seeds() {
        Ok(seeds) if !seeds.is_empty() => seeds,
        Ok(_) => return fail("no recordings in agent/tests/recordings to start from"),
        Err(e) => return fail(&format!("cannot read agent/tests/recordings: {e}")),
    };
    // A panic is a finding of this program, not noise on its terminal.
    std::panic::set_hook(Box::new(|_| {}));
    let mut random = Random(seed | 1);
    let begin = Instant::now();
    let (mut inputs, mut readable) = (0u64, 0u64);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let input = damaged(&seeds, &mut random);
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| run(&input))) {
            Ok(ok) => readable += u64::from(ok),
            Err(panic) => {
                let why = panic.downcast_ref::<String>().map(String::as_str);
                let why = why.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
                return save(&input, &format!("panic after {inputs} inputs (seed {seed}): {why}"));
            }
        }
        if started.elapsed() > SLOW {
            return save(&input, &format!("one input took {:?} (seed {seed})", started.elapsed()));
        }
        inputs += 1;
    }
    println!("{inputs} damaged recordings in {seconds} s, {readable} of them readable, no panic (seed {seed})");
    // If hardly any is readable, the state and the rules were not tried at all.
    if readable * 10 < inputs { fail("too few were readable to prove anything") } else { ExitCode::SUCCESS }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("fuzz_reader: {why}");
    ExitCode::FAILURE
}

fn save(input: &[u8], why: &str) -> ExitCode {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/fuzz-reader.input"));
    match std::fs::write(&path, input) {
        Ok(()) => fail(&format!("{why}; the input is in {}", path.display())),
        Err(e) => fail(&format!("{why}; the input cannot be written to {}: {e}", path.display())),
    }
}

fn seeds() -> std::io::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings"))? {
        let path = entry?.path();
        if path.is_file() {
            let mut bytes = std::fs::read(path)?;
            bytes.truncate(MAX_BYTES);
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

fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(12) {
        damage(&mut input, seeds, random);
        input.truncate(MAX_BYTES);
    }
    input
}

fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len());
    match random.below(9) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = random.next() as u8,
        2 => input.truncate(at),
        3 => {
            let end = (at + random.below(200)).min(input.len());
            input.drain(at..end);
        }
        4 => {
            let end = (at + random.below(2_000)).min(input.len());
            let part = input[at..end].to_vec();
            input.splice(at..at, part);
        }
        5 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len());
            let end = (from + random.below(3_000)).min(other.len());
            input.splice(at..at, other[from..end].iter().copied());
        }
        // A number or a word after a colon gives way to another.
        6 | 7 => {
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
