//! ICMP errors reach whom the quoted packet is from: the backend of a flow, or its client.
//!
//! An error must be for the address that the quoted packet is from, as every honest one is: so nobody can aim errors at a
//! backend but along a flow's own way. One about an outer header tells the agent what fits through the tunnel.

use clb_common::{DropReason, Endpoint, ForwardingMode, Report, Version, checksum::Change};

use super::{
    Header, Icmp,
    embedded::{self, Embedded, set_destination, set_source},
};
use crate::{
    count,
    forward::{self, Carried},
    link::Link,
    listener::{self, Found},
    maps,
    packet::{Offsets, Packet},
    parse::{self, Datagram},
    reply, select, settings, track,
    verdict::{Outcome, Verdict},
};

/// An error on its way.
struct Message<'a, F> {
    packet: &'a Packet<'a>,
    link: Link,
    datagram: &'a Datagram<'a, F>,
}

/// Forwards an error about a listener's flow. Others pass.
#[inline(always)]
pub fn forward<F: Icmp>(packet: &Packet, link: Link, datagram: &Datagram<F>) -> Result<Verdict, DropReason> {
    let message = Message { packet, link, datagram };
    let Some((quoted, embedded)) = message.quoted() else { return Ok(Verdict::Pass) };
    if let Some(embedded) = embedded {
        if let Some(listener) = listener::find(&embedded.source(), Offsets::Variable) {
            let length = packet.whole_length();
            return count::unless_sent(listener.index, length, message.to_backend(&embedded, &listener, length));
        }
        if way_to_client(&embedded).is_some() {
            return Ok(Verdict::Continue(F::ERROR_TO_CLIENT_STAGE));
        }
    }
    message.report_path_mtu(&quoted);
    Ok(Verdict::Pass)
}

/// Forwards an error about a backend's packet to the client. Both ways in one program would be more than its stack holds.
#[inline(always)]
pub fn forward_to_client<F: Icmp>(packet: &Packet, link: Link, datagram: &Datagram<F>) -> Result<Verdict, DropReason> {
    let message = Message { packet, link, datagram };
    let Some((_, Some(embedded))) = message.quoted() else { return Ok(Verdict::Pass) };
    let Some(way) = way_to_client(&embedded) else { return Ok(Verdict::Pass) };
    message.to_client(&embedded, &way)
}

/// Where a packet for a backend came from, and where it went.
struct WayToClient {
    client: Endpoint,
    vip: Endpoint,
    backend: u32,
}

#[inline(always)]
fn way_to_client<F: Icmp>(embedded: &Embedded<F>) -> Option<WayToClient> {
    if let Some((backend, reply)) = reply::find(&embedded.destination(), Offsets::Variable) {
        let vip = embedded.destination().with(reply.vip, reply.port);
        return Some(WayToClient { client: embedded.source(), vip, backend });
    }
    let back = forward::full_nat::way_back(&embedded.source(), &embedded.destination())?;
    let vip = embedded.destination().with(back.vip, back.port);
    Some(WayToClient { client: back.flow.client, vip, backend: back.backend })
}

impl<'a, F: Icmp> Message<'a, F> {
    /// The quoted packet, with its ports if it has any.
    #[inline(always)]
    fn quoted(&self) -> Option<(Datagram<'a, F>, Option<Embedded<'a, F>>)> {
        let Self { packet, link, datagram } = *self;
        let offset = datagram.payload.offset + size_of::<Header>();
        let quoted = parse::quoted::<F>(packet, offset)?;
        let end = link.length() + datagram.network.total_length() as usize;
        if quoted.source() != datagram.destination() {
            return None;
        }
        let embedded = embedded::read(packet, offset, &quoted, end);
        Some((quoted, embedded))
    }

