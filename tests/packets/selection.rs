//! The program selects the backend that the slot table says: the agent and the kernel agree on every flow.

use std::{collections::BTreeMap, net::SocketAddr};

use clb_common::{
    Address, FlowHash,
    ForwardingMode::{Dsr, Nat},
    NextHop, Port,
    Protocol::Tcp,
    slot_of,
};
use clb_userspace::slots;

use crate::{
    build::{CLB_MAC, Segment},
    harness::{Action, Harness, LOOPBACK, Listeners, SEED, listener},
};

/// Addresses and ports of 500 clients, far apart and near each other.
fn clients(prefix: &str) -> impl Iterator<Item = SocketAddr> {
    let prefix = prefix.to_owned();
    (0..500_u32).map(move |number| {
        let address = match prefix.as_str() {
            "v4" => format!("{}.{}.{}.7:{}", 11 + number % 200, number % 251, number % 7, 1_024 + number * 2),
            _ => format!(
                "[2001:db8:{:x}:{:x}:{:x}:7::{:x}]:{}",
                number % 9,
                number * 77 % 65_536,
                number * 31 % 65_536,
                number,
                1_024 + number * 2
            ),
        };
        address.parse().unwrap()
    })
}

fn expected_backend(client: SocketAddr, table: &[slots::BackendId]) -> SocketAddr {
    let flow_hash = FlowHash::from_seed(SEED);
    let port = Port::new(client.port()).word();
    let address = Address::from(client.ip());
    let hash =
        if client.is_ipv4() { flow_hash.hash([address.v4_word()], port) } else { flow_hash.hash(address.0, port) };
    let owner = table[slot_of(hash, table.len() as u32) as usize];
    SocketAddr::new(owner.address, owner.port)
}

fn selected(harness: &mut Harness, client: SocketAddr, vip: &str) -> SocketAddr {
    let packet = Segment::new(Tcp, &client.to_string(), vip);
    let result = harness.run(&packet.bytes());
    assert_eq!(result.action, Action::Transmit, "{client}");
    let headers = etherparse::PacketHeaders::from_ethernet_slice(&result.bytes).unwrap();
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &headers.net else {
        let Some(etherparse::NetHeaders::Ipv6(ip, _)) = &headers.net else { panic!("no IP header") };
        return SocketAddr::new(
            ip.destination_addr().into(),
            headers.transport.unwrap().tcp().unwrap().destination_port,
        );
    };
    let address = std::net::Ipv4Addr::from(ip.destination);
    SocketAddr::new(address.into(), headers.transport.unwrap().tcp().unwrap().destination_port)
}

fn listeners(weights: [u8; 3]) -> Listeners {
    let [a, b, c] = weights;
    BTreeMap::from([
        listener(Tcp, V4_VIP, Nat, &[("10.0.1.11:80", a), ("10.0.1.12:81", b), ("10.0.1.13:82", c)]),
        listener(Tcp, V6_VIP, Nat, &[("[fd00::11]:80", a), ("[fd00::12]:81", b), ("[fd00::13]:82", c)]),
    ])
}

fn harness(listeners: &Listeners) -> Harness {
    let next_hop = NextHop::new([2; 6], CLB_MAC, LOOPBACK, 1_500);
    let addresses = ["10.0.1.11", "10.0.1.12", "10.0.1.13", "fd00::11", "fd00::12", "fd00::13"];
    Harness::new(listeners, &addresses.map(|address| (address, next_hop)), &[])
}

fn assert_selection(harness: &mut Harness, listeners: &Listeners) {
    for (family, vip) in [("v4", V4_VIP), ("v6", V6_VIP)] {
        let endpoint: SocketAddr = vip.parse().unwrap();
        let (_, desired) = listeners.iter().find(|(id, _)| id.vip == endpoint.ip()).unwrap();
        let table = slots::table(&desired.weights, desired.slots);
        for client in clients(family) {
            assert_eq!(selected(harness, client, vip), expected_backend(client, &table), "{client}");
        }
    }
}

#[test]
fn the_program_selects_what_the_slot_table_says() {
    let listeners = listeners([1, 2, 3]);
    assert_selection(&mut harness(&listeners), &listeners);
}

