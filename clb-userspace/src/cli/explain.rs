//! `clb explain`: what would become of a packet.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use super::{PROBLEM_FOUND, SocketArgument, check::summary, name_of, print, stderr_color, tell, unreadable};
use crate::{
    api::{self, BoundBackend, Ending, Explanation, Question},
    config::{self, ReadError},
    control,
};

/// Show what becomes of a packet, without sending it
///
/// Runs the loaded program itself on the first packet of such a flow: a TCP segment that opens a connection, or a UDP
/// datagram. Nothing is sent, counted or remembered. Prints the listener, the slot, the backend with its next hop, and the
/// headers as they go over the wire; or why the packet is dropped or passes.
///
/// Exit status: 0 the packet is sent or passes, 1 it is dropped, or the file has errors, 2 the command could not run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb explain --protocol tcp --from 198.51.100.7:40000 --to 203.0.113.10:80")]
pub struct ExplainArguments {
    /// The packet's protocol
    #[arg(long, value_parser = ["tcp", "udp"], value_name = "PROTOCOL")]
    protocol: String,
    /// The client's address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    from: SocketAddr,
    /// The address and port that it connects to; an IPv6 address in brackets
    #[arg(long, value_name = "VIP:PORT")]
    to: SocketAddr,
    /// How many bytes the packet carries
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=3_000))]
    payload: u16,
    /// Ask no agent: load this configuration into a program that is attached to nothing
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub fn explain(arguments: ExplainArguments) -> anyhow::Result<ExitCode> {
    let ExplainArguments { protocol, from, to, payload, config: file, json, socket } = arguments;
    let question = Question { protocol, from, to, payload };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    let explanation = match file {
        None => runtime.block_on(api::explain(&socket.socket, &question))?,
        Some(file) => match config::read(&file) {
            Ok(loaded) => runtime.block_on(control::explain_without_agent(&loaded.config, question))?,
            Err(ReadError::Problems(problems)) => {
                tell(&problems.render(stderr_color()));
                tell(&format!("{}: {}\n", name_of(&file), summary(&problems)));
                return Ok(ExitCode::from(PROBLEM_FOUND));
            }
            Err(ReadError::Io { source, .. }) => return Err(unreadable(&file, &source)),
        },
    };
    let text = if json { format!("{}\n", serde_json::to_string_pretty(&explanation)?) } else { render(&explanation) };
    print(&text)?;
    let is_dropped = matches!(explanation.ending, Ending::Dropped | Ending::Answered);
    Ok(if is_dropped { ExitCode::from(PROBLEM_FOUND) } else { ExitCode::SUCCESS })
}

fn render(explanation: &Explanation) -> String {
    let Explanation { packet, ending, reason, help, listener, mode, slot, slots, backend, headers } = explanation;
    let mut lines = vec![("packet", format!("{} {} -> {}", packet.protocol, packet.from, packet.to))];
    if let (Some(listener), Some(mode)) = (listener, mode) {
        lines.push(("listener", format!("{listener}, {mode}")));
    }
    if let (Some(slot), Some(slots)) = (slot, slots) {
        lines.push(("slot", format!("{slot} of {slots}")));
    }
    if let Some(BoundBackend { address, port, kind, cvm, weight, next_hop }) = backend {
        let endpoint = SocketAddr::new(*address, *port);
        lines.push(("backend", format!("{endpoint}, bound as {kind} of {cvm}, weight {weight}")));
        lines.push(("next hop", next_hop.clone()));
    }
    let reason = reason.as_deref().unwrap_or_default();
    match ending {
        Ending::Passed => lines.push(("passes", "to the host: it is for no listener, or the host's own".to_owned())),
        Ending::Sent => {}
        Ending::Dropped => lines.push(("dropped", reason.to_owned())),
        Ending::Answered => lines.push(("dropped", format!("{reason}, and the sender is told:"))),
    }
    let mut what = "sent as";
    for header in headers {
        lines.push((what, header.clone()));
        what = "";
    }
    if let Some(help) = help {
        lines.push(("help", help.clone()));
    }
    lines.iter().fold(String::new(), |shown, (what, text)| shown + &format!("{what:<10}{text}\n"))
}
