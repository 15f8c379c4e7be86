//! `cargo xtask lint`: the format of all code, and clippy without a warning, for the host and for the BPF target.
//!
//! The XDP program is judged by the clippy of the compiler that builds it. It is also built, as the agent embeds it.

use anyhow::Result;

use crate::build;
use crate::machine::Purpose;
use crate::plan::Tools;
use crate::progress::headline;
use crate::setup;
use crate::workspace::{Workspace, run_aloud};

pub fn run() -> Result<()> {
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lint)?;
    all(&workspace, &tools)
}

pub fn all(workspace: &Workspace, tools: &Tools) -> Result<()> {
    headline("the format of the code");
    run_aloud("`cargo fmt --check`", workspace.cargo().args(["fmt", "--all", "--check"]))?;

    headline("clippy on the XDP program");
    let folder = workspace.target.join("ebpf-lint");
    let mut clippy = tools.toolchain.clippy();
    build::for_bpf(workspace, &mut clippy);
    clippy.arg("--target-dir").arg(folder).env("CARGO_ENCODED_RUSTFLAGS", build::architecture_flag());
    run_aloud("clippy on the XDP program", clippy.args(DENY_WARNINGS))?;

    build::xdp_programs(workspace, tools)?;
    headline("clippy on the agent, the tests and the tasks");
    let mut clippy = workspace.cargo();
    clippy.args(["clippy", "--workspace", "--exclude", "clb-ebpf", "--all-targets"]);
    run_aloud("clippy on the agent", clippy.args(DENY_WARNINGS))
}

const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];