/// A change of weights, a removal, a return: after each the program follows the new table, and the map space that the
/// old ones took is used again.
#[test]
fn a_changed_listener_is_followed() {
    let mut harness = harness(&listeners([1, 2, 3]));
    for weights in [[3, 2, 1], [0, 1, 1], [5, 0, 100], [1, 2, 3]].into_iter().cycle().take(12) {
        let listeners = listeners(weights);
        harness.apply(&listeners);
        assert_selection(&mut harness, &listeners);
    }
}

#[test]
fn a_removed_listener_passes_and_a_returned_one_begins_at_zero() {
    let both = listeners([1, 1, 1]);
    let mut harness = harness(&both);
    let packet = Segment::new(Tcp, "198.51.100.10:40000", V4_VIP).bytes();
    assert_eq!(harness.run(&packet).action, Action::Transmit);

    let mut without = both.clone();
    without.retain(|id, _| id.vip.is_ipv6());
    harness.apply(&without);
    assert_eq!(harness.run(&packet).action, Action::Pass);
    let reply = Segment::new(Tcp, "10.0.1.11:80", "198.51.100.10:40000").bytes();
    assert_eq!(harness.run(&reply).action, Action::Pass, "its backends' replies are nobody's");

    harness.apply(&both);
    let counters = harness.counters();
    let (_, counted) = counters.listeners.iter().find(|(id, _)| id.vip.is_ipv4()).unwrap();
    assert_eq!(counted.arrived.packets, 0);
    assert!(counted.backends.values().all(|backend| backend.traffic.forwarded.packets == 0));
    assert_eq!(harness.run(&packet).action, Action::Transmit);
}

/// A backend that moves from one `nat` listener to another keeps a way back, and it leads to the new one.
#[test]
fn a_backend_that_moves_between_listeners_answers_for_the_new_one() {
    let listeners = |first: &[(&str, u8)], second: &[(&str, u8)]| {
        BTreeMap::from([listener(Tcp, V4_VIP, Nat, first), listener(Tcp, "203.0.113.10:443", Nat, second)])
    };
    let (here, there) = (("10.0.1.11:80", 1), ("10.0.1.12:81", 1));
    let next_hop = NextHop::new([2; 6], CLB_MAC, LOOPBACK, 1_500);
    let next_hops = [("10.0.1.11", next_hop), ("10.0.1.12", next_hop)];
    let mut harness = Harness::new(&listeners(&[here], &[there]), &next_hops, &[("198.51.100.0", 24, next_hop)]);
    let reply = Segment::new(Tcp, "10.0.1.11:80", "198.51.100.10:40000").on_link(CLB_MAC, [2; 6]);
    for (first, second, vip) in [
        (vec![there], vec![here], "203.0.113.10:443"),
        (vec![here], vec![there], V4_VIP),
        (vec![], vec![here, there], "203.0.113.10:443"),
        (vec![here, there], vec![], V4_VIP),
    ] {
        harness.apply(&listeners(&first, &second));
        let expected = reply.clone().from(vip).hop_limit(63).on_link([2; 6], CLB_MAC).bytes();
        let result = harness.run(&reply.bytes());
        assert_eq!((result.action, result.bytes), (Action::Transmit, expected), "the reply leaves from {vip}");
    }
}

/// A listener may go from one mode to another and back.
#[test]
fn a_changed_mode_is_followed() {
    let next_hop = NextHop::new([2; 6], CLB_MAC, LOOPBACK, 1_500);
    // The program has the modes that it was loaded for.
    let of = |mode| {
        let other = listener(Tcp, "203.0.113.10:443", Nat, &[]);
        BTreeMap::from([listener(Tcp, V4_VIP, mode, &[("10.0.1.11:80", 1)]), other])
    };
    let mut harness = Harness::new(&of(Dsr), &[("10.0.1.11", next_hop)], &[]);
    let packet = Segment::new(Tcp, "198.51.100.10:40000", V4_VIP);
    let sent = packet.clone().on_link([2; 6], CLB_MAC);
    let rewritten = sent.clone().to("10.0.1.11:80").hop_limit(63);
    for (mode, expected) in [(Dsr, &sent), (Nat, &rewritten), (Dsr, &sent), (Nat, &rewritten)] {
        harness.apply(&of(mode));
        let expected = expected.bytes();
        assert_eq!(harness.run(&packet.bytes()).bytes, expected, "{mode:?}");
    }
}

