//! `clb apply`: the running agent takes another configuration, and says what that changed.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    COULD_NOT_RUN, PROBLEM_FOUND, SocketArgument, is_standard_input, name_of, plan, print, stderr_color, tell,
    unreadable,
};
use crate::{
    api::{self, Applied, Proposal, Refusal, Terms, Text},
    config::{self, Color},
};

/// Have the running agent take a configuration, and wait until it is in force
///
/// Prints what changed, as `clb plan` does, and how long it took. A file with errors changes nothing, and all its problems
/// are shown. Without FILE the agent reads its own file again, as at SIGHUP.
///
/// FILE becomes the file that SIGHUP and `clb run --watch` read from then on; a restart reads the one that `clb run` is
/// started with. What comes from standard input or a pipe has no file: SIGHUP goes back to the one before.
///
/// Exit status: 0 it is in force, 1 the file has errors, 2 it was refused for another reason, or a file could not be read, or
/// no agent answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb apply /etc/clb.yaml --max-moved 20")]
pub struct ApplyArguments {
    /// The configuration file; `-` is standard input; without it, the agent's own
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Refuse it if more than this share of any listener's slots moves
    #[arg(long, value_name = "PERCENT", value_parser = plan::percent)]
    max_moved: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub fn apply(arguments: ApplyArguments) -> anyhow::Result<ExitCode> {
    let ApplyArguments { file, max_moved, json, socket } = arguments;
    let name = file.as_ref().map_or_else(String::new, |file| printable(&name_of(file)));
    let (text, file) = match file {
        None => (Text::OwnFile, None),
        Some(file) => {
            let text = config::read_text(&file).map_err(|source| unreadable(&file, &source))?;
            (Text::Sent(text), to_be_read_again(&file))
        }
    };
    // Problems go into the JSON without escape codes.
    let color = if json { Color::Never } else { stderr_color() };
    let proposal = Proposal { text, terms: Terms { name, file, max_moved, color } };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    match runtime.block_on(api::apply(&socket.socket, proposal))? {
        Ok(applied) if json => print_json(&as_json(&applied)?)?,
        Ok(applied) => {
            tell(&applied.rendered);
            print(&render(&applied))?;
        }
        Err(refusal) => {
            if json {
                print_json(&json!({ "applied": false, "error": refusal.error, "problems": refusal.problems }))?;
            } else {
                tell(&render_refusal(&refusal));
            }
            return Ok(ExitCode::from(if refusal.problems.is_empty() { COULD_NOT_RUN } else { PROBLEM_FOUND }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The absolute path of what can be read more than once.
fn to_be_read_again(file: &Path) -> Option<PathBuf> {
    let is_file = !is_standard_input(file) && file.is_file();
    is_file.then(|| std::path::absolute(file).ok()).flatten()
}

/// A name for the agent's log.
fn printable(name: &str) -> String {
    name.chars().map(|character| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }).collect()
}

fn render(applied: &Applied) -> String {
    let Applied { plan, seconds, configuration, file, file_is_new, .. } = applied;
    let mut text = plan::render(plan);
    text.push_str(&format!("{configuration} is in force after {:.0} ms\n", seconds * 1_000.0));
    if *file_is_new {
        text.push_str(&format!("SIGHUP reads {file} from now on, a restart what `clb run` is started with\n"));
    } else if configuration != file {
        text.push_str(&format!("SIGHUP goes back to {file}\n"));
    }
    text
}

fn as_json(applied: &Applied) -> anyhow::Result<Value> {
    let Applied { plan, seconds, configuration, file, warnings, .. } = applied;
    let mut value = json!({
        "applied": true,
        "seconds": seconds,
        "configuration": configuration,
        "file": file,
        "warnings": warnings,
    });
    if let (Value::Object(object), Value::Object(plan)) = (&mut value, plan::as_json(plan)?) {
        object.extend(plan);
    }
    Ok(value)
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn render_refusal(refusal: &Refusal) -> String {
    let Refusal { error, problems, rendered } = refusal;
    if problems.is_empty() {
        return format!("error: {error}\n");
    }
    format!("{rendered}the configuration in force stays: {error}\n")
}
