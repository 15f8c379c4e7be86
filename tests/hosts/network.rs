//! The lab's network: clients and the load balancer on the switch `front`, and backends.
//!
//! With one arm, everything is on that switch. With two, the load balancer reaches the backends through `eth1` and the
//! switch `back`, and a backend has a second interface on `front` for the answers of `dsr`. In `nat`, answers take the
//! default route, which is the load balancer.

use std::{
    cell::Cell,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use clb_tests::{Agent, Flows, Host, Lab, Outcome, Protocol, Server, Servers, Status, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::config::{self, Listener, Mode, SOURCE_V4, SOURCE_V6, backend_address, every_mode};

/// The lab is removed when this is dropped.
pub struct Network {
    pub lab: Lab,
    arms: Arms,
    pub front: Host,
    pub back: Host,
    pub client: Host,
    pub balancer: Host,
    pub backends: Vec<Host>,
    /// How many times flows were opened.
    turn: Cell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    One,
    Two,
}

impl Network {
    pub fn new(arms: Arms, backends: usize) -> Self {
        let lab = Lab::new().unwrap();
        let front = lab.switch("front").unwrap();
        let back = match arms {
            Arms::One => front.clone(),
            Arms::Two => lab.switch("back").unwrap(),
        };
        let client = lab.host("client").unwrap();
        let balancer = lab.host("lb").unwrap();
        for host in [&client, &balancer] {
            lab.plug(&front, host, "eth0").unwrap();
        }
        for client_address in (0..CLIENTS).flat_map(|number| [client_v4(number), client_v6(number)]) {
            let length = if client_address.is_ipv4() { 24 } else { 64 };
            client.add_address(&format!("{client_address}/{length}"), "eth0").unwrap();
        }
        run(&client, "ip route add 203.0.113.0/24 via 198.51.100.2");
        run(&client, "ip route add 2001:db8:113::/64 via 2001:db8:1::2");

        if arms == Arms::Two {
            lab.plug(&back, &balancer, "eth1").unwrap();
        }
        address_balancer(&balancer, "eth0", arms.inner_interface());
        let backends = (1..=backends).map(|number| make_backend(&lab, arms, [&front, &back], number));
        let backends = backends.collect();
        let network = Self { lab, arms, front, back, client, balancer, backends, turn: Cell::new(0) };
        network.introduce_clients();
        network
    }

    /// A network with backends for listeners in every mode; see [`Self::in_every_mode`].
    pub fn for_every_mode() -> Self {
        let mut network = Self::new(Arms::Two, 2 * OF_A_KIND);
        network.make_room(&network.backends[OF_A_KIND..]);
        let untouched = 2 * OF_A_KIND + 1..=3 * OF_A_KIND;
        let untouched: Vec<_> =
            untouched.map(|number| untouched_backend(&network.lab, &network.back, number)).collect();
        network.backends.extend(untouched);
        network.add_source_addresses();
        network
    }

    /// A listener in every mode, each with backends that suit it: two with the VIP and a route back, two that are reached
    /// through a link with room for tunnels, two untouched ones.
    pub fn in_every_mode(&self) -> Vec<Listener> {
        let weights = |listener: &Listener| match listener.mode {
            Mode::Dsr | Mode::Nat => [10, 10, 0, 0, 0, 0],
            Mode::Ipip | Mode::Gue => [0, 0, 10, 10, 0, 0],
            Mode::FullNat => [0, 0, 0, 0, 10, 10],
        };
        every_mode(self.backends.len())
            .into_iter()
            .map(|listener| {
                let weights = weights(&listener);
                listener.weights(&weights)
            })
            .collect()
    }

    /// Leaves room for a tunnel's outer headers around a packet of the client's link, on the links between the load balancer
    /// and these backends.
    pub fn make_room(&self, backends: &[Host]) {
        for (host, interface) in backends.iter().map(|backend| (backend, "eth0")).chain([(&self.balancer, "eth1")]) {
            run(host, &format!("ip link set {interface} mtu {ROOMY_MTU}"));
            run(&self.back, &format!("ip link set {}-{interface} mtu {ROOMY_MTU}", host.label()));
        }
    }

    /// Routes to the load balancer what backends send to a source address of `full_nat`.
    pub fn add_source_addresses(&self) {
        for address in [format!("{SOURCE_V4}/32"), format!("{SOURCE_V6}/128")] {
            self.balancer.add_address(&address, self.arms.inner_interface()).unwrap();
        }
    }

    /// Has the backends with the VIP answer clients of this network through this router on `front`.
    pub fn answer_directly(&self, clients: &str, router: &str) {
        for backend in &self.backends[..2 * OF_A_KIND] {
            run(backend, &format!("ip route add {clients} via {router} dev eth1 onlink table {DIRECT}"));
        }
    }

    /// All hosts that send and receive packets.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.client, &self.balancer].into_iter().chain(&self.backends)
    }

    /// The configuration file for these listeners, on the load balancer's interfaces.
    pub fn file(&self, listeners: &[Listener]) -> String {
        config::file(self.arms.interfaces(), listeners)
    }

    /// Where the configuration file is.
    pub fn config(&self) -> PathBuf {
        self.lab.directory().join("clb.yaml")
    }

    /// Starts the agent with this file, and waits until it has attached the program and knows all next hops.
    pub fn start(&self, file: &str, options: &[&str]) -> Agent {
        fs::write(self.config(), file).unwrap();
        let mut agent = Agent::start(&self.lab, &self.balancer, &self.config(), options).unwrap();
        if let Err(error) = agent.wait_until_ready() {
            panic!("{error:#}\n{}", agent.log_tail(LOG_LINES));
        }
        agent
    }

    /// Has the agent read this file, and waits until its log says that it did, in these words.
    pub fn reload(&self, agent: &Agent, file: &str, said: &str) {
        let before = log(agent).matches(said).count();
        fs::write(self.config(), file).unwrap();
        signal(agent, Signal::SIGHUP);
        wait_until(&format!("the log says `{said}`"), PATIENCE, || Ok(log(agent).matches(said).count() > before))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", log(agent)));
    }

    /// Starts the servers of these listeners on every backend that is bound, each called by the backend's address.
    pub fn serve(&self, listeners: &[Listener]) -> Vec<Servers> {
        let hosts = (1..).zip(&self.backends);
        let servers = hosts.map(|(number, host)| {
            let own = listeners.iter().flat_map(|listener| {
                let backends = listener.backends().filter(|(bound, ..)| *bound == number);
                backends.map(|(_, backend, _)| Server {
                    listen: listener.server_address(backend),
                    protocol: listener.protocol,
                    device: String::new(),
                    identity: backend.ip().to_string(),
                })
            });
            Servers::start(host, own.collect()).unwrap()
        });
        servers.collect()
    }

    /// Opens so many flows to a listener, each time from another of the client's addresses: a port that was just closed
    /// is taken as long as a process that another test was starting at that moment still has a copy of the socket.
    pub fn flows(&self, listener: &Listener, count: u32) -> Outcome {
        let clients = clients(listener.vip.is_ipv4());
        let source = clients[self.turn.replace(self.turn.get() + 1) % clients.len()];
        flows(&self.client, source, listener, count)
    }

    /// Makes the kernel of the load balancer know every client, as it does in most networks, by traffic of its own. An
    /// agent that starts later knows them, too.
    pub fn introduce_clients(&self) {
        let own = ["198.51.100.2", "2001:db8:1::2"].map(|address| (address.parse::<IpAddr>().unwrap(), 22));
        let server = |&own: &(IpAddr, u16)| Server {
            listen: own.into(),
            protocol: Protocol::Tcp,
            device: String::new(),
            identity: "the load balancer's host".to_owned(),
        };
        let _servers = Servers::start(&self.balancer, own.iter().map(server).collect()).unwrap();
        for own in own {
            let flows = Flows {
                target: own.into(),
                protocol: Protocol::Tcp,
                sources: clients(own.0.is_ipv4()),
                count: CLIENTS.into(),
            };
            let outcome = flows.run(&self.client, || {}).unwrap();
            assert_eq!(outcome.failures, [].into(), "to the load balancer's own address {}", own.0);
        }
    }
}

impl Arms {
    /// The load balancer's interfaces.
    pub fn interfaces(self) -> &'static [&'static str] {
        match self {
            Self::One => &["eth0"],
            Self::Two => &["eth0", "eth1"],
        }
    }

    /// The interface toward the backends.
    fn inner_interface(self) -> &'static str {
        match self {
            Self::One => "eth0",
            Self::Two => "eth1",
        }
    }
}

