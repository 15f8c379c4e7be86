//! What the checks share: the network of the tests of hosts, with the load balancer on a card that has a real driver.
//!
//! The guest has two network cards, and its host joins them by a bridge. One is the load balancer's `eth0`, the other a port
//! of the switch that all other hosts are plugged into: what they exchange with the load balancer leaves the guest and comes
//! back, and the driver hands it to the XDP program.

use std::{net::IpAddr, process::Command};

use anyhow::{Context as _, Result, bail};
use clb_tests::{Agent, Host, Protocol, Servers};

use crate::{
    config::{Listener, backend_address, every_kind, every_mode},
    connection::EchoServer,
    network::{Arms, Network, address_balancer, run},
};

/// The site is made by the first check that asks for it.
#[derive(Default)]
pub struct Guest {
    site: Option<Site>,
    tried: bool,
}

/// Hosts, servers, and a running agent.
pub struct Site {
    pub network: Network,
    pub agent: Agent,
    _servers: (Vec<Servers>, Vec<EchoServer>),
}

impl Guest {
    pub fn site(&mut self) -> Result<&mut Site> {
        if self.site.is_none() {
            if std::mem::replace(&mut self.tried, true) {
                bail!("the agent did not start");
            }
            self.site = Some(Site::start());
        }
        self.site.as_mut().context("just made")
    }

    /// What the agent said, for whoever looks for the cause of a failure.
    pub fn agent_log(&self) -> String {
        self.site.as_ref().map_or_else(|| "the agent did not start".to_owned(), |site| site.agent.log_tail(LOG_LINES))
    }
}

impl Site {
    fn start() -> Self {
        let network = Network::new(Arms::One, BACKENDS);
        plug_in_cards(&network);
        for (number, backend) in (1..).zip(&network.backends) {
            receive_tunnels(backend, backend_address(number, false));
        }
        let (lines, transfers) = (listeners(), transfers());
        let servers = network.serve(&lines);
        let echo_servers = transfers.iter().flat_map(|listener| {
            let backends = listener.backends().zip(&network.backends);
            backends.map(|((_, backend, _), host)| EchoServer::start(host, listener.server_address(backend)))
        });
        let servers = (servers, echo_servers.collect());
        let agent = start_agent(&network);
        Self { network, agent, _servers: servers }
    }
}

/// With all listeners.
pub fn start_agent(network: &Network) -> Agent {
    network.start(&network.file(&[listeners(), transfers()].concat()), &["--xdp-mode", "native"])
}

/// Listeners whose backends answer who they are: those without a tunnel, then those with one.
pub fn listeners() -> Vec<Listener> {
    let mut listeners = every_kind(BACKENDS);
    listeners.extend(every_mode(BACKENDS).into_iter().filter(Listener::is_tunnel));
    listeners
}

/// The listeners with a connection, on other ports: their backends send back what they get.
pub fn transfers() -> Vec<Listener> {
    let mut listeners = every_kind(BACKENDS);
    listeners.retain(|listener| listener.protocol == Protocol::Tcp);
    for listener in &mut listeners {
        listener.name += "-transfer";
        listener.vip.set_port(listener.vip.port() + OTHER_PORTS);
        listener.backend_port += OTHER_PORTS;
    }
    listeners
}

/// Has the kernel's own devices take tunnels off, for whoever sends. Each namespace has such a device for every kind; but that for
/// IPv6 takes only IPv6 off, so this one is another.
fn receive_tunnels(backend: &Host, address_v6: IpAddr) {
    run(backend, &format!("ip link add tunnel6 type ip6tnl mode any local {address_v6}"));
    for words in [
        "ip link set tunl0 up",
        "ip link set sit0 up",
        "ip link set tunnel6 up",
        "ip fou add port 6080 gue",
        "ip -6 fou add port 6080 gue",
    ] {
        run(backend, words);
    }
}

/// Puts the cards in the place of the veth pair between the load balancer and the switch.
fn plug_in_cards(Network { balancer, front, client, backends, .. }: &Network) {
    run(balancer, "ip link delete eth0");
    for (card, host, wanted) in [("eth0", balancer, "eth0"), ("eth1", front, "card")] {
        let mut command = Command::new("ip");
        let status = command.args(["link", "set", card, "netns", host.namespace(), "name", wanted]).status();
        assert!(status.is_ok_and(|status| status.success()), "{command:?}");
    }
    run(front, "ip link set card up master bridge");
    run(balancer, "ip link set eth0 up");
    address_balancer(balancer, "eth0", "eth0");
    // They know the veth pair's MAC address.
    for host in backends.iter().chain([client]) {
        run(host, "ip neighbour flush all");
    }
}

const BACKENDS: usize = 3;
const OTHER_PORTS: u16 = 1_000;
const LOG_LINES: usize = 40;
