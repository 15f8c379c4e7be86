//! Stage 1: from bytes to a flow.
//!
//! `plain` reads what nearly all packets are, and nothing else: no tags, no options, no fragments, all offsets constant.
//! What it refuses is walked over by another program, and then read by `transport`. The stages behind do not see the
//! difference. What has no TCP or UDP ports is nobody's listener.

use clb_common::{Address, DropReason, Endpoint, NOBODY, Port, Protocol, Stage};
use network_types::eth::EthHdr;

use crate::{
    family::{Family, V4, V6},
    link::{self, Link},
    maps,
    packet::Packet,
    settings,
    transport::{self, Ports, ReadPorts as _},
};

/// The headers that the stages need, found once.
pub struct Headers<'a, F> {
    pub link: Link,
    pub network: &'a F,
    pub protocol: Protocol,
    pub source_port: Port,
    pub destination_port: Port,
    /// Where the TCP or UDP header begins in the packet.
    pub transport_offset: usize,
    /// The packet is the first fragment of a datagram.
    pub fragment: Option<Fragment>,
    /// Nothing stands between the IP header and the transport header.
    pub is_plain: bool,
    /// What the IP header says of lengths was compared with what there is.
    pub lengths_checked: bool,
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
        F::flow_hash(&settings::flow_hash(), self.network.source(), self.source_port)
    }

    /// What the packet shows of its flow.
    #[inline(always)]
    pub fn marks(&self, packet: &Packet) -> Result<u32, DropReason> {
        transport::marks(packet, self.transport_offset, self.protocol)
    }

    /// Refuses a packet that is shorter than it says.
    #[inline(always)]
    pub fn check_lengths(&self, packet: &Packet) -> Result<(), DropReason> {
        if self.lengths_checked {
            return Ok(());
        }
        let link_length = self.link.length() as u32;
        let length = link_length + self.network.total_length();
        if length > packet.linear_length() && length > packet.whole_length() {
            return Err(DropReason::TruncatedPacket);
        }
        if length < self.transport_offset as u32 + transport::header_length(self.protocol) {
            return Err(DropReason::TruncatedHeader);
        }
        Ok(())
    }
}

/// A part of a datagram.
#[derive(Clone, Copy)]
pub struct Fragment {
    /// What it has in common with the other parts.
    pub identification: u32,
    /// It begins with the transport header.
    pub is_first: bool,
}

/// What follows an IP header with its options and extension headers.
pub struct Payload {
    pub protocol: u8,
    /// Where it begins in the packet.
    pub offset: usize,
    pub fragment: Option<Fragment>,
}

/// An IP packet that was walked over.
pub struct Datagram<'a, F> {
    pub network: &'a F,
    pub payload: Payload,
}

impl<F: Family> Datagram<'_, F> {
    #[inline(always)]
    pub fn source(&self) -> Address {
        self.network.source()
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        self.network.destination()
    }
}

/// The headers of a plain packet: a whole TCP or UDP packet, all of it linear, with nothing unusual in front.
#[inline(always)]
pub fn plain<'a, F: Family>(packet: &Packet<'a>) -> Option<Headers<'a, F>> {
    let network = packet.view::<F>(EthHdr::LEN)?;
    let protocol = protocol(network.plain_protocol(packet.linear_length() - EthHdr::LEN as u32)?)?;
    if network.total_length() < size_of::<F>() as u32 + transport::header_length(protocol) {
        return None;
    }
    let transport_offset = EthHdr::LEN + size_of::<F>();
    let ports = packet.view::<Ports>(transport_offset)?;
    Some(Headers {
        link: Link::UNTAGGED,
        network,
        protocol,
        source_port: ports.source(),
        destination_port: ports.destination(),
        transport_offset,
        fragment: None,
        is_plain: true,
        lengths_checked: true,
    })
}

/// Walks over the headers of a packet that is not plain, and leaves what it found for the next program. Returns which one
/// that is, if any.
///
/// The programs share it through a map and do not walk again: so the verifier sees one offset, of which it knows no more than
/// the bounds, and not one for each way to get there.
#[inline(always)]
pub fn walk(packet: &Packet) -> Option<Stage> {
    let (link, ether_type) = link::parse(packet)?;
    if ether_type == V4::ETHER_TYPE as u16 {
        walk_ip::<V4>(packet, link)
    } else if ether_type == V6::ETHER_TYPE as u16 {
        walk_ip::<V6>(packet, link)
    } else {
        None
    }
}

