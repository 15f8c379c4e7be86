//! Traffic arrives: every listener of every kind, native and generic, with one arm and with two.

use clb_tests::{Agent, Status};

use crate::{
    config::{Listener, every_kind},
    connection::{Connection, EchoServer},
    network::{Arms, Network, address_balancer, run, xdp_programs},
};

#[test]
fn two_arms_native() {
    assert_traffic_arrives(Arms::Two, &[], "native", "the driver supports it");
}

#[test]
fn one_arm_native() {
    assert_traffic_arrives(Arms::One, &["--xdp-mode", "native"], "native", "as asked");
}

#[test]
fn one_arm_generic() {
    assert_traffic_arrives(Arms::One, &["--xdp-mode", "generic"], "generic", "as asked");
}

#[test]
fn two_arms_generic() {
    assert_traffic_arrives(Arms::Two, &["--xdp-mode", "generic"], "generic", "as asked");
}

fn assert_traffic_arrives(arms: Arms, options: &[&str], mode: &str, reason: &str) {
    let network = Network::new(arms, BACKENDS);
    let listeners = every_kind(BACKENDS);
    let _servers = network.serve(&listeners);
    let agent = network.start(&network.file(&listeners), options);
    assert_mode(&agent, arms.interfaces(), mode, reason);
    for listener in &listeners {
        assert_answered(&network, listener, 200);
    }
    drop(agent);
    assert_eq!(xdp_programs(&network.balancer), [""; 0], "nothing stays attached");
}

/// All answered, and by every backend.
fn assert_answered(network: &Network, listener: &Listener, count: u32) {
    let outcome = network.flows(listener, count);
    assert_eq!(outcome.failures, [].into(), "{}", listener.name);
    let who: Vec<_> = outcome.answers.keys().cloned().collect();
    let mut backends: Vec<_> = listener.backends().map(|(_, backend, _)| backend.ip().to_string()).collect();
    backends.sort();
    assert_eq!(who, backends, "{}", listener.name);
    assert_eq!(outcome.answers.values().sum::<u64>(), u64::from(count), "{}", listener.name);
}

/// What `clb status` says of the interfaces, as JSON and to a person.
fn assert_mode(agent: &Agent, interfaces: &[&str], mode: &str, reason: &str) -> Status {
    let status = agent.status().unwrap();
    let modes: Vec<_> = status.interfaces.iter().map(|interface| (&*interface.name, &*interface.mode)).collect();
    assert_eq!(modes, interfaces.iter().map(|name| (*name, mode)).collect::<Vec<_>>());
    let shown = agent.status_command().output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for interface in interfaces {
        let line = format!("  {interface} {mode} (");
        let line = shown.lines().find(|shown| shown.starts_with(&line)).unwrap_or_else(|| panic!("{line}:\n{shown}"));
        assert!(line.contains(reason), "{line}");
    }
    status
}

/// Real segments and real checksums, far more than fit one packet, both ways at once.
#[test]
fn large_transfers_arrive_intact() {
    for (arms, options) in [(Arms::Two, &[][..]), (Arms::One, &["--xdp-mode", "generic"])] {
        let network = Network::new(arms, 2);
        let mut listeners = every_kind(2);
        listeners.retain(|listener| listener.name.starts_with("tcp"));
        let _servers: Vec<_> = listeners
            .iter()
            .flat_map(|listener| listener.backends().map(move |(number, backend, _)| (listener, number, backend)))
            .map(|(listener, number, backend)| {
                EchoServer::start(&network.backends[number - 1], listener.server_address(backend))
            })
            .collect();
        let agent = network.start(&network.file(&listeners), options);
        for listener in &listeners {
            Connection::open(&network.client, listener.vip).exchange(1_000_000);
        }
        let drops = agent.status().unwrap().drops;
        assert_eq!(drops.values().sum::<u64>(), 0, "{arms:?}: {drops:?}");
    }
}

/// `auto` takes what the driver can, and says why when that is less.
#[test]
fn where_native_is_impossible_auto_falls_back_and_says_why() {
    struct Case {
        name: &'static str,
        interface: &'static str,
        make: fn(&Network),
        reason: &'static str,
    }
    for Case { name, interface, make, reason } in [
        Case {
            name: "a bridge: its driver has no XDP",
            interface: "br0",
            make: |Network { balancer, .. }| {
                run(balancer, "ip link add br0 type bridge mcast_snooping 0");
                run(balancer, "ip link set eth0 master br0");
            },
            reason: "not supported",
        },
        Case {
            name: "a macvlan interface: the same",
            interface: "macvlan0",
            make: |Network { balancer, .. }| {
                run(balancer, "ip link add macvlan0 link eth0 type macvlan mode bridge");
            },
            reason: "not supported",
        },
    ] {
        let network = Network::new(Arms::One, BACKENDS);
        make(&network);
        run(&network.balancer, "ip address flush dev eth0 scope global");
        run(&network.balancer, &format!("ip link set {interface} up"));
        address_balancer(&network.balancer, interface, interface);
        network.introduce_clients();
        let listeners = every_kind(BACKENDS);
        let _servers = network.serve(&listeners);
        let agent = network.start(&crate::config::file(&[interface], &listeners), &[]);
        assert_mode(&agent, &[interface], "generic", reason);
        for listener in &listeners {
            let outcome = network.flows(listener, 20);
            assert_eq!(outcome.failures, [].into(), "{name}: {}", listener.name);
        }
    }
}

const BACKENDS: usize = 3;
