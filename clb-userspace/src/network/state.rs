//! The mirror of the kernel's network, and the answers it gives: pure, without netlink.
//!
//! What it answers must be what the kernel would do with a packet of its own by the main table, except that a guess is
//! never made: without a MAC address there is no next hop. Routes through an interface that is set down count as gone,
//! because the kernel drops them a moment after it tells that the link went down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use clb_common::NextHop;

use super::{
    interface::{Interface, LinkState, Tag, Vlan},
    neighbour::{Need, Neighbour, NeighbourEntry},
    routes::{Action, Route, RouteHop, RouteTable},
    unresolved::Unresolved,
};
use crate::prefix::Prefix;

/// How a destination may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// On a link of this machine, without a router between.
    OnLink,
    /// By whatever the routing table says.
    Routed,
}

/// How packets leave for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The neighbour that gets them: the destination itself or a router.
    pub via: IpAddr,
    /// The name of the interface they leave by.
    pub interface: String,
    /// What the packet path needs.
    pub next_hop: NextHop,
}

/// A message of the kernel: an entry of one of its tables as it is now, or an entry that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Link(Interface),
    LinkGone { index: u32 },
    Address { interface: u32, address: IpAddr },
    AddressGone { interface: u32, address: IpAddr },
    Neighbour(Neighbour, NeighbourEntry),
    NeighbourGone(Neighbour),
    Route(Route),
    RouteGone,
}

/// What an event means for those who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Every answer is as it was.
    Nothing,
    /// Answers may differ.
    Answers,
    /// The routing table must be read again.
    Routes,
    /// Answers may differ, and the routing table must be read again.
    Topology,
}

/// The kernel's tables that are mirrored, in the order in which they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Links,
    Addresses,
    Neighbours,
    Routes,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Links, Self::Addresses, Self::Neighbours, Self::Routes];
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Links => "links",
            Self::Addresses => "addresses",
            Self::Neighbours => "neighbours",
            Self::Routes => "routes",
        })
    }
}

/// The mirror.
#[derive(Debug, Default)]
pub struct State {
    links: BTreeMap<u32, Interface>,
    addresses: BTreeSet<(IpAddr, u32)>,
    neighbours: BTreeMap<Neighbour, NeighbourEntry>,
    routes: RouteTable,
    read: BTreeSet<Table>,
}

