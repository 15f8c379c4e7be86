//! ICMP to, about and from clb: errors in every mode and both directions, echo, and messages about packets that are too big.

use std::net::{IpAddr, SocketAddr};

use clb_common::{
    DropReason, Event,
    ForwardingMode::{Dsr, FullNat, Gue, Ipip, Nat},
    Protocol::Tcp,
};

use crate::{
    build::{CLB_MAC, CLIENT_MAC, Segment, frame, icmp},
    harness::{Action, Harness, Result},
    inspect,
    rows::{BACKEND_MAC, CLIENT, ROWS, at_backend, harness, hop, in_mode, rows},
};

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
