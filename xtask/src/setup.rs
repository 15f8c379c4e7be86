//! `cargo xtask setup`: everything that building, the demo, the tests and the lints need is here afterwards, or it is said
//! exactly what to run.
//!
//! Every other task begins with [`ready`], which is silent when nothing is missing and installs nothing twice. What is
//! missing is looked up again after installing: a thing counts as installed when it was found, not when a command succeeded.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::{Apt, INSTALL, Lists, apt_get};
use crate::linker;
use crate::machine::{Machine, PROGRAMS, Purpose};
use crate::plan::{self, How, Item, Sources, Tools, aligned};
use crate::progress;
use crate::toolchain::Presence;
use crate::workspace::{CannotRun, Privilege, Workspace};

#[derive(clap::Args)]
pub struct Arguments {
    /// Only say what is missing and what would be done
    #[arg(long)]
    check: bool,
}

/// Sets up for building and for the lab, and says what is used.
pub fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::find()?;
    let tools = if arguments.check { check(&workspace)? } else { ready(&workspace, Purpose::Lab)? };
    let Tools { toolchain, compiler, linker } = tools;
    let programs = PROGRAMS.map(|program| program.name).join(", ");
    let rows = [
        ["compiler", &format!("{} rustc {}, LLVM {}", toolchain.describe(), compiler.release, compiler.llvm)],
        ["linker", &format!("bpf-linker {}, LLVM {}, {}", linker.version, linker.llvm, linker.path.display())],
        ["programs", &programs],
    ];
    eprint!("everything is here:\n\n{}", aligned(&rows.map(|row| row.map(str::to_owned))));
    Ok(())
}

/// The tools for `purpose`, after installing what is missing.
pub fn ready(workspace: &Workspace, purpose: Purpose) -> Result<Tools> {
    let privilege = Privilege::ours();
    let mut lists = Lists::AsFound;
    let mut installed: Vec<Item> = Vec::new();
    loop {
        let machine = Machine::look(workspace, purpose);
        if let Some(tools) = plan::complete(&machine, purpose) {
            return Ok(tools);
        }
        let sources = find_sources(lists);
        let items = plan::plan(&machine, purpose, &sources);
        if privilege == Privilege::Root && plan::wants_new_lists(&items, &sources) {
            refresh_lists();
            lists = Lists::Refreshed;
            continue;
        }
        if items.iter().all(|item| installed.contains(item)) {
            bail!(
                "these were installed and are still not usable:\n\n{}\nhelp: run these commands and read what they say:\n\n{}",
                plan::table(&items),
                plan::commands(&items, privilege)
            );
        }
        announce(&items);
        if plan::needs_a_person(&items, privilege) {
            return Err(CannotRun(refusal(&items, privilege)).into());
        }
        install(workspace, &items, lists).map_err(|error| {
            CannotRun(format!("{error:#}\nhelp: run these commands:\n\n{}", plan::commands(&items, privilege)))
        })?;
        installed.extend(items);
    }
}

fn check(workspace: &Workspace) -> Result<Tools> {
    let privilege = Privilege::ours();
    let machine = Machine::look(workspace, Purpose::Lab);
    plan::complete(&machine, Purpose::Lab).with_context(|| {
        let items = plan::plan(&machine, Purpose::Lab, &find_sources(Lists::AsFound));
        let help = if plan::needs_a_person(&items, privilege) {
            format!("run these commands:\n\n{}", plan::commands(&items, privilege))
        } else {
            "`cargo xtask setup` installs it".to_owned()
        };
        format!("this is missing:\n\n{}\nhelp: {help}", plan::table(&items))
    })
}

fn find_sources(lists: Lists) -> Sources {
    let rustup = if which::which("rustup").is_ok() { Presence::Here } else { Presence::Absent };
    Sources { apt: Apt::find(lists), rustup }
}

fn announce(items: &[Item]) {
    eprintln!("clb needs what this machine does not have yet:\n\n{}", plan::table(items));
}

fn refusal(items: &[Item], privilege: Privilege) -> String {
    let why = if privilege == Privilege::User && !plan::packages(items).is_empty() {
        "installing packages needs root"
    } else {
        "not all of it can be installed from here"
    };
    format!("{why}\nhelp: run these commands:\n\n{}", plan::commands(items, privilege))
}

fn install(workspace: &Workspace, items: &[Item], lists: Lists) -> Result<()> {
    let packages = plan::packages(items);
    if !packages.is_empty() {
        let what = format!("apt-get install of {}", packages.join(" "));
        let install = || progress::run(&what, apt_get(&INSTALL).args(&packages));
        install().or_else(|error| match lists {
            // Lists that are too old name files that the server has replaced.
            Lists::AsFound => {
                refresh_lists();
                install()
            }
            Lists::Refreshed => Err(error),
        })?;
    }
    for item in items {
        match &item.how {
            How::Packages(_) | How::ByHand(_) => {}
            How::Rustup(arguments) => {
                progress::run(&plan::describe(&item.how), Command::new("rustup").args(arguments))?;
            }
            How::BuildLinker { llvm } => {
                let llvms = linker::find_llvms();
                let found = llvms.iter().find(|found| found.major == *llvm);
                let prefix = &found.with_context(|| format!("LLVM {llvm} is still missing"))?.prefix;
                progress::run(&item.thing, &mut linker::install(workspace, *llvm, prefix))?;
            }
        }
    }
    Ok(())
}

/// Fetches package lists. A failure is shown and is no end: the packages may be known from another source.
pub fn refresh_lists() {
    if let Err(error) = progress::run("apt-get update, as some packages are unknown", &mut apt_get(&["update"])) {
        eprintln!("warning: {error:#}");
    }
}
