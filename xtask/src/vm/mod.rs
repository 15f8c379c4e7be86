//! `cargo xtask vm`: clb on kernels and a network driver that this machine does not have, in QEMU.
//!
//! Debian's stock kernels boot one after the other with nothing but `clb-vm` (`tests/vm`), the agent and the programs of the
//! lab in memory. QEMU emulates the CPU, so that this works also where there is no virtualisation. What cannot be had
//! here (QEMU, a kernel) is returned as skipped, for the caller to say; everything else that goes wrong is a failure.

mod initramfs;
mod kernel;
mod qemu;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::build;
use crate::machine::Purpose;
use crate::plan::aligned;
use crate::progress::{headline, spoken};
use crate::setup;
use crate::workspace::{CannotRun, Privilege, Workspace};
use kernel::{Kernel, SERIES};
use qemu::{Boot, Outcome};

#[derive(clap::Args)]
pub struct Arguments {
    /// Count the instructions that a packet costs instead, exactly
    #[arg(long)]
    exact: bool,
}

/// What the guest is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Check,
    Count,
}

pub fn run(&Arguments { exact }: &Arguments) -> Result<()> {
    let (task, options) = if exact { (Task::Count, &["--exact"][..]) } else { (Task::Check, &[][..]) };
    Privilege::ours().require_root("vm", options)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    match all(&workspace, task)?.as_slice() {
        [] => Ok(()),
        skipped => Err(CannotRun(skipped.join("\n")).into()),
    }
}

/// Boots every kernel that can be had, with what [`build::all`] made. Returns what was skipped, and why.
pub fn all(workspace: &Workspace, task: Task) -> Result<Vec<String>> {
    headline("clb in virtual machines, on other kernels");
    let mut skipped = Vec::new();
    let mut failed = Vec::new();
    if unless_missing("the VM test", setup::ready(workspace, Purpose::Vm), &mut skipped)?.is_some() {
        for series in SERIES {
            let kernel = kernel::ready(workspace, series);
            if let Some(kernel) = unless_missing(&format!("the VM test on Linux {series}"), kernel, &mut skipped)? {
                failed.extend(boot(workspace, &kernel, task)?);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed in the VM: {}", failed.join(", "));
    }
    Ok(skipped)
}

/// What was got, unless it cannot be had here: then `what` is skipped, aloud. Any other error is one.
fn unless_missing<T>(what: &str, got: Result<T>, skipped: &mut Vec<String>) -> Result<Option<T>> {
    let error = match got {
        Ok(got) => return Ok(Some(got)),
        Err(error) => error.downcast::<CannotRun>()?,
    };
    let skip = format!("SKIPPED {what}: {error}");
    eprintln!("\n!!! {skip}\n");
    skipped.push(skip);
    Ok(None)
}

/// Boots a kernel and shows what its checks said. Returns those that failed.
fn boot(workspace: &Workspace, kernel: &Kernel, task: Task) -> Result<Vec<String>> {
    let started = Instant::now();
    let Boot { checks, end, console } = qemu::boot(workspace, kernel, task)?;
    let rows: Vec<_> = checks
        .iter()
        .map(|check| {
            let outcome = if check.outcome == Outcome::Ok { "ok" } else { "FAILED" };
            [outcome.to_owned(), check.name.clone(), check.said.clone(), spoken(check.time)]
        })
        .collect();
    println!("\n{}", aligned(&rows).trim_end());
    eprintln!("  Linux {}: {}\n", kernel.release, spoken(started.elapsed()));

    let failed = checks.iter().filter(|check| check.outcome == Outcome::Failed);
    let mut failed: Vec<_> = failed.map(|check| format!("{} (Linux {})", check.name, kernel.series)).collect();
    failed.extend(end.err().map(|how| format!("Linux {}: {how}", kernel.series)));
    if !failed.is_empty() {
        eprintln!("--- the guest's console, as in {}\n{}\n---", console.path.display(), console.text()?.trim_end());
    }
    Ok(failed)
}
