//! `cargo xtask bench`: what a packet costs.

pub mod exact;

use anyhow::Result;

use crate::build;
use crate::machine::Purpose;
use crate::setup;
use crate::workspace::{Privilege, Workspace};
use exact::Stored;

#[derive(clap::Args)]
pub struct Arguments {
    /// Count instructions on other kernels, in virtual machines, and compare them to the stored counts
    #[arg(long, required = true)]
    exact: bool,
    /// Store the counts instead of comparing them
    #[arg(long, requires = "exact")]
    update: bool,
}

pub fn run(&Arguments { exact: _, update }: &Arguments) -> Result<()> {
    let options = if update { &["--exact", "--update"][..] } else { &["--exact"] };
    Privilege::ours().require_root("bench", options)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    exact::run(&workspace, if update { Stored::IsWritten } else { Stored::IsCompared })
}
