//! `clb drain` and `clb undrain`: backends that get no new flows for a while.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    COULD_NOT_RUN, PROBLEM_FOUND, SocketArgument, print, tell,
    wait::{self, Waited},
};
use crate::{
    api::{self, Drained, DrainedBackend, FlowsLeft, NoBackend},
    config::parse_duration,
    drain::Drain,
};

/// Give a backend no new connections, until `clb undrain`
///
/// The backends with this private IP, in all listeners and with every port or only this one, count as if their weight were 0: when
/// this returns, no new TCP connection reaches them. Connections that are open stay. UDP has no sign of a new flow, so as long as
/// the listener's `drain` lasts, new ones may still go there. A drain outlasts reloads and the agent.
///
/// `--wait` returns when no flow is left: the backend may be stopped. A reload that unbinds it leaves it drained, for the time
/// when it is bound again; `clb status` lists all drains.
///
/// Exit status: 0 drained, also if it was before, and with `--wait` empty; 1 there is no such backend; 2 flows were left at the end
/// of `--timeout`, or no agent answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb drain 10.0.1.11 --wait --timeout 10m")]
pub struct DrainArguments {
    /// The private IP, with a port or with every one; an IPv6 address with a port in brackets
    #[arg(value_name = "ADDRESS[:PORT]")]
    backend: Drain,
    /// Wait until no flow is left
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this, such as `90s` or `10m`
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = duration)]
    timeout: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

/// Give a drained backend its share again
///
/// The slots become what they were before. Without a port, this ends every drain of the address.
///
/// Exit status: 0 it is not drained, also if it was not before; 1 there is no such backend; 2 no agent answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb undrain 10.0.1.11")]
pub struct UndrainArguments {
    /// The private IP, with a port or with every one; an IPv6 address with a port in brackets
    #[arg(value_name = "ADDRESS[:PORT]")]
    backend: Drain,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub fn drain(arguments: &DrainArguments) -> anyhow::Result<ExitCode> {
    let DrainArguments { backend, wait, timeout, json, socket } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    let drained = match runtime.block_on(api::drain(&socket.socket, *backend))? {
        Ok(drained) => drained,
        Err(error) => return refused(&error, *json),
    };
    if !json {
        show(&drained)?;
    }
    let waited =
        if *wait { Some(runtime.block_on(wait::until_empty(&socket.socket, *backend, *timeout))?) } else { None };
    if *json {
        print_json(&as_json(&drained, waited.as_ref())?)?;
    }
    match waited {
        Some(Waited { is_empty: false, seconds, flows }) => {
            tell(&format!(
                "error: after {seconds:.0} s, {}\nhelp: {backend} stays drained: the same command waits on; or stop it, if its connections may break\n",
                still(flows)
            ));
            Ok(ExitCode::from(COULD_NOT_RUN))
        }
        Some(_) if !json => {
            print(&format!("{backend} is empty\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

pub fn undrain(arguments: &UndrainArguments) -> anyhow::Result<ExitCode> {
    let UndrainArguments { backend, json, socket } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    match runtime.block_on(api::undrain(&socket.socket, *backend))? {
        Ok(drained) if *json => print_json(&as_json(&drained, None)?)?,
        Ok(drained) => show(&drained)?,
        Err(error) => return refused(&error, *json),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is left of a backend, in a few words.
pub fn render_left(left: &FlowsLeft) -> String {
    match *left {
        FlowsLeft { is_empty: true, .. } => "no flow is left".to_owned(),
        FlowsLeft { flows, drain_seconds: Some(seconds), .. } => {
            format!("{} known, drain ends in {}", flows_of(flows), roughly(seconds))
        }
        FlowsLeft { flows: 0, .. } => "its flows are being counted".to_owned(),
        FlowsLeft { flows, .. } => format!("{} left", flows_of(flows)),
    }
}

fn still(flows: u64) -> String {
    if flows == 0 { "flows may be left that had no packet yet".to_owned() } else { format!("{} left", flows_of(flows)) }
}

fn flows_of(number: u64) -> String {
    if number == 1 { "1 flow".to_owned() } else { format!("{number} flows") }
}

fn roughly(seconds: f64) -> String {
    if seconds < 120.0 { format!("{:.0} s", seconds.ceil()) } else { format!("{:.0} min", (seconds / 60.0).round()) }
}

fn show(drained: &Drained) -> anyhow::Result<()> {
    for warning in &drained.warnings {
        tell(&format!("warning: {warning}\n"));
    }
    print(&render(drained))
}

fn render(Drained { asked, drained, changed, backends, warnings: _ }: &Drained) -> String {
    let mut text = match (drained, changed) {
        (true, true) => format!("{asked} is drained\n"),
        (true, false) => format!("{asked} was drained already\n"),
        (false, true) => format!("{asked} is not drained any more\n"),
        (false, false) => format!("{asked} was not drained\n"),
    };
    for DrainedBackend { listener, protocol, address, port, share, left } in backends {
        let backend = SocketAddr::new(*address, *port);
        let state = if *drained { render_left(left) } else { format!("share {:.2} %", share * 100.0) };
        text.push_str(&format!("  {listener}: {protocol} {backend}, {state}\n"));
    }
    text
}

fn as_json(drained: &Drained, waited: Option<&Waited>) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(drained)?;
    if let (Value::Object(object), Some(Waited { is_empty, seconds, flows })) = (&mut value, waited) {
        object.insert("waited".to_owned(), json!({ "is_empty": is_empty, "seconds": seconds, "flows": flows }));
    }
    Ok(value)
}

fn refused(NoBackend(error): &NoBackend, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&json!({ "changed": false, "error": error }))?;
    } else {
        tell(&format!("error: {error}\n"));
    }
    Ok(ExitCode::from(PROBLEM_FOUND))
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a time with its unit: 90s, 10m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_in_words() {
        let left = |flows, drain_seconds, is_empty| FlowsLeft { flows, drain_seconds, is_empty };
        for (left, words) in [
            (left(0, Some(299.5), false), "0 flows known, drain ends in 5 min"),
            (left(0, Some(302.0), false), "0 flows known, drain ends in 5 min"),
            (left(1, Some(61.2), false), "1 flow known, drain ends in 62 s"),
            (left(12, None, false), "12 flows left"),
            (left(0, None, false), "its flows are being counted"),
            (left(0, None, true), "no flow is left"),
        ] {
            assert_eq!(render_left(&left), words);
        }
    }
}
