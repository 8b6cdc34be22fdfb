//! The kernel modules that the tests' networks need, in the order of loading.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What the tests use; their dependencies follow from the modules themselves. A kernel that has one of them built in
/// or under another roof (nft_counter and nft_objref until 5.18) offers no such file: not an error here, the test that
/// misses it says so.
const WANTED: [&str; 20] = [
    "crc32c_generic",
    "inet_diag",
    "tcp_diag",
    "veth",
    "dummy",
    "nf_tables",
    "nft_counter",
    "nft_objref",
    "nft_numgen",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nf_conntrack",
    "nf_nat",
    "nf_conntrack_netlink",
    "sch_netem",
];

/// A module's file name and its content, decompressed.
pub type Module = (String, Vec<u8>);

/// The wanted modules and what they depend on, dependencies first. `busybox` decompresses.
pub fn in_order(root: &Path, busybox: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    walk(root, &mut files)?;
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    for name in WANTED {
        take(name, &files, busybox, &mut done, &mut order)?;
    }
    if order.is_empty() {
        bail!("{} holds none of the modules that the tests need", root.display());
    }
    Ok(order)
}

fn take(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    busybox: &Path,
    done: &mut BTreeSet<String>,
    order: &mut Vec<Module>,
) -> Result<()> {
    if !done.insert(name.to_owned()) {
        return Ok(());
    }
    let Some(file) = files.get(name) else { return Ok(()) };
    let content = read(file, busybox)?;
    for dependency in depends(&content) {
        take(&dependency, files, busybox, done, order)?;
    }
    order.push((format!("{name}.ko"), content));
    Ok(())
}

/// Modules by name, with `-` as `_`.
fn walk(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(file: &Path, busybox: &Path) -> Result<Vec<u8>> {
    match file.extension().and_then(|e| e.to_str()) {
        Some("ko") => std::fs::read(file).with_context(|| format!("cannot read {}", file.display())),
        Some("xz") => {
            let mut unxz = Command::new(busybox);
            let done = unxz.args(["xz", "-dc"]).arg(file).stdin(Stdio::null()).output();
            let done = done.with_context(|| format!("cannot run {}", busybox.display()))?;
            if !done.status.success() {
                bail!("cannot decompress {}: {}", file.display(), String::from_utf8_lossy(&done.stderr).trim());
            }
            Ok(done.stdout)
        }
        _ => bail!("{} is compressed in a way that is not known here", file.display()),
    }
}

/// `depends=a,b` of the section .modinfo: strings that end in a zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let list = &module[at + KEY.len()..];
    let list = &list[..list.iter().position(|b| *b == 0).unwrap_or(list.len())];
    let names = String::from_utf8_lossy(list).replace('-', "_");
    names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn dependencies_are_read_from_the_module() {
        let module = b"\x7fELF..license=GPL\0depends=nf_nat,nf-conntrack\0name=nft_masq\0";
        assert_eq!(depends(module), ["nf_nat", "nf_conntrack"]);
        assert!(depends(b"license=GPL\0depends=\0retpoline=Y\0").is_empty());
        assert!(depends(b"").is_empty());
    }
}
