//! The mirror of the network against the real kernel: two or three hosts in network namespaces, joined by veth.
//!
//! Each test makes its own namespaces and removes them, also when it fails. They need root, and fail without it.

mod network_namespaces;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use clb_common::NextHop;
use clb_userspace::network::{LinkState, NeighbourState, Network, Prefix, Reach, Refusal, Unresolved};
use network_namespaces::{Namespaces, mac};
use tokio::time::timeout;

const PEER: &str = "10.0.0.2";

#[test]
fn a_neighbour_is_resolved_when_asked_for() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        let missing = Unresolved::NoMac { neighbour: ip(PEER), interface: "eth0".into(), state: NeighbourState::None };
        assert_eq!(network.next_hop(ip(PEER), Reach::OnLink), Err(missing));
        network.ask(ip(PEER));
        until(&mut network, "the peer is resolved", |network| network.next_hop(ip(PEER), Reach::OnLink).is_ok()).await;

        let eth0 = network.interface("eth0").expect("eth0 is there");
        assert_eq!((eth0.mtu, eth0.state), (1500, LinkState::Up));
        let own = mac(&hosts.show("balancer", "eth0"));
        assert_eq!(eth0.mac, Some(own));
        let hop = network.next_hop(ip(PEER), Reach::OnLink).unwrap();
        assert_eq!((hop.via, hop.interface.as_str()), (ip(PEER), "eth0"));
        assert_eq!(hop.next_hop, NextHop::new(mac(&hosts.show("peer", "eth0")), own, eth0.index, 1500));
    });
}

#[test]
fn both_families_are_kept_resolved_without_being_asked_again() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        for address in [PEER, "2001:db8::2"] {
            network.keep_resolved([(ip(address), Reach::OnLink)].into());
            until_resolved(&mut network, address).await;

            hosts.ip("balancer", &format!("neighbour del {address} dev eth0"));
            let shown = || hosts.ip("balancer", &format!("neighbour show {address}"));
            assert!(!shown().contains("lladdr"), "the kernel knows {address} only when asked");
            until_kernel(&mut network, "the kernel was asked", || shown().contains("lladdr")).await;
            until_resolved(&mut network, address).await;
        }
    });
}

#[test]
fn a_changed_mac_address_is_followed() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        network.keep_resolved([(ip(PEER), Reach::OnLink)].into());
        until_resolved(&mut network, PEER).await;
        for (name, announce, new) in
            [("by the peer's announcement", "1", "02:00:00:00:00:77"), ("by a failed probe", "0", "02:00:00:00:00:78")]
        {
            hosts.sysctl("peer", &format!("net.ipv4.conf.eth0.arp_notify={announce}"));
            hosts.ip("peer", &format!("link set eth0 address {new}"));
            if announce == "0" {
                hosts.ip("balancer", &format!("neighbour change {PEER} dev eth0 nud probe"));
            }
            until(&mut network, name, |network| destination(network, PEER) == Ok(mac(new))).await;
        }
    });
}

#[test]
fn a_neighbour_that_stops_answering_is_unresolved_until_it_is_back() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        network.keep_resolved([(ip(PEER), Reach::OnLink)].into());
        until_resolved(&mut network, PEER).await;

        hosts.ip("peer", &format!("address del {PEER}/24 dev eth0"));
        hosts.ip("balancer", &format!("neighbour change {PEER} dev eth0 nud probe"));
        until(&mut network, "it is unresolved", |network| {
            matches!(network.next_hop(ip(PEER), Reach::OnLink), Err(Unresolved::NoMac { .. }))
        })
        .await;
        hosts.ip("peer", &format!("address add {PEER}/24 dev eth0"));
        until_resolved(&mut network, PEER).await;
    });
}

