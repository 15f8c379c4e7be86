//! The hosts: a client, a load balancer with an arm toward clients and one toward backends, and three backends; and on them
//! one contender at a time.
//!
//! Every contender has the same hosts, links and servers, and leaves them as they were. Backends answer at the VIP, for
//! those that keep the destination, and at an address of their own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use clb_tests::{Agent, Host, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::Builder;

use crate::{
    config::{Mode, backend_address},
    contender::{self, Contender},
    load,
    network::{Arms, Network},
    servers::Servers,
};

pub struct Site {
    network: Network,
    _servers: Vec<Servers>,
}

/// A contender in its place, until dropped.
pub struct Running<'site> {
    site: &'site Site,
    process: Option<Process>,
    /// What takes back what was done to hosts.
    undo: Vec<(&'site Host, String)>,
}

enum Process {
    Agent(Agent),
    Proxy(Child),
}

impl Site {
    pub fn new() -> Result<Self> {
        let network = Network::new(Arms::Two, BACKENDS);
        network.add_source_addresses();
        // Where a client without a load balancer reaches a backend.
        for (number, backend) in network.backends.iter().enumerate() {
            backend.add_address(&format!("{}/32", direct_address(number)), "eth1")?;
        }
        network.client.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
        // Only nftables wants it; but hosts are the same for all.
        network.balancer.sysctl("net.ipv4.conf.all.forwarding", "1")?;
        let hosts = (1..).zip(&network.backends);
        let servers = hosts.map(|(number, host)| Servers::start(host, number, &[VIP, private(number)]));
        let servers = servers.collect::<Result<_>>()?;
        Ok(Self { network, _servers: servers })
    }

    pub fn client(&self) -> &Host {
        &self.network.client
    }

    /// The processes on the load balancer.
    pub fn balancer_processes(&self) -> Result<Vec<u32>> {
        let listed = self.network.balancer.run(&format!("ip netns pids {}", self.network.balancer.namespace()))?;
        listed.lines().map(|line| line.trim().parse().with_context(|| format!("a process id: `{line}`"))).collect()
    }

    /// Puts a contender in its place.
    pub fn start(&self, contender: Contender) -> Result<Running<'_>> {
        let mut running = Running { site: self, process: None, undo: Vec::new() };
        running.start(contender)?;
        Ok(running)
    }

    /// Waits until an answer comes, then asks often enough that every backend has its turn; each time has to succeed.
    pub fn check(&self, running: &mut Running) -> Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build().context("make a runtime")?;
        let ask = || self.client().enter(|| runtime.block_on(load::within(load::ask_once(VIP))));
        let waited = wait_until("an answer comes from the VIP", READY, || {
            running.ensure_alive()?;
            Ok(ask()?.is_ok())
        });
        waited.map_err(|error| running.explain(&error))?;
        let mut answers = [0; BACKENDS];
        for number in 0..CHECKS {
            let backend = ask()?.with_context(|| format!("connection {number} of {CHECKS}, before any load"))?;
            answers[backend] += 1;
        }
        ensure!(
            answers.iter().all(|answers| *answers > 0),
            "of {CHECKS} connections, backends had {answers:?}: this is not balanced"
        );
        Ok(())
    }

    fn backends() -> Vec<SocketAddr> {
        (1..=BACKENDS).map(private).collect()
    }
}

impl<'site> Running<'site> {
    fn start(&mut self, contender: Contender) -> Result<()> {
        let Network { client, balancer, .. } = &self.site.network;
        match contender {
            Contender::Direct => {
                let hops: Vec<_> =
                    (0..BACKENDS).map(|number| format!("nexthop via {}", direct_address(number))).collect();
                let hops = hops.join(" ");
                for number in 0..BACKENDS {
                    // It is not in the client's own network, but on its link.
                    let route = format!("{} dev eth0", direct_address(number));
                    self.set(client, &format!("ip route add {route}"), &format!("ip route del {route}"))?;
                }
                self.set(client, &format!("ip route add {} {hops}", VIP.ip()), &format!("ip route del {}", VIP.ip()))
            }
            Contender::Dsr => self.start_clb(Mode::Dsr),
            Contender::Nat => self.start_clb(Mode::Nat),
            Contender::FullNat => self.start_clb(Mode::FullNat),
            Contender::Nftables => {
                let rules = self.write("nftables", &contender::nftables(&Site::backends()))?;
                self.set(balancer, &format!("nft -f {rules}"), "nft delete table ip peers")
            }
            Contender::HaProxy => {
                let file = self.write("haproxy", &contender::haproxy(&Site::backends()))?;
                self.start_proxy(&["haproxy", "-db", "-f", &file])
            }
            Contender::Nginx => {
                let folder = self.site.network.lab.directory();
                let file = self.write("nginx", &contender::nginx(&Site::backends(), &folder.display().to_string()))?;
                self.start_proxy(&["nginx", "-e", &self.log_file(), "-c", &file])
            }
        }
    }

