//! Connections stay open through any changes of weights and backends, in the modes that keep no entry per connection.

use std::time::Duration;

use clb_tests::Agent;

use crate::{
    config::{Listener, Mode},
    connection::Connection,
    network::{Arms, Network, wait_for_status_within},
};

#[test]
fn connections_stay_open_through_any_changes() {
    let network = Network::new(Arms::One, 4);
    let (dsr, nat) = (("203.0.113.10:80", Mode::Dsr, 80), ("203.0.113.10:8080", Mode::Nat, 8081));
    let listeners = |weights: &[u8]| -> Vec<Listener> {
        let listener = |(vip, mode, port): (&str, Mode, u16)| Listener::tcp(mode.name(), vip, mode, port, 4);
        [dsr, nat].map(|kind| listener(kind).weights(weights)).into()
    };
    let all = listeners(&[10; 4]);
    let _servers: Vec<_> = all.iter().flat_map(|listener| network.echo(listener)).collect();
    let agent = network.start(&file(&network, &all), &[]);
    let mut connections = Vec::new();
    let open = |connections: &mut Vec<Connection>| {
        let listeners = all.iter().flat_map(|listener| std::iter::repeat_n(listener.vip, OPENED_AT_A_TIME));
        connections.extend(listeners.map(|vip| Connection::open(&network.client, vip)));
    };
    open(&mut connections);
    // A weight that stands at no place is one of a backend that is not bound.
    let changes: [&[u8]; 8] = [
        &[10, 0, 10, 10],
        &[0, 30, 10],
        &[1, 30, 10, 5],
        &[40],
        &[0, 0, 0, 0],
        &[10, 20, 30, 40],
        &[0, 0, 7],
        &[10, 10, 10, 10],
    ];
    for (number, weights) in changes.into_iter().enumerate() {
        network.reload(&agent, &file(&network, &listeners(weights)), "read again");
        exchange(&mut connections);
        if weights.iter().any(|&weight| weight > 0) {
            open(&mut connections);
        }
        exchange(&mut connections);
        if number % 3 == 2 {
            wait_until_settling(&agent);
            exchange(&mut connections);
        }
    }
    let status = agent.status().unwrap();
    assert!(status.pins > 0, "connections of other backends than their slots' owners are pinned");
    assert_eq!(status.drops.get("no-backend"), Some(&0), "{:?}", status.drops);
}

/// All that were opened are open yet.
fn exchange(connections: &mut [Connection]) {
    for connection in connections {
        connection.exchange(100);
    }
}

fn wait_until_settling(agent: &Agent) {
    wait_for_status_within(Duration::from_secs(20), agent, "no slot is moving", |status| {
        status.listeners.iter().all(|listener| listener.moving_slots == 0)
    });
}

/// With time for old flows that a test can wait for.
fn file(network: &Network, listeners: &[Listener]) -> String {
    network.file(listeners).replace("slots: 4093, ", "slots: 4093, drain: 2s, ")
}

const OPENED_AT_A_TIME: usize = 20;
