//! Debian's archive beside the machine's own apt configuration: lists and packages of other releases, looked up and
//! unpacked as an ordinary user. Nothing is installed and nothing outside the cache changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{must, output, say};

/// Releases with the kernels that are tested: 5.10; 6.1; 6.12; from 6.16 on.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "trixie-backports"];
/// Their security updates, in an archive of their own.
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];
/// Debian's keys, where the package debian-archive-keyring puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How old the lists may be.
const FRESH_S: u64 = 24 * 3600;

/// A private set of apt's lists.
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// With lists that are at most a day old. Without network older ones will do.
    pub fn open() -> Result<Self> {
        Self::of("archive", &sources()?)
    }

    /// Another one: `lines` are those of a sources.list.
    pub fn of(name: &str, lines: &str) -> Result<Self> {
        let archive = Self { dir: super::cache().join(name) };
        let list = archive.dir.join("sources.list");
        for sub in ["lists/partial", "cache/archives/partial"] {
            let dir = archive.dir.join(sub);
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let same = std::fs::read_to_string(&list).is_ok_and(|kept| kept == lines);
        std::fs::write(&list, lines).with_context(|| format!("cannot write {}", list.display()))?;
        let stamp = archive.dir.join("fetched");
        let age = stamp.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if !same || age.is_none_or(|a| a.as_secs() > FRESH_S) {
            say("fetching the package lists of Debian's releases (about 70 MB)");
            match must(archive.apt("apt-get")?.args(["-qq", "update"])) {
                Ok(()) => std::fs::write(&stamp, "").with_context(|| format!("cannot write {}", stamp.display()))?,
                Err(e) => eprintln!("warning: {e:#}; going on with what is there"),
            }
        }
        Ok(archive)
    }

    /// apt's program with our lists in place of the machine's.
    pub fn apt(&self, program: &str) -> Result<Command> {
        let at = |sub: &str| self.dir.join(sub).display().to_string();
        let mut c = Command::new(program);
        for (name, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", "-".into()),
            ("Dir::State::Lists", at("lists")),
            ("Dir::Cache", at("cache")),
            // The lists are the calling user's, not apt's own user's.
            ("APT::Sandbox::User", "root".into()),
            // Old releases' lists are not renewed; their signatures are checked all the same.
            ("Acquire::Check-Valid-Until", "false".into()),
            ("Acquire::Languages", "none".into()),
        ] {
            c.arg("-o").arg(format!("{name}={value}"));
        }
        Ok(c)
    }

    /// Names of packages that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let done = self.apt("apt-cache")?.args(["pkgnames", prefix]).output().context("cannot run apt-cache")?;
        if !done.status.success() {
            bail!("apt-cache failed: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect())
    }

    /// Downloads the packages and unpacks all of them into `to`, which appears whole or not at all.
    pub fn unpack(&self, packages: &[String], to: &Path) -> Result<()> {
        let new = to.with_extension("new");
        if new.exists() {
            std::fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
        }
        let debs = new.join("debs");
        std::fs::create_dir_all(&debs).with_context(|| format!("cannot create {}", debs.display()))?;
        say(format_args!("downloading {}", packages.join(" ")));
        must(self.apt("apt-get")?.current_dir(&debs).args(["-qq", "download"]).args(packages))?;
        for deb in std::fs::read_dir(&debs)?.flatten() {
            must(Command::new("dpkg-deb").arg("-x").arg(deb.path()).arg(&new))?;
        }
        std::fs::remove_dir_all(&debs).with_context(|| format!("cannot remove {}", debs.display()))?;
        std::fs::rename(&new, to).with_context(|| format!("cannot rename {} to {}", new.display(), to.display()))
    }
}

/// A sources.list of all releases, from the mirrors that this machine uses for its own.
fn sources() -> Result<String> {
    let (main, security) = mirrors()?;
    let mut text = lines(&main, &SUITES);
    if let Some(security) = security {
        text += &lines(&security, &SECURITY_SUITES);
    }
    Ok(text)
}

/// Lines of a sources.list for `suites` at `mirror`.
pub fn lines(mirror: &str, suites: &[&str]) -> String {
    let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    suites.iter().map(|suite| format!("deb {signed}{mirror} {suite} main\n")).collect()
}

/// The mirrors of Debian and of its security updates that this machine's apt uses.
pub fn mirrors() -> Result<(String, Option<String>)> {
    let targets =
        output("apt-get", &["indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"])
            .unwrap_or_default();
    mirrors_of(&targets).context(
        "this machine's apt knows no Debian archive, and the kernels are Debian's: run this on Debian (in a container, \
         too)",
    )
}

fn mirrors_of(targets: &str) -> Option<(String, Option<String>)> {
    let of = |label: &str| {
        targets.lines().find_map(|l| {
            let mut words = l.split_whitespace();
            (words.next() == Some("Debian") && words.next() == Some(label)).then(|| words.next()).flatten()
        })
    };
    Some((of("Debian")?.to_owned(), of("Debian-Security").map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirrors_are_those_of_the_machine() {
        let targets = "Node node https://other.example/\nDebian Debian http://mirror.example/debian/\n\
                       Debian Debian-Security http://mirror.example/security/\n";
        let (main, security) = mirrors_of(targets).unwrap();
        assert_eq!(
            (main.as_str(), security.as_deref()),
            ("http://mirror.example/debian/", Some("http://mirror.example/security/"))
        );
        assert_eq!(mirrors_of("Ubuntu Ubuntu http://mirror.example/\n"), None);
        assert!(lines(&main, &["trixie"]).ends_with("http://mirror.example/debian/ trixie main\n"));
    }
}
