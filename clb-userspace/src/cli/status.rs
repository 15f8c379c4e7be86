//! `clb status`: what the running agent balances.

use std::process::ExitCode;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::{StatusArguments, drain::render_left, print};
use crate::{
    api::{self, BackendStatus, DrainStatus, LeavingStatus, ListenerStatus, NextHopState, Status},
    drain::Drain,
    health::Verdict,
};

pub fn status(arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    let StatusArguments { json, socket } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    let status = runtime.block_on(api::status(&socket.socket))?;
    print(&if *json { format!("{}\n", serde_json::to_string_pretty(&status)?) } else { render(&status) })?;
    Ok(ExitCode::SUCCESS)
}

fn render(status: &Status) -> String {
    let Status { load_balancer, interfaces, passed, answered, flows, pins, source_addresses, .. } = status;
    let Status { events, drops, listeners, drains, reloads, .. } = status;
    let mut text = format!("{load_balancer}\n");
    for interface in interfaces {
        text.push_str(&format!("  {} {} ({})\n", interface.name, interface.mode, interface.reason));
    }
    if let Some(because) = &reloads.last_refused_because {
        let because = because.lines().next().unwrap_or_default();
        text.push_str(&format!(
            "  {} stays in force, another configuration was refused: {because}\n",
            reloads.in_force
        ));
    }
    for listener in listeners {
        text.push_str(&render_listener(listener));
    }
    for DrainStatus { address, port, .. } in drains.iter().filter(|drain| drain.backends == 0) {
        let drain = Drain { address: *address, port: *port };
        text.push_str(&format!("\n{drain} is drained, and no listener has it: `clb undrain {drain}` forgets that\n"));
    }
    let dropped: u64 = drops.values().sum();
    if *source_addresses > 0 {
        text.push_str(&format!("\nfull_nat: {flows} flows, addresses of the pool: {source_addresses}\n"));
    }
    if *pins > 0 {
        text.push_str(&format!("\n{pins} flows are pinned to their backends, since their slots have other owners\n"));
    }
    text.push_str(&format!("\npassed {passed}  answered {answered}  dropped {dropped}\n"));
    for (what, times) in drops.iter().chain(events).filter(|&(_, &times)| times > 0) {
        text.push_str(&format!("  {times:>12} {what}\n"));
    }
    text
}

fn render_listener(listener: &ListenerStatus) -> String {
    let ListenerStatus {
        name,
        vip,
        protocol,
        port,
        mode,
        packets,
        bytes,
        moving_slots,
        settling_slots,
        backends,
        leaving,
    } = listener;
    let vip = std::net::SocketAddr::new(*vip, *port);
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "", "backend", "bound as", "weight", "health", "share", "packets", "bytes", "replies", "next hop",
    ]);
    for backend in backends {
        let BackendStatus { address, port, kind, cvm, weight, share, packets, bytes, reply_packets, health, .. } =
            backend;
        let next_hop = &backend.next_hop;
        table.add_row([
            match next_hop.state {
                NextHopState::Resolved => String::new(),
                NextHopState::Unresolved => "!".to_owned(),
            },
            std::net::SocketAddr::new(*address, *port).to_string(),
            format!("{kind} of {cvm}"),
            weight.to_string(),
            health.as_ref().map_or("", |health| health.verdict.name()).to_owned(),
            format!("{:.2} %", share * 100.0),
            packets.to_string(),
            bytes.to_string(),
            reply_packets.to_string(),
            next_hop.detail.clone(),
        ]);
    }
    for number in [3, 5, 6, 7, 8] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("\n{name}: {protocol} {vip} {mode}, {packets} packets, {bytes} bytes\n{table}\n");
    if moving_slots + settling_slots > 0 {
        text.push_str(&format!("  slots with another owner: {moving_slots} moving, {settling_slots} settling\n"));
    }
    for backend in backends.iter().filter(|backend| backend.drained) {
        let address = std::net::SocketAddr::new(backend.address, backend.port);
        text.push_str(&format!("  {address} is drained: {}\n", render_left(&backend.left)));
    }
    for backend in backends {
        let Some(health) = &backend.health else { continue };
        let address = std::net::SocketAddr::new(backend.address, backend.port);
        if health.verdict == Verdict::Unhealthy {
            let held = if health.is_flapping { ", and held back for changing too often" } else { "" };
            let cause = health.cause.as_deref().unwrap_or_default();
            text.push_str(&format!("  {address} is unhealthy{held}: {cause}\n"));
        }
        if let Some(problem) = &health.not_asked {
            text.push_str(&format!("  {address} could not be checked, its verdict stays: {problem}\n"));
        }
    }
    for LeavingStatus { address, port, packets, pins } in leaving {
        let address = std::net::SocketAddr::new(*address, *port);
        text.push_str(&format!("  {address} is bound no more: {packets} packets, {pins} flows pinned to it\n"));
    }
    text
}
