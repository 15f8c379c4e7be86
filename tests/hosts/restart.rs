//! The agent ends in every way there is, and another one takes over what it left: no packet and no connection is lost.

use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use clb_tests::{Agent, Status, wait_until};
use nix::sys::{
    signal::Signal,
    socket::{
        setsockopt,
        sockopt::{Ipv4RecvErr, RcvBufForce},
    },
};

use crate::{
    config::{self, Listener, Mode},
    connection::Connection,
    network::{Arms, Network, PATIENCE, log, signal, wait_for_status, xdp_programs},
};

#[test]
fn connections_stay_open_without_an_agent_and_with_another_one() {
    let network = Network::new(Arms::Two, 3);
    network.add_source_addresses();
    let all = listeners(&[10; 3]);
    let _servers: Vec<_> = all.iter().flat_map(|listener| network.echo(listener)).collect();
    let mut agent = network.start(&network.file(&all), &[]);
    let mut connections = Vec::new();
    let mut open_and_exchange = || {
        let vips = all.iter().flat_map(|listener| std::iter::repeat_n(listener.vip, 20));
        connections.extend(vips.map(|vip| Connection::open(&network.client, vip)));
        for connection in &mut connections {
            connection.exchange(100);
        }
        connections.len()
    };
    open_and_exchange();
    // Slots of 3 listeners whose old flows are pinned, or not seen yet.
    network.reload(&agent, &network.file(&listeners(&[10, 0, 20])), "read again");
    open_and_exchange();

    let before = agent.status().unwrap();
    agent.stop().unwrap();
    assert_eq!(xdp_programs(&network.balancer), ["eth0: clb", "eth1: clb"]);
    open_and_exchange();
    let mut agent = network.start(&network.file(&listeners(&[10, 0, 20])), &[]);
    assert_went_on(&before, &agent);
    open_and_exchange();

    agent.kill().unwrap();
    open_and_exchange();
    // The file has become another one meanwhile.
    let mut agent = network.start(&network.file(&listeners(&[10, 10, 0])), &[]);
    open_and_exchange();
    agent.stop().unwrap();
    let agent = network.start(&network.file(&listeners(&[10, 10, 10])), &["--log-drops"]);
    let opened = open_and_exchange();
    let drops = agent.status().unwrap().drops;
    assert_eq!(opened, 60 * 7);
    assert_eq!(drops.values().sum::<u64>(), 0, "{drops:?}");
    wait_for_status(&agent, "all flows of `full_nat` are counted", |status| status.flows == 20 * 7);
}

/// At any moment of a change, and of its own start.
#[test]
fn a_killed_agent_leaves_what_the_next_one_understands() {
    let network = Network::new(Arms::Two, 3);
    network.add_source_addresses();
    let all = listeners(&[10; 3]);
    let _servers: Vec<_> = all.iter().flat_map(|listener| network.echo(listener)).collect();
    let mut connections: Vec<Connection> = Vec::new();
    let mut agent = network.start(&network.file(&all), &[]);
    let weights: [&[u8]; 5] = [&[10, 0, 20], &[1, 30], &[0, 0, 0], &[5, 5, 5], &[10, 20, 1]];
    for (round, weights) in (0..20).zip(weights.into_iter().cycle()) {
        let file = network.file(&listeners(weights));
        if round % 2 == 0 {
            fs::write(network.config(), &file).unwrap();
            signal(&agent, Signal::SIGHUP);
            thread::sleep(Duration::from_millis(round));
            agent.kill().unwrap();
        } else {
            agent.stop().unwrap();
            let mut starting = Agent::start(&network.lab, &network.balancer, &network.config(), &[]).unwrap();
            thread::sleep(Duration::from_millis(25 * round));
            starting.kill().unwrap();
        }
        for connection in &mut connections {
            connection.exchange(100);
        }
        agent = network.start(&file, &[]);
        assert_eq!(xdp_programs(&network.balancer), ["eth0: clb", "eth1: clb"], "round {round}");
        if weights.iter().any(|&weight| weight > 0) {
            let vips = all.iter().flat_map(|listener| std::iter::repeat_n(listener.vip, 5));
            connections.extend(vips.map(|vip| Connection::open(&network.client, vip)));
        }
        for connection in &mut connections {
            connection.exchange(100);
        }
    }
    let status = agent.status().unwrap();
    let sent: u64 = status.listeners.iter().flat_map(|listener| &listener.backends).map(|of| of.packets).sum();
    let arrived: u64 = status.listeners.iter().map(|listener| listener.packets).sum();
    assert_eq!((sent, status.drops.values().sum::<u64>()), (arrived, 0), "{status:?}");
}

