//! The way back in `nat`: a backend's reply leaves with the VIP and the listener's port as its source.
//!
//! A packet for the host itself passes: the host may talk to its backends. No state of the connection is needed: the
//! backend's endpoint belongs to one listener, and the client's address is in the packet. The way to the client comes
//! from the routes that the agent mirrors, in `full_nat` too.

use clb_common::{Address, DropReason, Endpoint, ForwardingMode, NextHop, Reply, Report};

use crate::{
    count,
    family::Family,
    forward, fragment,
    link::{self, Link},
    maps,
    packet::{Offsets, Packet},
    parse::Headers,
    settings,
    transport::{self, Rewrite},
    verdict::Verdict,
};

/// Finds what a packet from this source is a reply of: the backend's index, and what its replies leave as.
#[inline(always)]
pub fn find(source: &Endpoint, offsets: Offsets) -> Option<(u32, &'static Reply)> {
    if settings::uses(ForwardingMode::Nat) { maps::reply(source, offsets) } else { None }
}

/// Sends a backend's reply to its client.
#[inline(always)]
pub fn to_client<F: Family>(
    packet: &Packet,
    headers: &Headers<F>,
    (backend, reply): (u32, &Reply),
) -> Result<Verdict, DropReason> {
    let client = headers.network.destination();
    let out = Outgoing { packet, link: headers.link, network: headers.network, client, backend };
    let Some(next_hop) = next_hop(&out)? else { return Ok(Verdict::Pass) };
    headers.check_lengths(packet)?;
    fragment::note_way_to_client(&out, headers, reply.vip);
    let network = packet.view_mut::<F>(headers.link.length()).ok_or(DropReason::TruncatedHeader)?;
    let change = network.set_source(reply.vip);
    let ports = Rewrite { source: Some(reply.port), destination: None };
    transport::rewrite(packet, headers.transport_offset, headers.protocol, ports, change)?;
    rewritten(&out, next_hop)
}

/// A packet that has its client.
pub struct Outgoing<'a, F> {
    pub packet: &'a Packet<'a>,
    pub link: Link,
    pub network: &'a F,
    pub client: Address,
    pub backend: u32,
}

/// The way to the client, if the packet fits it; none if the client is the host itself.
#[inline(always)]
pub fn next_hop<F: Family>(out: &Outgoing<F>) -> Result<Option<&'static NextHop>, DropReason> {
    let next_hop = maps::route(out.client).unwrap_or(&NextHop::UNRESOLVED);
    if next_hop.is_host() {
        return Ok(None);
    }
    if !next_hop.is_resolved() {
        maps::report(&Report::unresolved_client(out.client));
        return Err(DropReason::ClientUnresolved);
    }
    forward::check_size(out.network.total_length(), 0, next_hop)?;
    Ok(Some(next_hop))
}

/// Sends a packet whose addresses were rewritten.
#[inline(always)]
pub fn rewritten<F: Family>(out: &Outgoing<F>, next_hop: &NextHop) -> Result<Verdict, DropReason> {
    let Outgoing { packet, link, network, backend, .. } = *out;
    packet.view_mut::<F>(link.length()).ok_or(DropReason::TruncatedHeader)?.decrement_hop_limit()?;
    let length = forward::length(packet, network, &link);
    let verdict = link::forward(packet, &link, next_hop, F::ETHER_TYPE)?;
    count::replied(backend, length);
    Ok(verdict)
}
