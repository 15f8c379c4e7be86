//! `clb-vm`: the first process of the virtual machine that `cargo xtask vm` and `bench --exact` boot, on kernels and drivers that the machine
//! itself does not have.
//!
//! It makes the guest usable, runs a table of checks, reports one line a check over the second serial port, and powers the
//! guest off. What is not a report goes to the console. A new check is a row in `checks.rs`. Asked to
//! count, it counts instructions instead (`instructions.rs`, `forwarding.rs`).

mod boot;
mod checks;
mod forwarding;
mod guest;
mod instructions;
mod report;

#[path = "../hosts/config.rs"]
mod config;
#[path = "../hosts/connection.rs"]
mod connection;
#[path = "../hosts/network.rs"]
#[expect(dead_code, reason = "the tests of hosts do more with their network")]
mod network;

use std::{
    env,
    process::{self, ExitCode},
};

use anyhow::{Result, bail};
use nix::sys::reboot::{RebootMode, reboot};

fn main() -> ExitCode {
    // As any other process it would power off the machine of whoever tried it.
    if process::id() != 1 {
        eprintln!("clb-vm is the first process of a virtual machine\nhelp: `cargo xtask vm` boots it");
        return ExitCode::from(2);
    }
    if let Err(error) = run() {
        eprintln!("error: {error:#}");
    }
    // A first process that ends makes the kernel panic, which ends the guest as well.
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("error: power off: {error}");
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    boot::mount()?;
    let mut report = report::Report::open()?;
    report.check("boots, and loads its modules", boot::load_modules);
    match env::args().nth(1).as_deref() {
        Some("check") => checks::run(&mut report),
        Some("count") => {
            instructions::count(&mut report);
            forwarding::count(&mut report);
        }
        other => bail!("the kernel's command line asks for {other:?}"),
    }
    report.end()
}