impl State {
    /// Whether every table was read.
    pub fn is_complete(&self) -> bool {
        Table::ALL.iter().all(|table| self.read.contains(table))
    }

    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.links.values().find(|link| link.name == name)
    }

    /// How packets to this address leave.
    pub fn next_hop(&self, address: IpAddr, reach: Reach) -> Result<Hop, Unresolved> {
        let path = self.path(address, reach)?;
        let next_hop = self.resolve(path)?;
        Ok(Hop { via: path.neighbour.address, interface: path.interface.name.clone(), next_hop })
    }

    /// The next hop toward any client: a table for a longest-prefix match that gives what [`Self::next_hop`] gives.
    pub fn client_routes(&self) -> BTreeMap<Prefix, NextHop> {
        let mut table = BTreeMap::new();
        for (prefix, routes) in self.routes.iter() {
            let next_hop = match self.usable_route(routes) {
                // The kernel skips it too, and so should the lookup: to the next shorter prefix.
                Ok(None) => continue,
                Ok(Some((route, hop))) => match hop.gateway {
                    Some(gateway) => {
                        self.resolve(Path::new(route, hop.interface, gateway)).unwrap_or(NextHop::UNRESOLVED)
                    }
                    None => NextHop::UNRESOLVED,
                },
                Err(_) => NextHop::UNRESOLVED,
            };
            table.insert(prefix, next_hop);
        }
        for (&neighbour, entry) in &self.neighbours {
            if entry.usable().is_none() || !is_host(neighbour.address) {
                continue;
            }
            if let Ok(path) = self.path(neighbour.address, Reach::OnLink)
                && path.neighbour == neighbour
                && let Ok(next_hop) = self.resolve(path)
            {
                table.insert(Prefix::host(neighbour.address), next_hop);
            }
        }
        for &(address, _) in &self.addresses {
            table.insert(Prefix::host(address), NextHop::HOST);
        }
        table
    }

    /// Every address of this machine; one of two interfaces comes twice.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|&(address, _)| address)
    }

    /// The neighbour that gets the packets to this address, whether its MAC address is known or not.
    pub fn neighbour_toward(&self, address: IpAddr, reach: Reach) -> Option<Neighbour> {
        self.path(address, reach).ok().map(|path| path.neighbour)
    }

    /// The routers of the main table on links that are up.
    pub fn gateways(&self) -> impl Iterator<Item = Neighbour> {
        self.routes.gateways().filter_map(|RouteHop { interface, gateway }| {
            let up = self.links.get(&interface).is_some_and(|link| link.state == LinkState::Up);
            up.then_some(Neighbour { interface, address: gateway? })
        })
    }

    /// What a neighbour needs to stay resolved.
    pub fn need(&self, neighbour: Neighbour) -> Need {
        self.neighbours.get(&neighbour).copied().unwrap_or(NeighbourEntry::NONE).need()
    }

    /// Takes over a change.
    pub fn apply(&mut self, event: Event) -> Effect {
        match event {
            Event::Link(link) => {
                let index = link.index;
                let known = self.links.get(&index).cloned();
                let effect = match known {
                    Some(known) if known == link => Effect::Nothing,
                    Some(known) if Interface { xdp: link.xdp, ..known.clone() } == link => Effect::Answers,
                    _ => Effect::Topology,
                };
                self.links.insert(index, link);
                effect
            }
            Event::LinkGone { index } => {
                self.neighbours.retain(|neighbour, _| neighbour.interface != index);
                self.addresses.retain(|(_, interface)| *interface != index);
                topology_if(self.links.remove(&index).is_some())
            }
            Event::Address { interface, address } => topology_if(self.addresses.insert((address, interface))),
            Event::AddressGone { interface, address } => topology_if(self.addresses.remove(&(address, interface))),
            Event::Neighbour(neighbour, entry) => {
                let before = self.neighbours.insert(neighbour, entry).unwrap_or(NeighbourEntry::NONE);
                answers_if_seen(before, entry)
            }
            Event::NeighbourGone(neighbour) => {
                let before = self.neighbours.remove(&neighbour).unwrap_or(NeighbourEntry::NONE);
                answers_if_seen(before, NeighbourEntry::NONE)
            }
            Event::Route(_) | Event::RouteGone => Effect::Routes,
        }
    }

    /// Takes over a whole table as it was read: what it does not list is gone.
    pub fn replace(&mut self, table: Table, rows: Vec<Event>) -> Effect {
        let mut fresh = Self::default();
        if table == Table::Routes {
            let routes = rows.into_iter();
            fresh.routes =
                routes.filter_map(|row| if let Event::Route(route) = row { Some(route) } else { None }).collect();
        } else {
            for row in rows {
                let _ = fresh.apply(row);
            }
        }
        let Self { links, addresses, neighbours, routes, read } = self;
        read.insert(table);
        let changed = match table {
            Table::Links => replaced(links, fresh.links),
            Table::Addresses => replaced(addresses, fresh.addresses),
            Table::Neighbours => replaced(neighbours, fresh.neighbours),
            Table::Routes => replaced(routes, fresh.routes),
        };
        if changed { Effect::Answers } else { Effect::Nothing }
    }

    fn path(&self, address: IpAddr, reach: Reach) -> Result<Path<'_>, Unresolved> {
        if self.addresses.range((address, 0)..=(address, u32::MAX)).next().is_some() {
            return Err(Unresolved::Local);
        }
        for routes in self.routes.matching(address) {
            let Some((route, hop)) = self.usable_route(routes)? else { continue };
            return match (hop.gateway, reach) {
                (Some(gateway), Reach::OnLink) => Err(Unresolved::BehindRouter { gateway }),
                (Some(gateway), Reach::Routed) => Ok(Path::new(route, hop.interface, gateway)),
                (None, _) => Ok(Path::new(route, hop.interface, address)),
            };
        }
        Err(Unresolved::NoRoute)
    }

    /// Of the routes of one prefix, the one that packets take now; none if the kernel skips them all.
    fn usable_route<'a>(&'a self, routes: &'a [Route]) -> Result<Option<(&'a Route, UsableHop<'a>)>, Unresolved> {
        let mut without_carrier = None;
        for route in routes {
            let hops = match &route.action {
                Action::Forward(hops) => hops,
                Action::Refuse(refusal) => return Err(Unresolved::Refused(*refusal)),
            };
            for RouteHop { interface, gateway } in hops.iter() {
                let Some(interface) = self.links.get(interface) else { continue };
                match interface.state {
                    LinkState::Up => return Ok(Some((route, UsableHop { interface, gateway: *gateway }))),
                    LinkState::NoCarrier => without_carrier = without_carrier.or(Some(interface)),
                    LinkState::Down => {}
                }
            }
        }
        match without_carrier {
            Some(link) => Err(Unresolved::InterfaceDown { interface: link.name.clone(), state: link.state }),
            None => Ok(None),
        }
    }

    fn resolve(&self, path: Path<'_>) -> Result<NextHop, Unresolved> {
        let Path { neighbour, interface, mtu } = path;
        let Some(source) = interface.mac else {
            return Err(Unresolved::NotEthernet { interface: interface.name.clone() });
        };
        let entry = self.neighbours.get(&neighbour).copied().unwrap_or(NeighbourEntry::NONE);
        let way_out = self.way_out(interface)?;
        let Some(destination) = entry.usable() else {
            let (neighbour, interface) = (neighbour.address, interface.name.clone());
            return Err(Unresolved::NoMac { neighbour, interface, state: entry.state });
        };
        let (index, vlan) = way_out;
        Ok(NextHop::new(destination, source, index, mtu).in_vlan(vlan))
    }

    /// The interface that frames leave by, and their VLAN there; 0: none.
    fn way_out(&self, interface: &Interface) -> Result<(u32, u16), Unresolved> {
        let Some(Vlan { parent, id, tag }) = interface.vlan else { return Ok((interface.index, 0)) };
        let is_ethernet = |parent: &Interface| parent.mac.is_some() && parent.vlan.is_none();
        match self.links.get(&parent).filter(|parent| is_ethernet(parent)) {
            Some(parent) if tag == Tag::Customer => Ok((parent.index, id)),
            _ => Err(Unresolved::NestedVlan { interface: interface.name.clone() }),
        }
    }
}