/// A next hop that changes is used by the next packet, one that is lost by none; and so with the way to clients.
#[test]
fn a_changed_next_hop_or_route_is_followed() {
    let listeners = BTreeMap::from([listener(Tcp, V4_VIP, Nat, &[("10.0.1.11:80", 1)])]);
    let hop = |last| NextHop::new([2, 0, 0, 0, 0, last], CLB_MAC, LOOPBACK, 1_500);
    let mut harness = Harness::new(&listeners, &[("10.0.1.11", hop(1))], &[("198.51.100.0", 24, hop(2))]);
    let packet = Segment::new(Tcp, "198.51.100.10:40000", V4_VIP).bytes();
    let reply = Segment::new(Tcp, "10.0.1.11:80", "198.51.100.10:40000").bytes();
    assert_eq!(harness.run(&packet).bytes[..6], hop(1).destination());
    assert_eq!(harness.run(&reply).bytes[..6], hop(2).destination());

    harness.update_next_hops(&[("10.0.1.11", hop(3))], &[("198.51.100.0", 24, hop(4))]);
    assert_eq!(harness.run(&packet).bytes[..6], hop(3).destination());
    assert_eq!(harness.run(&reply).bytes[..6], hop(4).destination());

    harness.update_next_hops(&[], &[]);
    assert_eq!(harness.run(&packet).action, Action::Drop);
    assert_eq!(harness.run(&reply).action, Action::Drop);
}

/// Two large sets of routes that fit one after the other, but not together.
#[test]
fn routes_that_are_replaced_make_room_first() {
    let listeners = BTreeMap::from([listener(Tcp, V4_VIP, Nat, &[("10.0.1.11:80", 1)])]);
    let next_hop = NextHop::new([2; 6], CLB_MAC, LOOPBACK, 1_500);
    let mut harness = Harness::new(&listeners, &[("10.0.1.11", next_hop)], &[]);
    let routes = |first: u8| {
        let prefix = move |number: u32| format!("{first}.{}.{}.0", number / 256, number % 256);
        (0..40_000).map(prefix).collect::<Vec<_>>()
    };
    for first in [11, 12] {
        let routes = routes(first);
        let routes: Vec<_> = routes.iter().map(|prefix| (prefix.as_str(), 24, next_hop)).collect();
        harness.update_next_hops(&[("10.0.1.11", next_hop)], &routes);
        for (client, action) in [(first, Action::Transmit), (23 - first, Action::Drop)] {
            let reply = Segment::new(Tcp, "10.0.1.11:80", &format!("{client}.7.7.7:40000")).bytes();
            assert_eq!(harness.run(&reply).action, action, "a client in {client}.0.0.0/8");
        }
    }
}

/// What was counted for a backend stays counted when the backend is gone.
#[test]
fn the_sum_of_what_was_sent_survives_a_removed_backend() {
    let both = listeners([1, 1, 1]);
    let mut harness = harness(&both);
    for client in clients("v4") {
        selected(&mut harness, client, V4_VIP);
    }
    let before = harness.counters().sent();
    harness.apply(&listeners([1, 1, 0]));
    harness.apply(&BTreeMap::new());
    assert_eq!(harness.counters().sent(), before);
}

/// Shares of slots are parts of one whole, and a table of any size goes in and out any number of times.
#[test]
fn map_space_comes_back_after_every_change() {
    let mut harness = harness(&listeners([1, 2, 3]));
    for round in 0..200 {
        let listeners = listeners([round % 3, 1, round % 7]);
        harness.apply(&listeners);
        for (_, counted) in harness.counters().listeners {
            let slots: u32 = counted.backends.values().map(|backend| backend.slots).sum();
            assert_eq!(slots, counted.slots);
        }
    }
    assert_selection(&mut harness, &listeners([199 % 3, 1, 199 % 7]));
}

const V4_VIP: &str = "203.0.113.10:80";
const V6_VIP: &str = "[2001:db8::10]:80";
