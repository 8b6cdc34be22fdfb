//! Debian's kernels by version, unpacked into the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::archive::Archive;

/// The small flavour for virtual machines: a third of the full one, with all that the tests need.
const FLAVOUR: &str = "-cloud-amd64";
/// The word for the highest version there is.
pub const NEWEST: &str = "newest";

/// Releases of a version that are tried: lists may name what the mirror has replaced.
const ATTEMPTS: usize = 3;

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    pub image: PathBuf,
    /// The folder with `kernel/net/...`.
    pub modules: PathBuf,
}

impl Kernel {
    /// `6.12` of `6.12.117+deb13-cloud-amd64`.
    pub fn version(&self) -> String {
        version(&self.release)
    }
}

/// `6.12` of `6.12.117+deb13-cloud-amd64`; empty for an empty release.
pub fn version(release: &str) -> String {
    numbers(release).iter().take(2).map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// The newest kernel of a version, e.g. `6.12`, or of all (`newest`): from the cache, or downloaded into it.
pub fn kernel(archive: &Archive, wanted: &str) -> Result<Kernel> {
    let names = archive.names("linux-")?;
    let releases = best_first(names.iter().filter_map(|n| n.strip_prefix("linux-image-")), wanted);
    let mut last = None;
    for release in releases.into_iter().take(ATTEMPTS) {
        let dir = super::cache().join("images").join(release);
        if dir.exists() {
            return unpacked(&dir, release);
        }
        std::fs::create_dir_all(super::cache().join("images"))?;
        // From 7.0 on the image and its modules are packages of their own.
        let parts = ["linux-image-", "linux-binary-", "linux-modules-"].map(|p| format!("{p}{release}"));
        let there: Vec<String> = parts.into_iter().filter(|p| names.contains(p)).collect();
        match archive.unpack(&there, &dir) {
            Ok(()) => return unpacked(&dir, release),
            Err(e) => {
                eprintln!("warning: {e:#}; trying the one before");
                last = Some(e);
            }
        }
    }
    match last {
        Some(e) => Err(e.context(format!("no kernel {wanted} can be downloaded"))),
        None => bail!("Debian's archive offers no kernel {wanted}; give versions like 6.12, or `{NEWEST}`"),
    }
}

/// Image and modules below a folder of unpacked packages.
fn unpacked(dir: &Path, release: &str) -> Result<Kernel> {
    let first = |places: [String; 2], what: &str| {
        let places = places.map(|p| dir.join(p));
        places.iter().find(|p| p.exists()).cloned().with_context(|| {
            format!("the packages of {release} hold no {what}; remove {} to fetch them anew", dir.display())
        })
    };
    Ok(Kernel {
        release: release.to_owned(),
        image: first([format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")], "vmlinuz")?,
        modules: first([format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")], "modules")?,
    })
}

/// The releases of a version in our flavour, the highest first.
fn best_first<'a>(releases: impl Iterator<Item = &'a str>, wanted: &str) -> Vec<&'a str> {
    let version = numbers(wanted);
    let mut found: Vec<(Vec<u64>, &str)> = releases
        .filter_map(|r| Some((numbers(r.strip_suffix(FLAVOUR)?), r)))
        // `6.1-cloud-amd64` is a package that only points to another.
        .filter(|(n, _)| n.len() > 2 && (wanted == NEWEST || n.starts_with(&version)))
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, r)| r).collect()
}

/// The numbers in a text, in order: `6.1.0-50` is above `6.1.0-0.deb11.52`, as dpkg has it.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// A word of the command line that names a kernel.
pub fn is_version(word: &str) -> bool {
    word == NEWEST || (word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_release_of_a_version_is_taken() {
        let all = [
            "6.1.0-0.deb11.52-cloud-amd64",
            "6.1.0-50-cloud-amd64",
            "6.1.0-9-cloud-amd64",
            "6.1-cloud-amd64",
            "6.13.1-amd64",
            "6.12.9+deb13-cloud-amd64",
            "6.12.117+deb13-cloud-amd64",
        ];
        let best = |wanted| best_first(all.into_iter(), wanted).first().copied();
        assert_eq!(best("6.1"), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(best("6.12"), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(best("6.12.9"), Some("6.12.9+deb13-cloud-amd64"));
        assert_eq!(best("newest"), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(best("5.10"), None);
    }

    #[test]
    fn versions_are_told_from_names_of_tests() {
        assert!(["5.10", "newest", "6.12.9"].into_iter().all(is_version));
        assert!(!["events::btf", "btf_v4", "5", ""].into_iter().any(is_version));
    }
}
