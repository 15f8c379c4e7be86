//! Stage 4: the packet as its backend's forwarding mode wants it, on its way to the next hop.

use clb_common::{Backend, DropReason, ForwardingMode, NextHop};
use network_types::eth::EthHdr;

use crate::{
    count,
    family::Family,
    packet::Packet,
    parse::{Headers, IP_OFFSET},
    select::Selected,
    transport::{self, End},
    verdict::Verdict,
};

/// Sends a client's packet to its backend.
#[inline(always)]
pub fn to_backend<F: Family>(
    packet: &Packet,
    headers: &Headers<F>,
    selected: &Selected,
) -> Result<Verdict, DropReason> {
    let Selected { index, backend } = *selected;
    let next_hop = backend.next_hop.current();
    if !next_hop.is_resolved() {
        return Err(DropReason::NextHopUnresolved);
    }
    check_size(packet, next_hop)?;
    match backend.mode() {
        ForwardingMode::Dsr => {}
        ForwardingMode::Nat => nat(packet, headers, backend)?,
    }
    count::forwarded(index, packet.length());
    Ok(packet.send(next_hop))
}

/// Whether a packet fits the link to its next hop.
#[inline(always)]
pub fn check_size(packet: &Packet, next_hop: &NextHop) -> Result<(), DropReason> {
    if packet.length() - EthHdr::LEN as u64 > u64::from(next_hop.mtu) {
        return Err(DropReason::PacketTooBig);
    }
    Ok(())
}

/// Rewrites the destination to the backend's address and port.
#[inline(always)]
fn nat<F: Family>(packet: &Packet, headers: &Headers<F>, backend: &Backend) -> Result<(), DropReason> {
    let Headers { protocol, transport_offset, .. } = *headers;
    let network = packet.view_mut::<F>(IP_OFFSET).ok_or(DropReason::MalformedHeader)?;
    network.decrement_hop_limit()?;
    let change = network.set_destination(backend.address);
    transport::rewrite_port(packet, transport_offset, protocol, End::Destination, backend.port, change)
}
