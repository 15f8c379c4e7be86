//! What `clb explain` says is what goes over the wire, and asking leaves no trace.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use clb_tests::{Agent, ListenerStatus, Protocol, Status, binary};
use serde_json::Value;

use crate::{
    config::{Listener, every_kind},
    network::{Arms, Network},
};

#[test]
fn the_backend_that_it_names_answers_the_flow() {
    let network = Network::new(Arms::Two, BACKENDS);
    let listeners = every_kind(BACKENDS);
    let _servers = network.serve(&listeners);
    let agent = network.start(&network.file(&listeners), &[]);
    network.introduce_clients();
    for listener in &listeners {
        for _ in 0..FLOWS {
            let (from, who) = network.client.enter(|| ask_who(listener)).unwrap();
            let before = agent.status().unwrap();
            let explanation = explain(&network, &agent, listener, from);
            let after = agent.status().unwrap();
            assert_eq!(explanation["ending"], "sent", "{}: {explanation}", listener.name);
            assert_eq!(explanation["listener"], *listener.name, "{explanation}");
            assert_eq!(explanation["backend"]["address"], *who, "{}: {explanation}", listener.name);
            assert_eq!(packets(&before), packets(&after), "{}: nothing is counted", listener.name);
        }
    }
}

#[test]
fn what_is_for_nobody_passes_and_what_cannot_be_sent_says_why() {
    let network = Network::new(Arms::One, 1);
    let listeners = every_kind(1);
    let agent = network.start(&network.file(&listeners), &[]);
    let ask = |to: &str, payload: &str| {
        let command =
            ["explain", "--protocol", "tcp", "--from", "198.51.100.10:40000", "--to", to, "--payload", payload];
        let mut explain = network.balancer.command(binary().unwrap());
        let output = explain.args(command).arg("--socket").arg(agent.socket()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let vip =
        listeners.iter().find(|listener| listener.vip.is_ipv4() && listener.protocol == Protocol::Tcp).unwrap().vip;
    let (code, said) = ask("192.0.2.99:80", "0");
    assert_eq!((code, said.contains("passes")), (Some(0), true), "{said}");
    let (code, said) = ask(&vip.to_string(), "3000");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("packet-too-big, and the sender is told"), "{said}");
}

#[test]
fn a_file_is_explained_with_no_agent_running() {
    let network = Network::new(Arms::One, 2);
    let listeners = every_kind(2);
    let _servers = network.serve(&listeners);
    std::fs::write(network.config(), network.file(&listeners)).unwrap();
    let listener = &listeners[0];
    let mut command = network.balancer.command(binary().unwrap());
    command.args([
        "explain",
        "--json",
        "--protocol",
        &listener.protocol.to_string(),
        "--from",
        &client(listener.vip.ip()),
    ]);
    let output = command.args(["--to", &listener.vip.to_string(), "--config"]).arg(network.config()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explanation: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(explanation["ending"], "sent", "{explanation}");
    assert_eq!(explanation["listener"], *listener.name, "{explanation}");
}

/// One flow from the client: its source, and who answered it.
fn ask_who(listener: &Listener) -> (SocketAddr, String) {
    let mut answer = vec![0; 200];
    let (from, length) = match listener.protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&listener.vip, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"who\n").unwrap();
            let length = stream.read(&mut answer).unwrap();
            (stream.local_addr().unwrap(), length)
        }
        Protocol::Udp => {
            let any = if listener.vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(listener.vip).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"who").unwrap();
            let length = socket.recv(&mut answer).unwrap();
            (socket.local_addr().unwrap(), length)
        }
    };
    let answer = String::from_utf8(answer[..length].to_vec()).unwrap();
    (from, answer.split_once(": ").unwrap().0.to_owned())
}

fn explain(network: &Network, agent: &Agent, listener: &Listener, from: SocketAddr) -> Value {
    let mut command = network.balancer.command(binary().unwrap());
    command.args(["explain", "--json", "--protocol", &listener.protocol.to_string(), "--from", &from.to_string()]);
    let output = command.args(["--to", &listener.vip.to_string(), "--socket"]).arg(agent.socket()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What listeners and backends got.
fn packets(status: &Status) -> Vec<u64> {
    let of = |listener: &ListenerStatus| {
        let backends: Vec<u64> = listener.backends.iter().map(|backend| backend.packets).collect();
        [vec![listener.packets], backends].concat()
    };
    status.listeners.iter().flat_map(of).collect()
}

fn client(vip: IpAddr) -> String {
    if vip.is_ipv4() { "198.51.100.10:40000".to_owned() } else { "[2001:db8:1::10]:40000".to_owned() }
}

const BACKENDS: usize = 3;
const FLOWS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(5);