#[inline(always)]
fn walk_ip<F: Family>(packet: &Packet, link: Link) -> Option<Stage> {
    let offset = link.length();
    let payload = packet.view::<F>(offset)?.payload(packet, offset)?;
    let stage = match payload.fragment {
        Some(Fragment { is_first: false, .. }) => F::FRAGMENT_STAGE,
        _ if payload.protocol == F::ICMP => F::ICMP_STAGE,
        _ => {
            protocol(payload.protocol)?;
            F::UNUSUAL_STAGE
        }
    };
    maps::note_walk(&Walked::new(link, payload));
    Some(stage)
}

/// Leaves for the next program what this one knows of the packet, with its listener's index or `NOBODY`.
#[inline(always)]
pub fn note<F: Family>(headers: &Headers<F>, listener: u32) {
    let Headers { link, protocol, transport_offset, fragment, .. } = *headers;
    let payload = Payload { protocol: protocol as u8, offset: transport_offset, fragment };
    maps::note_walk(&Walked { listener, ..Walked::new(link, payload) });
}

/// What a walk found.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Walked {
    tags: [u32; 2],
    count: u32,
    protocol: u32,
    offset: u32,
    part: u32,
    identification: u32,
    listener: u32,
}

impl Walked {
    #[inline(always)]
    const fn new(link: Link, payload: Payload) -> Self {
        let Payload { protocol, offset, fragment } = payload;
        let (part, identification) = match fragment {
            None => (WHOLE, 0),
            Some(Fragment { identification, is_first: true }) => (FIRST, identification),
            Some(Fragment { identification, is_first: false }) => (LATER, identification),
        };
        let Link { tags, count } = link;
        let (count, offset) = (count as u32, offset as u32);
        Self { tags, count, protocol: protocol as u32, offset, part, identification, listener: NOBODY }
    }
}

/// What the program before this one found in the packet.
#[inline(always)]
pub fn walked<'a, F: Family>(packet: &Packet<'a>) -> Option<(Link, Datagram<'a, F>)> {
    let Walked { tags, count, protocol, offset, part, identification, .. } = maps::noted_walk()?;
    let link = Link { tags: *tags, count: (*count & MOST_TAGS) as usize };
    let payload = Payload {
        protocol: *protocol as u8,
        offset: (*offset & MOST_OFFSET) as usize,
        fragment: (*part != WHOLE).then_some(Fragment { identification: *identification, is_first: *part == FIRST }),
    };
    Some((link, Datagram { network: packet.view::<F>(link.length())?, payload }))
}

/// The index of the packet's listener, which the program before this one found.
#[inline(always)]
pub fn noted_listener() -> u32 {
    maps::noted_walk().map_or(NOBODY, |walked| walked.listener)
}

/// The packet that an ICMP message quotes at this offset, if no extension header stands before its payload.
#[inline(always)]
pub fn quoted<'a, F: Family>(packet: &Packet<'a>, offset: usize) -> Option<Datagram<'a, F>> {
    let network = packet.view::<F>(offset)?;
    Some(Datagram { network, payload: network.first_payload(offset)? })
}

/// The headers of any packet that begins with TCP or UDP ports.
#[inline(always)]
pub fn transport<'a, F: Family>(packet: &Packet<'a>, link: Link, datagram: &Datagram<'a, F>) -> Option<Headers<'a, F>> {
    let Datagram { network, payload: Payload { protocol: number, offset, fragment } } = *datagram;
    let ports = packet.view::<Ports>(offset)?;
    Some(Headers {
        link,
        network,
        protocol: protocol(number)?,
        source_port: ports.source(),
        destination_port: ports.destination(),
        transport_offset: offset,
        fragment,
        is_plain: fragment.is_none() && offset == link.length() + size_of::<F>(),
        lengths_checked: false,
    })
}

/// The protocol with this number, if listeners can have it.
#[inline(always)]
pub fn protocol(number: u8) -> Option<Protocol> {
    if number == Protocol::Tcp as u8 {
        Some(Protocol::Tcp)
    } else if number == Protocol::Udp as u8 {
        Some(Protocol::Udp)
    } else {
        None
    }
}

/// A UDP header, or as much of a TCP header.
pub const SHORTEST_TRANSPORT: u32 = 8;

/// The parts of a datagram in `Walked`.
const WHOLE: u32 = 0;
const FIRST: u32 = 1;
const LATER: u32 = 2;
/// Masks for the verifier: two tags, and as many extension headers as are walked over, are below them.
const MOST_TAGS: u32 = 3;
const MOST_OFFSET: u32 = 0x3fff;
