//! The configuration as written: every key that the file may have, with the place of its value.
//!
//! A value is there, absent, or wrong. What is wrong is reported here, once, and is not used by any rule after that, so
//! one mistake never causes a second report. A key that is nearly a known one is reported and then read as that one.

use std::{net::IpAddr, time::Duration};

use clb_common::Protocol;
use serde_yaml::Number;

use super::{
    cloud::Role,
    document::{Node, shortened},
    health_check::{CheckType, HttpMethod, Statuses},
    keys::{self, DRAINS, FLOWS, IDLE_TIMEOUTS, INTERVALS, PORTS, SLOT_TABLE_SIZES, THRESHOLDS, TIMEOUTS, WEIGHTS},
    model::{Affinity, Forwarding, OnUnhealthy},
    problem::{Code, Collected, Place, Problem},
    reader::{
        Fields, Leaf,
        Need::{Optional, Required},
        Reader,
    },
};
use crate::prefix::{NotAPrefix, Prefix};

/// A value with its place.
#[derive(Clone, Copy, Debug)]
pub struct Given<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Given<T> {
    /// A value that stands where the node does.
    pub fn of(value: T, node: &Node<'_>) -> Self {
        Self { value, place: node.place }
    }
}

/// The value of a key.
#[derive(Clone, Copy, Debug)]
pub enum Field<T> {
    /// The key is not there.
    Absent,
    /// The key is there or should be, and the problem is reported.
    Wrong,
    /// The value, and it is of the right type and in its range.
    Given(Given<T>),
}

impl<T> Field<T> {
    /// The same with what the value means.
    pub fn map<U>(self, meaning: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Wrong => Field::Wrong,
            Self::Given(Given { value, place }) => Field::Given(Given { value: meaning(value), place }),
        }
    }
}

impl<T: Copy> Field<T> {
    /// The value with its place, if it is there and right.
    pub fn given(&self) -> Option<Given<T>> {
        match *self {
            Self::Given(given) => Some(given),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// The value, if it is there and right.
    pub fn value(&self) -> Option<T> {
        self.given().map(|given| given.value)
    }

    /// The value, or what stands for an absent one; nothing for a wrong one.
    pub fn or(&self, default: T) -> Option<T> {
        self.or_else(|| Some(default))
    }

    /// As [`Field::or`], where what stands for an absent value may be missing itself.
    pub fn or_else(&self, default: impl FnOnce() -> Option<T>) -> Option<T> {
        match *self {
            Self::Given(given) => Some(given.value),
            Self::Absent => default(),
            Self::Wrong => None,
        }
    }
}

impl<T: Copy + Default> Field<T> {
    /// As [`Field::or`], with the type's own default.
    pub fn or_default(&self) -> Option<T> {
        self.or(T::default())
    }
}

/// A list, and whether all of it could be read.
#[derive(Debug)]
pub struct List<T> {
    pub items: Vec<T>,
    pub is_complete: bool,
}

impl<T> List<T> {
    /// What is known of a list that cannot be read.
    const UNKNOWN: Self = Self { items: Vec::new(), is_complete: false };
}

/// The whole file.
#[derive(Debug)]
pub struct File<'t> {
    pub load_balancer: LoadBalancer<'t>,
    pub cvms: List<Cvm<'t>>,
    pub enis: List<Eni<'t>>,
    pub listeners: List<Listener<'t>>,
    /// The key `listeners`, if it is there.
    pub listeners_key: Option<Place>,
}

/// What holds for all listeners. All is wrong if the section is not there.
#[derive(Debug)]
pub struct LoadBalancer<'t> {
    /// Its first key.
    pub place: Place,
    pub id: Field<&'t str>,
    pub vpc: Field<&'t str>,
    pub interfaces: Vec<&'t str>,
    pub forwarding: Field<Forwarding>,
    pub hash_seed: Field<u64>,
    pub slots: Field<u32>,
    pub tunnel_sources: List<Given<Prefix>>,
    pub gue_port: Field<u16>,
    pub source_addresses: List<Given<IpAddr>>,
    pub max_flows: Field<u32>,
}

