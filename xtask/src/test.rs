//! `cargo xtask test`: builds, then runs every test of the workspace.
//!
//! Most tests run real packets through the real program, which needs root: without it the task refuses, as a test that was
//! skipped looks like one that passed.

use std::ffi::OsString;
use std::time::Instant;

use anyhow::Result;

use crate::build;
use crate::machine::Purpose;
use crate::progress::{headline, spoken};
use crate::setup;
use crate::workspace::{Privilege, Workspace, run as run_command};

#[derive(clap::Args)]
pub struct Arguments {
    /// A filter, or options of `cargo test`, such as `-p clb-common -- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(Arguments { arguments }: &Arguments) -> Result<()> {
    Privilege::ours().require_root("test", arguments)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    tests(&workspace, arguments)
}

/// Runs the tests, of every package unless `arguments` name some.
pub fn tests(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    headline("the tests");
    let started = Instant::now();
    let mut command = workspace.cargo();
    command.arg("test");
    if !arguments.iter().any(|argument| argument == "-p" || argument.as_encoded_bytes().starts_with(b"--package")) {
        // The XDP program has no tests of its own: the lab runs it.
        command.args(["--workspace", "--exclude", "clb-ebpf"]);
    }
    let done = run_command("`cargo test`", command.args(arguments));
    eprintln!("\ntests: {}", spoken(started.elapsed()));
    done
}