    /// The quoted packet is from a VIP: its backend made it.
    #[inline(always)]
    fn to_backend(&self, embedded: &Embedded<F>, listener: &Found, length: u32) -> Outcome {
        let Self { packet, link, datagram } = *self;
        self.check_length()?;
        let client = embedded.destination();
        let hash = F::flow_hash(&settings::flow_hash(), client.address, client.port);
        let flow = if settings::is(listener.table, ForwardingMode::FullNat) {
            Some(forward::full_nat::flow(client, listener.index).ok_or(DropReason::UnknownFlow)?)
        } else {
            None
        };
        let selected = match flow {
            Some(flow) => select::at(flow.backend)?,
            None => select::backend(listener, hash, || client, || Ok(track::ONLY_LOOKS))?,
        };
        let network = datagram.network;
        let out =
            forward::Outgoing { packet, length, link, network, listener, selected, hash, carried: Carried::Other };
        if forward::keeps_packets(listener) {
            return forward::as_it_came(&out);
        }
        let next_hop = forward::next_hop(&out, 0)?;
        let backend = selected.backend;
        let source = embedded.source().with(backend.address, backend.port);
        let destination = flow.map(|flow| client.with(flow.source, flow.port));
        let quoted = embedded::rewrite::<F>(packet, embedded, Some(&source), destination.as_ref());
        let network = packet.view_mut::<F>(link.length()).ok_or(DropReason::TruncatedHeader)?;
        let mut addresses = set_destination(network, &backend.address);
        if let Some(flow) = flow {
            addresses = addresses.and(set_source(network, &flow.source));
        }
        self.patch(quoted, addresses)?;
        forward::rewritten(&out, next_hop)
    }

    /// The quoted packet is for a backend: a client made it.
    #[inline(always)]
    fn to_client(&self, embedded: &Embedded<F>, way: &WayToClient) -> Result<Verdict, DropReason> {
        let Self { packet, link, datagram } = *self;
        let WayToClient { client, vip, backend } = way;
        let out =
            reply::Outgoing { packet, link, network: datagram.network, client: client.address, backend: *backend };
        let is_from_backend = datagram.source() == embedded.destination().address;
        let Some(next_hop) = reply::next_hop(&out)? else { return Ok(Verdict::Pass) };
        self.check_length()?;
        let quoted = embedded::rewrite::<F>(packet, embedded, Some(client), Some(vip));
        let network = packet.view_mut::<F>(link.length()).ok_or(DropReason::TruncatedHeader)?;
        let mut addresses = set_destination(network, &client.address);
        if is_from_backend {
            addresses = addresses.and(set_source(network, &vip.address));
        }
        self.patch(quoted, addresses)?;
        reply::rewritten(&out, next_hop)
    }

    /// Patches the message's checksum for what became of the quoted packet and of the message's own addresses.
    #[inline(always)]
    fn patch(&self, quoted: Option<Change>, addresses: Change) -> Result<(), DropReason> {
        let Self { packet, datagram, .. } = *self;
        let quoted = quoted.ok_or(DropReason::TruncatedHeader)?;
        let change = match F::VERSION {
            Version::V4 => quoted,
            // RFC 4443, section 2.3: the checksum covers a pseudo-header.
            Version::V6 => quoted.and(addresses),
        };
        let header = packet.view_mut::<Header>(datagram.payload.offset).ok_or(DropReason::TruncatedHeader)?;
        header.check = change.apply(u16::from_ne_bytes(header.check)).to_ne_bytes();
        Ok(())
    }

    /// A router on the way to a backend cannot forward what clb sent in a tunnel.
    #[inline(always)]
    fn report_path_mtu(&self, quoted: &Datagram<F>) {
        let Self { packet, datagram, .. } = *self;
        let is_tunnel = settings::uses(ForwardingMode::Ipip) || settings::uses(ForwardingMode::Gue);
        if !is_tunnel || !F::is_tunnel_source(quoted.source()) {
            return;
        }
        let mtu = packet.view::<Header>(datagram.payload.offset).and_then(|header| F::path_mtu(*header));
        if let Some(mtu) = mtu {
            maps::report(&Report::path_mtu(quoted.destination(), mtu));
        }
    }

    #[inline(always)]
    fn check_length(&self) -> Result<(), DropReason> {
        let Self { packet, link, datagram } = *self;
        if link.length() as u32 + datagram.network.total_length() > packet.whole_length() {
            return Err(DropReason::TruncatedPacket);
        }
        Ok(())
    }
}
