//! Bytes of a recording as lines of bounded length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// The longest line that is read; a finding with all its evidence takes a few kilobytes.
pub const MAX_LINE: usize = 1 << 20;
/// Without any line break for this long, a file is no recording: reading a sparse file to its end would take minutes.
const MAX_WITHOUT_BREAK: u64 = 64 << 20;
const BUFFER: usize = 256 << 10;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a call to [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A line, in the caller's buffer, without its break.
    Line,
    /// A last line without a line break: maybe whole, maybe cut.
    Tail,
    /// A line longer than [`MAX_LINE`]; skipped.
    TooLong,
    /// No line break in very many bytes: not worth reading on.
    NotText,
    /// The compressed stream breaks off or is damaged here.
    Broken(String),
    End,
}

pub struct Lines {
    input: Box<dyn BufRead + Send>,
    compressed: bool,
}

impl Lines {
    /// # Errors
    /// One sentence with the path.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let cannot = |e: io::Error| anyhow::anyhow!("cannot read the recording {name}: {e}");
        let file = File::open(path).map_err(cannot)?;
        anyhow::ensure!(
            !file.metadata().map_err(cannot)?.is_dir(),
            "cannot read the recording {name}: it is a directory"
        );
        Self::new(file).map_err(cannot)
    }

    pub fn new(input: impl Read + Send + 'static) -> io::Result<Self> {
        let mut plain = BufReader::with_capacity(BUFFER, input);
        // A pipe may give fewer bytes than the magic at first; the writer sends a whole block at once.
        let compressed = plain.fill_buf()?.starts_with(&ZSTD_MAGIC);
        let input: Box<dyn BufRead + Send> = if compressed {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(plain)?;
            // 8 MiB: what the format's levels up to 19 use; a hostile file may ask for gigabytes.
            decoder.window_log_max(23)?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        } else {
            Box::new(plain)
        };
        Ok(Self { input, compressed })
    }

    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Reads the next line into `line`, whose old content goes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Found> {
        line.clear();
        let mut length = 0u64;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if self.compressed => return Ok(Found::Broken(e.to_string())),
                Err(e) => return Err(e),
            };
            if chunk.is_empty() {
                return Ok(match length {
                    0 => Found::End,
                    n if n > MAX_LINE as u64 => Found::TooLong,
                    _ => Found::Tail,
                });
            }
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            length += part.len() as u64;
            if length <= MAX_LINE as u64 {
                line.extend_from_slice(part);
            } else {
                // What was gathered is of no use.
                line.clear();
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                return Ok(if length > MAX_LINE as u64 { Found::TooLong } else { Found::Line });
            }
            if length > MAX_WITHOUT_BREAK {
                return Ok(Found::NotText);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<(Found, usize)> {
        let mut lines = Lines::new(io::Cursor::new(bytes.to_vec())).unwrap();
        let mut line = Vec::new();
        let mut out = Vec::new();
        loop {
            let found = lines.next(&mut line).unwrap();
            let last = matches!(found, Found::End | Found::Broken(_) | Found::NotText);
            out.push((found, line.len()));
            if last {
                return out;
            }
        }
    }

    #[test]
    fn lines_tails_and_monsters() {
        assert_eq!(all(b""), [(Found::End, 0)]);
        assert_eq!(all(b"ab\n\nc"), [(Found::Line, 2), (Found::Line, 0), (Found::Tail, 1), (Found::End, 0)]);
        let mut long = vec![b'x'; MAX_LINE + 1];
        long.extend(b"\nok\n");
        assert_eq!(all(&long), [(Found::TooLong, 0), (Found::Line, 2), (Found::End, 0)]);
        assert_eq!(all(&vec![0; (MAX_WITHOUT_BREAK + 1) as usize + BUFFER]).last().unwrap().0, Found::NotText);
    }

    #[test]
    fn a_compressed_recording_reads_up_to_where_it_breaks() {
        let text: String = (0..20_000).map(|n| format!("line {n} {}\n", n * 7919)).collect();
        let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
        assert_eq!(all(&packed).len(), 20_001);
        let cut = all(&packed[..packed.len() / 2]);
        assert!(matches!(cut.last(), Some((Found::Broken(_) | Found::End, _))), "{:?}", cut.last());
        assert!(cut.len() > 1_000, "{}", cut.len());
    }
}
