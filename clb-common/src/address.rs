//! Addresses and ports as they stand in a packet: in network byte order, whatever the host's.

use core::net::{IpAddr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv4 or IPv6 address in network byte order. IPv4 is held as IPv4-mapped IPv6 (RFC 4291, section 2.5.5.2), so that
/// one map serves both families.
///
/// Words and not bytes: the program loads, compares and hashes 32 bits at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// The address from an IPv4 header's four bytes, loaded as one word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), word])
    }

    /// The last word: the whole of an IPv4 address.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.0[3]
    }

    /// The sixteen bytes in network order.
    pub fn octets(self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self(zerocopy::transmute!(octets))
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Self::V6(Ipv6Addr::from(address.octets())).to_canonical()
    }
}

/// A port in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    /// The port with this number.
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The port whose two bytes in a packet were loaded as this word.
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(word)
    }

    /// The two bytes as they stand in a packet.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0
    }

    /// The port's number.
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}
