//! The main routing table, searched by longest prefix.
//!
//! It is replaced as a whole: the kernel drops IPv4 routes of a lost link or address without saying so, so following
//! single routes would go wrong silently. A full BGP table fits: a search looks at one entry per prefix length in use,
//! and routes that leave by the same next hops share them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::unresolved::Refusal;
use crate::prefix::Prefix;

/// One route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The addresses it is for.
    pub prefix: Prefix,
    /// The lower one wins among routes of one prefix.
    pub metric: u32,
    /// A limit of the packet's size, beside the interface's.
    pub mtu: Option<u32>,
    /// What becomes of the packets.
    pub action: Action,
}

/// What a route does with packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Sends them by the first of these whose link is up. Dead next hops are left out, so it may be empty.
    Forward(Arc<[RouteHop]>),
    /// Sends none.
    Refuse(Refusal),
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteHop {
    /// The index of the interface.
    pub interface: u32,
    /// The router, of either family; without one the destination itself is on the link.
    pub gateway: Option<IpAddr>,
}

/// All routes of the main table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    routes: BTreeMap<Prefix, Vec<Route>>,
    /// The prefix lengths in use, of IPv4 and of IPv6.
    lengths: [BTreeSet<u8>; 2],
    gateways: BTreeSet<RouteHop>,
}

impl RouteTable {
    /// The routes for an address: those of the longest prefix first, and of one prefix in the order of their metrics.
    pub fn matching(&self, address: IpAddr) -> impl Iterator<Item = &[Route]> {
        self.lengths[family(address)]
            .iter()
            .rev()
            .filter_map(move |&length| self.routes.get(&Prefix::new(address, length)).map(Vec::as_slice))
    }

    /// Every prefix with its routes, in the order of their metrics.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &[Route])> {
        self.routes.iter().map(|(&prefix, routes)| (prefix, routes.as_slice()))
    }

    /// The next hops that are routers, each once.
    pub fn gateways(&self) -> impl Iterator<Item = RouteHop> {
        self.gateways.iter().copied()
    }
}

impl FromIterator<Route> for RouteTable {
    fn from_iter<T: IntoIterator<Item = Route>>(routes: T) -> Self {
        let mut table = Self::default();
        let mut actions = BTreeSet::new();
        for mut route in routes {
            table.lengths[family(route.prefix.address())].insert(route.prefix.length());
            if let Some(known) = actions.get(&route.action) {
                route.action = Action::clone(known);
            } else {
                actions.insert(route.action.clone());
            }
            let candidates = table.routes.entry(route.prefix).or_default();
            // Of equal metrics, the one that the kernel lists first is the one that it uses.
            let place = candidates.partition_point(|other| other.metric <= route.metric);
            candidates.insert(place, route);
        }
        for action in &actions {
            if let Action::Forward(hops) = action {
                table.gateways.extend(hops.iter().filter(|hop| hop.gateway.is_some()));
            }
        }
        table
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_comes_first_and_then_the_lowest_metric() {
        let route = |prefix: &str, length, metric, interface| Route {
            prefix: Prefix::new(prefix.parse().unwrap(), length),
            metric,
            mtu: None,
            action: Action::Forward([RouteHop { interface, gateway: None }].into()),
        };
        let table: RouteTable = [
            route("0.0.0.0", 0, 0, 1),
            route("10.0.0.0", 8, 20, 2),
            route("10.0.0.0", 8, 10, 3),
            route("10.0.0.0", 8, 10, 4),
            route("10.1.0.0", 16, 0, 5),
            route("::", 0, 0, 6),
        ]
        .into_iter()
        .collect();
        let interfaces = |address: &str| -> Vec<u32> {
            let found = table.matching(address.parse().unwrap()).flatten();
            found
                .map(|route| match &route.action {
                    Action::Forward(hops) => hops[0].interface,
                    Action::Refuse(_) => 0,
                })
                .collect()
        };
        for (name, address, expected) in [
            ("the most specific of three", "10.1.2.3", vec![5, 3, 4, 2, 1]),
            ("equal metrics keep the kernel's order", "10.2.2.3", vec![3, 4, 2, 1]),
            ("only the default route", "192.0.2.1", vec![1]),
            ("the other family", "2001:db8::1", vec![6]),
        ] {
            assert_eq!(interfaces(address), expected, "{name}");
        }
    }
}
