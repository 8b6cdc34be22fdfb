//! Which compiler can build the kernel programs on this machine. Shared by xtask (which installs what is missing) and
//! by agent/build.rs (which only looks), so that both always agree.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The BPF target; little-endian is all that the supported machines are.
pub const TARGET: &str = "bpfel-unknown-none";

/// A compiler for [`TARGET`] and how to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// True where `core` must be built from rust-src; false where a precompiled one is installed.
    pub build_std: bool,
    /// The compiler's LLVM major version: bpf-linker must be built with the same.
    pub llvm_major: u32,
}

/// Looks for a toolchain in the order of preference: a rustup nightly with rust-src, then the distribution's compiler
/// with a precompiled BPF `core` (Debian: rustc-web, cargo-web, libstd-rust-web-dev-bpf), then the default toolchain
/// if it has rust-src.
pub fn find() -> Option<Toolchain> {
    rustup("nightly").or_else(distribution).or_else(|| rustup("stable"))
}

fn rustup(channel: &str) -> Option<Toolchain> {
    let which = |tool: &str| -> Option<PathBuf> {
        // Without a terminal and with auto-install off rustup only answers, it fetches nothing.
        let out = Command::new("rustup")
            .args(["which", "--toolchain", channel, tool])
            .env("RUSTUP_AUTO_INSTALL", "0")
            .output()
            .ok()?;
        out.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    };
    let (cargo, rustc) = (which("cargo")?, which("rustc")?);
    let src = sysroot(&rustc)?.join("lib/rustlib/src/rust/library/core");
    src.is_dir().then(|| llvm_major(&rustc)).flatten().map(|llvm_major| Toolchain {
        cargo,
        rustc,
        build_std: true,
        llvm_major,
    })
}

fn distribution() -> Option<Toolchain> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    if !cargo.exists() || !rustc.exists() {
        return None;
    }
    let core = sysroot(&rustc)?.join("lib/rustlib").join(TARGET).join("lib");
    let has_core =
        std::fs::read_dir(core).ok()?.flatten().any(|e| e.file_name().to_string_lossy().starts_with("libcore-"));
    if !has_core {
        return None;
    }
    Some(Toolchain { llvm_major: llvm_major(&rustc)?, cargo, rustc, build_std: false })
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let out = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    out.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&out.stdout).trim().to_owned()))
}

fn llvm_major(rustc: &Path) -> Option<u32> {
    let out = Command::new(rustc).arg("-vV").output().ok()?;
    parse_llvm_major(&String::from_utf8_lossy(&out.stdout))
}

/// `LLVM version: 22.1.2` of `rustc -vV` gives 22.
pub fn parse_llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|l| l.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// bpf-linker on PATH or in cargo's bin folder.
pub fn bpf_linker() -> Option<PathBuf> {
    let cargo_bin = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")))
        .map(|d| d.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    cargo_bin.into_iter().chain(std::env::split_paths(&path)).map(|d| d.join("bpf-linker")).find(|p| p.is_file())
}

impl Toolchain {
    /// The command that builds `agent-ebpf` into `target_dir`; its standard output is cargo's.
    pub fn build_command(&self, workspace: &Path, target_dir: &Path) -> Command {
        let mut c = Command::new(&self.cargo);
        c.current_dir(workspace)
            .args(["build", "--package", "agent-ebpf", "--profile", "bpf", "--target", TARGET, "--target-dir"])
            .arg(target_dir);
        if self.build_std {
            c.args(["-Z", "build-std=core"]);
        }
        self.environment(&mut c);
        c
    }

    /// Makes `c` use this compiler, whatever toolchain the calling cargo runs under.
    pub fn environment(&self, c: &mut Command) {
        for inherited in
            ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"]
        {
            c.env_remove(inherited);
        }
        // The bootstrap switch lets a stable compiler use -Z flags and the BPF target's unstable features.
        c.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &self.rustc).env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf");
    }

    /// Where `build_command` leaves the object.
    pub fn object(target_dir: &Path) -> PathBuf {
        target_dir.join(TARGET).join("bpf").join("agent-ebpf")
    }
}
