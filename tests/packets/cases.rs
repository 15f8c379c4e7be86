//! One row a packet. Each row says in a sentence what is right.

use clb_common::{
    DropReason,
    ForwardingMode::{Dsr, FullNat, Nat},
    NextHop,
    Protocol::{Tcp, Udp},
    Traffic,
};
use clb_userspace::dataplane::{BackendCounters, Counters};

use crate::{
    build::{CLB_MAC, CLIENT_MAC, LONGEST_OPTIONS, SECURITY_OPTION, Segment},
    harness::{Action, Harness, LOOPBACK, Result, listener},
    passed::passed,
    refused::{WITH_OWN_SETTINGS, refused},
};

pub struct Case {
    pub name: &'static str,
    pub packet: Vec<u8>,
    pub expected: Expected,
}

pub enum Expected {
    /// Untouched, to the host.
    Pass,
    /// Out of the interface it came in by, as these bytes.
    Transmit(Vec<u8>),
    /// Out of another interface, as these bytes.
    Redirect(Vec<u8>),
    Drop(DropReason),
}
use Expected::{Drop, Pass, Redirect, Transmit};

#[test]
fn every_packet_becomes_what_its_row_says() {
    let mut harness = harness();
    for Case { name, packet, expected } in cases() {
        let before = harness.counters();
        let result = harness.run(&packet);
        let after = harness.counters();
        let counted = packets(&after) - packets(&before);
        assert_eq!(counted, 1, "{name}: counted once");
        let bytes_in = packet.len() as u64;
        match expected {
            Pass => {
                assert_eq!(result, Result { action: Action::Pass, bytes: packet }, "{name}");
                assert_eq!(after.passed, before.passed + 1, "{name}");
            }
            Transmit(bytes) => {
                assert_eq!(result, Result { action: Action::Transmit, bytes }, "{name}");
                assert_sent(name, &before, &after, bytes_in);
            }
            Redirect(bytes) => {
                assert_eq!(result, Result { action: Action::Redirect, bytes }, "{name}");
                assert_sent(name, &before, &after, bytes_in);
            }
            Drop(reason) => {
                // Then the sender is told.
                let answered = reason == DropReason::PacketTooBig;
                assert_eq!(result.action, if answered { Action::Transmit } else { Action::Drop }, "{name}");
                let of = |counters: &Counters| counters.dropped[reason as usize];
                assert_eq!(of(&after), (reason, of(&before).1 + 1), "{name}");
            }
        }
    }
}

/// However a packet was counted.
fn packets(counters: &Counters) -> u64 {
    counters.passed + counters.answered + counters.dropped() + counters.sent()
}

/// A forwarded packet counts for its listener and one of its backends, a reply for its backend only; both with all bytes.
fn assert_sent(name: &str, before: &Counters, after: &Counters, bytes: u64) {
    let sum = |counters: &Counters| {
        let [mut arrived, mut forwarded, mut replies] = [Traffic::default(); 3];
        for listener in counters.listeners.values() {
            arrived += listener.arrived;
            for BackendCounters { traffic, .. } in listener.backends.values() {
                forwarded += traffic.forwarded;
                replies += traffic.replies;
            }
        }
        [arrived, forwarded, replies]
    };
    let counted: Vec<(u64, u64)> = sum(after)
        .iter()
        .zip(sum(before))
        .map(|(after, before)| (after.packets - before.packets, after.bytes - before.bytes))
        .collect();
    let one = (1, bytes);
    let expected = if name.contains("reply") { [(0, 0), (0, 0), one] } else { [one, one, (0, 0)] };
    assert_eq!(counted, expected, "{name}: arrived, forwarded, replies");
}

/// Every reason but the one that no packet can cause has a row, or a test of its own in `refused`.
#[test]
fn every_drop_reason_is_reached() {
    let reached: Vec<DropReason> =
        cases().iter().filter_map(|case| if let Drop(reason) = case.expected { Some(reason) } else { None }).collect();
    for reason in DropReason::ALL {
        if *reason != DropReason::InconsistentMaps && !WITH_OWN_SETTINGS.contains(reason) {
            assert!(reached.contains(reason), "no case is dropped as {}", reason.name());
        }
    }
}

fn cases() -> Vec<Case> {
    [dsr(), nat(), replies(), passed(), refused()].into_iter().flatten().collect()
}

