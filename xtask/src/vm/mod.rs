//! `cargo xtask vm`: clb on kernels and a network driver that this machine does not have, in QEMU.
//!
//! The same machines, with one CPU and a clock that counts instructions, say what a packet costs (`cargo xtask bench --exact`).
//! The checks want two CPUs at work and the counts one, so each has a boot of its own.
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

/// What the guest is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Check,
    Count,
}

/// What was counted, on every kernel that can be had.
pub struct Counts {
    pub kernels: Vec<Counted>,
    /// What was skipped, and why.
    pub skipped: Vec<String>,
}

/// What was counted on a kernel, by name.
pub struct Counted {
    pub series: &'static str,
    pub release: String,
    pub counts: Vec<(String, u64)>,
}

pub fn run() -> Result<()> {
    Privilege::ours().require_root("vm", &[""; 0])?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    unless_skipped(&check(&workspace)?)
}

/// Checks what [`build::all`] made on every kernel that can be had. Returns what was skipped, and why.
pub fn check(workspace: &Workspace) -> Result<Vec<String>> {
    headline("clb in virtual machines, on other kernels");
    Ok(all(workspace, Task::Check)?.skipped)
}

/// Counts the instructions of a packet there.
pub fn count(workspace: &Workspace) -> Result<Counts> {
    headline("instructions a packet, in virtual machines, on other kernels");
    all(workspace, Task::Count)
}

/// For a task that only does this.
pub fn unless_skipped(skipped: &[String]) -> Result<()> {
    if skipped.is_empty() { Ok(()) } else { Err(CannotRun(skipped.join("\n")).into()) }
}

fn all(workspace: &Workspace, task: Task) -> Result<Counts> {
    let what = match task {
        Task::Check => "the VM test",
        Task::Count => "counting instructions",
    };
    let mut all = Counts { kernels: Vec::new(), skipped: Vec::new() };
    let mut failed = Vec::new();
    if unless_missing(what, setup::ready(workspace, Purpose::Vm), &mut all.skipped)?.is_some() {
        for series in SERIES {
            let kernel = kernel::ready(workspace, series);
            if let Some(kernel) = unless_missing(&format!("{what} on Linux {series}"), kernel, &mut all.skipped)? {
                let counts = boot(workspace, &kernel, task, &mut failed)?;
                all.kernels.push(Counted { series, release: kernel.release, counts });
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed in the VM: {}", failed.join(", "));
    }
    Ok(all)
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

/// Boots a kernel and shows what its checks said. Returns what it counted, and adds what failed.
fn boot(workspace: &Workspace, kernel: &Kernel, task: Task, failed: &mut Vec<String>) -> Result<Vec<(String, u64)>> {
    let started = Instant::now();
    let Boot { checks, end, console } = qemu::boot(workspace, kernel, task)?;
    let (mut rows, mut counts, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for check in checks {
        let outcome = match check.outcome {
            Outcome::Counted(count) => {
                counts.push((check.name, count));
                continue;
            }
            Outcome::Ok => "ok",
            Outcome::Failed => {
                failures.push(format!("{} (Linux {})", check.name, kernel.series));
                "FAILED"
            }
        };
        rows.push([outcome.to_owned(), check.name, check.said, spoken(check.time)]);
    }
    println!("\n{}", aligned(&rows).trim_end());
    eprintln!("  Linux {}: {}\n", kernel.release, spoken(started.elapsed()));

    failures.extend(end.err().map(|how| format!("Linux {}: {how}", kernel.series)));
    if !failures.is_empty() {
        eprintln!("--- the guest's console, as in {}\n{}\n---", console.path.display(), console.text()?.trim_end());
    }
    failed.extend(failures);
    Ok(counts)
}
