//! What the fuzz programs share: random numbers, damage to bytes, and the hunt itself. Mutational and reproducible from
//! a seed; a panic or an input without end stops it with the input saved.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Of one input; the largest seed takes milliseconds.
const SLOW: Duration = Duration::from_secs(10);
/// Longest input made.
pub const MAX_BYTES: usize = 512 << 10;
/// Times that one input is damaged.
const MAX_DAMAGES: usize = 12;

/// xorshift64*: reproducible from its seed, and no cryptography is needed here.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`; 0 if there is nothing below.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
}

/// Damages one of `seeds` and runs `target` on it, for `seconds`; `more` is damage that suits the format, beside that of
/// any bytes. `target` says whether it understood the input.
///
/// # Errors
/// One sentence: what panicked or did not end, or that too few inputs were understood to prove anything.
pub fn hunt(
    name: &str,
    seconds: u64,
    seed: u64,
    seeds: &[Vec<u8>],
    more: fn(&mut Vec<u8>, &mut Random),
    mut target: impl FnMut(&[u8]) -> bool,
) -> Result<(), String> {
    if seeds.is_empty() {
        return Err(format!("{name}: nothing to start from"));
    }
    let mut random = Random(seed | 1);
    let begin = Instant::now();
    let (mut inputs, mut understood) = (0u64, 0u64);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(MAX_DAMAGES) {
            if random.below(3) == 0 {
                more(&mut input, &mut random)
            } else {
                damage(&mut input, seeds, &mut random)
            }
            input.truncate(MAX_BYTES);
        }
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| target(&input))) {
            Ok(ok) => understood += u64::from(ok),
            Err(panic) => {
                let why = panic.downcast_ref::<String>().map(String::as_str);
                let why = why.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
                return Err(save(name, &input, &format!("panic after {inputs} inputs (seed {seed}): {why}")));
            }
        }
        if started.elapsed() > SLOW {
            return Err(save(name, &input, &format!("one input took {:?} (seed {seed})", started.elapsed())));
        }
        inputs += 1;
    }
    println!("{name}: {inputs} damaged inputs in {seconds} s, {understood} of them understood, no panic (seed {seed})");
    // If hardly any is understood, what lies behind the first check was not tried at all.
    if understood * 10 < inputs {
        return Err(format!("{name}: too few inputs were understood to prove anything"));
    }
    Ok(())
}

fn save(name: &str, input: &[u8], why: &str) -> String {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
    let path = PathBuf::from(target).join(format!("fuzz-{}.input", name.replace(' ', "-")));
    match std::fs::write(&path, input) {
        Ok(()) => format!("{name}: {why}; the input is in {}", path.display()),
        Err(e) => format!("{name}: {why}; the input cannot be written to {}: {e}", path.display()),
    }
}

/// Bits flipped, bytes set, cut, repeated, spliced from another seed.
fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len());
    match random.below(6) {
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
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len());
            let end = (from + random.below(3_000)).min(other.len());
            input.splice(at..at, other[from..end].iter().copied());
        }
    }
}