fn dsr() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, protocol, client, vip) in [
        ("dsr, TCP over IPv4: only the MAC addresses change", Tcp, CLIENT, "203.0.113.10:80"),
        ("dsr, UDP over IPv4: only the MAC addresses change", Udp, CLIENT, "203.0.113.10:53"),
        ("dsr, TCP over IPv6: only the MAC addresses change", Tcp, CLIENT_V6, "[2001:db8:1:2:3:4:5:10]:80"),
        ("dsr, UDP over IPv6: only the MAC addresses change", Udp, CLIENT_V6, "[2001:db8:1:2:3:4:5:10]:53"),
    ] {
        let packet = Segment::new(protocol, client, vip);
        let expected = Transmit(packet.clone().on_link(BACKEND_MAC, CLB_MAC).bytes());
        cases.push(Case { name, packet: packet.bytes(), expected });
    }
    let last_hop = Segment::new(Tcp, CLIENT, "203.0.113.10:80").hop_limit(1);
    cases.push(Case {
        name: "dsr does not route: a TTL of 1 is enough for a backend on the link",
        packet: last_hop.bytes(),
        expected: Transmit(last_hop.on_link(BACKEND_MAC, CLB_MAC).bytes()),
    });
    let options = Segment::new(Tcp, CLIENT, "203.0.113.10:80").options(&SECURITY_OPTION);
    cases.push(Case {
        name: "dsr: IPv4 options are kept",
        packet: options.bytes(),
        expected: Transmit(options.on_link(BACKEND_MAC, CLB_MAC).bytes()),
    });
    let elsewhere = Segment::new(Tcp, CLIENT, "203.0.113.10:81");
    cases.push(Case {
        name: "a backend behind another interface is reached through it",
        packet: elsewhere.bytes(),
        expected: Redirect(elsewhere.on_link(OTHER_BACKEND_MAC, OTHER_CLB_MAC).bytes()),
    });
    let both = Segment::new(Tcp, "10.0.1.11:8081", "203.0.113.10:80");
    cases.push(Case {
        name: "what a backend sends to a listener is for the listener, also from its bound port",
        packet: both.bytes(),
        expected: Transmit(both.on_link(BACKEND_MAC, CLB_MAC).bytes()),
    });
    cases
}

fn nat() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, protocol, client, vip, backend) in [
        ("nat, TCP over IPv4: address, port, TTL and checksums", Tcp, CLIENT, "203.0.113.10:8080", "10.0.1.11:8081"),
        ("nat, UDP over IPv4: address, port, TTL and checksums", Udp, CLIENT, "203.0.113.10:5353", "10.0.1.11:5354"),
        (
            "nat, TCP over IPv6: address, port, hop limit, checksum",
            Tcp,
            CLIENT_V6,
            "[2001:db8:1:2:3:4:5:10]:8080",
            "[fd00:1:2:3:4:5:6:11]:8081",
        ),
        (
            "nat, UDP over IPv6: address, port, hop limit, checksum",
            Udp,
            CLIENT_V6,
            "[2001:db8:1:2:3:4:5:10]:5353",
            "[fd00:1:2:3:4:5:6:11]:5354",
        ),
    ] {
        let packet = Segment::new(protocol, client, vip);
        let expected = packet.clone().to(backend).hop_limit(63).on_link(BACKEND_MAC, CLB_MAC).bytes();
        cases.push(Case { name, packet: packet.bytes(), expected: Transmit(expected) });
    }
    let packet = Segment::new(Tcp, CLIENT, "203.0.113.10:8080");
    let forwarded = packet.clone().to("10.0.1.11:8081").hop_limit(63).on_link(BACKEND_MAC, CLB_MAC);
    cases.push(Case {
        name: "nat finds the TCP header behind IPv4 options",
        packet: packet.clone().options(&SECURITY_OPTION).bytes(),
        expected: Transmit(forwarded.clone().options(&SECURITY_OPTION).bytes()),
    });
    cases.push(Case {
        name: "nat finds the TCP header behind the longest IPv4 header",
        packet: packet.options(&LONGEST_OPTIONS).bytes(),
        expected: Transmit(forwarded.options(&LONGEST_OPTIONS).bytes()),
    });
    let packet = Segment::new(Udp, CLIENT, "203.0.113.10:5353");
    let forwarded = packet.clone().to("10.0.1.11:5354").hop_limit(63).on_link(BACKEND_MAC, CLB_MAC);
    cases.push(Case {
        name: "nat leaves a UDP packet without a checksum without one",
        packet: packet.clone().without_checksum().bytes(),
        expected: Transmit(forwarded.clone().without_checksum().bytes()),
    });
    cases.push(Case {
        name: "nat of an empty datagram",
        packet: packet.clone().payload(b"").bytes(),
        expected: Transmit(forwarded.clone().payload(b"").bytes()),
    });
    // The payload is chosen so that the sum of the forwarded packet is all ones, and its complement 0.
    let zero = forwarded.clone().payload(&zero_checksum_payload(&forwarded));
    cases.push(Case {
        name: "nat sends a computed UDP checksum of 0 as all ones",
        packet: packet.payload(&zero.payload).bytes(),
        expected: Transmit(zero.bytes()),
    });
    cases
}

/// Two bytes that make the UDP checksum of this packet come out as 0.
fn zero_checksum_payload(segment: &Segment) -> Vec<u8> {
    let with_zeros = segment.clone().payload(&[0, 0]).bytes();
    // Adding the checksum of the packet with zeros to the sum makes it all ones.
    let payload = with_zeros[40..42].to_vec();
    let bytes = segment.clone().payload(&payload).bytes();
    assert_eq!(bytes[40..42], [0xff, 0xff], "the expected packet is one with a computed checksum of 0");
    payload
}