#[test]
fn a_reported_path_mtu_makes_the_next_hop_narrower_and_never_wider() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        network.note_path_mtu(ip(PEER), 1_300);
        network.keep_resolved([(ip(PEER), Reach::Routed)].into());
        let mtu = |network: &Network| network.next_hop(ip(PEER), Reach::Routed).map(|hop| hop.next_hop.mtu);
        until(&mut network, "the peer is resolved, and nobody asked for it before", |network| {
            mtu(network) == Ok(1_500)
        })
        .await;
        for (name, reported, expected) in
            [("wider than the link", 9_000, 1_500), ("narrower", 1_400, 1_400), ("too narrow", 68, 552)]
        {
            network.note_path_mtu(ip(PEER), reported);
            assert_eq!(mtu(&network), Ok(expected), "{name}");
        }
        timeout(Duration::from_secs(5), network.changed()).await.expect("the change is told").unwrap();
    });
}

#[test]
fn a_stale_neighbour_is_verified_within_half_a_minute() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        network.keep_resolved([(ip(PEER), Reach::OnLink)].into());
        until_resolved(&mut network, PEER).await;
        hosts.ip("balancer", &format!("neighbour change {PEER} dev eth0 nud stale"));
        let mut waited = Duration::ZERO;
        while hosts.ip("balancer", &format!("neighbour show {PEER}")).contains("STALE") {
            assert!(waited < Duration::from_secs(40), "still stale after {waited:?} of the agent's clock");
            // Lets the mirror hear and ask, then moves its clock, not the kernel's.
            let _ = timeout(Duration::from_millis(20), network.changed()).await;
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
            waited += Duration::from_secs(1);
        }
        assert!(waited > Duration::from_secs(10), "verified after {waited:?} already");
        assert!(destination(&network, PEER).is_ok(), "it was usable all the time");
    });
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_followed() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        network.keep_resolved([(ip(PEER), Reach::OnLink)].into());
        until_resolved(&mut network, PEER).await;

        hosts.ip("peer", "link set eth0 down");
        let no_carrier = Unresolved::InterfaceDown { interface: "eth0".into(), state: LinkState::NoCarrier };
        until_unresolved(&mut network, PEER, &no_carrier).await;
        hosts.ip("peer", "link set eth0 up");
        until_resolved(&mut network, PEER).await;

        hosts.ip("balancer", "link set eth0 down");
        until_unresolved(&mut network, PEER, &Unresolved::NoRoute).await;
        hosts.ip("balancer", "link set eth0 up");
        until_resolved(&mut network, PEER).await;

        hosts.ip("balancer", "link set eth0 mtu 1400");
        until(&mut network, "the MTU is lower", |network| {
            network.next_hop(ip(PEER), Reach::OnLink).is_ok_and(|hop| hop.next_hop.mtu == 1400)
        })
        .await;
        hosts.ip("balancer", "link del eth0");
        until(&mut network, "the interface is gone", |network| network.interface("eth0").is_none()).await;
        assert_eq!(network.next_hop(ip(PEER), Reach::OnLink), Err(Unresolved::NoRoute));
    });
}

