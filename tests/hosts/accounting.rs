//! What `clb status` counts is what was sent: exactly, and no packet is missing or counted twice.

use clb_tests::{Host, Protocol, Status, wait_until};

use crate::{
    config::every_kind,
    network::{Arms, Network, PATIENCE, run},
};

#[test]
fn datagrams_are_counted_exactly() {
    for options in [&[][..], &["--xdp-mode", "generic"]] {
        let network = Network::new(Arms::Two, 3);
        let mut listeners = every_kind(3);
        listeners.retain(|listener| listener.protocol == Protocol::Udp);
        for listener in &mut listeners {
            listener.weights = vec![10, 30, 60];
        }
        let _servers = network.serve(&listeners);
        let agent = network.start(&network.file(&listeners), options);
        for listener in &listeners {
            let outcome = network.flows(listener, 300);
            assert_eq!(outcome.failures, [].into(), "{}", listener.name);
            let status = agent.status().unwrap();
            let counted = status.listeners.iter().find(|counted| counted.name == listener.name).unwrap();
            assert_eq!(counted.packets, 300, "{}", listener.name);
            assert_eq!(counted.backends.len(), 3, "{}", listener.name);
            for backend in &counted.backends {
                let answers = outcome.answers.get(&backend.address).copied().unwrap_or_default();
                let replies = if listener.name.contains("nat") { answers } else { 0 };
                assert_eq!((backend.packets, backend.reply_packets), (answers, replies), "{}", listener.name);
            }
        }
        assert_eq!(agent.status().unwrap().drops.values().sum::<u64>(), 0);
    }
}

/// The interfaces count what their XDP program was given, independently of clb.
#[test]
fn every_packet_of_the_interfaces_is_passed_sent_or_dropped() {
    let network = Network::new(Arms::Two, 2);
    let listeners = every_kind(2);
    // Nobody serves: refusals and ICMP errors come back, too.
    let agent = network.start(&network.file(&listeners), &[]);
    for listener in &listeners {
        network.flows(listener, 20);
    }
    let mut latest = String::new();
    wait_until("the interfaces and clb count the same packets", PATIENCE, || {
        let before = packets_in(&network.balancer);
        let status = agent.status()?;
        let after = packets_in(&network.balancer);
        latest = format!("{before} and {after} came in, {} are accounted for: {status:#?}", accounted_for(&status));
        Ok(before == after && accounted_for(&status) == after)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{latest}"));
}

fn accounted_for(status: &Status) -> u64 {
    let backends = status.listeners.iter().flat_map(|listener| &listener.backends);
    let sent: u64 = backends.map(|backend| backend.packets + backend.reply_packets).sum();
    status.passed + status.answered + sent + status.drops.values().sum::<u64>()
}

/// What the veth driver says that it gave to XDP programs.
fn packets_in(host: &Host) -> u64 {
    let of = |interface: &&str| {
        let statistics = run(host, &format!("ethtool -S {interface}"));
        let counters = statistics.lines().filter_map(|line| line.trim().split_once(": "));
        let counters = counters.filter(|(name, _)| name.starts_with("rx_queue") && name.ends_with("xdp_packets"));
        counters.map(|(_, value)| value.parse::<u64>().unwrap()).sum::<u64>()
    };
    Arms::Two.interfaces().iter().map(of).sum()
}