/// Opens so many flows to a listener, from this address of a host.
pub fn flows(client: &Host, source: IpAddr, listener: &Listener, count: u32) -> Outcome {
    let Listener { vip, protocol, .. } = *listener;
    Flows { target: vip, protocol, sources: vec![source], count }.run(client, || {}).unwrap()
}

/// Gives the load balancer its addresses: toward the clients on one interface, toward the backends on another, or the same.
pub fn address_balancer(balancer: &Host, outer: &str, inner: &str) {
    for (interface, addresses) in [
        (outer, ["198.51.100.2/24".to_owned(), "2001:db8:1::2/64".to_owned()]),
        (inner, [format!("{INNER_V4}/16"), format!("{INNER_V6}/64")]),
    ] {
        for address in addresses {
            balancer.add_address(&address, interface).unwrap();
        }
    }
}

/// Runs a command of words on a host; it must succeed.
pub fn run(host: &Host, words: &str) -> String {
    host.run(words).unwrap()
}

/// Packets whose checksum the kernel of a host found wrong.
pub fn checksum_errors(host: &Host) -> u64 {
    // A process of the host's own: a thread's `/proc/net` is that of the process that it belongs to.
    let [v4, v6] = ["snmp", "snmp6"].map(|file| run(host, &format!("cat /proc/net/{file}")));
    // There, names stand on one line and values on the next; here, each name before its value.
    let v4: Vec<_> = v4.lines().map(str::split_whitespace).collect();
    let v4 = v4.chunks_exact(2).flat_map(|lines| lines[0].clone().zip(lines[1].clone()));
    let v6 = v6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let errors: Vec<_> = v4.chain(v6).filter(|(name, _)| name.ends_with("InCsumErrors")).collect();
    assert!(errors.len() > 3, "ICMP, TCP and UDP count them: {errors:?}");
    errors.into_iter().map(|(_, value)| value.trim().parse::<u64>().unwrap()).sum()
}

