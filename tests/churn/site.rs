//! The load balancer, its backends, and how changes are made to them.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use clb_tests::{Agent, Protocol, Status, binary};

use crate::{
    changes::{Change, World},
    config::{Listener, Mode, backend_address},
    network::{Arms, Network},
    traffic::{Server, Servers},
};

pub struct Site {
    pub network: Network,
    pub listeners: Vec<Listener>,
    agent: Option<Agent>,
    /// Another path, as an upgrade has.
    upgraded: PathBuf,
    upgrades: u8,
    moves: u8,
    _servers: Servers,
}

impl Site {
    pub fn start(world: &World) -> Result<Self> {
        let network = Network::new(Arms::One, BACKENDS);
        network.add_source_addresses();
        let listeners = listeners();
        let servers = listeners.iter().flat_map(|listener| {
            let (protocol, network) = (listener.protocol, &network);
            listener.backends().map(move |(number, address, _)| Server {
                host: &network.backends[number - 1],
                // Checks come to the private address, clients of `dsr` to the VIP.
                address: match protocol {
                    Protocol::Tcp => SocketAddr::from(([0; 4], address.port())),
                    Protocol::Udp => listener.server_address(address),
                },
                protocol,
                backend: number - 1,
            })
        });
        let servers = Servers::start(servers.collect())?;
        let upgraded = network.lab.directory().join("upgraded");
        fs::create_dir(&upgraded).context("make a folder")?;
        fs::copy(binary()?, upgraded.join("clb")).context("copy clb")?;
        let mut site = Self { network, listeners, agent: None, upgraded, upgrades: 0, moves: 0, _servers: servers };
        site.write(world)?;
        site.start_agent()?;
        Ok(site)
    }

    /// Makes a change, and returns when it is in force.
    pub fn make(&mut self, change: Change, world: &World) -> Result<()> {
        match change {
            Change::Bind { .. } | Change::Unbind { .. } | Change::Reweight { .. } => {
                self.write(world)?;
                let file = self.network.config();
                succeed(self.agent()?.command("apply").arg(file))?;
            }
            Change::Drain { backend } => self.ask("drain", backend)?,
            Change::Undrain { backend } => self.ask("undrain", backend)?,
            Change::Death { backend } => self.set_link(backend, "down")?,
            Change::Return { backend } => self.set_link(backend, "up")?,
            Change::Move { backend } => {
                self.moves += 1;
                let address = format!("02:00:00:00:{backend:02x}:{:02x}", self.moves);
                self.network.backends[backend].run(&format!("ip link set eth0 address {address}"))?;
            }
            Change::Restart => self.restart(|agent| agent.stop().map(drop))?,
            Change::Kill => self.restart(Agent::kill)?,
            Change::Upgrade => {
                self.upgrades += 1;
                self.restart(|agent| agent.stop().map(drop))?;
            }
        }
        Ok(())
    }

    pub fn status(&self) -> Result<Status> {
        self.agent()?.status()
    }

    /// The last lines of the agent's log.
    pub fn log(&self) -> String {
        self.agent.as_ref().map_or_else(String::new, |agent| agent.log_tail(40))
    }

    fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("an agent runs")
    }

    fn restart(&mut self, end: impl FnOnce(&mut Agent) -> Result<()>) -> Result<()> {
        end(self.agent.as_mut().context("an agent runs")?)?;
        self.start_agent()
    }

    /// Every other upgrade is to the copy, which logs what it drops: its program is another.
    fn start_agent(&mut self) -> Result<()> {
        let Network { lab, balancer, .. } = &self.network;
        let config = self.network.config();
        let mut agent = if self.upgrades.is_multiple_of(2) {
            Agent::start(lab, balancer, &config, &["--allow-unresolved"])?
        } else {
            Agent::start_other(
                &self.upgraded.join("clb"),
                lab,
                balancer,
                &config,
                &["--allow-unresolved", "--log-drops"],
            )?
        };
        let answered = agent.wait_until_it_answers();
        let log = agent.log_tail(40);
        self.agent = Some(agent);
        answered.map(drop).context(log)
    }

    fn ask(&self, verb: &str, backend: usize) -> Result<()> {
        succeed(self.agent()?.command(verb).arg(backend_address(backend + 1, true).to_string())).map(drop)
    }

    fn set_link(&self, backend: usize, state: &str) -> Result<()> {
        self.network.front.run(&format!("ip link set ins-{}-eth0 {state}", backend + 1)).map(drop)
    }

    fn write(&self, world: &World) -> Result<()> {
        let bound = self.listeners.iter().zip(&world.weights).map(|(listener, weights)| {
            // What is not bound is marked, and taken out of the file.
            let weights: Vec<u8> = weights.iter().map(|weight| weight.unwrap_or(UNBOUND)).collect();
            listener.clone().weights(&weights)
        });
        let file = self.network.file(&bound.collect::<Vec<_>>());
        let unbound = format!("weight: {UNBOUND}}},");
        let lines = file.lines().filter(|line| !line.ends_with(&unbound));
        let text: String = lines.map(|line| line.replace("slots: 4093, drain: 0s", "slots: 4093") + "\n").collect();
        let tcp = format!("slots: 4093, {KEPT}, health_check: {{type: tcp, {CHECKED}}}, ");
        let udp = format!("slots: 4093, {KEPT}, health_check: {{type: icmp, {CHECKED}}}, ");
        let text: String = text
            .lines()
            .map(|line| line.replace("slots: 4093, ", if line.contains("protocol: tcp") { &tcp } else { &udp }) + "\n")
            .collect();
        fs::write(self.network.config(), text).context("write the configuration")
    }
}

/// In the modes that differ in what they remember.
fn listeners() -> Vec<Listener> {
    vec![
        Listener::tcp("tcp-dsr", "203.0.113.10:80", Mode::Dsr, 80, BACKENDS),
        Listener::tcp("tcp-nat", "203.0.113.10:8080", Mode::Nat, 8081, BACKENDS),
        Listener::tcp("tcp-full_nat", "203.0.113.10:8090", Mode::FullNat, 8091, BACKENDS),
        Listener::udp("udp-dsr", "203.0.113.10:53", Mode::Dsr, 53, BACKENDS),
        Listener::udp("udp-nat", "203.0.113.10:5353", Mode::Nat, 5354, BACKENDS),
    ]
}

fn succeed(command: &mut Command) -> Result<Output> {
    let output = command.output().context("start clb")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

pub const BACKENDS: usize = 8;
/// No backend has it.
const UNBOUND: u8 = 255;
const KEPT: &str = "drain: 10s";
const CHECKED: &str = "interval: 3s, timeout: 2s, healthy: 2, unhealthy: 2";
