//! `cargo xtask bench --peers`: builds, then becomes the comparison, so that its stdout and its exit status are those of this task.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build;
use crate::machine::{Purpose, search_path};
use crate::progress::headline;
use crate::setup;
use crate::workspace::{Privilege, Workspace};

pub fn run(arguments: &[OsString]) -> Result<()> {
    let words: Vec<_> =
        std::iter::once(OsStr::new("--peers")).chain(arguments.iter().map(OsString::as_os_str)).collect();
    Privilege::ours().require_root("bench", &words)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Peers)?;
    build::all(&workspace, &tools)?;
    headline("clb and other load balancers");
    let peers = workspace.peers();
    let mut command = Command::new(&peers);
    workspace.describe_build(&mut command);
    let error = command.args(arguments).env("PATH", search_path()).exec();
    Err(error).with_context(|| format!("start {}", peers.display()))
}
