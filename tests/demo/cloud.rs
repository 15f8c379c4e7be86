//! The configuration file, read as somebody who builds that cloud must read it.
//!
//! Deliberately not the agent's own reader: what the demo expects (addresses, weights, modes) comes from the file alone, so
//! that a mistake of the agent's cannot hide behind the same mistake here. The agent validates; this only reads.

use std::{fmt, fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, ensure};
use clb_tests::Protocol;
use serde::{Deserialize, Serialize};

/// CVMs with their interfaces, and listeners with their backends.
#[derive(Debug)]
pub struct Cloud {
    pub cvms: Vec<Cvm>,
    pub listeners: Vec<Listener>,
}

#[derive(Debug)]
pub struct Cvm {
    pub id: String,
    /// One for each attached ENI; the primary one is the first.
    pub interfaces: Vec<Interface>,
}

#[derive(Debug)]
pub struct Interface {
    pub device: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug)]
pub struct Listener {
    pub name: String,
    pub vip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    pub mode: Mode,
    pub backends: Vec<Backend>,
}

#[derive(Debug)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u32,
    pub kind: Kind,
    /// How it is bound, for a person.
    pub bound: String,
    /// The CVM and the interface that have the address.
    pub cvm: String,
    pub device: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Dsr,
    Nat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Cvm,
    Eni,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dsr => "dsr",
            Self::Nat => "nat",
        })
    }
}

impl Cloud {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no cloud that the demo can build", path.display()))
    }

    /// Every backend with its listener.
    pub fn backends(&self) -> impl Iterator<Item = (&Listener, &Backend)> {
        self.listeners.iter().flat_map(|listener| listener.backends.iter().map(move |backend| (listener, backend)))
    }

    /// The VIPs, each once.
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips: Vec<_> = self.listeners.iter().map(|listener| listener.vip).collect();
        vips.sort_unstable();
        vips.dedup();
        vips
    }

    fn parse(text: &str) -> Result<Self> {
        let written: Written = serde_yaml::from_str(text)?;
        let cvms = written.cvms.iter().map(|cvm| Cvm { id: cvm.id.clone(), interfaces: written.interfaces(&cvm.id) });
        let listeners = written.listeners.iter().map(|listener| written.listener(listener));
        Ok(Self { cvms: cvms.collect(), listeners: listeners.collect::<Result<_>>()? })
    }
}

#[derive(Deserialize)]
struct Written {
    load_balancer: WrittenLoadBalancer,
    cvms: Vec<WrittenCvm>,
    enis: Vec<WrittenEni>,
    listeners: Vec<WrittenListener>,
}

#[derive(Deserialize)]
struct WrittenLoadBalancer {
    forwarding: Mode,
}

#[derive(Deserialize)]
struct WrittenCvm {
    id: String,
}

#[derive(Deserialize)]
struct WrittenEni {
    role: Role,
    attached_to: Option<String>,
    primary_ip: IpAddr,
    #[serde(default)]
    secondary_ips: Vec<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Primary,
    Secondary,
}

#[derive(Deserialize)]
struct WrittenListener {
    name: String,
    vip: IpAddr,
    protocol: Protocol,
    port: u16,
    forwarding: Option<Mode>,
    backends: Vec<WrittenBackend>,
}

#[derive(Deserialize)]
struct WrittenBackend {
    #[serde(flatten)]
    bound: Bound,
    port: Option<u16>,
    weight: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Bound {
    Cvm(String),
    Eni(IpAddr),
}

impl Written {
    /// The ENIs attached to this CVM, primary first, with the names of their interfaces.
    fn attached(&self, cvm: &str) -> impl Iterator<Item = (String, &WrittenEni)> {
        let mut enis: Vec<_> = self.enis.iter().filter(|eni| eni.attached_to.as_deref() == Some(cvm)).collect();
        enis.sort_by_key(|eni| eni.role);
        enis.into_iter().enumerate().map(|(number, eni)| (format!("eth{number}"), eni))
    }

    fn interfaces(&self, cvm: &str) -> Vec<Interface> {
        let interface =
            |(device, eni): (String, &WrittenEni)| Interface { device, addresses: eni.addresses().collect() };
        self.attached(cvm).map(interface).collect()
    }

