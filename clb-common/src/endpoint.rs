//! One end of a flow: the key of the listener map and of the reply map.

use core::net::SocketAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Port};

/// The transport protocols that a listener can have, with their numbers in the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp = 6,
    /// User Datagram Protocol.
    Udp = 17,
}

impl Protocol {
    /// The name in configuration and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// An address, a protocol and a port. A listener is found by its VIP's endpoint, a reply by its backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// The VIP, or the backend's private IP.
    pub address: Address,
    /// The listener's port, or the backend's.
    pub port: Port,
    /// A [`Protocol`] by its number.
    protocol: u8,
    /// The IP version: an IPv6 packet for an IPv4-mapped address is not for the IPv4 address.
    version: u8,
}

impl Endpoint {
    /// The endpoint of a packet's header of this IP version.
    #[inline(always)]
    pub const fn new(version: u8, address: Address, protocol: Protocol, port: Port) -> Self {
        Self { address, port, protocol: protocol as u8, version }
    }

    /// The endpoint with this socket address.
    pub fn of(protocol: Protocol, socket: SocketAddr) -> Self {
        let version = if socket.is_ipv4() { 4 } else { 6 };
        Self::new(version, socket.ip().into(), protocol, Port::new(socket.port()))
    }
}
