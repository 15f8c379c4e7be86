//! A flood of segments from clients that are none: connections stay open, and nothing grows.

use std::{fs, net::SocketAddr, thread, time::Duration};

use clb_tests::{Agent, Flood, Segments};

use crate::{
    config::{Listener, Mode},
    connection::Connection,
    network::{Arms, Network, wait_for_status},
};

#[test]
fn connections_stay_open_and_no_map_grows() {
    for segments in [Segments::Syn, Segments::Ack] {
        let network = Network::new(Arms::One, 3);
        let kinds = [("80", Mode::Dsr, 80), ("8080", Mode::Nat, 8081)];
        let listeners = |weights: &[u8]| -> Vec<Listener> {
            let listener = |(vip, mode, port): (&str, Mode, u16)| {
                Listener::tcp(mode.name(), &format!("203.0.113.10:{vip}"), mode, port, 3).weights(weights)
            };
            kinds.map(listener).into()
        };
        let all = listeners(&[10; 3]);
        let _servers: Vec<_> = all.iter().flat_map(|listener| network.echo(listener)).collect();
        let file = |weights| network.file(&listeners(weights)).replace("slots: 4093, ", "slots: 4093, drain: 4s, ");
        let agent = network.start(&file(&[10; 3]), &[]);
        let vips: Vec<_> = all.iter().flat_map(|listener| std::iter::repeat_n(listener.vip, CONNECTIONS)).collect();
        let open = || vips.iter().map(|&vip| Connection::open(&network.client, vip)).collect::<Vec<_>>();
        let mut connections = open();
        let memory = memory_of_maps(&agent);

        // While no slot changes its owner, nothing is remembered.
        let mut floods = flood(&network, &all, segments);
        exchange_for(Duration::from_secs(1), &mut connections);
        assert_eq!(agent.status().unwrap().pins, 0, "{segments:?}");

        network.reload(&agent, &file(&[10, 5, 20]), "read again");
        exchange_for(Duration::from_secs(3), &mut connections);
        let status = wait_for_status(&agent, "flows are pinned", |status| status.pins > 0);
        connections.extend(open());
        network.reload(&agent, &file(&[30, 10, 1]), "read again");
        exchange_for(Duration::from_secs(3), &mut connections);
        let sent: u64 = floods.drain(..).map(|flood| flood.stop().unwrap()).sum();
        exchange_for(Duration::from_secs(5), &mut connections);
        wait_for_status(&agent, "no slot is moving", |status| status.listeners.iter().all(|of| of.moving_slots == 0));
        exchange_for(Duration::ZERO, &mut connections);
        let arrived: u64 = agent.status().unwrap().listeners.iter().map(|listener| listener.packets).sum();
        println!("{segments:?}: {arrived} packets arrived of a flood of {sent}, at most {} flows pinned", status.pins);
        assert_eq!(memory_of_maps(&agent), memory, "{segments:?}");
    }
}

/// On every listener.
fn flood(network: &Network, listeners: &[Listener], segments: Segments) -> Vec<Flood> {
    let link: serde_json::Value =
        serde_json::from_str(&crate::network::run(&network.balancer, "ip -j link show eth0")).unwrap();
    let address: Vec<u8> =
        link[0]["address"].as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let flood = |listener: &Listener| {
        let SocketAddr::V4(vip) = listener.vip else { panic!("{}", listener.vip) };
        Flood::start(&network.front, "lb-eth0", address.clone().try_into().unwrap(), vip, segments).unwrap()
    };
    listeners.iter().map(flood).collect()
}

/// Over and over, and all at least once.
fn exchange_for(duration: Duration, connections: &mut [Connection]) {
    let began = std::time::Instant::now();
    loop {
        for connection in &mut *connections {
            connection.exchange(100);
        }
        if began.elapsed() >= duration {
            return;
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// What the kernel holds for all maps of an agent, in bytes.
fn memory_of_maps(agent: &Agent) -> u64 {
    let of = fs::read_dir(format!("/proc/{}/fdinfo", agent.process_id())).unwrap();
    let descriptors = of.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
    let maps = descriptors.filter(|about| about.contains("map_type:"));
    let bytes = maps.map(|about| {
        let line = about.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap().trim().to_owned();
        line.parse::<u64>().unwrap()
    });
    let sum: u64 = bytes.sum();
    assert!(sum > 0, "the agent's maps are among its descriptors");
    sum
}

const CONNECTIONS: usize = 50;