    fn listener(&self, listener: &WrittenListener) -> Result<Listener> {
        let WrittenListener { name, vip, protocol, port, forwarding, backends } = listener;
        let backends: Vec<_> = backends
            .iter()
            .map(|backend| self.backend(backend, *port))
            .collect::<Result<_>>()
            .with_context(|| format!("the listener {name}"))?;
        let mode = forwarding.unwrap_or(self.load_balancer.forwarding);
        if mode == Mode::Dsr {
            // They would be one server socket, which could not tell by whose address it was reached.
            for (number, backend) in backends.iter().enumerate() {
                let twice = backends[..number].iter().any(|earlier| earlier.cvm == backend.cvm);
                ensure!(!twice, "the listener {name} uses `dsr` with two addresses of {}", backend.cvm);
            }
        }
        Ok(Listener { name: name.clone(), vip: *vip, protocol: *protocol, port: *port, mode, backends })
    }

    fn backend(&self, backend: &WrittenBackend, listener_port: u16) -> Result<Backend> {
        let WrittenBackend { bound, port, weight } = backend;
        let mut places = self
            .cvms
            .iter()
            .flat_map(|cvm| self.attached(&cvm.id).map(move |(device, eni)| (cvm.id.clone(), device, eni)));
        let (place, kind) = match bound {
            Bound::Cvm(id) => (places.find(|(cvm, _, eni)| cvm == id && eni.role == Role::Primary), Kind::Cvm),
            Bound::Eni(address) => {
                (places.find(|(_, _, eni)| eni.addresses().any(|other| other == *address)), Kind::Eni)
            }
        };
        let (cvm, device, eni) = place.context("has a backend that is no address of an attached ENI")?;
        let (address, bound) = match bound {
            Bound::Cvm(_) => (eni.primary_ip, format!("cvm {cvm}")),
            Bound::Eni(address) if eni.role == Role::Primary => (*address, format!("eni {cvm}, secondary IP")),
            Bound::Eni(address) => (*address, format!("eni {cvm}, secondary ENI")),
        };
        let (port, weight) = (port.unwrap_or(listener_port), weight.unwrap_or(DEFAULT_WEIGHT));
        Ok(Backend { address, port, weight, kind, bound, cvm, device })
    }
}

impl WrittenEni {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.primary_ip).chain(self.secondary_ips.iter().copied())
    }
}

const DEFAULT_WEIGHT: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Cloud {
        Cloud::read(&clb_tests::repository().join("config/demo.yaml")).unwrap()
    }

    #[test]
    fn the_demo_shows_every_mode_protocol_and_family_with_unequal_weights() {
        let cloud = demo();
        for mode in [Mode::Dsr, Mode::Nat] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for is_v6 in [false, true] {
                    let fitting = |listener: &&Listener| {
                        (listener.mode, listener.protocol, listener.vip.is_ipv6()) == (mode, protocol, is_v6)
                    };
                    let listener = cloud.listeners.iter().find(fitting).expect("one of each");
                    let mut weights: Vec<_> = listener.backends.iter().map(|backend| backend.weight).collect();
                    weights.sort_unstable();
                    weights.dedup();
                    assert_eq!(weights.len(), listener.backends.len(), "{} has equal weights", listener.name);
                }
            }
        }
    }

    #[test]
    fn the_demo_binds_backends_in_all_three_ways() {
        let cloud = demo();
        let tcp_dsr = &cloud.listeners[0];
        let seen: Vec<_> = tcp_dsr
            .backends
            .iter()
            .map(|Backend { address, bound, kind, device, .. }| {
                (address.to_string(), bound.as_str(), *kind, device.as_str())
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("10.0.1.11".to_owned(), "cvm ins-1", Kind::Cvm, "eth0"),
                ("10.0.1.22".to_owned(), "eni ins-2, secondary IP", Kind::Eni, "eth0"),
                ("10.0.2.13".to_owned(), "eni ins-3, secondary ENI", Kind::Eni, "eth1"),
            ]
        );
    }
}
