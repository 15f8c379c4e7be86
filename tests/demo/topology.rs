//! The network of the demo: a client, a one-armed load balancer and the file's CVMs, on one switch.
//!
//! The client reaches the VIPs through the load balancer. In `dsr` a CVM holds the VIP on its `lo` and answers the client
//! over the link. In `nat` what a CVM sends from a backend's address goes back through the load balancer, by a routing
//! rule for that address: a CVM with several ENIs needs such rules anyway. Every server is bound to the interface of its
//! ENI, so a packet that reached the CVM through another one is not answered. The load balancer's kernel forwards nothing.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Result, ensure};
use clb_tests::{Agent, Flows, Host, Lab, Protocol, Server, Servers};

use crate::{
    cloud::{Backend, Cloud, Cvm, Interface, Listener, Mode},
    short,
};

/// The hosts. The lab is removed when this is dropped.
pub struct Network {
    lab: Lab,
    client: Host,
    load_balancer: Host,
    /// In the order of the cloud's CVMs.
    cvms: Vec<Host>,
}

/// As many as the demo's client has distinct sources for.
pub const MOST_FLOWS: u32 = Flows::most(CLIENTS);

impl Network {
    pub fn make(cloud: &Cloud) -> Result<Self> {
        let lab = Lab::new()?;
        let switch = lab.switch("switch")?;
        let client = lab.host("client")?;
        let load_balancer = lab.host("lb")?;
        let cvms = cloud.cvms.iter().map(|cvm| lab.host(&cvm.id)).collect::<Result<Vec<_>>>()?;
        for host in [&client, &load_balancer] {
            lab.plug(&switch, host, "eth0")?;
        }
        for (host, cvm) in cvms.iter().zip(&cloud.cvms) {
            for Interface { device, .. } in &cvm.interfaces {
                lab.plug(&switch, host, device)?;
            }
        }

        for plan in &PLANS {
            for address in plan.clients() {
                client.add_address(&plan.in_client_net(address), "eth0")?;
            }
            load_balancer.add_address(&plan.in_client_net(plan.load_balancer), "eth0")?;
            load_balancer.add_address(&plan.in_vpc(plan.load_balancer_in_vpc), "eth0")?;
        }
        for vip in cloud.vips() {
            let plan = Plan::of(vip);
            plan.run(&client, &format!("route add {vip} via {}", plan.load_balancer))?;
        }
        for (host, cvm) in cvms.iter().zip(&cloud.cvms) {
            configure_cvm(host, cvm, cloud)?;
        }
        Ok(Self { lab, client, load_balancer, cvms })
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    pub fn client(&self) -> &Host {
        &self.client
    }

    pub fn load_balancer(&self) -> &Host {
        &self.load_balancer
    }

    /// Starts a server for each backend, which answers with the backend's private address.
    pub fn serve(&self, cloud: &Cloud) -> Result<Vec<Servers>> {
        let hosts = self.cvms.iter().zip(&cloud.cvms);
        let servers = hosts.map(|(host, cvm)| {
            let own = cloud.backends().filter(|(_, backend)| backend.cvm == cvm.id);
            let servers = own.map(|(listener, backend)| Server {
                listen: match listener.mode {
                    Mode::Dsr => (listener.vip, listener.port).into(),
                    Mode::Nat => (backend.address, backend.port).into(),
                },
                protocol: listener.protocol,
                device: backend.device.clone(),
                identity: backend.address.to_string(),
            });
            Servers::start(host, servers.collect())
        });
        servers.collect()
    }

    /// Connects from every client address to the load balancer's own addresses: with clb attached, its host's own traffic
    /// still passes. It also makes each client known to the kernel as a neighbour, as clients on a link are.
    pub fn reach_load_balancer_itself(&self) -> Result<()> {
        let own = |plan: &Plan| Server {
            listen: (plan.load_balancer, OWN_PORT).into(),
            protocol: Protocol::Tcp,
            device: "eth0".to_owned(),
            identity: "the load balancer".to_owned(),
        };
        let _servers = Servers::start(&self.load_balancer, PLANS.iter().map(own).collect())?;
        for plan in &PLANS {
            let target = (plan.load_balancer, OWN_PORT).into();
            let flows = Flows { target, protocol: Protocol::Tcp, sources: plan.clients(), count: CLIENTS };
            let outcome = flows.run(&self.client, || {})?;
            ensure!(
                outcome.failed() == 0,
                "connections to the load balancer's own address {} fail: {:?}",
                plan.load_balancer,
                outcome.failures
            );
        }
        Ok(())
    }

    /// For a person: the commands that enter the hosts and ask the agent.
    pub fn how_to_enter(&self, cloud: &Cloud, agent: &Agent) -> String {
        let mut text = String::from("\nThe lab is up until Ctrl-C. Enter a host, as root:\n");
        for host in [&self.client, &self.load_balancer].into_iter().chain(&self.cvms) {
            let _ = writeln!(text, "  {:<8} ip netns exec {} bash", host.label(), host.namespace());
        }
        if let Some(listener) = cloud.listeners.iter().find(|listener| listener.protocol == Protocol::Tcp) {
            let _ = writeln!(
                text,
                "Ask a listener, from the client:\n  bash -c 'exec 3<>/dev/tcp/{}/{}; echo hello >&3; cat <&3'",
                listener.vip, listener.port
            );
        }
        let command = agent.status_command();
        let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let program = short(command.get_program().as_ref()).display();
        let _ = writeln!(text, "Ask clb, from anywhere:\n  {program} {}", arguments.join(" "));
        text
    }
}

/// The client's addresses, of this address's family.
pub fn clients(of_family: IpAddr) -> Vec<IpAddr> {
    Plan::of(of_family).clients()
}

/// What is connected to what, in ASCII.
pub fn picture(cloud: &Cloud) -> String {
    let list = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let [v4, v6] = &PLANS;
    let vips = list(&cloud.vips());
    let mut text = format!(
        "  client    {} and {} up, {CLIENTS} each\n    |       VIPs {vips} via lb\n",
        v4.first_client, v6.first_client
    );
    let _ = writeln!(text, "  switch -- lb [clb on eth0]  {}, {}", v4.load_balancer, v4.load_balancer_in_vpc);
    let _ = writeln!(text, "    |                         {}, {}", v6.load_balancer, v6.load_balancer_in_vpc);
    for Cvm { id, interfaces } in &cloud.cvms {
        for (number, Interface { device, addresses }) in interfaces.iter().enumerate() {
            let id = if number == 0 { id } else { "" };
            let _ = writeln!(text, "    +------ {id:<8} {device}  {}", list(addresses));
        }
    }
    text
}

fn configure_cvm(host: &Host, cvm: &Cvm, cloud: &Cloud) -> Result<()> {
    // An ENI answers for its own addresses, and nobody answers for a VIP.
    host.sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
    host.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
    for (number, Interface { device, addresses }) in cvm.interfaces.iter().enumerate() {
        let table = FIRST_TABLE + number;
        for &address in addresses {
            host.add_address(&Plan::of(address).in_vpc(address), device)?;
        }
        for plan in &PLANS {
            if addresses.iter().any(|address| address.is_ipv4() == plan.load_balancer.is_ipv4()) {
                // The link's way to the clients, for `dsr`; a server that is bound to its device takes its device's.
                plan.run(host, &format!("route add {} dev {device} metric {table}", plan.client_net))?;
                plan.run(host, &format!("route add {} dev {device} table {table}", plan.vpc))?;
                let gateway = plan.load_balancer_in_vpc;
                plan.run(host, &format!("route add default via {gateway} dev {device} table {table}"))?;
            }
        }
        let own = |address: &&IpAddr| {
            cloud.backends().any(|(listener, backend)| listener.mode == Mode::Nat && backend.address == **address)
        };
        for &address in addresses.iter().filter(own) {
            Plan::of(address).run(host, &format!("rule add from {address} lookup {table}"))?;
        }
    }
    for vip in cloud.vips() {
        let holds = |(listener, backend): (&Listener, &Backend)| {
            listener.mode == Mode::Dsr && listener.vip == vip && backend.cvm == cvm.id
        };
        if cloud.backends().any(holds) {
            host.add_address(&vip.to_string(), "lo")?;
        }
    }
    Ok(())
}

/// The addresses of one family: what the file does not say.
struct Plan {
    option: &'static str,
    client_net: &'static str,
    first_client: IpAddr,
    load_balancer: IpAddr,
    vpc: &'static str,
    load_balancer_in_vpc: IpAddr,
}

/// RFC 5737 and RFC 3849: addresses for documentation; the VPC has private ones.
const PLANS: [Plan; 2] = [
    Plan {
        option: "-4",
        client_net: "198.51.100.0/24",
        first_client: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
        load_balancer: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
        vpc: "10.0.0.0/16",
        load_balancer_in_vpc: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    },
    Plan {
        option: "-6",
        client_net: "2001:db8:1::/64",
        first_client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10)),
        load_balancer: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2)),
        vpc: "fd00:10::/64",
        load_balancer_in_vpc: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 2)),
    },
];

impl Plan {
    fn of(address: IpAddr) -> &'static Self {
        let [v4, v6] = &PLANS;
        if address.is_ipv4() { v4 } else { v6 }
    }

    fn clients(&self) -> Vec<IpAddr> {
        let nth = |number| match self.first_client {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + number)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + u128::from(number))),
        };
        (0..CLIENTS).map(nth).collect()
    }

    fn in_client_net(&self, address: IpAddr) -> String {
        with_length_of(self.client_net, address)
    }

    fn in_vpc(&self, address: IpAddr) -> String {
        with_length_of(self.vpc, address)
    }

    fn run(&self, host: &Host, words: &str) -> Result<()> {
        host.run(&format!("ip {} {words}", self.option)).map(drop)
    }
}

fn with_length_of(net: &str, address: IpAddr) -> String {
    let length = net.rsplit('/').next().unwrap_or_default();
    format!("{address}/{length}")
}

/// The client's addresses, of each family.
const CLIENTS: u32 = 16;

/// The routing tables of a CVM's interfaces. Numbers below 253 are free, and the first of them too.
const FIRST_TABLE: usize = 100;

/// Where the load balancer's host itself serves.
const OWN_PORT: u16 = 22;
