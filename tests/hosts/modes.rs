//! Every mode at once, on one agent: real servers get and give what was sent, whole, in both families.
//!
//! Checksums are made and checked by the hosts' kernels, not by cards, so that none may be wrong on the way.

use clb_tests::{Agent, Host, Protocol};

use crate::{
    config::{Listener, Mode, every_mode, file},
    datagrams, http,
    network::{Arms, Network, checksum_errors, log, run},
};

#[test]
fn downloads_uploads_and_datagrams_of_every_size_arrive_whole_in_every_mode() {
    for (options, length) in [(&[][..], 10_000_000), (&["--xdp-mode", "generic"], 1_000_000)] {
        let network = Network::for_every_mode();
        let listeners = network.in_every_mode();
        let _services = network.offer(&listeners);
        let _decaps = network.decap(&[]);
        let agent = network.start(&network.file(&listeners), options);
        for listener in &listeners {
            assert_arrives_whole(&network, &agent, listener, length);
        }
        assert_nothing_is_damaged(&network, &agent);
    }
}

/// The backend answers by another of the load balancer's interfaces than the one that it is reached by.
#[test]
fn answers_in_nat_come_back_by_any_interface() {
    struct Case {
        name: &'static str,
        interface: &'static str,
        gateways: [&'static str; 2],
    }
    for Case { name, interface, gateways } in [
        Case { name: "the clients' interface", interface: "eth1", gateways: ["198.51.100.2", "2001:db8:1::2"] },
        Case { name: "a third interface", interface: "eth2", gateways: ["10.1.0.2", "fd00:11::2"] },
    ] {
        let network = Network::new(Arms::Two, 1);
        let Network { lab, balancer, backends, .. } = &network;
        let backend = &backends[0];
        lab.link(balancer, "eth2", backend, "eth2").unwrap();
        for address in ["10.1.0.2/24", "fd00:11::2/64"] {
            balancer.add_address(address, "eth2").unwrap();
        }
        for (family, gateway) in ["-4", "-6"].into_iter().zip(gateways) {
            run(backend, &format!("ip {family} route replace default via {gateway} dev {interface} onlink"));
        }
        let mut listeners = every_mode(1);
        listeners.retain(|listener| listener.mode == Mode::Nat);
        let _services = network.offer(&listeners);
        let agent = network.start(&file(&["eth0", "eth1", "eth2"], &listeners), &[]);
        for listener in &listeners {
            assert_arrives_whole(&network, &agent, listener, 1_000_000);
        }
        assert_nothing_is_damaged(&network, &agent);
        assert!(sent(backend, interface) > 2_000_000, "answers go by {name}");
    }
}

fn assert_arrives_whole(network: &Network, agent: &Agent, listener: &Listener, length: usize) {
    let arrived = match listener.protocol {
        Protocol::Tcp => http::transfer(&network.client, listener.vip, length),
        Protocol::Udp => datagrams::exchange(&network.client, listener.vip, sizes()),
    };
    arrived.unwrap_or_else(|error| {
        panic!("{}: {error}\n{:#?}\n{}", listener.name, agent.status().unwrap().drops, log(agent))
    });
}

/// Around each boundary: of what fits a packet in either family, and a packet in a tunnel; and of what fits two or more.
fn sizes() -> impl Iterator<Item = usize> {
    let few = [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 128, 511, 512, 1_023, 1_024, 1_279, 1_280];
    let around = [1_452, 1_472, 1_500, 2_900, 2_952, 4_400, 8_192].into_iter().flat_map(|size| size - 33..size + 33);
    let large = [9_000, 16_384, 32_768, 65_507];
    few.into_iter().chain((1_281..1_419).step_by(7)).chain(around).chain(large)
}

fn assert_nothing_is_damaged(network: &Network, agent: &Agent) {
    let drops = agent.status().unwrap().drops;
    assert_eq!(drops.values().sum::<u64>(), 0, "{drops:?}");
    for host in network.hosts() {
        assert_eq!(checksum_errors(host), 0, "on {}", host.label());
    }
}

/// The bytes that a host sent by an interface.
fn sent(host: &Host, interface: &str) -> u64 {
    let links: serde_json::Value =
        serde_json::from_str(&run(host, &format!("ip -j -s link show {interface}"))).unwrap();
    links[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
}
