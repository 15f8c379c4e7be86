//! The agent ends in every way there is, and another one takes over what it left: no packet and no connection is lost.

use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use clb_tests::{Agent, Status, wait_until};
use nix::sys::socket::{
    setsockopt,
    sockopt::{Ipv4RecvErr, RcvBufForce},
};

use crate::{
    config::{self, Listener, Mode},
    connection::Connection,
    network::{Arms, Network, PATIENCE, log, wait_for_status, xdp_programs},
};

#[test]
fn connections_stay_open_without_an_agent_and_with_another_one() {
    let network = Network::new(Arms::Two, 3);
    network.add_source_addresses();
    let listeners = |weights: &[u8]| -> Vec<Listener> {
        [("80", Mode::Dsr, 80), ("8080", Mode::Nat, 8081), ("8090", Mode::FullNat, 8091)]
            .map(|(vip, mode, port)| {
                Listener::tcp(mode.name(), &format!("203.0.113.10:{vip}"), mode, port, 3).weights(weights)
            })
            .into()
    };
    let all = listeners(&[10; 3]);
    let _servers: Vec<_> = all.iter().flat_map(|listener| network.echo(listener)).collect();
    let mut agent = network.start(&network.file(&all), &[]);
    let mut connections = Vec::new();
    let mut open_and_exchange = || {
        let vips = all.iter().flat_map(|listener| std::iter::repeat_n(listener.vip, 20));
        connections.extend(vips.map(|vip| Connection::open(&network.client, vip)));
        connections.iter_mut().for_each(|connection| connection.exchange(100));
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
    let second =
        Agent::start(&network.lab, &network.balancer, &network.config(), &["--socket", "/run/clb-second.sock"]);
    drop(second);
    agent.stop().unwrap();
    let agent = network.start(&network.file(&listeners(&[10, 10, 10])), &["--log-drops"]);
    let opened = open_and_exchange();
    let drops = agent.status().unwrap().drops;
    assert_eq!(opened, 60 * 7);
    assert_eq!(drops.values().sum::<u64>(), 0, "{drops:?}");
    wait_for_status(&agent, "all flows of `full_nat` are counted", |status| status.flows == 20 * 7);
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
                let due = (began.elapsed().as_secs_f64() * PACKETS_A_SECOND) as u64;
                while sent.load(Ordering::Relaxed) < due {
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

const PACKETS_A_SECOND: f64 = 100_000.0;
