//! Where the text of a line is put: after the other in room that was made beforehand, so that nothing but the place for
//! the next byte has to be known, and that in a register. Through a vector, each part of a line waits for the length that
//! the part before it has stored.

use std::mem::MaybeUninit;

/// More than most lines take.
const ROOM: usize = 1_024;

/// The room that is left. JSON goes into it; a key comes with its punctuation.
pub(super) struct Fields<'a> {
    room: &'a mut [MaybeUninit<u8>],
}

/// What is left after something was put down; `None`: there was not enough room for it.
pub(super) type Written<'a> = Option<Fields<'a>>;

/// Appends to `out` what `write` puts down. It is called again, with more room, until that is enough.
#[inline]
pub(super) fn append(out: &mut Vec<u8>, mut write: impl for<'a> FnMut(Fields<'a>) -> Written<'a>) {
    if !fits(out, ROOM, &mut write) {
        widen(out, &mut write);
    }
}

/// Behind a call of its own: around a loop, whatever `write` may have to compute is computed before its first round.
#[cold]
#[inline(never)]
fn widen(out: &mut Vec<u8>, write: &mut dyn for<'a> FnMut(Fields<'a>) -> Written<'a>) {
    let mut least = 2 * ROOM;
    while !fits(out, least, &mut *write) {
        least *= 2;
    }
}

/// Whether what `write` puts down had enough room; otherwise nothing is appended.
#[inline(always)]
fn fits(out: &mut Vec<u8>, least: usize, write: impl for<'a> FnOnce(Fields<'a>) -> Written<'a>) -> bool {
    out.reserve(least);
    let room = out.spare_capacity_mut();
    let all = room.len();
    let Some(left) = write(Fields { room }) else { return false };
    let written = all.saturating_sub(left.room.len());
    // SAFETY: `written` is at most the spare capacity. A `Fields` is made here alone, and its methods only ever cut off
    // its beginning after they have put bytes there: what comes before the rest is initialised.
    unsafe { out.set_len(out.len() + written) };
    true
}

impl<'a> Fields<'a> {
    /// Where it is called with a constant, the copy is a few stores: a line has dozens of them.
    #[inline(always)]
    pub fn raw(self, bytes: &[u8]) -> Written<'a> {
        let (here, room) = self.room.split_at_mut_checked(bytes.len())?;
        here.write_copy_of_slice(bytes);
        Some(Self { room })
    }

    /// Puts `text` down and gives it back, to be changed where it is.
    #[inline(always)]
    pub fn copied(self, text: &[u8]) -> Option<(&'a mut [u8], Self)> {
        let (here, room) = self.room.split_at_mut_checked(text.len())?;
        Some((here.write_copy_of_slice(text), Self { room }))
    }

    /// Puts down the first `len` bytes of `text`. All of it is written, which takes a store or two, and what comes next
    /// written over the rest: copying an unknown number of bytes takes a call.
    #[inline(always)]
    pub fn padded<const N: usize>(self, text: &[u8; N], len: usize) -> Written<'a> {
        self.room.first_chunk_mut::<N>()?.write_copy_of_slice(text);
        Some(Self { room: self.room.get_mut(len.min(N)..)? })
    }

    /// The same for a text of several blocks.
    #[inline(always)]
    pub fn blocks<const N: usize>(self, text: &[[u8; N]], len: usize) -> Written<'a> {
        let (here, _) = self.room.split_at_mut_checked(text.len() * N)?;
        for (to, block) in here.as_chunks_mut::<N>().0.iter_mut().zip(text) {
            to.write_copy_of_slice(block);
        }
        Some(Self { room: self.room.get_mut(len.min(text.len() * N)..)? })
    }

    /// What is seldom needed: anything that is put together in memory of its own first.
    #[cold]
    pub fn made(self, make: impl FnOnce(&mut Vec<u8>)) -> Written<'a> {
        let mut bytes = Vec::new();
        make(&mut bytes);
        self.raw(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_written_again_with_more_room() {
        for len in [0, 1, 31, ROOM - 1, ROOM, ROOM + 1, 40 * ROOM] {
            let (text, mut tries) = ("x".repeat(len), 0);
            let mut out = b"before ".to_vec();
            append(&mut out, |w| {
                tries += 1;
                w.raw(b"<")?.raw(text.as_bytes())?.padded(b"12345678", 3)?.blocks(&[*b"ab", *b"cd"], 3)?.raw(b">")
            });
            assert_eq!(String::from_utf8(out).unwrap(), format!("before <{text}123abc>"));
            assert!(tries <= 8, "{len}: {tries} times");
        }
    }

    #[test]
    fn more_than_a_text_has_is_not_taken_from_it() {
        let mut out = Vec::new();
        append(&mut out, |w| w.padded(b"12", 9)?.blocks(&[*b"ab"], 9));
        assert_eq!(out, b"12ab");
    }
}
