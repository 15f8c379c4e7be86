//! How packets reach a backend: the modes, by number and name.

/// A forwarding mode. The numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ForwardingMode {
    /// Rewrite the MAC addresses; the backend holds the VIP and answers the client itself (direct server return).
    Dsr = 0,
    /// Encapsulate in IP (RFC 2003, RFC 2473); the backend answers the client itself.
    Ipip = 1,
    /// Encapsulate in UDP (GUE, variant 0, as Linux receives it); the backend answers the client itself.
    Gue = 2,
    /// Rewrite the destination address and port; replies come back through clb.
    Nat = 3,
    /// Rewrite both ends; replies come back through clb from wherever the backend is.
    FullNat = 4,
}

impl ForwardingMode {
    /// All modes, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Dsr, Self::Ipip, Self::Gue, Self::Nat, Self::FullNat];

    /// The name in configuration and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
            Self::FullNat => "full_nat",
        }
    }

    /// The mode's bit in a set of modes: the load-time setting that says which ones the program needs.
    #[inline(always)]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// How many bytes of headers the mode puts around a packet.
    #[inline(always)]
    pub const fn overhead(self, outer: Version) -> u32 {
        let header = match outer {
            Version::V4 => 20,
            Version::V6 => 40,
        };
        match self {
            Self::Dsr | Self::Nat | Self::FullNat => 0,
            Self::Ipip => header,
            Self::Gue => header + 8 + 4,
        }
    }
}

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Version {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Version {
    /// The version of an address.
    pub const fn of(address: core::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, mode) in ForwardingMode::ALL.iter().enumerate() {
            assert_eq!(*mode as usize, position);
        }
    }
}
