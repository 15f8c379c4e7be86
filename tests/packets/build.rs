//! Test packets, by a crate that knows nothing of clb: so both sides of a comparison are computed independently.

use std::net::{IpAddr, SocketAddr};

use clb_common::Protocol;
use etherparse::{PacketBuilder, PacketBuilderStep, ip_number::IPV6_FRAG};

/// A TCP or UDP packet, described. What a case changes of it is visible in the case.
#[derive(Clone, Debug)]
pub struct Segment {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub protocol: Protocol,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub hop_limit: u8,
    pub payload: Vec<u8>,
}

impl Segment {
    /// From a client to clb, as it comes from the wire.
    pub fn new(protocol: Protocol, from: &str, to: &str) -> Self {
        Self {
            destination_mac: CLB_MAC,
            source_mac: CLIENT_MAC,
            protocol,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            hop_limit: 64,
            payload: b"what the client says".to_vec(),
        }
    }

    /// On the link to this MAC address, from the interface with that one.
    pub fn on_link(mut self, destination: [u8; 6], source: [u8; 6]) -> Self {
        (self.destination_mac, self.source_mac) = (destination, source);
        self
    }

    pub fn to(mut self, to: &str) -> Self {
        self.to = to.parse().unwrap();
        self
    }

    pub fn from(mut self, from: &str) -> Self {
        self.from = from.parse().unwrap();
        self
    }

    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The bytes, with every checksum computed.
    pub fn bytes(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let mut bytes = Vec::new();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.finish(ethernet.ipv4(from.octets(), to.octets(), self.hop_limit), &mut bytes);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.finish(ethernet.ipv6(from.octets(), to.octets(), self.hop_limit), &mut bytes);
            }
            _ => panic!("{} and {} are of two families", self.from, self.to),
        }
        bytes
    }

    fn finish(&self, network: PacketBuilderStep<etherparse::IpHeaders>, bytes: &mut Vec<u8>) {
        let (from, to) = (self.from.port(), self.to.port());
        match self.protocol {
            Protocol::Tcp => network.tcp(from, to, 1_000, 64_000).syn().write(bytes, &self.payload),
            Protocol::Udp => network.udp(from, to).write(bytes, &self.payload),
        }
        .unwrap();
    }
}

/// Puts IPv4 options (a security option, RFC 1108, in three words) into a packet without any.
pub fn with_ipv4_options(segment: &Segment) -> Vec<u8> {
    with_options(segment, [0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Puts as many IPv4 options (no-operation) into a packet as a header can have: ten words.
pub fn with_longest_ipv4_options(segment: &Segment) -> Vec<u8> {
    with_options(segment, [1; 40])
}

fn with_options<const BYTES: usize>(segment: &Segment, options: [u8; BYTES]) -> Vec<u8>
where
    etherparse::Ipv4Options: From<[u8; BYTES]>,
{
    let plain = segment.bytes();
    let mut header = etherparse::Ipv4Header::from_slice(&plain[ETHERNET..]).unwrap().0;
    header.options = options.into();
    header.total_len += BYTES as u16;
    header.header_checksum = header.calc_header_checksum();
    [&plain[..ETHERNET], &header.to_bytes(), &plain[ETHERNET + IPV4..]].concat()
}

/// Makes an IPv4 packet a fragment with this offset (in units of eight bytes), with or without more to follow.
pub fn as_ipv4_fragment(segment: &Segment, offset: u16, more: bool) -> Vec<u8> {
    let mut bytes = segment.bytes();
    let mut header = etherparse::Ipv4Header::from_slice(&bytes[ETHERNET..]).unwrap().0;
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = offset.try_into().unwrap();
    header.header_checksum = header.calc_header_checksum();
    bytes[ETHERNET..ETHERNET + IPV4].copy_from_slice(&header.to_bytes());
    bytes
}

/// Makes an IPv6 packet name the fragment header as its next.
pub fn as_ipv6_fragment(segment: &Segment) -> Vec<u8> {
    let mut bytes = segment.bytes();
    let next_header = std::mem::replace(&mut bytes[ETHERNET + 6], IPV6_FRAG.0);
    let fragment_header = [next_header, 0, 0, 1, 0, 0, 0, 7];
    bytes.splice(ETHERNET + 40..ETHERNET + 40, fragment_header);
    let payload_length = u16::try_from(bytes.len() - ETHERNET - 40).unwrap();
    bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&payload_length.to_be_bytes());
    bytes
}

/// Takes the UDP checksum out of an IPv4 packet: 0 says that there is none (RFC 768).
pub fn without_udp_checksum(segment: &Segment) -> Vec<u8> {
    let mut bytes = segment.bytes();
    bytes[ETHERNET + IPV4 + 6..ETHERNET + IPV4 + 8].fill(0);
    bytes
}

/// An echo request.
pub fn ping(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, CLB_MAC).ipv4(from, to, 64).icmpv4_echo_request(1, 2);
    builder.write(&mut bytes, b"ping").unwrap();
    bytes
}

/// An ARP request, to all.
pub fn arp_request() -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(CLIENT_MAC);
    bytes.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(CLIENT_MAC);
    bytes.extend([198, 51, 100, 10, 0, 0, 0, 0, 0, 0, 198, 51, 100, 2]);
    bytes
}

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const CLB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x02];
const ETHERNET: usize = 14;
const IPV4: usize = 20;
