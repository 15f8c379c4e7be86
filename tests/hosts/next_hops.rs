//! Next hops follow the network: no packet goes where nobody is, and none is lost for long after somebody is back.

use std::{slice, time::Duration};

use clb_tests::{Host, NextHopStatus, Server, Servers, Status, wait_until};

use crate::{
    config::{Listener, Mode, backend_address, every_kind},
    network::{Arms, INNER_V4, Network, PATIENCE, clients, flows, log, run, wait_for_status, wait_for_status_within},
    own_traffic::ping,
};

#[test]
fn a_backend_with_a_new_mac_address_is_followed() {
    let network = Network::new(Arms::Two, 1);
    let listeners = every_kind(1);
    let _servers = network.serve(&listeners);
    let agent = network.start(&network.file(&listeners), &[]);
    run(&network.backends[0], "ip link set eth0 address 02:00:00:00:00:77");
    wait_for_status(&agent, "the new MAC address is known", |status| {
        backends_are(status, |next_hop| next_hop.detail.contains("02:00:00:00:00:77"))
    });
    for listener in &listeners {
        assert_eq!(network.flows(listener, 20).failures, [].into(), "{}", listener.name);
    }
}

/// An address that moves to another host, whose first one goes on listening: as an interface that is attached elsewhere.
#[test]
fn no_packet_goes_to_the_old_mac_address_once_the_new_one_is_known() {
    let network = Network::new(Arms::Two, 2);
    let Network { balancer, backends, .. } = &network;
    let [old, new] = [&backends[0], &backends[1]];
    let listeners = every_kind(1);
    let serve = |host: &Host| {
        let servers = listeners.iter().map(|listener| Server {
            listen: listener.server_address(listener.backends().next().unwrap().1),
            protocol: listener.protocol,
            device: String::new(),
            identity: host.label().to_owned(),
        });
        Servers::start(host, servers.collect()).unwrap()
    };
    let _old_servers = serve(old);
    let agent = network.start(&network.file(&listeners), &[]);
    let assert_answers = |host: &Host| {
        for listener in &listeners {
            let outcome = network.flows(listener, 20);
            assert_eq!(outcome.failures, [].into(), "{}", listener.name);
            assert_eq!(outcome.answers, [(host.label().to_owned(), 20)].into(), "{}", listener.name);
        }
    };
    assert_answers(old);

    let addresses = [(backend_address(1, true), 16), (backend_address(1, false), 64)];
    for (address, length) in addresses {
        run(old, &format!("ip address delete {address}/{length} dev eth0"));
        new.add_address(&format!("{address}/{length}"), "eth0").unwrap();
    }
    let _new_servers = serve(new);
    // It announces all of its addresses.
    run(new, "ip link set eth0 address 02:00:00:00:00:77");
    wait_until("the network knows", PATIENCE, || {
        let known = addresses.map(|(address, _)| run(balancer, &format!("ip neigh show {address} dev eth1")));
        Ok(known.iter().all(|known| known.contains("02:00:00:00:00:77")))
    })
    .unwrap();
    wait_for_status_within(ONE_SECOND, &agent, "the new MAC address is known", |status| {
        backends_are(status, |next_hop| next_hop.detail.contains("02:00:00:00:00:77"))
    });
    assert_answers(new);
}

