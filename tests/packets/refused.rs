//! Packets for listeners that are dropped: each reason by its name.

use std::collections::BTreeMap;

use clb_common::{
    DropReason,
    ForwardingMode::{FullNat, Ipip},
    NextHop,
    Protocol::{Tcp, Udp},
};
use clb_userspace::dataplane::Settings;

use crate::{
    build::{CLB_MAC, Segment},
    cases::{
        BACKEND_MAC, CLIENT, CLIENT_V6, Case,
        Expected::{Drop, Transmit},
    },
    harness::{Action, Harness, LOOPBACK, SEED, listener},
    passed::error_for,
};

/// Rows for what is dropped, and why.
pub fn refused() -> Vec<Case> {
    let web = Segment::new(Tcp, CLIENT, "203.0.113.10:80");
    let nat = Segment::new(Tcp, CLIENT, "203.0.113.10:8080");
    let nat_v6 = Segment::new(Tcp, CLIENT_V6, "[2001:db8:1:2:3:4:5:10]:8080");
    let reply = Segment::new(Tcp, "10.0.1.11:8081", CLIENT);
    vec![
        Case {
            name: "a listener without backends",
            packet: web.clone().to("203.0.113.10:90").bytes(),
            expected: Drop(DropReason::NoBackend),
        },
        Case {
            name: "a listener whose weights are all 0",
            packet: web.clone().to("203.0.113.10:91").bytes(),
            expected: Drop(DropReason::NoBackend),
        },
        Case {
            name: "a backend whose MAC address is not known",
            packet: web.clone().to("203.0.113.10:92").bytes(),
            expected: Drop(DropReason::NextHopUnresolved),
        },
        Case {
            name: "a reply to a client without a route",
            packet: reply.clone().to("100.64.0.1:1024").bytes(),
            expected: Drop(DropReason::ClientUnresolved),
        },
        Case {
            name: "a reply to a client on the link that has not been resolved",
            packet: reply.clone().to("198.51.100.77:1024").bytes(),
            expected: Drop(DropReason::ClientUnresolved),
        },
        Case {
            name: "a packet of one byte more than the MTU of the next hop",
            packet: web.clone().payload(&[0; 1_500 - 20 - 20 + 1]).bytes(),
            expected: Drop(DropReason::PacketTooBig),
        },
        Case {
            name: "a packet of exactly the MTU is sent",
            packet: web.clone().payload(&[0; 1_500 - 20 - 20]).bytes(),
            expected: Transmit(web.clone().payload(&[0; 1_500 - 20 - 20]).on_link(BACKEND_MAC, CLB_MAC).bytes()),
        },
        Case {
            name: "a reply of one byte more than the MTU toward its client",
            packet: reply.clone().payload(&[0; 1_500 - 20 - 20 + 1]).bytes(),
            expected: Drop(DropReason::PacketTooBig),
        },
        Case {
            name: "nat routes: a TTL of 1 is used up",
            packet: nat.clone().hop_limit(1).bytes(),
            expected: Drop(DropReason::HopLimitExceeded),
        },
        Case {
            name: "nat routes: a hop limit of 1 is used up",
            packet: nat_v6.hop_limit(1).bytes(),
            expected: Drop(DropReason::HopLimitExceeded),
        },
        Case {
            name: "a reply with a TTL of 1",
            packet: reply.clone().hop_limit(1).bytes(),
            expected: Drop(DropReason::HopLimitExceeded),
        },
        Case {
            name: "a fragment far into a datagram that was never begun: the offset has thirteen bits",
            packet: web.clone().payload(&[0; 40_000]).fragments(0x1000)[8].clone(),
            expected: Drop(DropReason::FragmentWithoutFirst),
        },
        Case {
            name: "the last fragment of a datagram that was never begun",
            packet: web.fragments(16)[2].clone(),
            expected: Drop(DropReason::FragmentWithoutFirst),
        },
        Case {
            name: "nat of a packet that ends before it says so",
            packet: nat.bytes()[..14 + 20 + 12].to_vec(),
            expected: Drop(DropReason::TruncatedPacket),
        },
        Case {
            name: "nat of a UDP packet that ends before it says so",
            packet: Segment::new(Udp, CLIENT, "203.0.113.10:5353").bytes()[..14 + 20 + 6].to_vec(),
            expected: Drop(DropReason::TruncatedPacket),
        },
        Case {
            name: "a packet whose IP length ends inside its TCP header, with padding behind it",
            packet: short_tcp(&nat),
            expected: Drop(DropReason::TruncatedHeader),
        },
        Case {
            name: "an error about a flow of full_nat that nobody remembers",
            packet: error_for("203.0.113.10", &Segment::new(Tcp, "203.0.113.10:93", CLIENT), 8),
            expected: Drop(DropReason::UnknownFlow),
        },
        Case {
            name: "a new flow in full_nat when the pool is empty",
            packet: web.clone().to("203.0.113.10:93").bytes(),
            expected: Drop(DropReason::SourcePortsExhausted),
        },
    ]
}

