//! What the kernel's messages mean to the mirror. Messages of other tables, families and kinds mean nothing.
//!
//! Left out on purpose: routes for some source addresses or one type of service only (policy routing), and everything
//! outside the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
        VlanProtocol,
    },
    neighbour::{self, NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
        RouteVia,
    },
};

use super::{
    interface::{AttachedProgram, Interface, LinkState, Tag, Vlan, XdpMode},
    neighbour::{Neighbour, NeighbourEntry, NeighbourState},
    routes::{Action, Route, RouteHop},
    state::Event,
    unresolved::Refusal,
};
use crate::prefix::Prefix;

/// The event that a message tells, if it is of concern.
pub fn decode(message: RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(message) => link(message).map(Event::Link),
        // A message of another family tells that the interface left a bridge.
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Some(Event::LinkGone { index: message.header.index })
        }
        RouteNetlinkMessage::NewAddress(message) => {
            address(&message).map(|address| Event::Address { interface: message.header.index, address })
        }
        RouteNetlinkMessage::DelAddress(message) => {
            address(&message).map(|address| Event::AddressGone { interface: message.header.index, address })
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            neighbour(&message).map(|(neighbour, entry)| Event::Neighbour(neighbour, entry))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(&message).map(|(neighbour, _)| Event::NeighbourGone(neighbour))
        }
        RouteNetlinkMessage::NewRoute(message) => route(&message).map(Event::Route),
        RouteNetlinkMessage::DelRoute(message) => route(&message).map(|_| Event::RouteGone),
        _ => None,
    }
}

fn link(message: LinkMessage) -> Option<Interface> {
    let LinkMessage { header, attributes, .. } = message;
    let state = if !header.flags.contains(LinkFlags::Up) {
        LinkState::Down
    } else if header.flags.contains(LinkFlags::LowerUp) {
        LinkState::Up
    } else {
        LinkState::NoCarrier
    };
    let (mut name, mut mtu, mut address, mut xdp) = (None, None, None, None);
    let (mut lower, mut info) = (None, Vec::new());
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Mtu(value) => mtu = Some(value),
            LinkAttribute::Address(value) => address = <[u8; 6]>::try_from(value).ok(),
            LinkAttribute::Link(index) => lower = Some(index),
            LinkAttribute::LinkInfo(attributes) => info = attributes,
            LinkAttribute::Xdp(attributes) => xdp = attached_program(&attributes),
            _ => {}
        }
    }
    let mac = address.filter(|_| header.link_layer_type == LinkLayerType::Ether);
    // Messages of other families, and the partial ones of wireless drivers, are not about the link as a whole.
    let whole = header.interface_family == AddressFamily::Unspec;
    let vlan = vlan(lower, &info);
    Some(Interface { index: header.index, name: name.filter(|_| whole)?, mac, mtu: mtu?, state, xdp, vlan })
}

/// Devices of other kinds have a lower one, too: a veth has its peer.
fn vlan(lower: Option<u32>, info: &[LinkInfo]) -> Option<Vlan> {
    if !info.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let id = data.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let is_provider = data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    Some(Vlan { parent: lower?, id, tag: if is_provider { Tag::Provider } else { Tag::Customer } })
}

fn attached_program(attributes: &[LinkXdp]) -> Option<AttachedProgram> {
    attributes.iter().find_map(|attribute| match *attribute {
        LinkXdp::DrvProgId(id) => Some(AttachedProgram { id, mode: XdpMode::Native }),
        LinkXdp::SkbProgId(id) => Some(AttachedProgram { id, mode: XdpMode::Generic }),
        LinkXdp::HwProgId(id) => Some(AttachedProgram { id, mode: XdpMode::Offloaded }),
        _ => None,
    })
}

/// On a point-to-point link the local address is ours and the other one is the peer's.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<(Neighbour, NeighbourEntry)> {
    let NeighbourMessage { header, attributes, .. } = message;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some(IpAddr::V4(*value)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => address = Some(IpAddr::V6(*value)),
            NeighbourAttribute::LinkLayerAddress(value) => mac = value.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let state = match header.state {
        neighbour::NeighbourState::Incomplete => NeighbourState::Incomplete,
        neighbour::NeighbourState::Reachable => NeighbourState::Reachable,
        neighbour::NeighbourState::Stale => NeighbourState::Stale,
        neighbour::NeighbourState::Delay => NeighbourState::Delay,
        neighbour::NeighbourState::Probe => NeighbourState::Probe,
        neighbour::NeighbourState::Failed => NeighbourState::Failed,
        neighbour::NeighbourState::Noarp => NeighbourState::NoArp,
        neighbour::NeighbourState::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::None,
    };
    Some((Neighbour { interface: header.ifindex, address: address? }, NeighbourEntry { mac, state }))
}

