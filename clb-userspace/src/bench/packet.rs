//! The packets that are measured, and how those of one flow differ from those of the next.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use clb_common::{
    Protocol,
    bench::{HEADER_WORDS, Template},
};
use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, NetHeaders, PacketBuilder, PacketBuilderStep, PacketHeaders,
    TransportHeader, icmpv4,
};

/// A packet, and how many flows are made of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The whole frame.
    pub bytes: Vec<u8>,
    varied: Varied,
}

/// What of the packet differs from flow to flow.
#[derive(Clone, Copy, Debug)]
enum Varied {
    /// The source's address and port.
    Source,
    /// The destination's, in what a backend sends to a client.
    Destination,
    /// The TCP sequence number: the flow is one that the program remembers.
    Sequence,
    /// What the ICMP message says of itself, and the address that it comes from.
    Message,
}

/// What a TCP segment says. A UDP datagram says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The first of a connection.
    Opening,
    /// One of an established connection.
    Established,
}

impl Packet {
    /// A client's packet.
    pub fn request(protocol: Protocol, from: SocketAddr, to: SocketAddr, segment: Segment) -> anyhow::Result<Self> {
        Ok(Self { bytes: bytes(protocol, from, to, segment)?, varied: Varied::Source })
    }

    /// What a backend sends to a client that the program has to remember nothing of.
    pub fn reply(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { bytes: bytes(protocol, from, to, Segment::Established)?, varied: Varied::Destination })
    }

    /// What a backend answers to a packet that was sent to it, in the one flow that it is of.
    pub fn answer(sent: &[u8]) -> anyhow::Result<Self> {
        let headers = PacketHeaders::from_ethernet_slice(sent)?;
        let (from, to): (IpAddr, IpAddr) = match headers.net.context("an IP packet was sent")? {
            NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
            NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
            NetHeaders::Arp(_) => anyhow::bail!("an ARP packet was sent"),
        };
        let ports = headers.transport.and_then(TransportHeader::tcp).context("a TCP segment was sent")?;
        let [from, to] = [(from, ports.source_port), (to, ports.destination_port)].map(SocketAddr::from);
        Ok(Self { bytes: bytes(Protocol::Tcp, to, from, Segment::Established)?, varied: Varied::Sequence })
    }

    /// An ICMP echo request.
    pub fn echo(from: IpAddr, to: IpAddr) -> anyhow::Result<Self> {
        let header = IcmpEchoHeader { id: 1, seq: 1 };
        let mut bytes = Vec::new();
        match between(from, to)? {
            (ip, true) => ip.icmpv4(Icmpv4Type::EchoRequest(header)).write(&mut bytes, &PAYLOAD)?,
            (ip, false) => ip.icmpv6(Icmpv6Type::EchoRequest(header)).write(&mut bytes, &PAYLOAD)?,
        }
        Ok(Self { bytes, varied: Varied::Message })
    }

    /// A router on the way to the client tells a backend, which it takes the VIP for, that a packet was too big.
    pub fn too_big(router: IpAddr, client: SocketAddr, vip: SocketAddr) -> anyhow::Result<Self> {
        let quoted = bytes(Protocol::Tcp, vip, client, Segment::Established)?;
        let quoted = &quoted[ETHERNET..];
        let mut message = Vec::new();
        match between(router, vip.ip())? {
            (ip, true) => {
                let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_400 };
                ip.icmpv4(Icmpv4Type::DestinationUnreachable(header)).write(&mut message, quoted)?;
            }
            (ip, false) => ip.icmpv6(Icmpv6Type::PacketTooBig { mtu: 1_400 }).write(&mut message, quoted)?,
        }
        Ok(Self { bytes: message, varied: Varied::Message })
    }

    /// What makes so many flows of it. `listeners` are told apart by their ports, beginning with this one's.
    pub fn template(&self, flows: u32, listeners: u32) -> anyhow::Result<Template> {
        let mut headers = [0; HEADER_WORDS];
        for (word, bytes) in headers.iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        // Where the last word of each address stands, and the transport header.
        let (source, destination, transport) = if self.is_ipv6() { (34, 50, 54) } else { (26, 30, 34) };
        let (address_at, port_at) = match self.varied {
            Varied::Source => (source, transport),
            Varied::Destination => (destination, transport + 2),
            Varied::Sequence | Varied::Message => (source, transport + 4),
        };
        let listener_at = transport + 2;
        Ok(Template {
            headers,
            length: self.bytes.len() as u32,
            flow: 0,
            flows,
            port_at: port_at as u32,
            address_at: address_at as u32,
            address: u32::from_ne_bytes(self.bytes[address_at..address_at + 4].try_into()?),
            listener: 0,
            listeners,
            listener_at: listener_at as u32,
            listener_port: u16::from_be_bytes(self.bytes[listener_at..listener_at + 2].try_into()?).into(),
        })
    }

    /// Whether it is an IPv6 packet.
    pub fn is_ipv6(&self) -> bool {
        self.bytes[12..14] == [0x86, 0xdd]
    }
}

/// A whole frame.
fn bytes(protocol: Protocol, from: SocketAddr, to: SocketAddr, segment: Segment) -> anyhow::Result<Vec<u8>> {
    let (ip, _) = between(from.ip(), to.ip())?;
    let mut bytes = Vec::new();
    match protocol {
        Protocol::Tcp => {
            let tcp = ip.tcp(from.port(), to.port(), 1, 1_024);
            let tcp = if segment == Segment::Opening { tcp.syn() } else { tcp.ack(1) };
            tcp.write(&mut bytes, &PAYLOAD)?;
        }
        Protocol::Udp => ip.udp(from.port(), to.port()).write(&mut bytes, &PAYLOAD)?,
    }
    Ok(bytes)
}

/// The headers before the transport header, and whether they are IPv4's.
fn between(from: IpAddr, to: IpAddr) -> anyhow::Result<(PacketBuilderStep<etherparse::IpHeaders>, bool)> {
    let ethernet = PacketBuilder::ethernet2(ROUTER, OWN);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ok((ethernet.ipv4(from.octets(), to.octets(), 64), true)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Ok((ethernet.ipv6(from.octets(), to.octets(), 64), false)),
        _ => anyhow::bail!("{from} and {to} are of different families"),
    }
}

/// The MAC addresses of a frame: of who sent it, and of whom it is for.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// The MAC address of the interface that it comes in by.
pub const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ETHERNET: usize = 14;
const PAYLOAD: [u8; 64] = [0; 64];