/// Sends a signal to the agent.
pub fn signal(agent: &Agent, signal: Signal) {
    kill(Pid::from_raw(agent.process_id().cast_signed()), signal).unwrap();
}

/// All of the agent's log.
pub fn log(agent: &Agent) -> String {
    agent.log_tail(LOG_LINES)
}

/// Waits until the agent's status is as it should be, and returns it.
pub fn wait_for_status(agent: &Agent, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    wait_for_status_within(PATIENCE, agent, what, wanted)
}

/// The same with another deadline.
pub fn wait_for_status_within(
    deadline: Duration,
    agent: &Agent,
    what: &str,
    wanted: impl Fn(&Status) -> bool,
) -> Status {
    let mut latest = Status::default();
    wait_until(what, deadline, || {
        latest = agent.status()?;
        Ok(wanted(&latest))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {latest:#?}\n{}", log(agent)));
    latest
}

/// The XDP programs that are attached on a host, as `interface: program`.
pub fn xdp_programs(host: &Host) -> Vec<String> {
    let links: serde_json::Value = serde_json::from_str(&run(host, "ip -j link show")).unwrap();
    let links = links.as_array().unwrap().iter();
    let programs = links.filter_map(|link| {
        let program = link.get("xdp")?;
        Some(format!("{}: {}", link["ifname"].as_str().unwrap(), program["prog"]["name"].as_str().unwrap_or_default()))
    });
    programs.collect()
}

/// The client's addresses of one family.
pub fn clients(is_ipv4: bool) -> Vec<IpAddr> {
    (0..CLIENTS).map(if is_ipv4 { client_v4 } else { client_v6 }).collect()
}

fn client_v4(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 10 + number).into()
}

fn client_v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10 + u16::from(number)).into()
}

fn make_backend(lab: &Lab, arms: Arms, [front, back]: [&Host; 2], number: usize) -> Host {
    let host = lab.host(&format!("ins-{number}")).unwrap();
    // An interface answers for its own addresses, nobody answers for a VIP, and a new MAC address is announced.
    for setting in ["arp_ignore=1", "arp_announce=2", "arp_notify=1"] {
        let (name, value) = setting.split_once('=').unwrap();
        host.sysctl(&format!("net.ipv4.conf.all.{name}"), value).unwrap();
    }
    host.sysctl("net.ipv6.conf.all.ndisc_notify", "1").unwrap();
    plug_backend(lab, back, &host, number);
    let direct = match arms {
        Arms::One => "eth0",
        Arms::Two => {
            lab.plug(front, &host, "eth1").unwrap();
            "eth1"
        }
    };
    for (option, gateway, vip, client_net) in [
        ("-4", INNER_V4, "203.0.113.10/32", "198.51.100.0/24"),
        ("-6", INNER_V6, "2001:db8:113::10/128", "2001:db8:1::/64"),
    ] {
        host.add_address(vip, "lo").unwrap();
        for words in [
            format!("route add default via {gateway}"),
            format!("route add {client_net} dev {direct} table {DIRECT}"),
            format!("rule add from {vip} lookup {DIRECT}"),
        ] {
            run(&host, &format!("ip {option} {words}"));
        }
    }
    host
}

/// A host as it comes, which knows nothing of VIPs, clients and load balancers.
fn untouched_backend(lab: &Lab, back: &Host, number: usize) -> Host {
    let host = lab.host(&format!("ins-{number}")).unwrap();
    plug_backend(lab, back, &host, number);
    host
}

fn plug_backend(lab: &Lab, back: &Host, host: &Host, number: usize) {
    lab.plug(back, host, "eth0").unwrap();
    for (is_ipv4, length) in [(true, 16), (false, 64)] {
        host.add_address(&format!("{}/{length}", backend_address(number, is_ipv4)), "eth0").unwrap();
    }
}

/// The load balancer's addresses toward the backends.
pub const INNER_V4: &str = "10.0.0.2";
pub const INNER_V6: &str = "fd00:10::2";

/// For what should be a matter of milliseconds, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The routing table of answers that do not go through the load balancer.
const DIRECT: u8 = 100;
const CLIENTS: u8 = 16;
/// How many backends [`Network::for_every_mode`] has of each kind.
const OF_A_KIND: usize = 2;
/// Room for IPv6, UDP and GUE headers around 1,500 bytes.
const ROOMY_MTU: u32 = 1_560;
const LOG_LINES: usize = usize::MAX;