fn replies() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, protocol, backend, client, vip) in [
        ("a reply leaves from the VIP, TCP over IPv4", Tcp, "10.0.1.11:8081", CLIENT, "203.0.113.10:8080"),
        ("a reply leaves from the VIP, UDP over IPv4", Udp, "10.0.1.11:5354", CLIENT, "203.0.113.10:5353"),
        (
            "a reply leaves from the VIP, TCP over IPv6",
            Tcp,
            "[fd00:1:2:3:4:5:6:11]:8081",
            CLIENT_V6,
            "[2001:db8:1:2:3:4:5:10]:8080",
        ),
        (
            "a reply leaves from the VIP, UDP over IPv6",
            Udp,
            "[fd00:1:2:3:4:5:6:11]:5354",
            CLIENT_V6,
            "[2001:db8:1:2:3:4:5:10]:5353",
        ),
    ] {
        let packet = Segment::new(protocol, backend, client).on_link(CLB_MAC, BACKEND_MAC);
        let expected = packet.clone().from(vip).hop_limit(63).on_link(CLIENT_MAC, CLB_MAC).bytes();
        cases.push(Case { name, packet: packet.bytes(), expected: Transmit(expected) });
    }
    let far = Segment::new(Tcp, "10.0.1.11:8081", "192.0.2.99:1024").on_link(CLB_MAC, BACKEND_MAC);
    let expected = far.clone().from("203.0.113.10:8080").hop_limit(63).on_link(GATEWAY_MAC, OTHER_CLB_MAC);
    cases.push(Case {
        name: "a reply to a client behind a router goes to the router, by the longest prefix",
        packet: far.bytes(),
        expected: Redirect(expected.bytes()),
    });
    cases
}

fn harness() -> Harness {
    let on_loopback = NextHop::new(BACKEND_MAC, CLB_MAC, LOOPBACK, 1_500);
    let elsewhere = NextHop::new(OTHER_BACKEND_MAC, OTHER_CLB_MAC, OTHER_INTERFACE, 1_500);
    let to_client = NextHop::new(CLIENT_MAC, CLB_MAC, LOOPBACK, 1_500);
    let to_gateway = NextHop::new(GATEWAY_MAC, OTHER_CLB_MAC, OTHER_INTERFACE, 1_500);
    let listeners = [
        listener(Tcp, "203.0.113.10:80", Dsr, &[("10.0.1.11:80", 1)]),
        listener(Udp, "203.0.113.10:53", Dsr, &[("10.0.1.11:53", 1)]),
        listener(Tcp, "[2001:db8:1:2:3:4:5:10]:80", Dsr, &[("[fd00:1:2:3:4:5:6:11]:80", 1)]),
        listener(Udp, "[2001:db8:1:2:3:4:5:10]:53", Dsr, &[("[fd00:1:2:3:4:5:6:11]:53", 1)]),
        listener(Tcp, "203.0.113.10:8080", Nat, &[("10.0.1.11:8081", 1)]),
        listener(Udp, "203.0.113.10:5353", Nat, &[("10.0.1.11:5354", 1)]),
        listener(Tcp, "[2001:db8:1:2:3:4:5:10]:8080", Nat, &[("[fd00:1:2:3:4:5:6:11]:8081", 1)]),
        listener(Udp, "[2001:db8:1:2:3:4:5:10]:5353", Nat, &[("[fd00:1:2:3:4:5:6:11]:5354", 1)]),
        listener(Tcp, "203.0.113.10:81", Dsr, &[("10.0.2.21:81", 1)]),
        listener(Tcp, "203.0.113.10:90", Dsr, &[]),
        listener(Tcp, "203.0.113.10:91", Dsr, &[("10.0.1.11:91", 0)]),
        listener(Tcp, "203.0.113.10:93", FullNat, &[("10.0.1.11:93", 1)]),
        listener(Tcp, "203.0.113.10:92", Dsr, &[("10.0.9.99:92", 1)]),
    ];
    Harness::new(
        &listeners.into(),
        &[("10.0.1.11", on_loopback), ("fd00:1:2:3:4:5:6:11", on_loopback), ("10.0.2.21", elsewhere)],
        &[
            ("198.51.100.0", 24, NextHop::UNRESOLVED),
            ("198.51.100.10", 32, to_client),
            ("198.51.100.2", 32, NextHop::HOST),
            ("2001:db8:ffff::", 64, to_client),
            ("192.0.2.0", 24, to_gateway),
            ("192.0.0.0", 8, to_client),
        ],
    )
}

pub const CLIENT: &str = "198.51.100.10:40000";
pub const CLIENT_V6: &str = "[2001:db8:ffff:0:7:8:9:10]:40000";
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
const OTHER_BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 2, 0x21];
const OTHER_CLB_MAC: [u8; 6] = [2, 0, 0, 0, 2, 0x02];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 2, 0x01];
/// No interface of this number is needed: the program only names it.
const OTHER_INTERFACE: u32 = 77;
