//! Flows in `full_nat` end: with their connections, and with what they lead to.

use std::{slice, time::Duration};

use clb_tests::wait_until;

use crate::{
    config::{Listener, Mode},
    connection::{Connection, EchoServer},
    network::{Arms, Network, log, wait_for_status},
};

#[test]
fn a_flow_ends_a_while_after_its_connection_and_with_its_listener() {
    let network = Network::new(Arms::Two, 1);
    let listener = |name: &str, port, backend_port| {
        Listener::tcp(name, &format!("203.0.113.10:{port}"), Mode::FullNat, backend_port, 1)
    };
    let (web, echo) = (listener("web", 80, 8081), listener("echo", 7, 7));
    let _servers = network.serve(slice::from_ref(&web));
    let (number, backend, _) = echo.backends().next().unwrap();
    let _echo = EchoServer::start(&network.backends[number - 1], backend);
    network.add_source_addresses();
    let agent = network.start(&network.file(&[web.clone(), echo.clone()]), &[]);
    let mut connection = Connection::open(&network.client, echo.vip);
    connection.exchange(1_000);
    assert_eq!(network.flows(&web, 40).failures, [].into(), "{}", log(&agent));
    wait_for_status(&agent, "the flows are counted", |status| status.flows > 40);
    wait_until("those that closed are over", Duration::from_mins(1), || Ok(agent.status()?.flows == 1)).unwrap();
    connection.exchange(1_000);

    network.reload(&agent, &network.file(slice::from_ref(&web)), "read again");
    assert_eq!(agent.status().unwrap().flows, 0, "that of the listener that went");
    assert_eq!(network.flows(&web, 40).failures, [].into(), "to the listener that stayed");
}