#[test]
fn routes_by_routers_are_followed() {
    let hosts = pair();
    hosts.join("balancer", "eth1", "10.0.1.1/24", "other", "eth0", "10.0.1.2/24");
    hosts.in_balancer(async |mut network| {
        let (client, prefix) = ("192.0.2.1", Prefix::new(ip("192.0.2.0"), 24));
        let [peer, other] = ["peer", "other"].map(|host| mac(&hosts.show(host, "eth0")));
        assert_eq!(network.next_hop(ip(client), Reach::Routed), Err(Unresolved::NoRoute));

        // Nobody names the routers: they are kept resolved because routes use them.
        hosts.ip("balancer", &format!("route add 192.0.2.0/24 via {PEER} mtu 1300"));
        let leaves = |network: &Network, mac, mtu| {
            network
                .next_hop(ip(client), Reach::Routed)
                .is_ok_and(|hop| hop.next_hop.destination() == mac && hop.next_hop.mtu == mtu)
        };
        until(&mut network, "it leaves by the peer", |network| leaves(network, peer, 1300)).await;
        let hop = network.next_hop(ip(client), Reach::Routed).unwrap().next_hop;
        assert_eq!(network.client_routes().get(&prefix), Some(&hop));
        let behind = Unresolved::BehindRouter { gateway: ip(PEER) };
        assert_eq!(network.next_hop(ip(client), Reach::OnLink), Err(behind));

        hosts.ip("balancer", "route change 192.0.2.0/24 via 10.0.1.2");
        until(&mut network, "it leaves by the other", |network| leaves(network, other, 1500)).await;

        hosts.ip("balancer", "route add 192.0.2.0/28 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
        until(&mut network, "it leaves by the first of two", |network| leaves(network, peer, 1500)).await;
        hosts.ip("peer", "link set eth0 down");
        until(&mut network, "it leaves by the second of two", |network| leaves(network, other, 1500)).await;

        hosts.ip("balancer", "route add blackhole 192.0.2.1/32");
        let refused = Unresolved::Refused(Refusal::Blackhole);
        until(&mut network, "it is refused", |network| {
            network.next_hop(ip(client), Reach::Routed) == Err(refused.clone())
        })
        .await;
        assert_eq!(network.client_routes().get(&Prefix::host(ip(client))), Some(&NextHop::UNRESOLVED));
    });
}

#[test]
fn ipv6_routers_serve_both_families() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        let peer = mac(&hosts.show("peer", "eth0"));
        hosts.ip("balancer", "-6 route add 2001:db8:1::/48 via 2001:db8::2");
        hosts.ip("balancer", "route add 192.0.2.0/24 via inet6 2001:db8::2 dev eth0");
        for client in ["2001:db8:1::7", "192.0.2.7"] {
            until(&mut network, client, |network| {
                network
                    .next_hop(ip(client), Reach::Routed)
                    .is_ok_and(|hop| hop.via == ip("2001:db8::2") && hop.next_hop.destination() == peer)
            })
            .await;
        }
        hosts.ip("balancer", "-6 route del 2001:db8:1::/48");
        until(&mut network, "the route is gone", |network| {
            network.next_hop(ip("2001:db8:1::7"), Reach::Routed) == Err(Unresolved::NoRoute)
        })
        .await;
    });
}

#[test]
fn routes_that_the_kernel_drops_silently_are_gone() {
    let hosts = pair();
    hosts.ip("balancer", "address add 10.0.0.7/32 dev eth0");
    hosts.ip("balancer", &format!("route add 192.0.2.0/24 via {PEER} src 10.0.0.7"));
    hosts.in_balancer(async |mut network| {
        assert_eq!(network.next_hop(ip("10.0.0.7"), Reach::Routed), Err(Unresolved::Local));
        until(&mut network, "the route is there", |network| network.next_hop(ip("192.0.2.1"), Reach::Routed).is_ok())
            .await;
        hosts.ip("balancer", "address del 10.0.0.7/32 dev eth0");
        until(&mut network, "the route is gone", |network| {
            network.next_hop(ip("192.0.2.1"), Reach::Routed) == Err(Unresolved::NoRoute)
        })
        .await;
    });
}

