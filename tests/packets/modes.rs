//! Every mode with every family, protocol and frame: whole packets, whole fragments, jumbo frames, ICMP both ways.
//!
//! What is expected is built anew, by a crate that knows nothing of clb: so every checksum is computed independently.

use std::net::{IpAddr, SocketAddr};

use clb_common::{
    DropReason, Event,
    ForwardingMode::{self, Dsr, FullNat, Gue, Ipip, Nat},
    NextHop,
    Protocol::{self, Tcp, Udp},
};
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice};

use crate::{
    build::{CLB_MAC, CLIENT_MAC, Checksum, SECURITY_OPTION, Segment, frame, icmp, udp_header},
    harness::{Action, Harness, LOOPBACK, Listeners, Result, listener},
    inspect,
};

/// A listener's row: mode, its VIP and a backend, each with ports, and a client of the VIP's family.
#[derive(Clone, Copy, Debug)]
struct Row {
    mode: ForwardingMode,
    vip: &'static str,
    backend: &'static str,
    client: &'static str,
}

const ROWS: [Row; 12] = [
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
const FULL_ROWS: [Row; 2] = [
    Row { mode: FullNat, vip: "203.0.113.10:86", backend: "10.0.1.11:8086", client: CLIENT },
    Row { mode: FullNat, vip: "[2001:db8:1::10]:86", backend: "[fd00:1::11]:8086", client: CLIENT_V6 },
];

fn rows() -> impl Iterator<Item = (Row, Protocol)> {
    ROWS.into_iter().chain(FULL_ROWS).flat_map(|row| [(row, Tcp), (row, Udp)])
}

fn harness(to_backend: NextHop) -> Harness {
    let listeners: Listeners =
        rows().map(|(row, protocol)| listener(protocol, row.vip, row.mode, &[(row.backend, 1)])).collect();
    let to_client = NextHop::new(CLIENT_MAC, CLB_MAC, LOOPBACK, 1_500);
    let next_hops = [("10.0.1.11", to_backend), ("fd00:1::11", to_backend)];
    let routes = [("198.51.100.0", 24, to_client), ("2001:db8:ffff::", 64, to_client)];
    let mut harness = Harness::new(&listeners, &next_hops, &routes);
    harness.set_sources(&["10.9.0.1".parse().unwrap(), "fd00:9::1".parse().unwrap()]);
    harness
}

fn hop(mtu: u32) -> NextHop {
    NextHop::new(BACKEND_MAC, CLB_MAC, LOOPBACK, mtu)
}

/// The frames that networks bring.
fn shapes(row: Row, protocol: Protocol) -> Vec<Segment> {
    let plain = Segment::new(protocol, row.client, row.vip);
    let mut shapes = vec![plain.clone(), plain.clone().payload(b""), plain.clone().payload(&[7; 1_383])];
    shapes.push(plain.clone().options(&SECURITY_OPTION));
    shapes.push(
        plain.clone().extensions(&[(0, &[1, 4, 0, 0, 0, 0]), (60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]),
    );
    for class in [0x01, 0x02, 0x03, 0xb8, 0xff] {
        shapes.push(Segment { class, dont_fragment: class & 1 == 0, identification: 77, ..plain.clone() });
    }
    if protocol == Udp && row.client == CLIENT {
        shapes.push(plain.without_checksum());
    }
    let tags: [&[(u16, u16)]; 4] = [&[], &[(0x8100, 0x6007)], &[(0x88a8, 0x0009), (0x8100, 0xa007)], &[(0x88a8, 3)]];
    shapes.iter().flat_map(|shape| tags.map(|tags| shape.clone().tags(tags))).collect()
}

/// The packet that a backend sees, in frames with the tags that it came with.
fn at_backend(row: Row, packet: &Segment, result: &Result) -> Segment {
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
fn in_mode(row: Row, packet: &[u8], tags: &[(u16, u16)], result: &Result) -> Vec<u8> {
    let (number, class, fragmentation) = match packet[0] >> 4 {
        4 => (4, packet[1], [packet[4], packet[5], packet[6] & 0x40]),
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

fn expected(row: Row, seen: &Segment, tags: &[(u16, u16)], result: &Result) -> Vec<u8> {
    match row.mode {
        Ipip | Gue => in_mode(row, &seen.packet(), tags, result),
        _ => seen.clone().tags(tags).bytes(),
    }
}

#[test]
fn every_mode_sends_what_its_rfc_says() {
    let on_link = |_: &Segment| None;
    // The VLAN of the next hop with the packet's priority, whatever tags it came with.
    let in_vlan = |packet: &Segment| Some((0x8100, packet.tags.first().map_or(0, |tag| tag.1 & 0xe000) | 5));
    let hops: [(NextHop, fn(&Segment) -> Option<(u16, u16)>); 2] =
        [(hop(1_600), on_link), (hop(1_600).in_vlan(5), in_vlan)];
    for (to_backend, tag) in hops {
        let mut harness = harness(to_backend);
        for (row, protocol) in rows() {
            for packet in shapes(row, protocol) {
                let result = harness.run(&packet.bytes());
                assert_eq!(result.action, Action::Transmit, "{row:?} {packet:?}");
                let tags = tag(&packet).map_or(packet.tags.clone(), |tag| vec![tag]);
                let seen = at_backend(row, &packet, &result);
                assert_eq!(result.bytes, expected(row, &seen, &tags, &result), "{row:?} {packet:?}");
            }
        }
    }
}

#[test]
fn another_interface_takes_no_tags_of_this_one() {
    let mut harness = harness(NextHop::new(BACKEND_MAC, CLB_MAC, 77, 1_600));
    for (row, protocol) in rows() {
        for packet in shapes(row, protocol) {
            let result = harness.run(&packet.bytes());
            assert_eq!(result.action, Action::Redirect, "{row:?} {packet:?}");
            let seen = at_backend(row, &packet, &result);
            assert_eq!(result.bytes, expected(row, &seen, &[], &result), "{row:?} {packet:?}");
        }
    }
}

#[test]
fn replies_leave_from_the_vip() {
    let mut harness = harness(hop(1_600));
    for (row, protocol) in rows().filter(|(row, _)| matches!(row.mode, Nat | FullNat)) {
        for packet in shapes(row, protocol) {
            let sent = harness.run(&packet.bytes());
            let back = at_backend(row, &packet, &sent).from;
            let to = if row.mode == FullNat { back.to_string() } else { row.client.to_owned() };
            let reply = packet.clone().from(row.backend).to(&to).hop_limit(64).on_link(CLB_MAC, BACKEND_MAC);
            let result = harness.run(&reply.bytes());
            let at_client = reply.from(row.vip).to(row.client).hop_limit(63).on_link(CLIENT_MAC, CLB_MAC);
            assert_eq!(result, Result { action: Action::Transmit, bytes: at_client.bytes() }, "{row:?} {packet:?}");
        }
    }
}

#[test]
fn fragments_follow_the_first_in_any_order() {
    let mut harness = harness(hop(1_600));
    for (number, (row, protocol)) in rows().enumerate() {
        let mut packet = Segment::new(protocol, row.client, row.vip).payload(&[9; 3_000]);
        packet.identification = 1_000 + number as u32;
        let fragments = packet.fragments(1_000);
        let dropped = |harness: &Harness| harness.counters().dropped[DropReason::FragmentWithoutFirst as usize].1;
        let before = dropped(&harness);
        assert_eq!(harness.run(&fragments[2]).action, Action::Drop, "{row:?}: nobody knows yet whose it is");
        assert_eq!(dropped(&harness), before + 1, "{row:?}");
        let mut seen = None;
        for at in [0, 3, 1, 2, 1] {
            let result = harness.run(&fragments[at]);
            assert_eq!(result.action, Action::Transmit, "{row:?} {at}");
            let seen = seen.get_or_insert_with(|| at_backend(row, &packet, &result));
            let whole = seen.fragments(1_000)[at].clone();
            let expected = match row.mode {
                Ipip | Gue => in_mode(row, &whole[14..], &[], &result),
                _ => whole,
            };
            assert_eq!(result.bytes, expected, "{row:?} {at}");
        }
        if matches!(row.mode, Nat | FullNat) {
            let to = if row.mode == FullNat { seen.unwrap().from.to_string() } else { row.client.to_owned() };
            let reply = packet.clone().from(row.backend).to(&to).on_link(CLB_MAC, BACKEND_MAC);
            let at_client = packet.from(row.vip).to(row.client).hop_limit(63).on_link(CLIENT_MAC, CLB_MAC);
            assert_eq!(harness.run(&reply.fragments(1_000)[1]).action, Action::Pass, "{row:?}: not known as a reply");
            for at in [0, 2, 3, 1] {
                let result = harness.run(&reply.fragments(1_000)[at]);
                let bytes = at_client.fragments(1_000)[at].clone();
                assert_eq!(result, Result { action: Action::Transmit, bytes }, "{row:?} {at}");
            }
        }
    }
}

#[test]
fn jumbo_frames_are_sent_whole() {
    let mut harness = harness(hop(9_000));
    for (row, protocol) in rows() {
        for length in [3_000, 3_600, 5_001, 8_850] {
            let packet = Segment::new(protocol, row.client, row.vip).payload(&vec![0x5a; length]);
            let result = harness.run(&packet.bytes());
            assert_eq!(result.action, Action::Transmit, "{row:?} {length}");
            let seen = at_backend(row, &packet, &result);
            assert!(result.bytes == expected(row, &seen, &[], &result), "{row:?} {length}");
        }
    }
}

/// With all that is quoted of the packet, and with as little as eight bytes of its transport header.
#[test]
fn errors_reach_whom_they_are_for() {
    let mut harness = harness(hop(1_600));
    let (router, router_v6): (IpAddr, IpAddr) = ("192.0.2.7".parse().unwrap(), "2001:db8:7::7".parse().unwrap());
    for (row, protocol) in rows() {
        let is_v4 = row.client == CLIENT;
        let router = if is_v4 { router } else { router_v6 };
        let kinds: &[[u8; 2]] =
            if is_v4 { &[[3, 1], [3, 4], [11, 0], [12, 0]] } else { &[[1, 3], [2, 0], [3, 0], [4, 0]] };
        let request = Segment::new(protocol, row.client, row.vip);
        let sent = harness.run(&request.bytes());
        let seen = at_backend(row, &request, &sent);
        let header = if is_v4 { 20 } else { 40 };
        for &kind in kinds {
            for quoted in [header + 8, seen.packet().len()] {
                let rest = [0, 0, 5, 0];
                let error = |from: IpAddr, to: IpAddr, hop_limit, about: &Segment| {
                    icmp(from, to, hop_limit, kind, rest, &about.packet()[..quoted])
                };
                // About what the backend sent to the client, as the client's side saw it and as the backend does.
                let outside = Segment::new(protocol, row.vip, row.client);
                let result =
                    harness.run(&frame(CLB_MAC, CLIENT_MAC, &[], &error(router, outside.from.ip(), 64, &outside)));
                let expected = match row.mode {
                    Dsr => frame(BACKEND_MAC, CLB_MAC, &[], &error(router, outside.from.ip(), 64, &outside)),
                    Ipip | Gue => in_mode(row, &error(router, outside.from.ip(), 63, &outside), &[], &result),
                    Nat | FullNat => {
                        let inside = outside.clone().from(row.backend).to(&seen.from.to_string());
                        // In `full_nat` all that a backend sees comes from the pool.
                        let from = if row.mode == FullNat { seen.from.ip() } else { router };
                        frame(BACKEND_MAC, CLB_MAC, &[], &error(from, inside.from.ip(), 63, &inside))
                    }
                };
                assert_eq!(result, Result { action: Action::Transmit, bytes: expected }, "{row:?} {kind:?} {quoted}");
                if !matches!(row.mode, Nat | FullNat) {
                    continue;
                }
                // About what the client sent to the backend; from a router, and from the backend, whom the client does not know.
                let outside = request.clone().hop_limit(seen.hop_limit);
                for (from, as_from) in [(router, router), (seen.to.ip(), request.to.ip())] {
                    let result =
                        harness.run(&frame(CLB_MAC, BACKEND_MAC, &[], &error(from, seen.from.ip(), 64, &seen)));
                    let expected = frame(CLIENT_MAC, CLB_MAC, &[], &error(as_from, outside.from.ip(), 63, &outside));
                    let expected = Result { action: Action::Transmit, bytes: expected };
                    assert_eq!(result, expected, "{row:?} {kind:?} {quoted} from {from}");
                }
            }
        }
    }
}

/// Every value of the identifier, and with it of the checksum.
#[test]
fn every_echo_request_to_a_vip_has_a_right_answer() {
    let mut harness = harness(hop(1_500));
    for (row, request, reply) in [(ROWS[0], 8, 0), (ROWS[1], 128, 129)] {
        let (client, vip): (SocketAddr, SocketAddr) = (row.client.parse().unwrap(), row.vip.parse().unwrap());
        for value in 0..=u16::MAX {
            let [high, low] = value.to_be_bytes();
            let asked = icmp(client.ip(), vip.ip(), 9, [request, 0], [high, low, 0, 0], &[0; 6]);
            let result = harness.run(&frame(CLB_MAC, CLIENT_MAC, &[], &asked));
            let mut expected = icmp(vip.ip(), client.ip(), 64, [reply, 0], [high, low, 0, 0], &[0; 6]);
            // All ones is as right as 0, and for nothing but zeros alone right.
            let at = expected.len() - 12;
            if expected[at..at + 2] == [0, 0] {
                expected[at..at + 2].fill(0xff);
            }
            let expected = Result { action: Action::Transmit, bytes: frame(CLIENT_MAC, CLB_MAC, &[], &expected) };
            assert_eq!(result, expected, "{value}");
            assert_eq!(inspect::wrong_checksums(&result.bytes), Vec::<&str>::new(), "{value}");
        }
    }
}

#[test]
fn the_sender_of_what_is_too_big_is_told_what_fits() {
    let mut harness = harness(hop(1_500));
    for (row, protocol) in rows() {
        let outer = if row.backend.starts_with('[') { 40 } else { 20 };
        let mtu: u16 = match row.mode {
            Ipip => 1_500 - outer,
            Gue => 1_500 - outer - 12,
            _ => 1_500,
        };
        let empty = Segment::new(protocol, row.client, row.vip).payload(b"").packet().len();
        let of_length = |length: usize| Segment::new(protocol, row.client, row.vip).payload(&vec![1; length - empty]);
        assert_eq!(harness.run(&of_length(mtu.into()).bytes()).action, Action::Transmit, "{row:?}: this fits");

        let packet = of_length(usize::from(mtu) + 1).tags(&[(0x8100, 7)]);
        let dropped = |harness: &Harness| harness.counters().dropped[DropReason::PacketTooBig as usize].1;
        let before = dropped(&harness);
        let result = harness.run(&packet.bytes());
        let [high, low] = mtu.to_be_bytes();
        let kind = if row.client == CLIENT { [3, 4] } else { [2, 0] };
        let answer = icmp(packet.to.ip(), packet.from.ip(), 64, kind, [0, 0, high, low], &packet.packet()[..128]);
        let answer = frame(CLIENT_MAC, CLB_MAC, &[(0x8100, 7)], &answer);
        assert_eq!(result, Result { action: Action::Transmit, bytes: answer }, "{row:?}");
        assert_eq!(dropped(&harness), before + 1, "{row:?}");
    }
}

#[test]
fn so_many_are_told_and_no_more() {
    let mut harness = harness(hop(1_500));
    let packet = Segment::new(Tcp, CLIENT, ROWS[0].vip).payload(&[1; 1_500]).bytes();
    let event = |harness: &Harness, event: Event| harness.counters().events[event as usize].1;
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let began = std::time::Instant::now();
    let mut told = 0;
    for _ in 0..10_000 {
        told += u64::from(harness.run(&packet).action == Action::Transmit);
    }
    let ticks = began.elapsed().as_secs() + 2;
    assert_eq!(event(&harness, Event::TooBigSent), told);
    assert_eq!(event(&harness, Event::TooBigSuppressed), 10_000 - told);
    assert!(told >= 1_000 && told <= 1_000 * cpus * ticks, "{told} in {ticks} ticks");
}

const CLIENT: &str = "198.51.100.10:40000";
const CLIENT_V6: &str = "[2001:db8:ffff::10]:40000";
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
