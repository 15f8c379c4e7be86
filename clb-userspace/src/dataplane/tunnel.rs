//! Where outer headers come from: prefixes, and the bits in them that vary with the flow.

use std::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::transmute;

/// A prefix of IPv4 sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Prefix {
    /// Its first address.
    pub address: Ipv4Addr,
    /// Its length in bits.
    pub length: u8,
}

impl Ipv4Prefix {
    /// The prefix and the mask of the bits behind it, as they stand in packets.
    pub(super) fn words(self) -> [u32; 2] {
        let mask = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
        [(self.address.to_bits() & !mask).to_be(), mask.to_be()]
    }
}

/// A prefix of IPv6 sources. Of the bits behind it, the last 32 vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Prefix {
    /// Its first address.
    pub address: Ipv6Addr,
    /// Its length in bits.
    pub length: u8,
}

impl Ipv6Prefix {
    /// The four words of the prefix, and the mask for the last of them.
    pub(super) fn words(self) -> [u32; 5] {
        let mask = u32::MAX.checked_shr(u32::from(self.length.saturating_sub(96))).unwrap_or(0);
        let [a, b, c, d]: [u32; 4] = transmute!(self.address.octets());
        [a, b, c, d & !mask.to_be(), mask.to_be()]
    }
}
