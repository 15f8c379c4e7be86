//! `cargo xtask churn`: builds, then becomes the churn, so that its stdout and its exit status are those of this task.

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
    /// Options of the churn itself: --seed, --changes, --connections, --json; `cargo xtask churn -- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(Arguments { arguments }: &Arguments) -> Result<()> {
    Privilege::ours().require_root("churn", arguments)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    headline("the churn");
    let churn = workspace.churn();
    let error = Command::new(&churn).args(arguments).exec();
    Err(error).with_context(|| format!("start {}", churn.display()))
}