fn route(message: &RouteMessage) -> Option<Route> {
    let RouteMessage { header, attributes, .. } = message;
    let everywhere = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let policy = header.tos != 0 || header.source_prefix_length != 0;
    if header.table != RouteHeader::RT_TABLE_MAIN || policy || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let (mut destination, mut metric, mut mtu) = (everywhere, 0, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(value)) => destination = IpAddr::V4(*value),
            RouteAttribute::Destination(RouteAddress::Inet6(value)) => destination = IpAddr::V6(*value),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(value) if *value != 0 => Some(*value),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let action = match header.kind {
        RouteType::Unicast => forward(header, attributes),
        RouteType::BlackHole => Action::Refuse(Refusal::Blackhole),
        RouteType::Unreachable => Action::Refuse(Refusal::Unreachable),
        RouteType::Prohibit => Action::Refuse(Refusal::Prohibit),
        RouteType::Throw => Action::Refuse(Refusal::Throw),
        _ => return None,
    };
    Some(Route { prefix: Prefix::new(destination, header.destination_prefix_length), metric, mtu, action })
}

fn forward(header: &RouteHeader, attributes: &[RouteAttribute]) -> Action {
    let mut hops = Vec::new();
    let mut single = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(interface) => single = Some(*interface),
            RouteAttribute::Encap(_) => return Action::Refuse(Refusal::Encapsulated),
            RouteAttribute::MultiPath(paths) => {
                for path in paths {
                    if path.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Encap(_))) {
                        return Action::Refuse(Refusal::Encapsulated);
                    }
                    if !path.flags.contains(RouteNextHopFlags::Dead) {
                        hops.push(RouteHop { interface: path.interface_index, gateway: gateway(&path.attributes) });
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(interface) = single
        && !header.flags.contains(RouteFlags::Dead)
    {
        hops.push(RouteHop { interface, gateway: gateway(attributes) });
    }
    Action::Forward(hops.into())
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        link::XdpAttached,
        route::{MplsLabel, RouteLwTunnelEncap, RouteMplsIpTunnel, RouteNextHop},
    };

    use super::*;

    #[test]
    fn an_attached_program_is_told_with_its_mode() {
        let unattached = || vec![LinkXdp::Attached(XdpAttached::None)];
        for (name, attributes, expected) in [
            ("none", unattached(), None),
            (
                "native",
                vec![LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)],
                Some((7, XdpMode::Native)),
            ),
            (
                "generic",
                vec![LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::SkbProgId(8)],
                Some((8, XdpMode::Generic)),
            ),
            ("offloaded", vec![LinkXdp::HwProgId(9)], Some((9, XdpMode::Offloaded))),
        ] {
            let mut message = LinkMessage::default();
            message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
            message.attributes =
                vec![LinkAttribute::IfName("eth0".into()), LinkAttribute::Mtu(1500), LinkAttribute::Xdp(attributes)];
            let Some(Event::Link(link)) = decode(RouteNetlinkMessage::NewLink(message)) else {
                panic!("{name}: no link")
            };
            assert_eq!(link.xdp, expected.map(|(id, mode)| AttachedProgram { id, mode }), "{name}");
        }
    }

    #[test]
    fn a_vlan_device_is_told_with_what_it_stands_for() {
        let kind = |kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let of =
            |data| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))]);
        let vlan = |tag| Some(Vlan { parent: 2, id: 100, tag });
        for (name, attributes, expected) in [
            ("a card", vec![], None),
            ("a veth, whose peer is its lower device", vec![LinkAttribute::Link(2), kind(InfoKind::Veth)], None),
            ("802.1Q", vec![LinkAttribute::Link(2), of(vec![InfoVlan::Id(100)])], vlan(Tag::Customer)),
            (
                "802.1Q, said",
                vec![of(vec![InfoVlan::Protocol(VlanProtocol::Ieee8021Q), InfoVlan::Id(100)]), LinkAttribute::Link(2)],
                vlan(Tag::Customer),
            ),
            (
                "802.1ad",
                vec![LinkAttribute::Link(2), of(vec![InfoVlan::Id(100), InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)])],
                vlan(Tag::Provider),
            ),
        ] {
            let mut message = LinkMessage::default();
            message.attributes = vec![LinkAttribute::IfName("eth0.100".into()), LinkAttribute::Mtu(1500)];
            message.attributes.extend(attributes);
            let Some(Event::Link(link)) = decode(RouteNetlinkMessage::NewLink(message)) else {
                panic!("{name}: no link")
            };
            assert_eq!(link.vlan, expected, "{name}");
        }
    }

    #[test]
    fn messages_about_something_else_mean_nothing() {
        let mut bridge = LinkMessage::default();
        bridge.header.interface_family = AddressFamily::Bridge;
        bridge.attributes = vec![LinkAttribute::IfName("eth0".into()), LinkAttribute::Mtu(1500)];
        let mut proxy = NeighbourMessage::default();
        proxy.header.flags = NeighbourFlags::Proxy;
        proxy.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::LOCALHOST))];
        let forwarding = |change: fn(&mut RouteMessage)| {
            let mut message = unicast(vec![RouteAttribute::Oif(2)]);
            assert!(route(&message).is_some());
            change(&mut message);
            RouteNetlinkMessage::NewRoute(message)
        };
        for (name, message) in [
            ("an interface joined a bridge", RouteNetlinkMessage::NewLink(bridge.clone())),
            ("an interface left a bridge", RouteNetlinkMessage::DelLink(bridge)),
            ("a partial message of a link", RouteNetlinkMessage::NewLink(LinkMessage::default())),
            ("an address answered for others", RouteNetlinkMessage::NewNeighbour(proxy)),
            ("a route of the table local", forwarding(|message| message.header.table = 255)),
            ("a route for a type of service", forwarding(|message| message.header.tos = 16)),
            ("a route for some sources", forwarding(|message| message.header.source_prefix_length = 64)),
            ("a broadcast address", forwarding(|message| message.header.kind = RouteType::Broadcast)),
        ] {
            assert_eq!(decode(message), None, "{name}");
        }
    }

    #[test]
    fn next_hops_that_cannot_be_used_are_left_out_or_refused() {
        let by = |interface, gateway: Option<Ipv4Addr>| RouteHop { interface, gateway: gateway.map(IpAddr::V4) };
        let router = Ipv4Addr::new(10, 0, 0, 2);
        let path = |interface, flags| {
            let mut path = RouteNextHop::default();
            path.interface_index = interface;
            path.flags = flags;
            path.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(router))];
            path
        };
        let usual = RouteNextHopFlags::empty();
        let label = RouteMplsIpTunnel::Destination(vec![MplsLabel {
            label: 16,
            traffic_class: 0,
            bottom_of_stack: true,
            ttl: 0,
        }]);
        let encapsulation = || RouteAttribute::Encap(vec![RouteLwTunnelEncap::Mpls(label.clone())]);
        let mut encapsulated = path(3, usual);
        encapsulated.attributes.push(encapsulation());
        for (name, attributes, expected) in [
            ("on the link", vec![RouteAttribute::Oif(2)], Action::Forward([by(2, None)].into())),
            (
                "of two, one is dead",
                vec![RouteAttribute::MultiPath(vec![path(2, RouteNextHopFlags::Dead), path(3, usual)])],
                Action::Forward([by(3, Some(router))].into()),
            ),
            ("a label is pushed", vec![encapsulation(), RouteAttribute::Oif(2)], Action::Refuse(Refusal::Encapsulated)),
            (
                "of two, one pushes a label",
                vec![RouteAttribute::MultiPath(vec![path(2, usual), encapsulated])],
                Action::Refuse(Refusal::Encapsulated),
            ),
        ] {
            assert_eq!(route(&unicast(attributes)).map(|route| route.action), Some(expected), "{name}");
        }
        let mut dead = unicast(vec![RouteAttribute::Oif(2)]);
        dead.header.flags = RouteFlags::Dead;
        assert_eq!(route(&dead).map(|route| route.action), Some(Action::Forward([].into())), "the only one is dead");
    }

    fn unicast(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        message
    }
}
