//! `full_nat`: both ends are rewritten, so that a backend needs no change and no route of its own, and answers wherever it
//! is. The only mode with a memory: a flow is remembered from its first packet on.
//!
//! A new flow takes the next address and port of its CPU's part of the pool, so CPUs do not contend. What is taken already
//! is seen when the way back is written, and the next one is tried.

use clb_common::{DropReason, Endpoint, FIRST_POOL_PORT, Flow, FlowKey, ForwardingMode, Port, Return, ReturnKey, Seen};

use super::{Carried, Outgoing, length, next_hop, rewritten};
use crate::{
    count,
    family::Family,
    fragment,
    listener::Found,
    maps::{self, Inserted},
    packet::Packet,
    parse::Headers,
    reply,
    select::{self, Selected},
    settings,
    transport::{self, Rewrite},
    verdict::{Outcome, Verdict},
};

/// Sends a client's packet to the backend of its flow.
#[inline(always)]
pub fn to_backend<F: Family>(packet: &Packet, headers: &Headers<F>, listener: &Found) -> Outcome {
    let length = length(packet, headers.network, &headers.link);
    count::unless_sent(listener.index, length, send(packet, headers, listener, length))
}

#[inline(always)]
fn send<F: Family>(packet: &Packet, headers: &Headers<F>, listener: &Found, length: u32) -> Outcome {
    headers.check_lengths(packet)?;
    let hash = headers.flow_hash();
    let key = FlowKey::new(headers.source(), listener.index);
    let seen = Seen { tick: maps::tick(), marks: headers.marks(packet)? };
    let flow = match maps::flow(&key, seen) {
        Some(flow) => *flow,
        None => remember(headers, listener, hash, key, seen)?,
    };
    let selected = select::at(flow.backend)?;
    let (link, network) = (headers.link, headers.network);
    let out = Outgoing { packet, length, link, network, listener, selected, hash, carried: Carried::Other };
    fragment::note_way_to_backend(&out, headers, flow.source, selected.backend.address);
    let next_hop = next_hop(&out, 0)?;
    let backend = selected.backend;
    let network = packet.view_mut::<F>(headers.link.length()).ok_or(DropReason::TruncatedHeader)?;
    let change = network.set_destination(backend.address).and(network.set_source(flow.source));
    let ports = Rewrite { source: Some(flow.port), destination: Some(backend.port) };
    transport::rewrite(packet, headers.transport_offset, headers.protocol, ports, change)?;
    rewritten(&out, next_hop)
}

/// Makes an entry for a new flow, in both directions.
#[inline(always)]
fn remember<F: Family>(
    headers: &Headers<F>,
    listener: &Found,
    hash: u32,
    key: FlowKey,
    seen: Seen,
) -> Result<Flow, DropReason> {
    let Selected { index, backend } = select::newest(listener, hash)?;
    let pool = maps::POOL.get(0).ok_or(DropReason::InconsistentMaps)?;
    let (first, addresses) = pool.addresses(F::VERSION);
    if addresses == 0 {
        return Err(DropReason::SourcePortsExhausted);
    }
    let mut attempt = 0;
    while attempt < MOST_ATTEMPTS {
        attempt += 1;
        let number = maps::next_source();
        let source = *maps::SOURCES.get(first + number % addresses).ok_or(DropReason::InconsistentMaps)?;
        let port = Port::new(FIRST_POOL_PORT + (number / addresses % POOL_PORTS) as u16);
        let flow = Flow::new(source, port, index, seen);
        if !settings::records() {
            return Ok(flow);
        }
        let way_back =
            ReturnKey::new(Endpoint::new(F::VERSION, source, headers.protocol, port), backend.address, backend.port);
        let back = Return::new(
            key,
            headers.network.destination(),
            headers.destination_port,
            index,
            Seen { tick: seen.tick, marks: 0 },
        );
        match maps::insert_return(&way_back, &back) {
            Inserted::Yes => return finish(&key, flow, &way_back),
            Inserted::Taken => {}
            Inserted::Full => return Err(DropReason::FlowTableFull),
        }
    }
    Err(DropReason::SourcePortsExhausted)
}

/// Another CPU may have been faster with another packet of the flow: then its entry holds.
#[inline(always)]
fn finish(key: &FlowKey, flow: Flow, way_back: &ReturnKey) -> Result<Flow, DropReason> {
    match maps::insert_flow(key, &flow) {
        Inserted::Yes => Ok(flow),
        Inserted::Taken => {
            maps::remove_return(way_back);
            maps::flow(key, flow.seen).copied().ok_or(DropReason::FlowTableFull)
        }
        Inserted::Full => {
            maps::remove_return(way_back);
            Err(DropReason::FlowTableFull)
        }
    }
}

/// The flow that a backend's packet belongs to.
#[inline(always)]
pub fn back<F: Family>(packet: &Packet, headers: &Headers<F>) -> Option<&'static Return> {
    let key = ReturnKey::new(headers.destination(), headers.network.source(), headers.source_port);
    // One that ends too early is dropped when it is known to be a backend's.
    let marks = transport::marks(packet, headers.transport_offset, headers.protocol).unwrap_or(0);
    maps::way_back(&key, Seen { tick: maps::tick(), marks })
}

/// Sends a backend's packet back to the client of its flow.
#[inline(always)]
pub fn to_client<F: Family>(packet: &Packet, headers: &Headers<F>, back: &Return) -> Result<Verdict, DropReason> {
    let Endpoint { address: client, port, .. } = back.flow.client;
    let out = reply::Outgoing { packet, link: headers.link, network: headers.network, client, backend: back.backend };
    let Some(next_hop) = reply::next_hop(&out)? else { return Ok(Verdict::Pass) };
    headers.check_lengths(packet)?;
    fragment::note_way_to_client(&out, headers, back.vip);
    let network = packet.view_mut::<F>(headers.link.length()).ok_or(DropReason::TruncatedHeader)?;
    let change = network.set_source(back.vip).and(network.set_destination(client));
    let ports = Rewrite { source: Some(back.port), destination: Some(port) };
    transport::rewrite(packet, headers.transport_offset, headers.protocol, ports, change)?;
    reply::rewritten(&out, next_hop)
}

/// The flow between a client and a listener, if there is one.
#[inline(always)]
pub fn flow(client: Endpoint, listener: u32) -> Option<&'static Flow> {
    maps::look_at_flow(&FlowKey::new(client, listener))
}

/// The way back of what a source of the pool sent to a backend.
#[inline(always)]
pub fn way_back(source: &Endpoint, backend: &Endpoint) -> Option<&'static Return> {
    if !settings::uses(ForwardingMode::FullNat) {
        return None;
    }
    maps::look_at_return(&ReturnKey::new(*source, backend.address, backend.port))
}

/// So many ports that are taken stop the search.
const MOST_ATTEMPTS: u32 = 16;
const POOL_PORTS: u32 = u16::MAX as u32 + 1 - FIRST_POOL_PORT as u32;
