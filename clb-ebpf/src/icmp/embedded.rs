//! The packet that an ICMP error quotes, of which there may be as little as its IP header and eight bytes.

use clb_common::{Address, Endpoint, Port, Protocol, checksum::Change};

use crate::{
    family::Family,
    packet::{HalfWord, Packet},
    parse::{self, Datagram, SHORTEST_TRANSPORT},
    transport::{self, Ports, ReadPorts as _, Rewrite},
};

/// A quoted TCP or UDP packet.
pub struct Embedded<'a, F> {
    network: &'a F,
    /// Where its IP header begins.
    offset: usize,
    transport_offset: usize,
    /// Where the message ends.
    end: usize,
    protocol: Protocol,
    source_port: Port,
    destination_port: Port,
}

impl<F: Family> Embedded<'_, F> {
    #[inline(always)]
    pub fn source(&self) -> Endpoint {
        Endpoint::new(F::VERSION, self.network.source(), self.protocol, self.source_port)
    }

    #[inline(always)]
    pub fn destination(&self) -> Endpoint {
        Endpoint::new(F::VERSION, self.network.destination(), self.protocol, self.destination_port)
    }
}

/// Reads the ports of a quoted packet.
#[inline(always)]
pub fn read<'a, F: Family>(
    packet: &Packet<'a>,
    offset: usize,
    quoted: &Datagram<'a, F>,
    end: usize,
) -> Option<Embedded<'a, F>> {
    let Datagram { network, ref payload } = *quoted;
    if payload.fragment.is_some_and(|fragment| !fragment.is_first) {
        return None;
    }
    let protocol = parse::protocol(payload.protocol)?;
    // RFC 792: at least so much is quoted. What stands behind the message is no part of it.
    if payload.offset + SHORTEST_TRANSPORT as usize > end {
        return None;
    }
    let ports = packet.view::<Ports>(payload.offset)?;
    Some(Embedded {
        network,
        offset,
        end,
        transport_offset: payload.offset,
        protocol,
        source_port: ports.source(),
        destination_port: ports.destination(),
    })
}

/// Makes a quoted packet what it was for whom the error is sent to. Returns what the error's own checksum must be patched
/// by.
#[inline(always)]
pub fn rewrite<F: Family>(
    packet: &Packet,
    embedded: &Embedded<F>,
    source: Option<&Endpoint>,
    destination: Option<&Endpoint>,
) -> Option<Change> {
    let network = packet.view_mut::<F>(embedded.offset)?;
    let checksum = network.checksum();
    let mut addresses = Change::default();
    let mut ports = Rewrite::default();
    if let Some(Endpoint { address, port, .. }) = source {
        addresses = addresses.and(set_source(network, address));
        ports.source = Some(*port);
    }
    if let Some(Endpoint { address, port, .. }) = destination {
        addresses = addresses.and(set_destination(network, address));
        ports.destination = Some(*port);
    }
    let all = addresses.half_word(checksum, network.checksum());

    let Embedded { transport_offset, protocol, end, .. } = *embedded;
    let ports = ports.apply(packet.view_mut(transport_offset)?);
    let all = all.and(ports);
    let checksum_offset = transport_offset + transport::checksum_offset(protocol);
    if checksum_offset + size_of::<HalfWord>() > end {
        return Some(all);
    }
    let field = packet.view_mut::<HalfWord>(checksum_offset)?;
    let before = field.0;
    let after = transport::patched(protocol, before, addresses.and(ports));
    *field = HalfWord(after);
    Some(all.half_word(before, after))
}

/// Rewrites an address in a function of its own, which keeps the words of IPv6 addresses off the caller's stack.
#[inline(never)]
pub fn set_source<F: Family>(network: &mut F, address: &Address) -> Change {
    network.set_source(*address)
}

/// Rewrites the other address likewise.
#[inline(never)]
pub fn set_destination<F: Family>(network: &mut F, address: &Address) -> Change {
    network.set_destination(*address)
}