/// A virtual machine.
#[derive(Debug)]
pub struct Cvm<'t> {
    pub id: Field<&'t str>,
    pub vpc: Field<&'t str>,
    pub zone: Field<&'t str>,
}

/// A network interface with its addresses.
#[derive(Debug)]
pub struct Eni<'t> {
    pub id: Field<&'t str>,
    pub role: Field<Role>,
    pub vpc: Field<&'t str>,
    pub zone: Field<&'t str>,
    pub attached_to: Field<&'t str>,
    pub primary_ip: Field<IpAddr>,
    pub secondary_ips: List<Given<IpAddr>>,
}

/// A listener.
#[derive(Debug)]
pub struct Listener<'t> {
    /// Its first key.
    pub place: Place,
    pub name: Field<&'t str>,
    pub vip: Field<IpAddr>,
    pub protocol: Field<Protocol>,
    pub port: Field<u16>,
    pub forwarding: Field<Forwarding>,
    pub slots: Field<u32>,
    pub affinity: Field<Affinity>,
    pub drain: Field<Duration>,
    pub idle_timeout: Field<Duration>,
    pub on_unhealthy: Field<OnUnhealthy>,
    pub health_check: Field<HealthCheck<'t>>,
    pub backends: List<Backend<'t>>,
}

/// How backends are checked.
#[derive(Clone, Copy, Debug)]
pub struct HealthCheck<'t> {
    pub kind: Field<CheckKind>,
    pub interval: Field<Duration>,
    pub timeout: Field<Duration>,
    pub healthy: Field<u8>,
    pub unhealthy: Field<u8>,
    pub method: Field<HttpMethod>,
    pub path: Field<&'t str>,
    pub host: Field<&'t str>,
    pub status: Field<Statuses>,
    pub send: Field<&'t str>,
    pub expect: Field<&'t str>,
}

/// The `type` of a health check; `None` is the word `none`.
pub type CheckKind = Option<CheckType>;

/// A backend.
#[derive(Debug)]
pub struct Backend<'t> {
    pub target: Field<Target<'t>>,
    pub port: Field<u16>,
    pub weight: Field<u8>,
}

/// What a backend is bound as.
#[derive(Clone, Copy, Debug)]
pub enum Target<'t> {
    Cvm(&'t str),
    Eni(IpAddr),
}

/// Reads the whole file; `None` if it is no mapping.
pub fn read<'n>(root: &'n Node<'n>, problems: &mut Collected) -> Option<File<'n>> {
    let reader = &mut Reader::new(problems);
    let fields = reader.mapping("the file", root, keys::FILE.names)?;
    reader.field(&fields, "version", Required, version);
    let load_balancer = reader.field(&fields, "load_balancer", Required, load_balancer);
    Some(File {
        load_balancer: match load_balancer {
            Field::Given(given) => given.value,
            Field::Absent | Field::Wrong => LoadBalancer::UNKNOWN,
        },
        cvms: reader.list(&fields, "cvms", cvm),
        enis: reader.list(&fields, "enis", eni),
        listeners: reader.list(&fields, "listeners", listener),
        listeners_key: fields.find("listeners").map(|entry| entry.place),
    })
}

fn version(reader: &mut Reader<'_>, key: &'static str, node: &Node<'_>) -> Field<()> {
    if let Field::Given(Given { value, place }) = reader.leaf::<Number>(key, node)
        && value.as_u64() != Some(1)
    {
        let message = format!("version {value} of the configuration file is not supported");
        reader.report(Problem::new(Code::UnsupportedVersion, place, message, "write `version: 1`"));
    }
    Field::Absent
}

