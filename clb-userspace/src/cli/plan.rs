//! `clb plan`: what a new file would change, before it is done.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use super::{
    COULD_NOT_RUN, Format, PROBLEM_FOUND, SocketArgument, check::summary, name_of, print, refuse_standard_input_twice,
    stderr_color, tell, unreadable,
};
use crate::{
    api,
    config::{self, Config, Loaded, ReadError},
    control::{BackendChange, Change, Kind, ListenerChange, Setting},
};

/// Show what a new file changes, and which share of each listener's slots it moves
///
/// Compares two files, offline and without privileges; or, with one file, the running agent with it. Listeners are the
/// same if VIP, protocol and port are. Beside the share that moves stands the least that the new weights demand. All flows
/// of a listener may move if it goes or gets another number of slots, and of every listener if the id or the hash seed
/// changes. Also checks what the cloud forbids between the two files: a primary ENI stays with its CVM, and no ENI leaves
/// its VPC and zone.
///
/// Exit status: 0 planned, with changes or without; 1 a file has errors; 2 a listener moves more than `--max-moved`, or a
/// file could not be read, or no agent answers.
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
#[command(after_help = "Example: clb plan /etc/clb.yaml new.yaml --max-moved 20")]
pub struct PlanArguments {
    /// The file that is in force; `-` is standard input; without it, what the running agent has
    #[arg(value_name = "OLD")]
    old: Option<PathBuf>,
    /// The file that is to replace it; `-` is standard input
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Fail if more than this share of any listener's slots moves
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_moved: Option<f64>,
    /// How to show the changes
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    socket: SocketArgument,
}

pub fn plan(arguments: &PlanArguments) -> anyhow::Result<ExitCode> {
    let PlanArguments { old, new, max_moved, format, socket } = arguments;
    refuse_standard_input_twice(old.iter().chain([new]))?;
    let before = match old {
        None => in_force(&socket.socket)?,
        Some(old) => match config::read(old) {
            Ok(loaded) => loaded.config,
            Err(error) => return refused(old, error),
        },
    };
    let after = match config::read_change(&before, new) {
        Ok(Loaded { config, warnings }) => {
            tell(&warnings.render(stderr_color()));
            config
        }
        Err(error) => return refused(new, error),
    };
    let change = Change::between(&before, &after);
    print(&match format {
        Format::Text => render(&change),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&as_json(&change)?)?),
    })?;
    let too_much = change.beyond(*max_moved);
    for listener in &too_much {
        tell(&format!("error: {listener}\n"));
    }
    if too_much.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    tell("help: change the weights in smaller steps, or allow more\n");
    Ok(ExitCode::from(COULD_NOT_RUN))
}

/// What the running agent has.
fn in_force(socket: &Path) -> anyhow::Result<Config> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    runtime.block_on(api::config(socket))
}

/// Shows the problems of a file.
pub fn refused(file: &Path, error: ReadError) -> anyhow::Result<ExitCode> {
    match error {
        ReadError::Problems(problems) => {
            tell(&problems.render(stderr_color()));
            tell(&format!("{}: {}\n", name_of(file), summary(&problems)));
            Ok(ExitCode::from(PROBLEM_FOUND))
        }
        ReadError::Io { source, .. } => Err(unreadable(file, &source)),
    }
}

pub fn as_json(change: &Change) -> anyhow::Result<Value> {
    let mut value = json!({ "changed": !change.is_empty() });
    if let (Value::Object(object), Value::Object(change)) = (&mut value, serde_json::to_value(change)?) {
        object.extend(change);
    }
    Ok(value)
}

pub fn render(change: &Change) -> String {
    if change.is_empty() {
        return "no change\n".into();
    }
    let mut text = String::new();
    if let Some(changed) = &change.needs_restart {
        text.push_str(&format!("load_balancer.{changed} changes, which needs a restart: a reload refuses it\n\n"));
    }
    for listener in &change.listeners {
        text.push_str(&render_listener(listener));
        text.push('\n');
    }
    let count = |kind| change.listeners.iter().filter(|listener| listener.change == kind).count();
    let [added, changed, removed] = [Kind::Added, Kind::Changed, Kind::Removed].map(count);
    text.push_str(&format!("listeners: {added} added, {changed} changed, {removed} removed\n"));
    text
}

fn render_listener(listener: &ListenerChange) -> String {
    let ListenerChange { name, vip, protocol, port, change, settings, backends, .. } = listener;
    let mut text = format!("{} {name}: {protocol} {}", sign(*change), SocketAddr::new(*vip, *port));
    let (moved, least) = (listener.moved_share * 100.0, listener.least_moved_share * 100.0);
    match (change, &listener.all_move_because) {
        (Kind::Added, _) => {}
        (Kind::Removed, _) => text.push_str(", its flows end"),
        (_, Some(because)) => text.push_str(&format!(", {because}: all flows may move")),
        _ => text.push_str(&format!(", {moved:.2} % of the slots move, {least:.2} % at least")),
    }
    text.push('\n');
    for setting in settings {
        text.push_str(&format!("    {}\n", render_setting(setting)));
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    for BackendChange { address, port, cvm, change, share_before, share_after, settings } in backends {
        let settings: Vec<_> = settings.iter().map(render_setting).collect();
        table.add_row([
            format!("  {} {}", sign(*change), SocketAddr::new(*address, *port)),
            cvm.clone(),
            format!("share {:.2} % -> {:.2} %", share_before * 100.0, share_after * 100.0),
            settings.join(", "),
        ]);
    }
    if !backends.is_empty() {
        text.push_str(&format!("{}\n", table.trim_fmt()));
    }
    text
}

fn render_setting(Setting { key, before, after }: &Setting) -> String {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    };
    format!("{key} {} -> {}", plain(before), plain(after))
}

fn sign(change: Kind) -> char {
    match change {
        Kind::Added => '+',
        Kind::Removed => '-',
        Kind::Changed => '~',
    }
}

pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "write a number from 0 to 100".into())
}
