//! Who holds a socket.

use std::ops::Deref;
use std::sync::Arc;

/// One holder of a socket. A socket may have several (fork, SCM_RIGHTS): owners are a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// tgid in the agent's pid namespace.
    pub pid: u32,
    /// `comm`, already made safe for a terminal by [`sanitize`]; `?` of a process that ended before it could be read.
    pub comm: Arc<str>,
    /// `None` once the process has exited or where the descriptor is not known yet.
    pub fd: Option<i32>,
    /// What it runs, the runtime first; `None` where its files do not tell.
    pub program: Option<Arc<[Component]>>,
}

/// All holders of a socket, sorted: most have the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owners(Option<Arc<[Owner]>>);

impl Deref for Owners {
    type Target = [Owner];

    fn deref(&self) -> &[Owner] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<Vec<Owner>> for Owners {
    fn from(owners: Vec<Owner>) -> Self {
        // None of nobody costs nothing to make, copy and drop: records of sockets begin so.
        Self((!owners.is_empty()).then(|| owners.into()))
    }
}

impl FromIterator<Owner> for Owners {
    fn from_iter<I: IntoIterator<Item = Owner>>(owners: I) -> Self {
        Vec::from_iter(owners).into()
    }
}

impl<const N: usize> From<[Owner; N]> for Owners {
    fn from(owners: [Owner; N]) -> Self {
        Vec::from(owners).into()
    }
}

/// A program and its version, as its files tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Component {
    /// `Node.js`, `Python`, `Java`, `Go`, `libcurl`, a package's name; harmless to print.
    pub name: Arc<str>,
    /// Begins with a digit; harmless to print.
    pub version: Arc<str>,
}

/// Makes a name that a process chose harmless to print: control characters (terminal escape sequences begin with
/// one) become U+FFFD, and so do bytes that are no UTF-8. Bidirectional overrides go the same way.
pub fn sanitize(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw)
        .chars()
        .map(|c| {
            let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
            if c.is_control() || bidi { '\u{fffd}' } else { c }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn escape_sequences_do_not_survive() {
        assert_eq!(sanitize(b"a\x1b[2Jb\x07"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(sanitize("x\u{9b}2J\u{202e}".as_bytes()), "x\u{fffd}2J\u{fffd}");
        assert_eq!(sanitize(b"\xff ok"), "\u{fffd} ok");
    }
}