    fn start_clb(&mut self, mode: Mode) -> Result<()> {
        let Network { lab, balancer, .. } = &self.site.network;
        let file = self.site.network.file(&[contender::listener(mode)]);
        fs::write(self.site.network.config(), file).context("write the configuration")?;
        let mut agent = Agent::start(lab, balancer, &self.site.network.config(), &[])?;
        let ready = agent.wait_until_ready();
        self.process = Some(Process::Agent(agent));
        ready.map(drop).map_err(|error| self.explain(&error))
    }

    /// A proxy takes connections to the VIP itself, so that the load balancer's host has it.
    fn start_proxy(&mut self, words: &[&str]) -> Result<()> {
        let balancer = &self.site.network.balancer;
        let address = format!("{}/32 dev lo", VIP.ip());
        self.set(balancer, &format!("ip address add {address}"), &format!("ip address del {address}"))?;
        let log = File::create(self.log_file()).with_context(|| format!("make {}", self.log_file()))?;
        let mut command = balancer.command(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::Proxy(command.spawn().with_context(|| format!("start {}", words[0]))?));
        Ok(())
    }

    /// Runs a command on a host, and remembers what takes it back.
    fn set(&mut self, host: &'site Host, command: &str, undo: &str) -> Result<()> {
        host.run(command)?;
        self.undo.push((host, undo.to_owned()));
        Ok(())
    }

    /// Writes a contender's file, and returns where it is.
    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.site.network.lab.directory().join(format!("{name}.conf"));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path.display().to_string())
    }

    fn log_file(&self) -> String {
        self.site.network.lab.directory().join("proxy.log").display().to_string()
    }

    /// An error with what the load balancer itself said.
    fn explain(&self, error: &Error) -> Error {
        let log = match &self.process {
            Some(Process::Agent(agent)) => agent.log_tail(LOG_LINES),
            Some(Process::Proxy(_)) => fs::read_to_string(self.log_file()).unwrap_or_default(),
            None => String::new(),
        };
        anyhow!("{error:#}\n{}", log.trim())
    }

    fn ensure_alive(&mut self) -> Result<()> {
        if let Some(Process::Proxy(process)) = &mut self.process
            && let Some(status) = process.try_wait()?
        {
            bail!(
                "it ended ({status})\nhelp: it needs what `cargo xtask bench --peers` installs, of Debian's packages"
            );
        }
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        match self.process.take() {
            // It detaches when it is dropped.
            Some(Process::Agent(agent)) => drop(agent),
            Some(Process::Proxy(mut process)) => {
                if let Err(error) = end(&mut process) {
                    eprintln!("warning: {error:#}");
                }
            }
            None => {}
        }
        for (host, undo) in self.undo.drain(..).rev() {
            if let Err(error) = host.run(&undo) {
                eprintln!("warning: {error:#}");
            }
        }
    }
}

/// Ends a proxy and its workers, and waits for that: the next contender has its own turn.
fn end(process: &mut Child) -> Result<()> {
    if process.try_wait()?.is_none() {
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM).context("end the proxy")?;
    }
    let mut has_ended = || Ok(process.try_wait()?.is_some());
    wait_until("the proxy has ended", READY, &mut has_ended).or_else(|_| {
        process.kill().context("kill the proxy")?;
        process.wait().context("wait for the proxy").map(drop)
    })
}

/// Where a backend answers for itself.
fn private(number: usize) -> SocketAddr {
    (backend_address(number, true), PRIVATE_PORT).into()
}

/// Of a backend, on the clients' link.
fn direct_address(number: usize) -> Ipv4Addr {
    let last = u8::try_from(number).expect("a few backends");
    Ipv4Addr::new(198, 18, 0, 1 + last)
}

pub const BACKENDS: usize = 3;
pub const VIP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 80));
pub const PRIVATE_PORT: u16 = 8080;

/// That one of three backends is left out by chance happens once in 10^17 times.
const CHECKS: usize = 100;
const READY: Duration = Duration::from_secs(10);
const LOG_LINES: usize = 20;