/// The maps of another clb.
#[test]
fn maps_of_another_version_are_not_touched() {
    let network = Network::new(Arms::One, 1);
    let listeners = [Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 8081, 1)];
    let _servers = network.serve(&listeners);
    let file = network.file(&listeners);
    let mut agent = network.start(&file, &[]);
    agent.stop().unwrap();
    let home = network.lab.bpf_fs(&network.balancer).unwrap().join("clb/lb-lab");
    let maps = home.join(format!("maps-v{}", clb_common::LAYOUT_VERSION));
    fs::rename(&maps, home.join("maps-v0")).unwrap();
    let mut refused = Agent::start(&network.lab, &network.balancer, &network.config(), &[]).unwrap();
    wait_until("it gives up", PATIENCE, || Ok(log(&refused).contains("maps of another version of clb: maps-v0")))
        .unwrap();
    assert_eq!(refused.stop().unwrap().code(), Some(2));
    assert_eq!(network.flows(&listeners[0], 20).failures, [].into());
    fs::rename(home.join("maps-v0"), &maps).unwrap();
    let _agent = network.start(&file, &[]);
    assert_eq!(network.flows(&listeners[0], 20).failures, [].into());
}

/// One in each mode that keeps a state of its own.
fn listeners(weights: &[u8]) -> Vec<Listener> {
    [("80", Mode::Dsr, 80), ("8080", Mode::Nat, 8081), ("8090", Mode::FullNat, 8091)]
        .map(|(vip, mode, port)| {
            Listener::tcp(mode.name(), &format!("203.0.113.10:{vip}"), mode, port, 3).weights(weights)
        })
        .into()
}

/// Counters never go back, and the program is where it was.
fn assert_went_on(before: &Status, agent: &Agent) {
    let after = agent.status().unwrap();
    assert!(log(agent).contains("took over eth0 in native mode"), "{}", log(agent));
    for (before, after) in before.listeners.iter().zip(&after.listeners) {
        assert_eq!(before.name, after.name);
        assert!(after.packets > before.packets, "{}: {} after {}", after.name, after.packets, before.packets);
        let sent = |listener: &clb_tests::ListenerStatus| listener.backends.iter().map(|b| b.packets).sum::<u64>();
        assert!(sent(after) > sent(before), "{}", after.name);
        assert_eq!(
            (before.moving_slots + before.settling_slots > 0),
            (after.moving_slots + after.settling_slots > 0),
            "{}",
            after.name
        );
    }
}

#[test]
fn no_packet_is_lost_when_agents_end_start_and_fail_to_start() {
    let network = Network::new(Arms::One, 1);
    let listener = Listener::udp("udp", "203.0.113.10:53", Mode::Dsr, 53, 1);
    let file = network.file(std::slice::from_ref(&listener));
    let backend = network.backends[0].enter(|| UdpSocket::bind(listener.vip).unwrap()).unwrap();
    setsockopt(&backend, RcvBufForce, &(64 << 20)).unwrap();
    backend.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let client = network.client.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    client.connect(listener.vip).unwrap();
    // What does not get onto the client's link, when that is full, is an error and not sent.
    setsockopt(&client, Ipv4RecvErr, &true).unwrap();
    let mut agent = network.start(&file, &[]);
    let (stop, sent, received) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let seconds = thread::scope(|scope| {
        scope.spawn(|| {
            let mut datagram = [0; 64];
            loop {
                match backend.recv(&mut datagram) {
                    Ok(_) => drop(received.fetch_add(1, Ordering::Relaxed)),
                    Err(_) if stop.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            }
        });
        scope.spawn(|| {
            let began = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let due = began.elapsed().as_millis() * PACKETS_A_MILLISECOND;
                while u128::from(sent.load(Ordering::Relaxed)) < due {
                    if client.send(&[0; 32]).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        let began = Instant::now();
        let pass = || thread::sleep(Duration::from_millis(300));
        pass();
        agent.kill().unwrap();
        pass();
        let mut agent = network.start(&file, &[]);
        pass();
        agent.stop().unwrap();
        pass();
        fail_to_start(&network, &listener);
        pass();
        let mut agent = network.start(&file, &["--log-drops"]);
        pass();
        agent.stop().unwrap();
        stop.store(true, Ordering::Relaxed);
        began.elapsed().as_secs_f64()
    });
    let (sent, received) = (sent.into_inner(), received.into_inner());
    println!("{sent} packets in {seconds:.1} s, {received} received");
    assert_eq!(sent, received);
}

/// An agent that is to take over, and finds that it cannot.
fn fail_to_start(network: &Network, listener: &Listener) {
    let file = config::file(&["eth0", "eth7"], std::slice::from_ref(listener));
    fs::write(network.config(), file).unwrap();
    let mut agent = Agent::start(&network.lab, &network.balancer, &network.config(), &[]).unwrap();
    wait_until("it gives up", PATIENCE, || Ok(log(&agent).contains("there is no interface eth7"))).unwrap();
    assert_eq!(agent.stop().unwrap().code(), Some(2));
}

const PACKETS_A_MILLISECOND: u128 = 100;