/// The backend is lost with the cable or the interface, which the kernel notices, or by silence, which only asking shows.
#[test]
fn a_lost_backend_is_told_and_its_packets_are_counted_until_it_is_back() {
    struct Case {
        name: &'static str,
        lose: fn(&Network),
        restore: fn(&Network),
        detail: &'static str,
    }
    for Case { name, lose, restore, detail } in [
        Case {
            name: "the cable",
            lose: |network| drop(run(&network.back, "ip link set lb-eth1 down")),
            restore: |network| drop(run(&network.back, "ip link set lb-eth1 up")),
            detail: "its interface eth1 has no carrier",
        },
        Case {
            name: "a loose cable",
            lose: |network| {
                for state in ["down", "up", "down", "up", "down"] {
                    run(&network.back, &format!("ip link set lb-eth1 {state}"));
                }
            },
            restore: |network| {
                for state in ["up", "down", "up", "down", "up"] {
                    run(&network.back, &format!("ip link set lb-eth1 {state}"));
                }
            },
            detail: "its interface eth1 has no carrier",
        },
        Case {
            name: "the load balancer's own interface",
            lose: |network| drop(run(&network.balancer, "ip link set eth1 down")),
            restore: |network| drop(run(&network.balancer, "ip link set eth1 up")),
            detail: "no route of the main table leads to it",
        },
        Case {
            name: "silence",
            lose: |network| {
                run(&network.backends[0], "ip link set eth0 down");
                run(&network.balancer, "ip neigh flush dev eth1");
            },
            restore: |network| {
                run(&network.backends[0], "ip link set eth0 up");
                run(&network.backends[0], "ip route replace default via 10.0.0.2");
            },
            detail: "the MAC address of 10.0.1.11 on eth1 is not known",
        },
    ] {
        let network = Network::new(Arms::Two, 1);
        network.balancer.sysctl("net.ipv4.neigh.eth1.retrans_time_ms", "100").unwrap();
        let listeners = [
            Listener::udp("dsr", "203.0.113.10:53", Mode::Dsr, 53, 1),
            Listener::udp("nat", "203.0.113.10:5353", Mode::Nat, 5354, 1),
        ];
        let _servers = network.serve(&listeners);
        let agent = network.start(&network.file(&listeners), &[]);

        lose(&network);
        // While a cable is loose, there may be another reason for a moment.
        wait_for_status(&agent, &format!("it is unresolved: {name}"), |status| {
            backends_are(status, |next_hop| next_hop.state == "unresolved" && next_hop.detail.contains(detail))
        });
        assert!(log(&agent).contains("backend 10.0.1.11 is not reachable"), "{name}: {}", log(&agent));
        for listener in &listeners {
            let outcome = network.flows(listener, 5);
            assert_eq!(outcome.failed(), 5, "{name}: {}", listener.name);
        }
        let status = agent.status().unwrap();
        assert_eq!(status.drops["next-hop-unresolved"], 10, "{name}: {:?}", status.drops);
        assert_eq!(status.listeners.iter().map(|listener| listener.packets).sum::<u64>(), 10, "{name}");

        restore(&network);
        wait_until("the network knows", PATIENCE, || Ok(ping(&network.balancer, backend_address(1, true)))).unwrap();
        wait_for_status_within(ONE_SECOND, &agent, "it is resolved", |status| {
            backends_are(status, |next_hop| next_hop.state == "resolved")
        });
        assert!(log(&agent).contains("backend 10.0.1.11 is reachable again"), "{name}: {}", log(&agent));
        for listener in &listeners {
            assert_eq!(network.flows(listener, 20).failures, [].into(), "{name}: {}", listener.name);
        }
    }
}

fn backends_are(status: &Status, are: impl Fn(&NextHopStatus) -> bool) -> bool {
    let mut backends = status.listeners.iter().flat_map(|listener| &listener.backends);
    backends.all(|backend| are(&backend.next_hop))
}

/// A stranger's network: the load balancer knows it by its default route only.
#[test]
fn a_client_behind_a_router_gets_its_answers() {
    let network = Network::new(Arms::Two, 2);
    let (gateway, stranger) = (network.lab.host("gateway").unwrap(), network.lab.host("stranger").unwrap());
    network.lab.plug(&network.front, &gateway, "eth0").unwrap();
    network.lab.link(&gateway, "eth1", &stranger, "eth0").unwrap();
    gateway.sysctl("net.ipv4.ip_forward", "1").unwrap();
    gateway.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
    for (host, words) in [
        (&gateway, "address add 198.51.100.1/24 dev eth0"),
        (&gateway, "address add 2001:db8:1::1/64 dev eth0"),
        (&gateway, "address add 192.0.2.1/24 dev eth1"),
        (&gateway, "address add 2001:db8:2::1/64 dev eth1"),
        (&gateway, "route add 203.0.113.0/24 via 198.51.100.2"),
        (&gateway, "route add 2001:db8:113::/64 via 2001:db8:1::2"),
        (&stranger, "address add 192.0.2.10/24 dev eth0"),
        (&stranger, "address add 2001:db8:2::10/64 dev eth0"),
        (&stranger, "route add default via 192.0.2.1"),
        (&stranger, "route add default via 2001:db8:2::1"),
        (&network.balancer, "route add default via 198.51.100.1"),
        (&network.balancer, "route add default via 2001:db8:1::1"),
    ] {
        run(host, &format!("ip {words}"));
    }
    let mut listeners = every_kind(2);
    listeners.retain(|listener| listener.mode == Mode::Nat);
    let _servers = network.serve(&listeners);
    let _agent = network.start(&network.file(&listeners), &[]);
    // In each family TCP comes first: it sends again what came before the router had told its MAC address.
    for listener in &listeners {
        let source = if listener.vip.is_ipv4() { "192.0.2.10" } else { "2001:db8:2::10" };
        let outcome = flows(&stranger, source.parse().unwrap(), listener, 50);
        assert_eq!(outcome.failures, [].into(), "{}", listener.name);
    }
}

