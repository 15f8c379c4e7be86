//! What the kernel's messages mean to the mirror. Messages of other tables, families and kinds mean nothing.
//!
//! Left out on purpose: routes for some source addresses or one type of service only (policy routing), and everything
//! outside the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp},
    neighbour::{self, NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
        RouteVia,
    },
};

use super::{
    interface::{AttachedProgram, Interface, LinkState, XdpMode},
    neighbour::{Neighbour, NeighbourEntry, NeighbourState},
    routes::{Action, Prefix, Route, RouteHop},
    state::Event,
    unresolved::Refusal,
};

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
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Mtu(value) => mtu = Some(value),
            LinkAttribute::Address(value) => address = <[u8; 6]>::try_from(value).ok(),
            LinkAttribute::Xdp(attributes) => xdp = attached_program(&attributes),
            _ => {}
        }
    }
    let mac = address.filter(|_| header.link_layer_type == LinkLayerType::Ether);
    // Messages of other families, and the partial ones of wireless drivers, are not about the link as a whole.
    let whole = header.interface_family == AddressFamily::Unspec;
    Some(Interface { index: header.index, name: name.filter(|_| whole)?, mac, mtu: mtu?, state, xdp })
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
