//! The project's own tasks, as `cargo xtask TASK`: one module each.
//!
//! Everything that a person or CI does with the project is one of these, so that no page has to list commands. Talk goes to
//! stderr: the stdout of a task belongs to what it runs. Exit status: 0 good, 1 a problem was found, 2 could not run.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod build;
mod churn;
mod ci;
mod demo;
mod linker;
mod lint;
mod machine;
mod plan;
mod progress;
mod setup;
mod test;
mod toolchain;
mod version;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building, the demo, the tests and the lints need
    Setup(setup::Arguments),
    /// Build the XDP program and the agent around it
    Build,
    /// Build, then send real traffic through clb in a lab of network namespaces
    Demo(demo::Arguments),
    /// Build, then keep connections open in a lab while everything changes around them
    Churn(churn::Arguments),
    /// Build, then say what a packet costs, or how clb compares to others
    Bench(bench::Arguments),
    /// Build, then run every test
    Test(test::Arguments),
    /// Check the format, and run clippy on the agent and on the XDP program
    Lint,
    /// Build, then boot other kernels in virtual machines, and load, attach and forward there
    Vm,
    /// All of CI: setup, lint, build, demo, vm, bench --exact, test
    Ci,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Build => build::run(),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Churn(arguments) => churn::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Lint => lint::run(),
        Task::Vm => vm::run(),
        Task::Ci => ci::run(),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    eprintln!("\nerror: {error:#}");
    ExitCode::from(if error.is::<workspace::CannotRun>() { 2 } else { 1 })
}