/// The kernel has no entry for the client, and the client needs none of the kernel: the first answer is dropped and
/// reported, the kernel asks, and the connection succeeds with the second.
#[test]
fn a_client_that_the_kernel_has_forgotten_is_asked_for() {
    let network = Network::new(Arms::Two, 1);
    let listeners = ["203.0.113.10", "[2001:db8:113::10]"].map(|vip| {
        [80, 81].map(|port| Listener::tcp(&format!("{vip}-{port}"), &format!("{vip}:{port}"), Mode::Nat, port, 1))
    });
    let _servers = network.serve(listeners.as_flattened());
    let mac = run(&network.balancer, "cat /sys/class/net/eth0/address");
    for address in ["198.51.100.2", "2001:db8:1::2"] {
        run(&network.client, &format!("ip neigh replace {address} lladdr {} dev eth0 nud permanent", mac.trim()));
    }
    run(&network.balancer, "ip neigh flush dev eth0");
    let agent = network.start(&network.file(listeners.as_flattened()), &[]);
    for (number, [first, then]) in (1..).zip(&listeners) {
        let source = clients(first.vip.is_ipv4())[0];
        let known = run(&network.balancer, &format!("ip neigh show {source} dev eth0"));
        assert_eq!(known, "", "the kernel does not know {source}");
        assert_eq!(flows(&network.client, source, first, 1).failures, [].into(), "{}", first.name);
        let dropped = agent.status().unwrap().drops["client-unresolved"];
        assert!((number..=number * 3).contains(&dropped), "{}: {dropped} answers were dropped", first.name);
        assert_eq!(flows(&network.client, source, then, 50).failures, [].into(), "{}", then.name);
        assert_eq!(agent.status().unwrap().drops["client-unresolved"], dropped, "{}", then.name);
    }
}

/// Of two routes to a backend the better one is taken, also when it comes later: through a router, then on the link.
#[test]
fn a_backend_behind_a_router_is_reached_in_nat() {
    let network = Network::new(Arms::Two, 1);
    let backend = backend_address(1, true);
    // The backend's own address seen through a router: the backend itself, on another address of its.
    run(&network.backends[0], "ip address add 10.0.9.9/16 dev eth0");
    run(&network.balancer, &format!("ip route add {backend}/32 via 10.0.9.9 dev eth1"));
    let listener = Listener::udp("nat", "203.0.113.10:5353", Mode::Nat, 5354, 1);
    let _servers = network.serve(slice::from_ref(&listener));
    let agent = network.start(&network.file(slice::from_ref(&listener)), &[]);
    assert!(backends_are(&agent.status().unwrap(), |next_hop| next_hop.detail.starts_with("10.0.9.9 at ")));
    assert_eq!(network.flows(&listener, 20).failures, [].into());
    run(&network.balancer, &format!("ip route delete {backend}/32"));
    wait_for_status(&agent, "it is reached on the link", |status| {
        backends_are(status, |next_hop| next_hop.detail.starts_with("10.0.1.11 at "))
    });
    assert_eq!(network.flows(&listener, 20).failures, [].into());
    assert!(run(&network.backends[0], "ip route show default").contains(INNER_V4));
}

/// From when the network knows until traffic is right again.
const ONE_SECOND: Duration = Duration::from_secs(1);
