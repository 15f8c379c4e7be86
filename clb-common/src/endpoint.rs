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

/// Odd, and without a pattern: binary digits of the golden ratio, and of the square roots of 2, 3 and 5.
const SPREAD: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b];

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

    /// All of it, in the order in which it lies in memory.
    #[inline(always)]
    pub fn words(&self) -> [u64; 3] {
        zerocopy::transmute!(*self)
    }

    /// The endpoint of these words.
    #[inline(always)]
    pub fn from_words(words: [u64; 3]) -> Self {
        zerocopy::transmute!(words)
    }

    /// Whether both are the same. Compares words of eight bytes, for IPv4 without those that all its addresses have in common.
    #[inline(always)]
    pub fn is_same(&self, other: &Self) -> bool {
        let ([a, b, c], [d, e, f]) = (self.words(), other.words());
        b == e && c == f && (matches!(other.version(), Version::V4) || a == d)
    }

    /// A number that endpoints which differ hardly have in common, for hash tables. Its keys are no secret: whoever sends packets
    /// does not choose the listeners.
    #[inline(always)]
    pub fn spread(&self) -> u32 {
        let [a, b, c] = self.words();
        let mut sum = b.wrapping_mul(SPREAD[1]).wrapping_add(c.wrapping_mul(SPREAD[2]));
        if matches!(self.version(), Version::V6) {
            sum = sum.wrapping_add(a.wrapping_mul(SPREAD[0]));
        }
        sum ^= sum >> 32;
        (sum.wrapping_mul(SPREAD[3]) >> 32) as u32
    }

    /// Its IP version.
    #[inline(always)]
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
