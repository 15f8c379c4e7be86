//! The rules for the addresses that packets leave clb with: those of outer headers, and the pool of `full_nat`.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clb_common::POOL_ADDRESSES;

use super::{
    super::{
        model::{Forwarding, TunnelSources},
        problem::{Code, Collected, Place, Problem},
        written::{Field, File, Given, Listener},
    },
    topology::{Found, Topology},
};
use crate::prefix::Prefix;

/// Where outer headers come from: as written, or the prefix of Katran's default, and the discard prefix (RFC 6666).
pub fn tunnels(file: &File<'_>, problems: &mut Collected) -> TunnelSources {
    let mut sources = TunnelSources {
        v4: Prefix::new(Ipv4Addr::new(172, 16, 0, 0).into(), 16),
        v6: Prefix::new(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).into(), 64),
    };
    let mut first: HashMap<&str, Place> = HashMap::new();
    for &Given { value, place } in &file.load_balancer.tunnel_sources.items {
        let (source, lengths, family) = match value.address() {
            IpAddr::V4(_) => (&mut sources.v4, 8..=32, "IPv4"),
            IpAddr::V6(_) => (&mut sources.v6, 64..=128, "IPv6"),
        };
        if !lengths.contains(&value.length()) {
            let range = format!("from {} to {}", lengths.start(), lengths.end());
            let message = format!("the length of the {family} prefix `{value}` is not {range}");
            let help = format!("write a prefix with a length {range}");
            problems.push(Problem::new(Code::TunnelSource, place, message, help));
        } else if let Some(&first) = first.get(family) {
            let message = format!("`tunnel_sources` has two {family} prefixes");
            let problem = Problem::new(Code::TunnelSource, place, message, "remove one of the two");
            problems.push(problem.label(first, "the first one"));
        } else {
            first.insert(family, place);
            *source = value;
        }
    }
    sources
}

/// The addresses that backends see in `full_nat`, ordered.
pub fn pool(file: &File<'_>, topology: &Topology<'_>, problems: &mut Collected) -> Vec<IpAddr> {
    let written = &file.load_balancer.source_addresses;
    let mut pool: HashMap<IpAddr, Place> = HashMap::new();
    for &Given { value: address, place } in &written.items {
        let same_family = pool.keys().filter(|other| other.is_ipv4() == address.is_ipv4()).count();
        let is_vip = |listener: &&Listener<'_>| listener.vip.value() == Some(address);
        let mut refuse = |message: String, help: &str, label: Option<(Place, &str)>| {
            let problem = Problem::new(Code::SourceAddress, place, message, help);
            problems.push(match label {
                Some((place, label)) => problem.label(place, label),
                None => problem,
            });
        };
        if let Some(&first) = pool.get(&address) {
            let label = (first, "first written here");
            refuse(format!("the source address {address} stands twice"), "remove one of the two", Some(label));
        } else if let Found::Is(owner) = topology.owner(address) {
            let label = (owner.address.place, "the private IP of an ENI");
            refuse(format!("the source address {address} is a private IP of an ENI"), OWN_ADDRESS, Some(label));
        } else if let Some(vip) = file.listeners.items.iter().find(is_vip).and_then(|listener| listener.vip.given()) {
            let label = (vip.place, "the VIP");
            refuse(format!("the source address {address} is a VIP"), OWN_ADDRESS, Some(label));
        } else if same_family == POOL_ADDRESSES as usize {
            let message = format!("more than {POOL_ADDRESSES} source addresses of one family");
            refuse(message, "remove some: each serves 64,512 flows to one address and port of a backend", None);
        }
        pool.entry(address).or_insert(place);
    }
    for listener in &file.listeners.items {
        has_a_source(file, listener, problems);
    }
    let mut addresses: Vec<_> = pool.into_keys().collect();
    addresses.sort_unstable();
    addresses
}

fn has_a_source(file: &File<'_>, listener: &Listener<'_>, problems: &mut Collected) {
    let written = &file.load_balancer.source_addresses;
    let forwarding = match listener.forwarding {
        Field::Absent => file.load_balancer.forwarding.value(),
        own => own.value(),
    };
    let Some(vip) = listener.vip.given() else { return };
    let has_one = written.items.iter().any(|source| source.value.is_ipv4() == vip.value.is_ipv4());
    if forwarding == Some(Forwarding::FullNat) && written.is_complete && !has_one {
        let family = if vip.value.is_ipv4() { "IPv4" } else { "IPv6" };
        let message = format!("`full_nat` has no {family} address that the backends of this listener could see");
        let help = format!(
            "add an {family} address to `source_addresses` of `load_balancer`: one that is routed to this host and that \
             nothing else uses"
        );
        problems.push(Problem::new(Code::NoSourceAddress, vip.place, message, help));
    }
}

const OWN_ADDRESS: &str = "give `full_nat` addresses of its own, which are routed to this host and nothing else uses";
