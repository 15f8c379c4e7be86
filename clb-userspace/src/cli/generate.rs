//! `clb schema`, `clb completions` and `clb man`: what editors, shells and `man` need to know of clb, from the tables and the
//! one definition of the command line.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Arguments, print};
use crate::config;

/// Print the JSON Schema of the configuration file
///
/// Editors complete and check keys with it: begin a file with `# yaml-language-server: $schema=clb.schema.json`. What
/// `clb check` finds goes further.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb schema > clb.schema.json")]
pub struct SchemaArguments {}

/// Print a script that completes commands and options in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb completions bash > /etc/bash_completion.d/clb")]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the man page, or write a page for every command
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb man --dir /usr/local/share/man/man1")]
pub struct ManArguments {
    /// Write `clb.1`, `clb-run.1` and so on into this folder, which must be there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn schema() -> anyhow::Result<ExitCode> {
    print(&format!("{}\n", serde_json::to_string_pretty(&config::schema())?))?;
    Ok(ExitCode::SUCCESS)
}

pub fn completions(CompletionsArguments { shell }: &CompletionsArguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut Arguments::command(), "clb", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

pub fn man(ManArguments { dir }: &ManArguments) -> anyhow::Result<ExitCode> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = dir else {
        print(&page(command)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    for command in command.get_subcommands().chain([&command]) {
        let name = command.get_display_name().unwrap_or("clb").to_owned();
        let path = dir.join(format!("{name}.1"));
        let written = fs::write(&path, page(command.clone())?);
        written.with_context(|| format!("write {}\nhelp: the folder must be there, and yours", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn page(command: clap::Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    // A page of a command is of clb as well. A date that is empty would not be written, and the source would stand there.
    let source = concat!("clb ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command).source(source).date(" ").render(&mut page)?;
    Ok(String::from_utf8(page)?.replace("\n.SH EXTRA\n", "\n.SH EXAMPLES\n"))
}
