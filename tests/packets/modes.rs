//! Every mode with every family, protocol and frame: whole packets, whole fragments, jumbo frames, replies.

use clb_common::{
    DropReason,
    ForwardingMode::{FullNat, Gue, Ipip, Nat},
    NextHop,
    Protocol::{self, Udp},
};

use crate::{
    build::{CLB_MAC, CLIENT_MAC, SECURITY_OPTION, Segment},
    harness::{Action, Harness, Result},
    rows::{BACKEND_MAC, CLIENT, Row, at_backend, expected, harness, hop, in_mode, rows},
};

#[test]
fn every_mode_sends_what_its_rfc_says() {
    for to_backend in [hop(1_600), hop(1_600).in_vlan(5)] {
        let mut harness = harness(to_backend);
        for (row, protocol) in rows() {
            for packet in shapes(row, protocol) {
                let result = harness.run(&packet.bytes());
                assert_eq!(result.action, Action::Transmit, "{row:?} {packet:?}");
                // The VLAN of the next hop with the packet's priority, whatever tags it came with.
                let priority = packet.tags.first().map_or(0, |tag| tag.1 & 0xe000);
                let tags = if to_backend.vlan == 0 { packet.tags.clone() } else { vec![(0x8100, priority | 5)] };
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