impl LoadBalancer<'_> {
    /// What is known of a section that cannot be read.
    const UNKNOWN: Self = Self {
        place: Place { start: 0, end: 0, written: 0 },
        id: Field::Wrong,
        vpc: Field::Wrong,
        interfaces: Vec::new(),
        forwarding: Field::Wrong,
        hash_seed: Field::Wrong,
        slots: Field::Wrong,
        tunnel_sources: List::UNKNOWN,
        gue_port: Field::Wrong,
        source_addresses: List::UNKNOWN,
        max_flows: Field::Wrong,
    };
}

fn load_balancer<'n>(reader: &mut Reader<'_>, _: &'static str, node: &'n Node<'n>) -> Field<LoadBalancer<'n>> {
    let Some(fields) = reader.mapping("`load_balancer`", node, keys::LOAD_BALANCER.names) else { return Field::Wrong };
    let value = LoadBalancer {
        place: fields.place,
        id: reader.field(&fields, "id", Required, Reader::text),
        vpc: reader.field(&fields, "vpc", Required, Reader::text),
        interfaces: interfaces(reader, &fields),
        forwarding: reader.field(&fields, "forwarding", Optional, Reader::leaf),
        hash_seed: reader.field(&fields, "hash_seed", Optional, |reader, key, node| {
            reader.number((Code::Syntax, 0..=u64::MAX), key, node)
        }),
        slots: reader.field(&fields, "slots", Optional, slots),
        tunnel_sources: reader
            .list(&fields, "tunnel_sources", |reader, node| reader.leaf("tunnel_sources", node).given()),
        gue_port: reader.field(&fields, "gue_port", Optional, port),
        source_addresses: reader
            .list(&fields, "source_addresses", |reader, node| reader.address("source_addresses", node).given()),
        max_flows: reader
            .field(&fields, "max_flows", Optional, |reader, key, node| reader.number((Code::Syntax, FLOWS), key, node)),
    };
    Field::Given(Given { value, place: fields.place })
}

fn interfaces<'n>(reader: &mut Reader<'_>, fields: &Fields<'n>) -> Vec<&'n str> {
    let required = reader.field(fields, "interfaces", Required, |_, _, node| Field::Given(Given::of((), node)));
    let list = reader.list(fields, "interfaces", |reader, node| reader.text("interfaces", node).value());
    if let Field::Given(Given { place, .. }) = required
        && list.is_complete
        && list.items.is_empty()
    {
        let help = "name the network interfaces that clients' packets come in on: `interfaces: [eth0]`";
        reader.report(Problem::new(Code::Syntax, place, "`interfaces` is empty", help));
    }
    list.items
}

fn cvm<'n>(reader: &mut Reader<'_>, node: &'n Node<'n>) -> Option<Cvm<'n>> {
    let fields = reader.mapping("a CVM", node, keys::CVM.names)?;
    Some(Cvm {
        id: reader.field(&fields, "id", Required, Reader::text),
        vpc: reader.field(&fields, "vpc", Required, Reader::text),
        zone: reader.field(&fields, "zone", Required, Reader::text),
    })
}

fn eni<'n>(reader: &mut Reader<'_>, node: &'n Node<'n>) -> Option<Eni<'n>> {
    let fields = reader.mapping("an ENI", node, keys::ENI.names)?;
    Some(Eni {
        id: reader.field(&fields, "id", Required, Reader::text),
        role: reader.field(&fields, "role", Required, Reader::leaf),
        vpc: reader.field(&fields, "vpc", Required, Reader::text),
        zone: reader.field(&fields, "zone", Required, Reader::text),
        attached_to: reader.field(&fields, "attached_to", Optional, Reader::text),
        primary_ip: reader.field(&fields, "primary_ip", Required, Reader::address),
        secondary_ips: reader
            .list(&fields, "secondary_ips", |reader, node| reader.address("secondary_ips", node).given()),
    })
}