#[test]
fn clients_on_a_link_are_found_and_strangers_are_not() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        network.ask(ip(PEER));
        network.ask(ip("10.0.0.99"));
        until(&mut network, "the peer is in the table, and the stranger is known to be none", |network| {
            let stranger = network.next_hop(ip("10.0.0.99"), Reach::OnLink);
            network.client_routes().contains_key(&Prefix::host(ip(PEER)))
                && matches!(stranger, Err(Unresolved::NoMac { state: NeighbourState::Failed, .. }))
        })
        .await;
        let table = network.client_routes();
        let is_neighbour = |hop: &NextHop| hop.is_resolved() && !hop.is_host();
        let resolved: Vec<_> = table.iter().filter(|(_, hop)| is_neighbour(hop)).map(|(prefix, _)| *prefix).collect();
        assert_eq!(resolved, [Prefix::host(ip(PEER))]);
        for (address, length, expected) in [
            ("10.0.0.0", 24, NextHop::UNRESOLVED),
            ("10.0.0.1", 32, NextHop::HOST),
            ("2001:db8::", 64, NextHop::UNRESOLVED),
            ("2001:db8::1", 128, NextHop::HOST),
        ] {
            assert_eq!(table.get(&Prefix::new(ip(address), length)), Some(&expected), "{address}/{length}");
        }
    });
}

#[test]
fn a_flood_of_changes_is_told_few_times_and_leaves_the_mirror_true() {
    let hosts = pair();
    hosts.in_balancer(async |mut network| {
        // More than the kernel keeps for a reader that does not read.
        let address = |number: u32| IpAddr::from([10, 0, (number >> 8) as u8 + 1, number as u8]);
        let batch = |command: &str, numbers: std::ops::Range<u32>| -> String {
            let line = |number| format!("neighbour {command} {} lladdr 02:00:00:00:00:05 dev eth0\n", address(number));
            numbers.map(line).collect()
        };
        hosts.ip("balancer", "route add 10.0.0.0/16 dev eth0");
        for _ in 0..4 {
            hosts.ip_batch("balancer", &batch("replace", 0..8000));
        }
        hosts.ip_batch("balancer", &batch("del", 4000..8000));
        assert!(Namespaces::lost_messages() > 0, "the flood did not fill the kernel's buffer");

        let resolved = |network: &Network, number| network.next_hop(address(number), Reach::OnLink).is_ok();
        let mut told = 0;
        timeout(DEADLINE, async {
            while !(0..8000).all(|number| resolved(&network, number) == (number < 4000)) {
                network.changed().await.unwrap();
                told += 1;
            }
        })
        .await
        .expect("the mirror lists what the kernel has");
        assert!(told <= 50, "told {told} times");
    });
}

/// The balancer (`10.0.0.1`, `2001:db8::1`) and its peer (`10.0.0.2`, `2001:db8::2`) on one link, `eth0` on both.
fn pair() -> Namespaces {
    let hosts = Namespaces::new();
    hosts.join("balancer", "eth0", "10.0.0.1/24", "peer", "eth0", "10.0.0.2/24");
    for (host, address) in [("balancer", "2001:db8::1/64"), ("peer", "2001:db8::2/64")] {
        hosts.ip(host, &format!("address add {address} dev eth0 nodad"));
    }
    hosts
}

fn destination(network: &Network, address: &str) -> Result<[u8; 6], Unresolved> {
    network.next_hop(ip(address), Reach::OnLink).map(|hop| hop.next_hop.destination())
}

async fn until_resolved(network: &mut Network, address: &str) {
    until(network, &format!("{address} is resolved"), |network| destination(network, address).is_ok()).await;
}

async fn until_unresolved(network: &mut Network, address: &str, why: &Unresolved) {
    let what = format!("{address} is unresolved: {why}");
    until(network, &what, |network| destination(network, address).as_ref() == Err(why)).await;
}

/// Waits for what must come true by itself; every look follows a change that the mirror told of.
async fn until(network: &mut Network, what: &str, condition: impl Fn(&Network) -> bool) {
    let waiting = async {
        while !condition(network) {
            network.changed().await.expect("the mirror goes on");
        }
    };
    assert!(timeout(DEADLINE, waiting).await.is_ok(), "not within {DEADLINE:?}: {what}");
}

/// Waits for what shows in the kernel only, while the mirror does its work.
async fn until_kernel(network: &mut Network, what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        let _ = timeout(Duration::from_millis(20), network.changed()).await;
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address of this test")
}

const DEADLINE: Duration = Duration::from_secs(10);
