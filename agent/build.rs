//! Builds the kernel programs and hands the object to `include_bytes_aligned!` (see source/ebpf). Installs nothing: if
//! the eBPF toolchain is missing it says which command installs it.

use std::path::{Path, PathBuf};
use std::process::exit;

#[allow(dead_code, reason = "xtask uses the rest")]
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let workspace = manifest.parent().unwrap_or(Path::new("..")).to_owned();
    for watched in ["agent-ebpf", "agent-common/src", "Cargo.lock", "xtask/src/toolchain.rs"] {
        println!("cargo:rerun-if-changed={}", workspace.join(watched).display());
    }
    println!("cargo:rerun-if-env-changed=AGENT_EBPF_OBJECT");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let embedded = out.join("agent-ebpf.o");

    // Packagers build the object elsewhere and name it here.
    let object = match std::env::var_os("AGENT_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => build(&workspace, &out),
    };
    if let Err(e) = std::fs::copy(&object, &embedded) {
        fail(&format!("cannot copy the eBPF object {}: {e}", object.display()));
    }
    println!("cargo:rustc-env=AGENT_EBPF_EMBEDDED={}", embedded.display());
}

fn build(workspace: &Path, out: &Path) -> PathBuf {
    let missing = "the eBPF toolchain is missing; run `cargo xtask setup` (it installs a compiler for BPF and bpf-linker), \
                   or set AGENT_EBPF_OBJECT to a built object";
    let Some(toolchain) = toolchain::find() else { fail(missing) };
    let Some(linker) = toolchain::bpf_linker() else { fail(missing) };
    let target_dir = ebpf_target_dir(out);
    let mut command = toolchain.build_command(workspace, &target_dir);
    // bpf-linker may live in cargo's bin folder without that being on PATH.
    let mut paths: Vec<PathBuf> = linker.parent().map(Path::to_owned).into_iter().collect();
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    if let Ok(joined) = std::env::join_paths(paths) {
        command.env("PATH", joined);
    }
    match command.output() {
        Ok(done) if done.status.success() => toolchain::Toolchain::object(&target_dir),
        Ok(done) => fail(&format!(
            "building agent-ebpf with {} failed:\n{}",
            toolchain.rustc.display(),
            String::from_utf8_lossy(&done.stderr)
        )),
        Err(e) => fail(&format!("cannot run {}: {e}", toolchain.cargo.display())),
    }
}

/// One directory for all profiles: `OUT_DIR` is TARGET/PROFILE/build/agent-HASH/out.
fn ebpf_target_dir(out: &Path) -> PathBuf {
    out.ancestors().nth(4).unwrap_or(out).join("ebpf")
}

fn fail(message: &str) -> ! {
    eprintln!("\nerror: {message}\n");
    exit(1);
}
