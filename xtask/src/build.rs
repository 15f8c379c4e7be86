//! `cargo xtask build`: the XDP programs for the BPF target, then the agent, which carries its program inside.
//!
//! The XDP programs have their own target folder: another compiler builds them, and two cargos in one folder would wait for
//! each other. They are laid into `target/ebpf` only when they changed, so that nothing that embeds them is built again.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use indicatif::HumanBytes;

use crate::machine::Purpose;
use crate::plan::Tools;
use crate::progress::headline;
use crate::setup;
use crate::workspace::{Workspace, run_aloud};

pub fn run() -> Result<()> {
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Build)?;
    all(&workspace, &tools)
}

/// Builds everything, and says where it is.
pub fn all(workspace: &Workspace, tools: &Tools) -> Result<()> {
    xdp_programs(workspace, tools)?;
    headline("the agent and the demo");
    run_aloud(
        "building the agent",
        workspace.cargo().args(["build", "--release", "--package", "clb-userspace", "--package", "clb-tests"]),
    )?;

    let agent = workspace.agent();
    let bytes = fs::metadata(&agent).with_context(|| format!("find {}", agent.display()))?.len();
    eprintln!("\n{}: {}, the XDP program inside; it needs no other file", agent.display(), HumanBytes(bytes));
    Ok(())
}

/// Builds the XDP programs into [`Workspace::ebpf_programs`].
pub fn xdp_programs(workspace: &Workspace, tools: &Tools) -> Result<()> {
    let Tools { toolchain, compiler, linker } = tools;
    headline(&format!("the XDP program, with {} rustc {}", toolchain.describe(), compiler.release));
    let folder = workspace.target.join("ebpf-build");
    let mut command = toolchain.cargo();
    for_bpf(workspace, command.arg("build"));
    command.arg("--target-dir").arg(&folder).env("CARGO_ENCODED_RUSTFLAGS", link_flags(tools).join("\x1f"));
    run_aloud("building the XDP program", &mut command).with_context(|| format!("with {}", linker.path.display()))?;

    let to = workspace.ebpf_programs();
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    for name in PROGRAMS {
        let from = folder.join(target()).join("release").join(name);
        let program = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        let to: PathBuf = to.join(name);
        if fs::read(&to).ok().as_ref() != Some(&program) {
            fs::write(&to, program).with_context(|| format!("write {}", to.display()))?;
        }
    }
    Ok(())
}

/// Completes a cargo command about the XDP programs.
pub fn for_bpf(workspace: &Workspace, cargo: &mut Command) {
    cargo.current_dir(&workspace.root).args(["--package", "clb-ebpf", "--bins", "--release"]).args([
        "-Z",
        "build-std=core",
        "--target",
        target(),
    ]);
}

/// Tells aya-ebpf which registers the kernel's own contexts have: those of the machine that we build on.
pub fn architecture_flag() -> String {
    format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH)
}

fn link_flags(tools: &Tools) -> Vec<String> {
    let mut flags = vec![
        architecture_flag(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", tools.linker.path.display()),
    ];
    if tools.linker.llvm >= FIRST_WITH_MISALIGNED_ACCESS {
        flags.push("-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned());
    }
    flags
}

/// XDP programs run on the machine that they are built for, so its byte order is theirs.
fn target() -> &'static str {
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// The binaries of clb-ebpf.
const PROGRAMS: [&str; 3] = ["clb", "decap", "bare"];

/// Without it LLVM reads a header's unaligned fields byte by byte (an IPv6 key takes 71 instructions, not 26).
const FIRST_WITH_MISALIGNED_ACCESS: u32 = 22;
