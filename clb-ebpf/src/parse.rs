//! Stage 1: from bytes to a flow. What is not a whole TCP or UDP header over IP is nobody's listener.

use clb_common::{Endpoint, Port, Protocol};
use network_types::eth::EthHdr;

use crate::{family::Family, packet::Packet, settings, transport::Ports};

/// The headers that the stages need, found once.
pub struct Headers<'a, F> {
    pub network: &'a F,
    pub protocol: Protocol,
    pub source_port: Port,
    pub destination_port: Port,
    /// Where the TCP or UDP header begins in the packet.
    pub transport_offset: usize,
    /// The packet is the first fragment of a datagram.
    pub is_fragment: bool,
}

impl<F: Family> Headers<'_, F> {
    #[inline(always)]
    pub fn source(&self) -> Endpoint {
        Endpoint::new(F::VERSION, self.network.source(), self.protocol, self.source_port)
    }

    #[inline(always)]
    pub fn destination(&self) -> Endpoint {
        Endpoint::new(F::VERSION, self.network.destination(), self.protocol, self.destination_port)
    }

    #[inline(always)]
    pub fn flow_hash(&self) -> u32 {
        self.network.flow_hash(&settings::flow_hash(), self.source_port)
    }
}

/// Finds the headers, or nothing if the packet has no TCP or UDP ports.
#[inline(always)]
pub fn headers<'a, F: Family>(packet: &Packet<'a>) -> Option<Headers<'a, F>> {
    let network = packet.view::<F>(IP_OFFSET)?;
    let payload = network.payload()?;
    let protocol = if payload.protocol == Protocol::Tcp as u8 {
        Protocol::Tcp
    } else if payload.protocol == Protocol::Udp as u8 {
        Protocol::Udp
    } else {
        return None;
    };
    let transport_offset = IP_OFFSET + payload.offset;
    let ports = packet.view::<Ports>(transport_offset)?;
    Some(Headers {
        network,
        protocol,
        source_port: ports.source(),
        destination_port: ports.destination(),
        transport_offset,
        is_fragment: payload.is_fragment,
    })
}

/// The IP header stands behind the Ethernet header.
pub const IP_OFFSET: usize = EthHdr::LEN;
