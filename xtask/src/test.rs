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
    /// A filter, or options of `cargo test`, such as `-p clb-common`
    #[arg(allow_hyphen_values = true)]
    arguments: Vec<OsString>,
    /// Options of the tests themselves, such as `--nocapture`
    #[arg(last = true)]
    harness: Vec<OsString>,
}

impl Arguments {
    /// As they were given to us, and are given to `cargo test`.
    fn line(&self) -> Vec<OsString> {
        let Self { arguments, harness } = self;
        let separator = (!harness.is_empty()).then(|| "--".into());
        arguments.iter().cloned().chain(separator).chain(harness.iter().cloned()).collect()
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let arguments = arguments.line();
    Privilege::ours().require_root("test", &arguments)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    let started = Instant::now();
    let done = tests(&workspace, &arguments);
    eprintln!("\ntests: {}", spoken(started.elapsed()));
    done
}

/// Runs the tests, of every package unless `arguments` name some.
pub fn tests(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    headline("the tests");
    let mut command = workspace.cargo();
    command.arg("test");
    if !arguments.iter().any(|argument| argument == "-p" || argument.as_encoded_bytes().starts_with(b"--package")) {
        // The XDP program has no tests of its own: the lab runs it.
        command.args(["--workspace", "--exclude", "clb-ebpf"]);
    }
    run_command("`cargo test`", command.args(arguments))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn what_follows_the_task_reaches_cargo_test_as_it_was_typed() {
        for line in ["", "parse", "-p clb-common", "-- --nocapture", "-p clb-common parse -- --nocapture one"] {
            let words = line.split_ascii_whitespace();
            let Line { arguments } = Line::parse_from(["test"].into_iter().chain(words));
            assert_eq!(arguments.line().join(" ".as_ref()), line);
        }
    }
}
