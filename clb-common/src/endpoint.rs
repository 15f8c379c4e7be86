//! One end of a flow: the key of the listener map and of the reply map.

use core::net::{IpAddr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Port, Version};

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
///
/// Aligned to eight bytes, as all keys are: the compiler stores as wide as it can, and the verifier wants such stores
/// aligned on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct Endpoint {
    /// The VIP, or the backend's private IP.
    pub address: Address,
    /// The listener's port, or the backend's.
    pub port: Port,
    /// A [`Protocol`] by its number; 0: the address itself, whatever the protocol and the port.
    protocol: u8,
    /// The IP version: an IPv6 packet for an IPv4-mapped address is not for the IPv4 address.
    version: u8,
    filler: u32,
}

impl Endpoint {
    /// The endpoint of a packet's header of this IP version.
    #[inline(always)]
    pub const fn new(version: Version, address: Address, protocol: Protocol, port: Port) -> Self {
        Self { address, port, protocol: protocol as u8, version: version as u8, filler: 0 }
    }

    /// Stands for an address as a whole: the listener map says by it which addresses are VIPs.
    #[inline(always)]
    pub const fn whole(version: Version, address: Address) -> Self {
        Self { address, port: Port::from_word(0), protocol: 0, version: version as u8, filler: 0 }
    }

    /// The same protocol at another address and port.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, address: Address, port: Port) -> Self {
        Self { address, port, ..self }
    }

    /// Its IP version.
    pub const fn version(&self) -> Version {
        if self.version == Version::V4 as u8 { Version::V4 } else { Version::V6 }
    }

    /// Its protocol and socket address, unless it stands for an address as a whole.
    pub fn socket(&self) -> Option<(Protocol, SocketAddr)> {
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|&known| known as u8 == self.protocol)?;
        Some((protocol, SocketAddr::new(self.address.into(), self.port.number())))
    }

    /// The endpoint with this socket address.
    pub fn of(protocol: Protocol, socket: SocketAddr) -> Self {
        Self::new(Version::of(socket.ip()), socket.ip().into(), protocol, Port::new(socket.port()))
    }

    /// Stands for this address as a whole.
    pub fn of_address(address: IpAddr) -> Self {
        Self::whole(Version::of(address), address.into())
    }
}