fn listener<'n>(reader: &mut Reader<'_>, node: &'n Node<'n>) -> Option<Listener<'n>> {
    let fields = reader.mapping("a listener", node, keys::LISTENER.names)?;
    let drain = |reader: &mut Reader<'_>, key, node| reader.duration((Code::DrainRange, DRAINS), key, node);
    let idle = |reader: &mut Reader<'_>, key, node| reader.duration((Code::IdleTimeoutRange, IDLE_TIMEOUTS), key, node);
    Some(Listener {
        place: fields.place,
        name: reader.field(&fields, "name", Required, Reader::text),
        vip: reader.field(&fields, "vip", Required, Reader::address),
        protocol: reader.field(&fields, "protocol", Required, protocol),
        port: reader.field(&fields, "port", Required, port),
        forwarding: reader.field(&fields, "forwarding", Optional, Reader::leaf),
        slots: reader.field(&fields, "slots", Optional, slots),
        affinity: reader.field(&fields, "affinity", Optional, Reader::leaf),
        drain: reader.field(&fields, "drain", Optional, drain),
        idle_timeout: reader.field(&fields, "idle_timeout", Optional, idle),
        on_unhealthy: reader.field(&fields, "on_unhealthy", Optional, Reader::leaf),
        health_check: reader.field(&fields, "health_check", Optional, health_check),
        backends: reader.list(&fields, "backends", backend),
    })
}

fn protocol(reader: &mut Reader<'_>, key: &'static str, node: &Node<'_>) -> Field<Protocol> {
    let Field::Given(Given { value, place }) = reader.leaf::<&str>(key, node) else { return Field::Wrong };
    let value = match value {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => {
            let help = match other.to_ascii_lowercase().as_str() {
                "tcp" => "write `tcp`, in small letters",
                "udp" => "write `udp`, in small letters",
                "http" | "https" | "tls" | "ssl" | "tcp_ssl" | "http2" | "grpc" | "quic" => {
                    "HTTP, HTTPS and TLS listeners are layer 7, and clb is layer 4: write `tcp`, and let the backends \
                     end the connection"
                }
                _ => "write `tcp` or `udp`; HTTP, HTTPS and TLS listeners are layer 7",
            };
            let message = format!("the protocol `{}` is not supported", shortened(other));
            reader.report(Problem::new(Code::UnsupportedProtocol, place, message, help));
            return Field::Wrong;
        }
    };
    Field::Given(Given { value, place })
}

fn port(reader: &mut Reader<'_>, key: &'static str, node: &Node<'_>) -> Field<u16> {
    reader.number((Code::PortRange, PORTS), key, node)
}

fn slots(reader: &mut Reader<'_>, key: &'static str, node: &Node<'_>) -> Field<u32> {
    let Field::Given(Given { value, place }) = reader.leaf::<Number>(key, node) else { return Field::Wrong };
    let size = value.as_u64().and_then(|value| SLOT_TABLE_SIZES.into_iter().find(|&size| u64::from(size) == value));
    if let Some(value) = size {
        return Field::Given(Given { value, place });
    }
    let message = format!("a slot table cannot have {value} slots");
    let help = "write one of 1021, 4093, 16381, 65537, 131071, 655373";
    reader.report(Problem::new(Code::SlotsRange, place, message, help));
    Field::Wrong
}

fn health_check<'n>(reader: &mut Reader<'_>, _: &'static str, node: &'n Node<'n>) -> Field<HealthCheck<'n>> {
    let Some(fields) = reader.mapping("a health check", node, keys::HEALTH_CHECK.names) else { return Field::Wrong };
    let code = Code::HealthCheckRange;
    let threshold = |reader: &mut Reader<'_>, key, node| reader.number((code, THRESHOLDS), key, node);
    let value = HealthCheck {
        kind: reader.field(&fields, "type", Required, check_kind),
        interval: reader
            .field(&fields, "interval", Optional, |reader, key, node| reader.duration((code, INTERVALS), key, node)),
        timeout: reader
            .field(&fields, "timeout", Optional, |reader, key, node| reader.duration((code, TIMEOUTS), key, node)),
        healthy: reader.field(&fields, "healthy", Optional, threshold),
        unhealthy: reader.field(&fields, "unhealthy", Optional, threshold),
        method: reader.field(&fields, "method", Optional, Reader::leaf),
        path: reader.field(&fields, "path", Optional, Reader::text),
        host: reader.field(&fields, "host", Optional, Reader::text),
        status: reader.field(&fields, "status", Optional, Reader::leaf),
        send: reader.field(&fields, "send", Optional, Reader::text),
        expect: reader.field(&fields, "expect", Optional, Reader::text),
    };
    Field::Given(Given { value, place: fields.place })
}

