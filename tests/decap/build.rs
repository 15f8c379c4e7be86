//! Packets in tunnels, header by header.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, UdpHeader};

/// A trusted source and an address of the host, of each family.
pub const FROM_V4: &str = "172.16.3.4";
pub const FROM_V6: &str = "100::1234:5678";
pub const OWN_V4: &str = "10.0.0.5";
pub const OWN_V6: &str = "fd00:10::5";
pub const GUE_PORT: u16 = 6080;

/// A client's datagram to a VIP, with this traffic class and so many bytes of payload.
pub fn inner(is_ipv4: bool, traffic_class: u8, payload: usize) -> Vec<u8> {
    let ends = if is_ipv4 { ["198.51.100.10", "203.0.113.10"] } else { ["2001:db8:1::10", "2001:db8:113::10"] };
    let [from, to] = ends.map(|address| address.parse::<IpAddr>().unwrap());
    let payload: Vec<u8> = (0..payload).map(|at| at as u8).collect();
    let mut bytes = Vec::new();
    let headers = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 63),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 63),
        _ => unreachable!("both are of one family"),
    };
    headers.udp(40_000, 53).write(&mut bytes, &payload).unwrap();
    set_traffic_class(&mut bytes, traffic_class);
    bytes
}

/// A packet in an IP header.
pub fn in_ip(outer: [&str; 2], traffic_class: u8, inner: &[u8]) -> Vec<u8> {
    ip(outer, traffic_class, encapsulated(inner), inner)
}

/// Something in an IP header that says that it is of this protocol.
pub fn ip(outer: [&str; 2], traffic_class: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [from, to] = outer.map(|address| address.parse::<IpAddr>().unwrap());
    let length = payload.len() as u16;
    let mut bytes = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let protocol = IpNumber(protocol);
            Ipv4Header::new(length, 64, protocol, from.octets(), to.octets()).unwrap().to_bytes().to_vec()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (source, destination) = (from.octets(), to.octets());
            let next_header = IpNumber(protocol);
            let header = Ipv6Header {
                payload_length: length,
                next_header,
                hop_limit: 64,
                source,
                destination,
                ..Ipv6Header::default()
            };
            header.to_bytes().to_vec()
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    set_traffic_class(&mut bytes, traffic_class);
    bytes.extend(payload);
    bytes
}

/// Something in UDP and an IP header, without a UDP checksum.
pub fn in_udp(outer: [&str; 2], traffic_class: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let header = UdpHeader::without_ipv4_checksum(50_000, port, payload.len()).unwrap();
    ip(outer, traffic_class, 17, &[&header.to_bytes(), payload].concat())
}

/// A packet behind the header of plain GUE, variant 0.
pub fn gue(inner: &[u8]) -> Vec<u8> {
    [&[0, encapsulated(inner), 0, 0], inner].concat()
}

/// A frame, with these tags.
pub fn frame(tags: &[[u8; 4]], ip: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if ip[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let addresses = [[2, 0, 0, 0, 0, 5], [2, 0, 0, 0, 0, 2]].concat();
    [&addresses[..], &tags.concat(), &ether_type, ip].concat()
}

/// A copy that differs.
pub fn change(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    bytes
}

/// Makes the checksum of an IPv4 header without options right.
pub fn set_checksum(bytes: &mut [u8]) {
    let header = Ipv4Header::from_slice(&[&bytes[..2], &[0, 20], &bytes[4..20]].concat()).unwrap().0;
    let header = Ipv4Header { total_len: u16::from_be_bytes([bytes[2], bytes[3]]), ..header };
    bytes[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}

/// An IPv4 packet with a security option (RFC 1108).
pub fn with_options(ip: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::from_slice(ip).unwrap().0;
    header.options = [0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].into();
    header.total_len += 12;
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], &ip[20..]].concat()
}

/// An IPv4 packet as a fragment of one, which begins at this byte.
pub fn fragment(ip: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let mut header = Ipv4Header::from_slice(ip).unwrap().0;
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = (offset / 8).try_into().unwrap();
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], &ip[20..]].concat()
}

/// An IPv6 packet with destination options: the tunnel encapsulation limit (RFC 2473), as Linux sends it.
pub fn with_destination_options(ip: &[u8]) -> Vec<u8> {
    let mut bytes = ip.to_vec();
    let next_header = std::mem::replace(&mut bytes[6], 60);
    bytes.splice(40..40, [next_header, 0, 4, 1, 4, 1, 1, 0]);
    let length = u16::try_from(bytes.len() - 40).unwrap();
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn set_traffic_class(ip: &mut [u8], traffic_class: u8) {
    if ip[0] >> 4 == 6 {
        ip[0] = 0x60 | traffic_class >> 4;
        ip[1] = traffic_class << 4 | ip[1] & 0x0f;
    } else {
        ip[1] = traffic_class;
        set_checksum(ip);
    }
}

fn encapsulated(inner: &[u8]) -> u8 {
    if inner[0] >> 4 == 6 { 41 } else { 4 }
}
