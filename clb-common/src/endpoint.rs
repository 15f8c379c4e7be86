//! One end of a flow: the key of the listener map and of the reply map.

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
    /// A [`Protocol`] by its number, widened so that no padding follows.
    protocol: u16,
}

impl Endpoint {
    /// The endpoint of these three.
    #[inline(always)]
    pub const fn new(address: Address, protocol: Protocol, port: Port) -> Self {
        Self { address, port, protocol: protocol as u16 }
    }
}
