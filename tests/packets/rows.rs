//! A listener of every mode, family and protocol, and what its backend must see: built anew, by a crate that knows nothing
//! of clb, so every checksum is computed independently.

use std::net::{IpAddr, SocketAddr};

use clb_common::{
    ForwardingMode::{self, Dsr, FullNat, Gue, Ipip, Nat},
    NextHop,
    Protocol::{self, Tcp, Udp},
};
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice};

use crate::{
    build::{CLB_MAC, CLIENT_MAC, Checksum, Segment, frame, udp_header},
    harness::{Harness, LOOPBACK, Listeners, Result, listener},
};

/// A listener's row: mode, its VIP and a backend, each with ports, and a client of the VIP's family.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub mode: ForwardingMode,
    pub vip: &'static str,
    pub backend: &'static str,
    pub client: &'static str,
}

pub const ROWS: [Row; 12] = [
    Row { mode: Dsr, vip: "203.0.113.10:80", backend: "10.0.1.11:80", client: CLIENT },
    Row { mode: Dsr, vip: "[2001:db8:1::10]:80", backend: "[fd00:1::11]:80", client: CLIENT_V6 },
    Row { mode: Ipip, vip: "203.0.113.10:81", backend: "10.0.1.11:81", client: CLIENT },
    Row { mode: Ipip, vip: "[2001:db8:1::10]:81", backend: "[fd00:1::11]:81", client: CLIENT_V6 },
    Row { mode: Ipip, vip: "203.0.113.10:82", backend: "[fd00:1::11]:82", client: CLIENT },
    Row { mode: Ipip, vip: "[2001:db8:1::10]:82", backend: "10.0.1.11:82", client: CLIENT_V6 },
    Row { mode: Gue, vip: "203.0.113.10:83", backend: "10.0.1.11:83", client: CLIENT },
    Row { mode: Gue, vip: "[2001:db8:1::10]:83", backend: "[fd00:1::11]:83", client: CLIENT_V6 },
    Row { mode: Gue, vip: "203.0.113.10:84", backend: "[fd00:1::11]:84", client: CLIENT },
    Row { mode: Gue, vip: "[2001:db8:1::10]:84", backend: "10.0.1.11:84", client: CLIENT_V6 },
    Row { mode: Nat, vip: "203.0.113.10:85", backend: "10.0.1.11:8085", client: CLIENT },
    Row { mode: Nat, vip: "[2001:db8:1::10]:85", backend: "[fd00:1::11]:8085", client: CLIENT_V6 },
];
pub const FULL_ROWS: [Row; 2] = [
    Row { mode: FullNat, vip: "203.0.113.10:86", backend: "10.0.1.11:8086", client: CLIENT },
    Row { mode: FullNat, vip: "[2001:db8:1::10]:86", backend: "[fd00:1::11]:8086", client: CLIENT_V6 },
];

pub fn rows() -> impl Iterator<Item = (Row, Protocol)> {
    ROWS.into_iter().chain(FULL_ROWS).flat_map(|row| [(row, Tcp), (row, Udp)])
}

pub fn harness(to_backend: NextHop) -> Harness {
    let listeners: Listeners =
        rows().map(|(row, protocol)| listener(protocol, row.vip, row.mode, &[(row.backend, 1)])).collect();
    let to_client = NextHop::new(CLIENT_MAC, CLB_MAC, LOOPBACK, 1_500);
    let next_hops = [("10.0.1.11", to_backend), ("fd00:1::11", to_backend)];
    let routes = [("198.51.100.0", 24, to_client), ("2001:db8:ffff::", 64, to_client)];
    let mut harness = Harness::new(&listeners, &next_hops, &routes);
    harness.set_sources(&["10.9.0.1".parse().unwrap(), "fd00:9::1".parse().unwrap()]);
    harness
}

pub fn hop(mtu: u32) -> NextHop {
    NextHop::new(BACKEND_MAC, CLB_MAC, LOOPBACK, mtu)
}

/// The packet that a backend sees, in frames with the tags that it came with.
pub fn at_backend(row: Row, packet: &Segment, result: &Result) -> Segment {
    let seen = packet.clone().on_link(BACKEND_MAC, CLB_MAC);
    match row.mode {
        Dsr => seen,
        Ipip | Gue => seen.hop_limit(63),
        Nat => seen.to(row.backend).hop_limit(63),
        FullNat => {
            let source = source_of(result);
            let pool = if row.client == CLIENT { "10.9.0.1" } else { "fd00:9::1" };
            assert_eq!(source.ip(), pool.parse::<IpAddr>().unwrap());
            assert!(source.port() >= 1_024);
            seen.from(&source.to_string()).to(row.backend).hop_limit(63)
        }
    }
}