fn check_kind<'n>(reader: &mut Reader<'_>, key: &'static str, node: &'n Node<'n>) -> Field<CheckKind> {
    let Field::Given(Given { value, place }) = reader.leaf::<&str>(key, node) else { return Field::Wrong };
    let value = match node.read() {
        Some(kind) => Some(kind),
        None if value == "none" => None,
        None => {
            let message = format!("there is no health check of type `{}`", shortened(value));
            let help = "write `tcp` or `http` for a TCP listener, `udp` or `icmp` for a UDP listener, or `none`";
            reader.report(Problem::new(Code::HealthCheckType, place, message, help));
            return Field::Wrong;
        }
    };
    Field::Given(Given { value, place })
}

fn backend<'n>(reader: &mut Reader<'_>, node: &'n Node<'n>) -> Option<Backend<'n>> {
    let fields = reader.mapping("a backend", node, keys::BACKEND.names)?;
    let cvm = reader.field(&fields, "cvm", Optional, Reader::text).map(Target::Cvm);
    let eni = reader.field(&fields, "eni", Optional, Reader::address).map(Target::Eni);
    let backend_kind = |message| {
        let help = "write `cvm: ID` for the primary private IP of a CVM, or `eni: ADDRESS` for any other address";
        Problem::new(Code::BackendKind, fields.place, message, help)
    };
    let target = match (cvm, eni) {
        (Field::Absent, Field::Absent) => {
            reader.report(backend_kind("a backend needs `cvm` or `eni`"));
            Field::Wrong
        }
        (target, Field::Absent) | (Field::Absent, target) => target,
        (cvm, eni) => {
            let mut problem = backend_kind("a backend cannot have both `cvm` and `eni`");
            for (field, text) in [(cvm, "a CVM here"), (eni, "an ENI's address here")] {
                if let Some(given) = field.given() {
                    problem = problem.label(given.place, text);
                }
            }
            reader.report(problem);
            Field::Wrong
        }
    };
    Some(Backend {
        target,
        port: reader.field(&fields, "port", Optional, port),
        weight: reader.field(&fields, "weight", Optional, |reader, key, node| {
            reader.number((Code::WeightRange, WEIGHTS), key, node)
        }),
    })
}

impl Leaf<'_> for Prefix {
    const EXPECTED: &'static str = "a prefix";

    fn help(instead_of: &Node<'_>) -> String {
        let parsed = instead_of.read::<&str>().map_or(Err(NotAPrefix::Other), str::parse::<Self>);
        parsed.err().unwrap_or(NotAPrefix::Other).to_string()
    }
}

impl Leaf<'_> for Forwarding {
    const EXPECTED: &'static str = "`dsr`, `ipip`, `gue`, `nat` or `full_nat`";
}

impl Leaf<'_> for Affinity {
    const EXPECTED: &'static str = "`connection` or `client_ip`";
}

impl Leaf<'_> for OnUnhealthy {
    const EXPECTED: &'static str = "`move` or `keep`";
}

impl Leaf<'_> for HttpMethod {
    const EXPECTED: &'static str = "`GET` or `HEAD`";
}

impl Leaf<'_> for Statuses {
    const EXPECTED: &'static str = "a status, or the first and the last one: `200` or `200-399`";
}

impl Leaf<'_> for Role {
    const EXPECTED: &'static str = "`primary` or `secondary`";
}
