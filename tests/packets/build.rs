//! Test packets, by a crate that knows nothing of clb: so both sides of a comparison are computed independently.

use std::net::{IpAddr, SocketAddr};

use clb_common::Protocol;
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

/// A TCP or UDP packet, described. What a case changes of it is visible in the case.
#[derive(Clone, Debug)]
pub struct Segment {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    /// Type and content of each tag, the outer one first.
    pub tags: Vec<(u16, u16)>,
    pub protocol: Protocol,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub class: u8,
    pub dont_fragment: bool,
    pub identification: u32,
    /// IPv4 options, in whole words.
    pub options: Vec<u8>,
    /// Numbers and contents of IPv6 extension headers, without their first two bytes.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub payload: Vec<u8>,
    /// Whether UDP has a checksum.
    pub checksum: Checksum,
    pub syn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Computed,
    None,
}

impl Segment {
    /// From a client to clb, as it comes from the wire.
    pub fn new(protocol: Protocol, from: &str, to: &str) -> Self {
        Self {
            destination_mac: CLB_MAC,
            source_mac: CLIENT_MAC,
            tags: Vec::new(),
            protocol,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            hop_limit: 64,
            class: 0,
            dont_fragment: true,
            identification: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            payload: b"what the client says".to_vec(),
            checksum: Checksum::Computed,
            syn: true,
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

    pub fn tags(mut self, tags: &[(u16, u16)]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub fn extensions(mut self, extensions: &[(u8, &[u8])]) -> Self {
        self.extensions = extensions.iter().map(|&(number, content)| (number, content.to_vec())).collect();
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn without_checksum(mut self) -> Self {
        self.checksum = Checksum::None;
        self
    }

    /// The frame, with every checksum computed.
    pub fn bytes(&self) -> Vec<u8> {
        self.frame(&self.network(&self.extensions, &self.transport(), (0, false)))
    }

    /// The frames of the fragments of the datagram, each with so many bytes of it (a multiple of eight).
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let count = transport.len().div_ceil(size);
        let fragment = |(number, chunk): (usize, &[u8])| {
            let (offset, more) = ((number * size) as u16, number + 1 < count);
            let mut extensions = self.extensions.clone();
            if self.from.is_ipv6() {
                let mut content = (offset | u16::from(more)).to_be_bytes().to_vec();
                content.extend(self.identification.to_be_bytes());
                extensions.push((44, content));
            }
            self.frame(&self.network(&extensions, chunk, (offset / 8, more)))
        };
        transport.chunks(size).enumerate().map(fragment).collect()
    }

    /// The packet behind its Ethernet header.
    pub fn packet(&self) -> Vec<u8> {
        self.network(&self.extensions, &self.transport(), (0, false))
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        frame(self.destination_mac, self.source_mac, &self.tags, packet)
    }

    fn network(&self, extensions: &[(u8, Vec<u8>)], payload: &[u8], fragment: (u16, bool)) -> Vec<u8> {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let number = IpNumber(self.protocol as u8);
                let length = payload.len() as u16;
                let mut header = Ipv4Header::new(length, self.hop_limit, number, from.octets(), to.octets()).unwrap();
                header.dscp = (self.class >> 2).try_into().unwrap();
                header.ecn = (self.class & 3).try_into().unwrap();
                header.options = self.options.as_slice().try_into().unwrap();
                header.total_len += self.options.len() as u16;
                header.identification = self.identification as u16;
                header.fragment_offset = fragment.0.try_into().unwrap();
                header.more_fragments = fragment.1;
                header.dont_fragment = self.dont_fragment && fragment == (0, false);
                header.header_checksum = header.calc_header_checksum();
                [&header.to_bytes(), payload].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut behind = payload.to_vec();
                let mut next = self.protocol as u8;
                for (number, content) in extensions.iter().rev() {
                    // The fragment header has no length of its own.
                    let length = if *number == 44 { 0 } else { ((content.len() + 2) / 8 - 1) as u8 };
                    behind = [&[next, length], content.as_slice(), &behind].concat();
                    next = *number;
                }
                let header = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: behind.len() as u16,
                    next_header: IpNumber(next),
                    hop_limit: self.hop_limit,
                    source: from.octets(),
                    destination: to.octets(),
                };
                [&header.to_bytes(), behind.as_slice()].concat()
            }
            _ => panic!("{} and {} are of two families", self.from, self.to),
        }
    }

    fn transport(&self) -> Vec<u8> {
        let (from, to) = (self.from.port(), self.to.port());
        match self.protocol {
            Protocol::Tcp => {
                let mut header = TcpHeader::new(from, to, 1_000, 64_000);
                header.syn = self.syn;
                header.ack = !self.syn;
                header.checksum = match (self.from.ip(), self.to.ip()) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload).unwrap()
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        header.calc_checksum_ipv6_raw(from.octets(), to.octets(), &self.payload).unwrap()
                    }
                    _ => panic!("{} and {} are of two families", self.from, self.to),
                };
                [&header.to_bytes(), self.payload.as_slice()].concat()
            }
            Protocol::Udp => {
                let header = udp_header(self.from, self.to, &self.payload, self.checksum);
                [header.to_bytes().as_slice(), &self.payload].concat()
            }
        }
    }
}

/// A UDP header for this payload.
pub fn udp_header(from: SocketAddr, to: SocketAddr, payload: &[u8], checksum: Checksum) -> UdpHeader {
    let (source_port, destination_port) = (from.port(), to.port());
    let length = (payload.len() + 8) as u16;
    let mut header = UdpHeader { source_port, destination_port, length, checksum: 0 };
    if checksum == Checksum::None {
        return header;
    }
    header.checksum = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload).unwrap()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload).unwrap()
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    header
}

/// An Ethernet frame with these tags around an IP packet.
pub fn frame(destination: [u8; 6], source: [u8; 6], tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let mut bytes = [destination, source].concat();
    for (kind, content) in tags {
        bytes.extend([kind.to_be_bytes(), content.to_be_bytes()].concat());
    }
    bytes.extend(if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    bytes.extend(packet);
    bytes
}

/// An IP packet with this ICMP message in it, whose checksum is computed: type, code, four bytes and what follows.
pub fn icmp(from: IpAddr, to: IpAddr, hop_limit: u8, kind: [u8; 2], rest: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut message = [&[kind[0], kind[1], 0, 0], rest.as_slice(), content].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&message);
            message[2..4].copy_from_slice(&sum.ones_complement().to_ne_bytes());
            let (from, to) = (from.octets(), to.octets());
            let mut header = Ipv4Header::new(message.len() as u16, hop_limit, IpNumber::ICMP, from, to).unwrap();
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes(), message.as_slice()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (from, to) = (from.octets(), to.octets());
            let sum = etherparse::checksum::Sum16BitWords::new()
                .add_16bytes(from)
                .add_16bytes(to)
                .add_4bytes((message.len() as u32).to_be_bytes())
                .add_2bytes([0, 58])
                .add_slice(&message);
            message[2..4].copy_from_slice(&sum.ones_complement().to_ne_bytes());
            let header = Ipv6Header {
                payload_length: message.len() as u16,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit,
                source: from,
                destination: to,
                ..Ipv6Header::default()
            };
            [&header.to_bytes(), message.as_slice()].concat()
        }
        _ => panic!("{from} and {to} are of two families"),
    }
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

/// A security option (RFC 1108) in three words.
pub const SECURITY_OPTION: [u8; 12] = [0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// As many options (no-operation) as a header can have: ten words.
pub const LONGEST_OPTIONS: [u8; 40] = [1; 40];

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const CLB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x02];
