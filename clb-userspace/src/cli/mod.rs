//! The command line: one clap definition, one file a verb.
//!
//! Data goes to standard output, talk to standard error. Exit status: 0 good, 1 a problem was found in what was given, 2
//! the command could not run.

mod apply;
mod bench;
mod bindable;
mod check;
mod decap;
mod detach;
mod drain;
mod explain;
mod generate;
mod plan;
mod run;
mod status;
mod wait;

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Parser, Subcommand};

use self::{
    apply::ApplyArguments,
    bench::BenchArguments,
    bindable::BindableArguments,
    decap::DecapArguments,
    detach::DetachArguments,
    drain::{DrainArguments, UndrainArguments},
    explain::ExplainArguments,
    generate::{CompletionsArguments, ManArguments, SchemaArguments},
    plan::PlanArguments,
};
use crate::{complaint::Complaint, config::Color, dataplane::AttachMode};

/// A layer-4 load balancer on XDP
///
/// Each command prints what it is asked for on standard output and talks on standard error. Exit status: 0 good, 1 a
/// problem was found in what was given, 2 the command could not run.
#[derive(Debug, Parser)]
#[command(name = "clb", version, propagate_version = true, subcommand_value_name = "COMMAND")]
#[command(after_help = "Example: clb check config/minimal-nat.yaml")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(RunArguments),
    Check(CheckArguments),
    Status(StatusArguments),
    Bindable(BindableArguments),
    Plan(PlanArguments),
    Apply(ApplyArguments),
    Detach(DetachArguments),
    Drain(DrainArguments),
    Undrain(UndrainArguments),
    Explain(ExplainArguments),
    Bench(BenchArguments),
    Decap(DecapArguments),
    Schema(SchemaArguments),
    Completions(CompletionsArguments),
    Man(ManArguments),
}

/// Balance the listeners of a configuration file until a signal ends it
///
/// Validates the file, loads the XDP program, attaches it to the interfaces that the file names, and serves. SIGHUP reads
/// the file again, as `clb apply` does: a bad file changes nothing and says why. The log goes to standard error; the variable `CLB_LOG` sets how much of it, from `error` to `trace`.
///
/// SIGTERM and SIGINT end the agent and not forwarding: the program stays on the interfaces with its maps, and the next `clb run`
/// with the same load balancer, also of a newer clb, takes them over without a packet lost. `clb detach` ends forwarding.
///
/// Exit status: 0 a signal ended it, 1 the file has errors, 2 it could not start or serve.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb run --config /etc/clb.yaml")]
struct RunArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to attach the program to the interfaces
    #[arg(long, value_enum, default_value = "auto", value_name = "MODE")]
    xdp_mode: AttachMode,
    /// Start although the next hop of some backend is not known; its packets are dropped and counted until it is
    #[arg(long)]
    allow_unresolved: bool,
    /// Log every dropped packet with its reason; slow, for finding a fault
    #[arg(long)]
    log_drops: bool,
    /// Read the file again whenever it changes, as at SIGHUP
    #[arg(long)]
    watch: bool,
    /// Answer `GET /metrics` and `GET /healthz` on this address to everybody who can reach it
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    bpf_fs: BpfFsArgument,
    #[command(flatten)]
    socket: SocketArgument,
}

/// Check configuration files against the binding rules
///
/// Needs no network and no privileges. All problems of a file are shown at once. Exit status: 0 no errors, 1 errors, 2 a
/// file could not be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb check config/minimal-nat.yaml")]
struct CheckArguments {
    /// The configuration files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to show the problems
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For a person
    Text,
    /// For a program
    Json,
}

/// Show what the running agent balances
///
/// Listeners, backends with weight, share of slots, packets and bytes, next hops, and drops by reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb status --json | jq .drops")]
struct StatusArguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

#[derive(Debug, clap::Args)]
struct BpfFsArgument {
    /// The BPF file system in which maps and links outlive the agent
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf")]
    bpf_fs: PathBuf,
}

#[derive(Debug, clap::Args)]
struct SocketArgument {
    /// The agent's socket; one for each agent on a host
    #[arg(long, value_name = "PATH", default_value = "/run/clb.sock")]
    socket: PathBuf,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Check(arguments) => check::check(&arguments),
        Verb::Status(arguments) => status::status(&arguments),
        Verb::Bindable(arguments) => bindable::bindable(&arguments),
        Verb::Plan(arguments) => plan::plan(&arguments),
        Verb::Apply(arguments) => apply::apply(arguments),
        Verb::Detach(arguments) => detach::detach(&arguments),
        Verb::Drain(arguments) => drain::drain(&arguments),
        Verb::Undrain(arguments) => drain::undrain(&arguments),
        Verb::Explain(arguments) => explain::explain(arguments),
        Verb::Bench(arguments) => bench::bench(arguments),
        Verb::Decap(arguments) => decap::decap(arguments),
        Verb::Schema(SchemaArguments {}) => generate::schema(),
        Verb::Completions(arguments) => generate::completions(&arguments),
        Verb::Man(arguments) => generate::man(&arguments),
    };
    done.unwrap_or_else(|error| {
        tell(&render_error(&error));
        ExitCode::from(COULD_NOT_RUN)
    })
}

/// An error for a person.
fn render_error(error: &anyhow::Error) -> String {
    format!("error: {}\n", Complaint::from(error))
}

/// Says what to do about a file that cannot be read.
fn unreadable(file: &Path, source: &io::Error) -> anyhow::Error {
    let help = match source.kind() {
        _ if is_standard_input(file) => "give it a file or a pipe: `clb check - < lb.yaml`",
        io::ErrorKind::PermissionDenied => "`ls -l` shows who may read it",
        _ => "check the path: the configuration is one YAML file",
    };
    anyhow!("cannot read {}: {source}\nhelp: {help}", name_of(file))
}

/// What a file is called in messages: as its problems call it.
fn name_of(file: &Path) -> Cow<'_, str> {
    if is_standard_input(file) { "<stdin>".into() } else { file.to_string_lossy() }
}

fn is_standard_input(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// What is read a second time would be empty.
fn refuse_standard_input_twice<'f>(files: impl IntoIterator<Item = &'f PathBuf>) -> anyhow::Result<()> {
    if files.into_iter().filter(|file| is_standard_input(file)).count() > 1 {
        bail!("standard input can be read once only\nhelp: write `-` for one file, and give the others by their paths");
    }
    Ok(())
}

/// Talk, on standard error. Whoever read it may have gone away, which stops nothing.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Data, on standard output. A reader that has seen enough is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

/// Colour, unless it is not wanted or goes where nobody looks.
fn stderr_color() -> Color {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && io::stderr().is_terminal() { Color::Always } else { Color::Never }
}

const PROBLEM_FOUND: u8 = 1;
const COULD_NOT_RUN: u8 = 2;
