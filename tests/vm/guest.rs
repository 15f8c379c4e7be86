//! What the checks share: the network of the tests of hosts, with the load balancer on a card that has a real driver.
//!
//! The guest has two network cards, and its host joins them by a bridge. One is the load balancer's `eth0`, the other a port
//! of the switch that all other hosts are plugged into: what they exchange with the load balancer leaves the guest and comes
//! back, and the driver hands it to the XDP program.

use anyhow::{Context as _, Result, bail};
use clb_tests::{Agent, Servers};

use crate::{
    config::{Listener, every_kind},
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
    _servers: Vec<Servers>,
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
}

impl Site {
    fn start() -> Self {
        let network = Network::new(Arms::One, BACKENDS);
        plug_in_cards(&network);
        let listeners = listeners();
        let servers = network.serve(&listeners);
        let agent = network.start(&network.file(&listeners), &["--xdp-mode", "native"]);
        Self { network, agent, _servers: servers }
    }
}

/// Every listener that there can be.
pub fn listeners() -> Vec<Listener> {
    every_kind(BACKENDS)
}

/// Puts the cards in the place of the veth pair between the load balancer and the switch.
fn plug_in_cards(Network { balancer, front, client, backends, .. }: &Network) {
    run(balancer, "ip link delete eth0");
    for (card, host, wanted) in [("eth0", balancer, "eth0"), ("eth1", front, "card")] {
        let words = format!("ip link set {card} netns {} name {wanted}", host.namespace());
        let [program, arguments @ ..] = &*words.split(' ').collect::<Vec<_>>() else { return };
        let status = std::process::Command::new(program).args(arguments).status();
        assert!(status.is_ok_and(|status| status.success()), "{words}");
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