/// The way to an address as far as the routing table knows it.
#[derive(Clone, Copy)]
struct Path<'a> {
    neighbour: Neighbour,
    interface: &'a Interface,
    mtu: u32,
}

impl<'a> Path<'a> {
    fn new(route: &Route, interface: &'a Interface, address: IpAddr) -> Self {
        let mtu = route.mtu.map_or(interface.mtu, |mtu| mtu.min(interface.mtu));
        Self { neighbour: Neighbour { interface: interface.index, address }, interface, mtu }
    }
}

#[derive(Clone, Copy)]
struct UsableHop<'a> {
    interface: &'a Interface,
    gateway: Option<IpAddr>,
}

/// Whether an address is one host's on whichever link: IPv6 link-local ones are of one link only.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unicast_link_local(),
    }
}

fn replaced<T: PartialEq>(old: &mut T, new: T) -> bool {
    std::mem::replace(old, new) != *old
}

fn topology_if(changed: bool) -> Effect {
    if changed { Effect::Topology } else { Effect::Nothing }
}

/// Ageing of an entry that stays usable is nobody's business but the resolver's.
fn answers_if_seen(before: NeighbourEntry, after: NeighbourEntry) -> Effect {
    let seen = |entry: NeighbourEntry| entry.usable().ok_or(entry.state);
    if seen(before) == seen(after) { Effect::Nothing } else { Effect::Answers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{
        interface::{AttachedProgram, XdpMode},
        neighbour::NeighbourState,
        unresolved::Refusal,
    };

    const ETH0: u32 = 2;
    const ETH1: u32 = 3;
    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    /// A change of the usual network, an address, and what is said of it.
    struct Case {
        name: &'static str,
        changes: Vec<Event>,
        address: &'static str,
        reach: Reach,
        expected: Result<NextHop, Unresolved>,
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn next_hops_are_what_the_kernel_would_use() {
        let via_eth0 = |mtu| Ok(NextHop::new(PEER, OWN, ETH0, mtu));
        let via_eth1 = |mtu| Ok(NextHop::new(PEER, OWN, ETH1, mtu));
        let no_mac = |neighbour: &str, interface: &str, state| {
            Err(Unresolved::NoMac { neighbour: ip(neighbour), interface: interface.into(), state })
        };
        let eth0_without_carrier =
            || Err(Unresolved::InterfaceDown { interface: "eth0".into(), state: LinkState::NoCarrier });
        for case in [
            Case {
                name: "a neighbour on the link",
                changes: vec![known(ETH0, "10.0.0.9", NeighbourState::Reachable)],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: via_eth0(1500),
            },
            Case {
                name: "a stale neighbour is used until it is known to be gone",
                changes: vec![known(ETH0, "10.0.0.9", NeighbourState::Stale)],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: via_eth0(1500),
            },
            Case {
                name: "a failed neighbour keeps no MAC address",
                changes: vec![known(ETH0, "10.0.0.9", NeighbourState::Failed)],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: no_mac("10.0.0.9", "eth0", NeighbourState::Failed),
            },
            Case {
                name: "a neighbour known on another link does not count",
                changes: vec![known(ETH1, "10.0.0.9", NeighbourState::Reachable)],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: no_mac("10.0.0.9", "eth0", NeighbourState::None),
            },
            Case {
                name: "a neighbour that is forgotten",
                changes: vec![
                    known(ETH0, "10.0.0.9", NeighbourState::Reachable),
                    Event::NeighbourGone(Neighbour { interface: ETH0, address: ip("10.0.0.9") }),
                ],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: no_mac("10.0.0.9", "eth0", NeighbourState::None),
            },
            Case {
                name: "an address beyond the router, with the route's MTU",
                changes: vec![known(ETH1, "10.1.0.1", NeighbourState::Permanent)],
                address: "192.0.2.1",
                reach: Reach::Routed,
                expected: via_eth1(1400),
            },
            Case {
                name: "an address beyond the router is not on the link",
                changes: vec![known(ETH1, "10.1.0.1", NeighbourState::Permanent)],
                address: "192.0.2.1",
                reach: Reach::OnLink,
                expected: Err(Unresolved::BehindRouter { gateway: ip("10.1.0.1") }),
            },
            Case {
                name: "a router that does not answer",
                changes: vec![],
                address: "192.0.2.1",
                reach: Reach::Routed,
                expected: no_mac("10.1.0.1", "eth1", NeighbourState::None),
            },
            Case {
                name: "IPv4 by an IPv6 router",
                changes: vec![known(ETH0, "fe80::9", NeighbourState::Reachable)],
                address: "198.51.100.1",
                reach: Reach::Routed,
                expected: via_eth0(1500),
            },
            Case {
                name: "IPv6 on the link",
                changes: vec![known(ETH0, "2001:db8::9", NeighbourState::Delay)],
                address: "2001:db8::9",
                reach: Reach::OnLink,
                expected: via_eth0(1500),
            },
            Case {
                name: "no route, IPv6 has no default",
                changes: vec![],
                address: "2001:db8:ffff::1",
                reach: Reach::Routed,
                expected: Err(Unresolved::NoRoute),
            },
            Case {
                name: "an own address",
                changes: vec![],
                address: "10.0.0.1",
                reach: Reach::Routed,
                expected: Err(Unresolved::Local),
            },
            Case {
                name: "a blackhole hides the default route",
                changes: vec![],
                address: "203.0.113.1",
                reach: Reach::Routed,
                expected: Err(Unresolved::Refused(Refusal::Blackhole)),
            },
            Case {
                name: "a link without carrier",
                changes: vec![Event::Link(interface(ETH0, "eth0", LinkState::NoCarrier))],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: eth0_without_carrier(),
            },
            Case {
                name: "routes of a link that is set down are gone, the default route is next",
                changes: vec![
                    Event::Link(interface(ETH0, "eth0", LinkState::Down)),
                    known(ETH1, "10.1.0.1", NeighbourState::Reachable),
                ],
                address: "10.0.0.9",
                reach: Reach::Routed,
                expected: via_eth1(1400),
            },
            Case {
                name: "the first next hop of several",
                changes: vec![known(ETH0, "10.0.0.7", NeighbourState::Reachable)],
                address: "172.16.0.1",
                reach: Reach::Routed,
                expected: via_eth0(1500),
            },
            Case {
                name: "the second next hop while the first has no carrier",
                changes: vec![
                    Event::Link(interface(ETH0, "eth0", LinkState::NoCarrier)),
                    known(ETH1, "10.1.0.7", NeighbourState::Reachable),
                ],
                address: "172.16.0.1",
                reach: Reach::Routed,
                expected: via_eth1(1500),
            },
            Case {
                name: "a link that was removed takes its neighbours along",
                changes: vec![
                    known(ETH0, "10.0.0.9", NeighbourState::Reachable),
                    Event::LinkGone { index: ETH0 },
                    Event::Link(interface(ETH0, "eth0", LinkState::Up)),
                ],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: no_mac("10.0.0.9", "eth0", NeighbourState::None),
            },
            Case {
                name: "in a VLAN",
                changes: vec![in_vlan(ETH0, Tag::Customer), known(ETH1, "10.1.0.9", NeighbourState::Reachable)],
                address: "10.1.0.9",
                reach: Reach::OnLink,
                expected: Ok(NextHop::new(PEER, OWN, ETH0, 1500).in_vlan(100)),
            },
            Case {
                name: "in the VLAN of a provider",
                changes: vec![in_vlan(ETH0, Tag::Provider), known(ETH1, "10.1.0.9", NeighbourState::Reachable)],
                address: "10.1.0.9",
                reach: Reach::OnLink,
                expected: nested_vlan(),
            },
            Case {
                name: "in a VLAN of a VLAN",
                changes: vec![
                    Event::Link(Interface {
                        vlan: Some(Vlan { parent: 9, id: 7, tag: Tag::Customer }),
                        ..interface(ETH0, "eth0", LinkState::Up)
                    }),
                    in_vlan(ETH0, Tag::Customer),
                    known(ETH1, "10.1.0.9", NeighbourState::Reachable),
                ],
                address: "10.1.0.9",
                reach: Reach::OnLink,
                expected: nested_vlan(),
            },
            Case {
                name: "in a VLAN of an interface of another namespace",
                changes: vec![in_vlan(9, Tag::Customer), known(ETH1, "10.1.0.9", NeighbourState::Reachable)],
                address: "10.1.0.9",
                reach: Reach::Routed,
                expected: nested_vlan(),
            },
            Case {
                name: "an interface without Ethernet",
                changes: vec![Event::Link(Interface { mac: None, ..interface(ETH0, "eth0", LinkState::Up) })],
                address: "10.0.0.9",
                reach: Reach::OnLink,
                expected: Err(Unresolved::NotEthernet { interface: "eth0".into() }),
            },
        ] {
            let Case { name, changes, address, reach, expected } = case;
            let state = usual_with(changes);
            assert_eq!(state.next_hop(ip(address), reach).map(|hop| hop.next_hop), expected, "{name}");
        }
    }

    #[test]
    fn the_client_table_gives_what_next_hop_gives() {
        let state = usual_with(vec![
            known(ETH0, "10.0.0.9", NeighbourState::Reachable),
            known(ETH0, "10.0.0.8", NeighbourState::Failed),
            known(ETH0, "10.1.0.9", NeighbourState::Reachable),
            known(ETH0, "2001:db8::9", NeighbourState::Stale),
            known(ETH0, "fe80::9", NeighbourState::Stale),
            known(ETH1, "10.1.0.1", NeighbourState::Reachable),
        ]);
        let to_eth0 = NextHop::new(PEER, OWN, ETH0, 1500);
        let expected = [
            ("0.0.0.0", 0, NextHop::new(PEER, OWN, ETH1, 1400)),
            ("10.0.0.0", 24, NextHop::UNRESOLVED),
            ("10.0.0.1", 32, NextHop::HOST),
            ("10.0.0.9", 32, to_eth0),
            ("10.1.0.0", 24, NextHop::UNRESOLVED),
            ("10.1.0.1", 32, NextHop::new(PEER, OWN, ETH1, 1500)),
            ("172.16.0.0", 16, NextHop::UNRESOLVED),
            ("198.51.100.0", 24, to_eth0),
            ("203.0.113.0", 24, NextHop::UNRESOLVED),
            ("2001:db8::", 64, NextHop::UNRESOLVED),
            ("2001:db8::9", 128, to_eth0),
        ];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(address, length, hop)| (Prefix::new(ip(address), length), hop)).collect();
        let table = state.client_routes();
        assert_eq!(table, expected);

        for address in ["10.0.0.1", "10.0.0.8", "10.0.0.9", "10.1.0.9", "192.0.2.1", "198.51.100.7", "203.0.113.1"] {
            let address = ip(address);
            let looked_up = (0..=32).rev().find_map(|length| table.get(&Prefix::new(address, length))).copied();
            let asked = match state.next_hop(address, Reach::Routed) {
                Ok(hop) => hop.next_hop,
                Err(Unresolved::Local) => NextHop::HOST,
                Err(_) => NextHop::UNRESOLVED,
            };
            assert_eq!(looked_up, Some(asked), "{address}");
        }
    }

    #[test]
    fn only_what_changes_an_answer_is_told() {
        let reachable = || known(ETH0, "10.0.0.9", NeighbourState::Reachable);
        let mut state = usual_with(vec![reachable()]);
        let mut moved = known(ETH0, "10.0.0.9", NeighbourState::Reachable);
        if let Event::Neighbour(_, entry) = &mut moved {
            entry.mac = Some([2, 0, 0, 0, 0, 8]);
        }
        let link = |xdp| Event::Link(Interface { xdp, ..interface(ETH0, "eth0", LinkState::Up) });
        let own = || Event::Address { interface: ETH0, address: ip("10.0.0.1") };
        for (name, event, expected) in [
            ("the same again", reachable(), Effect::Nothing),
            ("ageing", known(ETH0, "10.0.0.9", NeighbourState::Stale), Effect::Nothing),
            ("another MAC address", moved, Effect::Answers),
            ("failing", known(ETH0, "10.0.0.9", NeighbourState::Failed), Effect::Answers),
            ("a first try of another", known(ETH0, "10.0.0.10", NeighbourState::Incomplete), Effect::Answers),
            ("the link as it was", link(None), Effect::Nothing),
            ("a program", link(Some(AttachedProgram { id: 7, mode: XdpMode::Native })), Effect::Answers),
            ("no carrier", Event::Link(interface(ETH0, "eth0", LinkState::NoCarrier)), Effect::Topology),
            ("an address that was there", own(), Effect::Nothing),
            ("an address gone", Event::AddressGone { interface: ETH0, address: ip("10.0.0.1") }, Effect::Topology),
            ("an address", own(), Effect::Topology),
            ("a route gone", Event::RouteGone, Effect::Routes),
        ] {
            assert_eq!(state.apply(event), expected, "{name}");
        }
        assert_eq!(state.replace(Table::Routes, usual_routes()), Effect::Nothing, "the same routes read again");
        assert_eq!(state.replace(Table::Routes, Vec::new()), Effect::Answers, "no routes");
    }

    #[test]
    fn routers_are_kept_resolved_while_their_link_is_up() {
        let mut state = usual_with(vec![]);
        let gateways =
            |state: &State| -> Vec<_> { state.gateways().map(|router| router.address.to_string()).collect() };
        assert_eq!(gateways(&state), ["10.0.0.7", "fe80::9", "10.1.0.1", "10.1.0.7"]);
        let _ = state.apply(Event::Link(interface(ETH1, "eth1", LinkState::NoCarrier)));
        assert_eq!(gateways(&state), ["10.0.0.7", "fe80::9"]);
    }

    fn usual_with(changes: Vec<Event>) -> State {
        let mut state = State::default();
        let _ = state.replace(
            Table::Links,
            vec![
                Event::Link(interface(ETH0, "eth0", LinkState::Up)),
                Event::Link(interface(ETH1, "eth1", LinkState::Up)),
            ],
        );
        let _ = state.replace(Table::Addresses, vec![Event::Address { interface: ETH0, address: ip("10.0.0.1") }]);
        let _ = state.replace(Table::Routes, usual_routes());
        for change in changes {
            let _ = state.apply(change);
        }
        state
    }

    fn usual_routes() -> Vec<Event> {
        let by = |interface, gateway: Option<&str>| RouteHop { interface, gateway: gateway.map(ip) };
        let route = |prefix: &str, length, mtu, action| {
            Event::Route(Route { prefix: Prefix::new(ip(prefix), length), metric: 0, mtu, action })
        };
        let forward = |hops: &[RouteHop]| Action::Forward(hops.into());
        vec![
            route("10.0.0.0", 24, None, forward(&[by(ETH0, None)])),
            route("10.1.0.0", 24, None, forward(&[by(ETH1, None)])),
            route("0.0.0.0", 0, Some(1400), forward(&[by(ETH1, Some("10.1.0.1"))])),
            route("172.16.0.0", 16, Some(9000), forward(&[by(ETH0, Some("10.0.0.7")), by(ETH1, Some("10.1.0.7"))])),
            route("198.51.100.0", 24, None, forward(&[by(ETH0, Some("fe80::9"))])),
            route("203.0.113.0", 24, None, Action::Refuse(Refusal::Blackhole)),
            route("192.88.99.0", 24, None, forward(&[])),
            route("2001:db8::", 64, None, forward(&[by(ETH0, None)])),
        ]
    }

    fn interface(index: u32, name: &str, state: LinkState) -> Interface {
        Interface { index, name: name.into(), mac: Some(OWN), mtu: 1500, state, xdp: None, vlan: None }
    }

    /// eth1 is a VLAN device.
    fn in_vlan(parent: u32, tag: Tag) -> Event {
        let vlan = Some(Vlan { parent, id: 100, tag });
        Event::Link(Interface { vlan, ..interface(ETH1, "eth1", LinkState::Up) })
    }

    fn nested_vlan() -> Result<NextHop, Unresolved> {
        Err(Unresolved::NestedVlan { interface: "eth1".into() })
    }

    fn known(interface: u32, address: &str, state: NeighbourState) -> Event {
        Event::Neighbour(Neighbour { interface, address: ip(address) }, NeighbourEntry { mac: Some(PEER), state })
    }

    fn ip(address: &str) -> IpAddr {
        address.parse().expect("an address of this test")
    }
}
