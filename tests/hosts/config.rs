//! Configuration files for the lab's network: CVM `ins-N` is the N-th backend, with an IPv4 and an IPv6 address.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

pub use clb_common::ForwardingMode as Mode;
use clb_tests::Protocol;

/// A listener whose backends are the network's backends, in their order.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub mode: Mode,
    /// The family of the backends' addresses: the VIP's, except in tunnels.
    pub backend_is_ipv4: bool,
    pub backend_port: u16,
    /// The weight of each backend; one beyond the end is not bound.
    pub weights: Vec<u8>,
}

impl Listener {
    /// TCP, with equal weights.
    pub fn tcp(name: &str, vip: &str, mode: Mode, backend_port: u16, backends: usize) -> Self {
        let vip: SocketAddr = vip.parse().unwrap();
        Self {
            name: name.to_owned(),
            vip,
            protocol: Protocol::Tcp,
            mode,
            backend_is_ipv4: vip.is_ipv4(),
            backend_port,
            weights: vec![10; backends],
        }
    }

    pub fn udp(name: &str, vip: &str, mode: Mode, backend_port: u16, backends: usize) -> Self {
        Self { protocol: Protocol::Udp, ..Self::tcp(name, vip, mode, backend_port, backends) }
    }

    pub fn weights(mut self, weights: &[u8]) -> Self {
        self.weights = weights.to_vec();
        self
    }

    /// The number of each backend, with its address and weight.
    pub fn backends(&self) -> impl Iterator<Item = (usize, SocketAddr, u8)> {
        let address = |number| (backend_address(number, self.backend_is_ipv4), self.backend_port).into();
        (1..).zip(&self.weights).map(move |(number, &weight)| (number, address(number), weight))
    }

    /// Where the server of a backend listens.
    pub fn server_address(&self, backend: SocketAddr) -> SocketAddr {
        if self.keeps_destination() { self.vip } else { backend }
    }

    pub fn is_tunnel(&self) -> bool {
        matches!(self.mode, Mode::Ipip | Mode::Gue)
    }

    /// Whether backends see the VIP, and answer the client themselves.
    pub fn keeps_destination(&self) -> bool {
        self.is_tunnel() || self.mode == Mode::Dsr
    }
}

/// A listener of each protocol and family in the modes that want nothing but the lab's network, with its share of backends.
pub fn every_kind(backends: usize) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for (family, vip) in [("v4", "203.0.113.10"), ("v6", "[2001:db8:113::10]")] {
        listeners.extend([
            Listener::tcp(&format!("tcp-dsr-{family}"), &format!("{vip}:80"), Mode::Dsr, 80, backends),
            Listener::tcp(&format!("tcp-nat-{family}"), &format!("{vip}:8080"), Mode::Nat, 8081, backends),
            Listener::udp(&format!("udp-dsr-{family}"), &format!("{vip}:53"), Mode::Dsr, 53, backends),
            Listener::udp(&format!("udp-nat-{family}"), &format!("{vip}:5353"), Mode::Nat, 5354, backends),
        ]);
    }
    listeners
}

/// A listener in every mode, for each family, each family of backends that the mode has, and each protocol: TCP, then UDP.
pub fn every_mode(backends: usize) -> Vec<Listener> {
    let mut listeners = Vec::new();
    let mut port = FIRST_PORT;
    for mode in [Mode::Dsr, Mode::Ipip, Mode::Gue, Mode::Nat, Mode::FullNat] {
        for (family, vip, vip_is_ipv4) in [("v4", "203.0.113.10", true), ("v6", "[2001:db8:113::10]", false)] {
            for (backend_family, backend_is_ipv4) in [("v4", true), ("v6", false)] {
                port += 1;
                let (kind, vip) = (format!("{}-{family}-over-{backend_family}", mode.name()), format!("{vip}:{port}"));
                let tcp = Listener::tcp(&format!("tcp-{kind}"), &vip, mode, port, backends);
                let tcp = Listener { backend_is_ipv4, ..tcp };
                if !tcp.is_tunnel() && vip_is_ipv4 != backend_is_ipv4 {
                    continue;
                }
                let backend_port = if tcp.keeps_destination() { port } else { port + 1_000 };
                let tcp = Listener { backend_port, ..tcp };
                let udp = Listener { name: format!("udp-{kind}"), protocol: Protocol::Udp, ..tcp.clone() };
                listeners.extend([tcp, udp]);
            }
        }
    }
    listeners
}

/// The file for these interfaces and listeners.
pub fn file(interfaces: &[&str], listeners: &[Listener]) -> String {
    let interfaces = interfaces.join(", ");
    let sources = if listeners.iter().any(|listener| listener.mode == Mode::FullNat) {
        format!("source_addresses: [{SOURCE_V4}, \"{SOURCE_V6}\"], ")
    } else {
        String::new()
    };
    let mut text =
        format!("version: 1\nload_balancer: {{id: lb-lab, vpc: vpc-lab, {sources}interfaces: [{interfaces}]}}\n");
    let numbers = 1..=listeners.iter().map(|listener| listener.weights.len()).max().unwrap_or_default();
    text.push_str("cvms:\n");
    for number in numbers.clone() {
        let _ = writeln!(text, "  - {{id: ins-{number}, vpc: vpc-lab, zone: zone-1}}");
    }
    text.push_str("enis:\n");
    for number in numbers {
        let (primary, secondary) = (backend_address(number, true), backend_address(number, false));
        let _ = writeln!(
            text,
            "  - {{id: eni-{number}, role: primary, vpc: vpc-lab, zone: zone-1, attached_to: ins-{number}, \
             primary_ip: {primary}, secondary_ips: [\"{secondary}\"]}}"
        );
    }
    text.push_str("listeners:\n");
    for listener in listeners {
        let Listener { name, vip, protocol, mode, .. } = listener;
        let mode = mode.name();
        let _ = writeln!(
            text,
            "  - {{name: \"{name}\", vip: \"{}\", protocol: {protocol}, port: {}, forwarding: {mode}, slots: 4093, backends: [",
            vip.ip(),
            vip.port()
        );
        for (number, backend, weight) in listener.backends() {
            let bound = match backend.ip() {
                IpAddr::V4(_) => format!("cvm: ins-{number}"),
                IpAddr::V6(address) => format!("eni: \"{address}\""),
            };
            let _ = writeln!(text, "      {{{bound}, port: {}, weight: {weight}}},", backend.port());
        }
        text.push_str("    ]}\n");
    }
    text
}

/// The private address of a backend.
pub fn backend_address(number: usize, is_ipv4: bool) -> IpAddr {
    let last = FIRST_BACKEND + u8::try_from(number).expect("a few backends");
    if is_ipv4 {
        Ipv4Addr::new(10, 0, 1, last).into()
    } else {
        Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 1, last.into()).into()
    }
}

/// What backends see in `full_nat`.
pub const SOURCE_V4: &str = "10.0.9.1";
pub const SOURCE_V6: &str = "fd00:10::9:1";

const FIRST_BACKEND: u8 = 10;
const FIRST_PORT: u16 = 7_000;
