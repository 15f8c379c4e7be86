//! Why packets to an address have no next hop, and what a person can do about it.
//!
//! A closed set: the packet path only ever sees `NextHop::UNRESOLVED`, so this is the one place that says why.

use std::net::IpAddr;

use super::{interface::LinkState, neighbour::NeighbourState};

/// Why there is no next hop to an address. The text continues a sentence that began with the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The main table has no route.
    #[error("no route of the main table leads to it")]
    NoRoute,
    /// The route forbids sending.
    #[error("its route is {0}")]
    Refused(Refusal),
    /// The address is one of this machine's.
    #[error("it is an address of this machine")]
    Local,
    /// Only the link will do, and a router is between.
    #[error("it is behind the router {gateway}")]
    BehindRouter {
        /// The router.
        gateway: IpAddr,
    },
    /// The route's interface cannot send.
    #[error("its interface {interface} {state}")]
    InterfaceDown {
        /// The interface's name.
        interface: String,
        /// What it lacks.
        state: LinkState,
    },
    /// The route's interface knows no Ethernet addresses.
    #[error("its interface {interface} is not Ethernet")]
    NotEthernet {
        /// The interface's name.
        interface: String,
    },
    /// The route's interface is a VLAN device of a kind that clb makes no frames for.
    #[error("its interface {interface} is a VLAN device, and no 802.1Q VLAN of an Ethernet interface of this machine")]
    NestedVlan {
        /// The interface's name.
        interface: String,
    },
    /// The MAC address is not known.
    #[error("the MAC address of {neighbour} on {interface} is not known (the kernel's neighbour entry is {state})")]
    NoMac {
        /// The address that was asked for: the destination or the router.
        neighbour: IpAddr,
        /// The interface's name.
        interface: String,
        /// How far the kernel got.
        state: NeighbourState,
    },
}

impl Unresolved {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::NoRoute => "add a route: ip route add PREFIX via ROUTER (or dev INTERFACE)".into(),
            Self::Refused(Refusal::Encapsulated) => {
                "use a route without encapsulation: clb sends plain Ethernet frames".into()
            }
            Self::Refused(_) => "delete that route, or add a more specific one".into(),
            Self::Local => "a backend is another machine: correct its address in the configuration".into(),
            Self::BehindRouter { .. } => {
                "dsr rewrites MAC addresses only, so the backend must be on a link of this machine; use nat otherwise"
                    .into()
            }
            Self::InterfaceDown { interface, state: LinkState::NoCarrier } => {
                format!("check the cable, or the peer, of {interface}")
            }
            Self::InterfaceDown { interface, .. } => format!("ip link set {interface} up"),
            Self::NotEthernet { .. } => "route it through an Ethernet interface".into(),
            Self::NestedVlan { interface } => format!(
                "clb puts one 802.1Q tag on a frame, so {interface} must be directly on an Ethernet interface: \
                 ip -details link show {interface}"
            ),
            Self::NoMac { neighbour, interface, .. } => format!(
                "check that {neighbour} is running and answers on {interface}: ip neigh show {neighbour} dev {interface}"
            ),
        }
    }
}

/// How a route refuses packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Drops them silently.
    Blackhole,
    /// Answers that the host cannot be reached.
    Unreachable,
    /// Answers that it is prohibited.
    Prohibit,
    /// Leaves them to another table.
    Throw,
    /// Encapsulates them (MPLS, tunnels), which the packet path does not do for a route.
    Encapsulated,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Blackhole => "of type blackhole",
            Self::Unreachable => "of type unreachable",
            Self::Prohibit => "of type prohibit",
            Self::Throw => "of type throw",
            Self::Encapsulated => "one that encapsulates",
        })
    }
}