/// Where a packet comes from, a first fragment too.
fn source_of(result: &Result) -> SocketAddr {
    let sliced = etherparse::SlicedPacket::from_ethernet(&result.bytes).unwrap();
    let (address, payload): (IpAddr, _) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.payload()),
        Some(NetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.payload()),
        _ => panic!("no IP header"),
    };
    SocketAddr::new(address, u16::from_be_bytes([payload.payload[0], payload.payload[1]]))
}

/// The frame with an IP packet as the mode has it: around it stands what RFC 2003, RFC 2473, RFC 6040 and GUE say, with the
/// source and the ports of `result`, which have to be of the configured prefix and port.
pub fn in_mode(row: Row, packet: &[u8], tags: &[(u16, u16)], result: &Result) -> Vec<u8> {
    let (number, class, fragmentation) = match packet[0] >> 4 {
        // DF stands around what has it, and around fragments.
        4 => (4, packet[1], [packet[4], packet[5], packet[6] & 0x7f | packet[7]]),
        _ => (41, packet[0] << 4 | packet[1] >> 4, [0, 0, 0x40]),
    };
    let backend: SocketAddr = row.backend.parse().unwrap();
    let at = 14 + 4 * tags.len();
    let out = &result.bytes[at..];
    let behind = if backend.is_ipv4() { 20 } else { 40 };
    let source: IpAddr = match backend {
        SocketAddr::V4(_) => <[u8; 4]>::try_from(&out[12..16]).unwrap().into(),
        SocketAddr::V6(_) => <[u8; 16]>::try_from(&out[8..24]).unwrap().into(),
    };
    match source {
        IpAddr::V4(source) => assert_eq!(source.octets()[..2], [172, 16], "of 172.16.0.0/16"),
        IpAddr::V6(source) => assert_eq!(source.octets()[..8], [1, 0, 0, 0, 0, 0, 0, 0], "of 100::/64"),
    }
    let (protocol, payload) = match row.mode {
        Gue => {
            let port = u16::from_be_bytes([out[behind], out[behind + 1]]);
            assert!(port >= 49_152, "a dynamic port");
            let content = [&[0, number, 0, 0], packet].concat();
            // Legally none over IPv4 (RFC 768), and there over IPv6 (RFC 8200, section 8.1).
            let checksum = if backend.is_ipv4() { Checksum::None } else { Checksum::Computed };
            let (from, to) = (SocketAddr::new(source, port), SocketAddr::new(backend.ip(), 6_080));
            (17, [udp_header(from, to, &content, checksum).to_bytes().as_slice(), &content].concat())
        }
        _ => (number, packet.to_vec()),
    };
    let outer = match (source, backend.ip()) {
        (IpAddr::V4(source), IpAddr::V4(backend)) => {
            let (from, to) = (source.octets(), backend.octets());
            let mut header = Ipv4Header::new(payload.len() as u16, 64, IpNumber(protocol), from, to).unwrap();
            header.dscp = (class >> 2).try_into().unwrap();
            header.ecn = (class & 3).try_into().unwrap();
            header.identification = u16::from_be_bytes([fragmentation[0], fragmentation[1]]);
            header.dont_fragment = fragmentation[2] != 0;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(backend)) => Ipv6Header {
            traffic_class: class,
            flow_label: Ipv6FlowLabel::try_new(u32::from_be_bytes([0, out[1] & 0x0f, out[2], out[3]])).unwrap(),
            payload_length: payload.len() as u16,
            next_header: IpNumber(protocol),
            hop_limit: 64,
            source: source.octets(),
            destination: backend.octets(),
        }
        .to_bytes()
        .to_vec(),
        _ => panic!("{source} is of another family"),
    };
    frame(BACKEND_MAC, CLB_MAC, tags, &[outer, payload].concat())
}

pub fn expected(row: Row, seen: &Segment, tags: &[(u16, u16)], result: &Result) -> Vec<u8> {
    match row.mode {
        Ipip | Gue => in_mode(row, &seen.packet(), tags, result),
        _ => seen.clone().tags(tags).bytes(),
    }
}

pub const CLIENT: &str = "198.51.100.10:40000";
pub const CLIENT_V6: &str = "[2001:db8:ffff::10]:40000";
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
