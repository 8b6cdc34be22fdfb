//! bpf-linker: it reads the compiler's LLVM bitcode, so its LLVM must not be older than the compiler's.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, must, say};
use crate::toolchain::{self, TARGET, Toolchain};
use crate::{apt, workspace};

/// The LLVM versions that the pinned bpf-linker has a feature for.
const OLDEST_LLVM: u32 = 21;
const NEWEST_LLVM: u32 = 23;
const VERSION: &str = "0.13.0";

/// A bpf-linker that links what `toolchain` compiles: the one that is there if a trial build proves it, else a new
/// one. The proof is kept until compiler or linker change.
pub fn ensure(toolchain: &Toolchain) -> Result<()> {
    let proof = workspace::cache().join("linker-proof");
    let existing = toolchain::bpf_linker();
    if let Some(linker) = &existing {
        let key = key(&toolchain.rustc, linker);
        if std::fs::read_to_string(&proof).is_ok_and(|kept| kept == key) {
            return Ok(());
        }
        match trial(toolchain, linker) {
            Ok(()) => return keep(&proof, &key),
            Err(e) => say(format_args!("{} does not fit {}: {e:#}", linker.display(), toolchain.rustc.display())),
        }
    }
    install(toolchain, existing.is_some())?;
    let linker = toolchain::bpf_linker().context("cargo installed bpf-linker, but it is not in cargo's bin folder")?;
    trial(toolchain, &linker).context("the freshly built bpf-linker does not work")?;
    keep(&proof, &key(&toolchain.rustc, &linker))
}

fn keep(proof: &Path, key: &str) -> Result<()> {
    std::fs::create_dir_all(workspace::cache())
        .and_then(|()| std::fs::write(proof, key))
        .with_context(|| format!("cannot write {}", proof.display()))
}

/// Changes whenever the compiler or the linker is another file.
fn key(rustc: &Path, linker: &Path) -> String {
    let identity = |p: &Path| {
        let meta = p.metadata().ok();
        let modified = meta.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        format!("{} {} {}", p.display(), meta.map_or(0, |m| m.len()), modified.map_or(0, |d| d.as_nanos()))
    };
    format!("{}\n{}\n", identity(rustc), identity(linker))
}

/// Compiles and links the smallest BPF program.
fn trial(toolchain: &Toolchain, linker: &Path) -> Result<()> {
    let dir = workspace::cache().join("linker-trial");
    std::fs::create_dir_all(dir.join("src")).with_context(|| format!("cannot create {}", dir.display()))?;
    let manifest = "[package]\nname = \"trial\"\nedition = \"2021\"\n\n[workspace]\n\n[profile.release]\npanic = \"abort\"\nlto = true\ndebug = 2\n";
    let program = "#![no_std]\n#![no_main]\n\
        #[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! {\n    loop {}\n}\n\
        #[no_mangle]\n#[link_section = \"socket\"]\npub extern \"C\" fn trial(_: *mut core::ffi::c_void) -> i32 {\n    0\n}\n";
    for (name, text) in [("Cargo.toml", manifest), ("src/main.rs", program)] {
        std::fs::write(dir.join(name), text).with_context(|| format!("cannot write {name} into {}", dir.display()))?;
    }
    let target = dir.join("target");
    // A result of an earlier trial would prove nothing.
    let object = target.join(TARGET).join("release").join("trial");
    if object.exists() {
        std::fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))?;
    }
    let mut command = std::process::Command::new(&toolchain.cargo);
    command.current_dir(&dir).args(["build", "--release", "--quiet", "--target", TARGET, "--target-dir"]).arg(&target);
    if toolchain.build_std {
        command.args(["-Z", "build-std=core"]);
    }
    toolchain.environment(&mut command);
    command.env("PATH", with_first(linker)?);
    let done = command.output().with_context(|| format!("cannot run {}", toolchain.cargo.display()))?;
    if !done.status.success() {
        let errors = String::from_utf8_lossy(&done.stderr);
        bail!("a trial build failed: {}", errors.lines().find(|l| l.contains("error")).unwrap_or("no message"));
    }
    Ok(())
}

/// PATH with the linker's folder first.
fn with_first(linker: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = linker.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(dirs)?)
}

fn install(toolchain: &Toolchain, replace: bool) -> Result<()> {
    let (major, prefix) = llvm(toolchain.llvm_major)?;
    say(format_args!("building bpf-linker {VERSION} with LLVM {major} into cargo's bin folder (about a minute)"));
    let mut command = cargo();
    // Away from the workspace: its .cargo and lock file are not meant for this.
    command.current_dir("/").env("LLVM_PREFIX", prefix).args([
        "install",
        "--locked",
        "bpf-linker",
        "--version",
        VERSION,
    ]);
    command.arg("--no-default-features").arg("--features").arg(format!("llvm-{major}"));
    if replace {
        command.arg("--force");
    }
    must(&mut command).context("cannot build bpf-linker; it needs a C++ compiler and LLVM's development files")
}

/// LLVM's development files: of the compiler's own version, else of a newer one, which reads older bitcode too.
fn llvm(compiler: u32) -> Result<(u32, PathBuf)> {
    let oldest = compiler.max(OLDEST_LLVM);
    let prefix = |major: u32| PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let there = |major: u32| {
        prefix(major).join("bin/llvm-config").exists()
            && Path::new(&format!("/usr/lib/llvm-{major}/lib/libPolly.a")).exists()
            && Path::new("/usr/include/zstd.h").exists()
            && Path::new("/usr/include/zlib.h").exists()
    };
    if let Some(major) = (oldest..=NEWEST_LLVM).find(|m| there(*m)) {
        return Ok((major, prefix(major)));
    }
    for major in oldest..=NEWEST_LLVM {
        let packages = [
            format!("llvm-{major}-dev"),
            format!("libpolly-{major}-dev"),
            "libzstd-dev".into(),
            "zlib1g-dev".into(),
            "g++".into(),
        ];
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        if apt::offers(&packages)? {
            apt::install(&packages, "to build bpf-linker")?;
            return Ok((major, prefix(major)));
        }
    }
    bail!(
        "bpf-linker needs the development files of LLVM {compiler} (the compiler's), and apt offers none; install them \
         and run `cargo install bpf-linker --no-default-features --features llvm-{compiler}` yourself, or fetch a built \
         bpf-linker from its releases page, then run this again"
    )
}
