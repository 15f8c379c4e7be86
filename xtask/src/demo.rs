//! `cargo xtask demo`: builds, then becomes the demo, so that its stdout and its exit status are those of this task.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build;
use crate::machine::Purpose;
use crate::progress::headline;
use crate::setup;
use crate::workspace::{Privilege, Workspace};

#[derive(clap::Args)]
pub struct Arguments {
    /// Options of the demo itself, such as --json; `cargo xtask demo -- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(Arguments { arguments }: &Arguments) -> Result<()> {
    Privilege::ours().require_root("demo", arguments)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    headline("the demo");
    let error = command(&workspace).args(arguments).exec();
    Err(error).with_context(|| format!("start {}", workspace.demo().display()))
}

/// The built demo, with what it wants to know.
pub fn command(workspace: &Workspace) -> Command {
    let mut command = Command::new(workspace.demo());
    workspace.describe_build(&mut command);
    command
}
