//! Whatever comes in: it is counted once, and what is not for a listener leaves as it came.

use clb_common::{
    ForwardingMode::{Dsr, Nat},
    NextHop,
    Protocol::{Tcp, Udp},
};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use crate::{
    build::{CLB_MAC, Segment},
    harness::{Action, Harness, LOOPBACK, listener},
};

fn harness() -> Harness {
    let next_hop = NextHop::new([2; 6], CLB_MAC, LOOPBACK, 1_500);
    let listeners = [
        listener(Tcp, "203.0.113.10:80", Dsr, &[("10.0.1.11:80", 1)]),
        listener(Udp, "203.0.113.10:53", Nat, &[("10.0.1.11:5353", 1)]),
        listener(Tcp, "[2001:db8::10]:80", Nat, &[("[fd00::11]:8080", 1)]),
    ];
    Harness::new(&listeners.into(), &[("10.0.1.11", next_hop), ("fd00::11", next_hop)], &[("0.0.0.0", 0, next_hop)])
}

/// Packets for listeners, and their like: some bytes replaced, some cut off.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let segments = prop::sample::select(vec![
        Segment::new(Tcp, "198.51.100.10:40000", "203.0.113.10:80"),
        Segment::new(Udp, "198.51.100.10:40000", "203.0.113.10:53"),
        Segment::new(Udp, "10.0.1.11:5353", "198.51.100.10:40000"),
        Segment::new(Tcp, "[2001:db8:ffff::10]:40000", "[2001:db8::10]:80"),
        Segment::new(Tcp, "198.51.100.10:40000", "203.0.113.99:80"),
    ]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (segments, changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(segment, changes, end, cut)| {
        let mut bytes = segment.bytes();
        for (at, value) in changes {
            // The headers are where it matters.
            let at = at.index(bytes.len().min(80));
            bytes[at] = value;
        }
        if cut {
            // The kernel refuses to run a program on less than an Ethernet header.
            bytes.truncate(14 + end.index(bytes.len() - 14));
        }
        bytes
    })
}

#[test]
fn every_packet_is_counted_once_and_a_passed_one_is_untouched() {
    let mut harness = harness();
    let (mut packets_in, mut passed, mut transmitted) = (0, 0, 0);
    let mut runner = TestRunner::deterministic();
    for _ in 0..20_000 {
        let packet = packets().new_tree(&mut runner).unwrap().current();
        packets_in += 1;
        let result = harness.run(&packet);
        match result.action {
            Action::Pass => {
                passed += 1;
                assert_eq!(result.bytes, packet);
            }
            Action::Transmit => {
                transmitted += 1;
                assert_eq!(result.bytes.len(), packet.len());
            }
            Action::Drop => {}
            Action::Redirect | Action::Aborted => panic!("{:?} of {packet:02x?}", result.action),
        }
    }
    let counters = harness.counters();
    assert_eq!(counters.passed, passed);
    assert_eq!(counters.sent(), transmitted);
    assert_eq!(counters.passed + counters.sent() + counters.dropped(), packets_in);
    assert!(passed > 1_000 && transmitted > 1_000 && counters.dropped() > 100, "the packets are of all kinds");
}
