//! The way back in `nat`: a backend's reply leaves with the VIP and the listener's port as its source.
//!
//! A packet for the host itself passes: the host may talk to its backends. No state of the connection is needed: the backend's endpoint belongs to one listener, and the client's address is in
//! the packet. The way to the client comes from the routes that the agent mirrors.

use clb_common::{DropReason, NextHop, Reply};

use crate::{
    count,
    family::Family,
    forward, maps,
    packet::Packet,
    parse::{Headers, IP_OFFSET},
    transport::{self, End},
    verdict::Verdict,
};

/// Finds what a packet from this source is a reply of.
#[inline(always)]
pub fn find<F: Family>(headers: &Headers<F>) -> Option<Reply> {
    maps::reply(&headers.source())
}

/// Sends a backend's reply to its client.
#[inline(always)]
pub fn to_client<F: Family>(packet: &Packet, headers: &Headers<F>, reply: Reply) -> Result<Verdict, DropReason> {
    let Headers { protocol, transport_offset, network, .. } = *headers;
    let client = network.destination();
    let next_hop = maps::route(client).unwrap_or(&NextHop::UNRESOLVED);
    if next_hop.is_host() {
        return Ok(Verdict::Pass);
    }
    if headers.is_fragment {
        return Err(DropReason::Fragment);
    }
    if !next_hop.is_resolved() {
        maps::report_unresolved(client);
        return Err(DropReason::ClientUnresolved);
    }
    forward::check_size(packet, next_hop)?;
    let network = packet.view_mut::<F>(IP_OFFSET).ok_or(DropReason::MalformedHeader)?;
    network.decrement_hop_limit()?;
    let change = network.set_source(reply.vip);
    transport::rewrite_port(packet, transport_offset, protocol, End::Source, reply.port, change)?;
    count::replied(reply.backend, packet.length());
    Ok(packet.send(next_hop))
}