/// Ten bytes of a TCP header are said to be there.
fn short_tcp(segment: &Segment) -> Vec<u8> {
    let mut bytes = segment.bytes();
    let mut header = etherparse::Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
    header.total_len = 30;
    header.header_checksum = header.calc_header_checksum();
    bytes[14..34].copy_from_slice(&header.to_bytes());
    bytes
}

/// Reasons that the settings of the other rows do not allow.
pub const WITH_OWN_SETTINGS: [DropReason; 2] = [DropReason::NoHeadroom, DropReason::FlowTableFull];

#[test]
fn no_room_before_the_packet_is_a_reason_and_counted_once() {
    let listeners = BTreeMap::from([listener(Tcp, "203.0.113.10:80", Ipip, &[("10.0.1.11:80", 1)])]);
    let next_hop = NextHop::new(BACKEND_MAC, CLB_MAC, LOOPBACK, 1_500);
    let mut harness = Harness::new(&listeners, &[("10.0.1.11", next_hop)], &[]);
    let packet = Segment::new(Tcp, CLIENT, "203.0.113.10:80").bytes();
    // The kernel gives 256 bytes, of which it wants 40 for itself; as many as metadata takes are not there for headers.
    assert_eq!(harness.run_behind(32, &packet).action, Action::Transmit);
    assert_eq!(harness.run_behind(200, &packet).action, Action::Drop);
    let counters = harness.counters();
    assert_eq!(counters.dropped[DropReason::NoHeadroom as usize], (DropReason::NoHeadroom, 1));
    assert_eq!((counters.sent(), counters.dropped()), (1, 1));
}

#[test]
fn a_full_table_of_flows_is_a_reason_and_ends_no_flow() {
    let listeners = BTreeMap::from([listener(Udp, "203.0.113.10:80", FullNat, &[("10.0.1.11:80", 1)])]);
    let next_hop = NextHop::new(BACKEND_MAC, CLB_MAC, LOOPBACK, 1_500);
    let settings = Settings { hash_seed: SEED, max_flows: 4, ..Settings::default() };
    let mut harness = Harness::with_settings(settings, &listeners, &[("10.0.1.11", next_hop)], &[]);
    harness.set_sources(&["10.9.0.1".parse().unwrap()]);
    let mut of_client =
        |port: u16| harness.run(&Segment::new(Udp, &format!("198.51.100.10:{port}"), "203.0.113.10:80").bytes()).action;
    for port in 1_000..1_004 {
        assert_eq!(of_client(port), Action::Transmit, "{port}");
    }
    for port in 1_004..1_010 {
        assert_eq!(of_client(port), Action::Drop, "{port}");
    }
    for port in 1_000..1_004 {
        assert_eq!(of_client(port), Action::Transmit, "{port}, again");
    }
    assert_eq!(harness.counters().dropped[DropReason::FlowTableFull as usize], (DropReason::FlowTableFull, 6));
}
