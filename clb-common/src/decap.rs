//! The contract of `clb decap`, the receiving end of `ipip` and `gue`: its map keys, its counters, and what becomes of ECN.
//!
//! Its program is one of its own, on backends; it shares no map with the load balancer's.

use core::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Version};

/// One end of a tunnel, or the first address of a prefix of them: the key of the maps of sources and of own addresses.
///
/// With its version, which makes it another key: trust in an IPv4 prefix is none in the IPv6 packets that say they come from
/// the IPv4-mapped addresses of it. Aligned to eight bytes, as all keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct TunnelEnd {
    version: u64,
    address: Address,
}

impl TunnelEnd {
    /// The bits of a key: the length of the prefix that holds one address.
    pub const BITS: u32 = u64::BITS + u128::BITS;

    /// The address in an outer header of this version.
    #[inline(always)]
    pub const fn new(version: Version, address: Address) -> Self {
        Self { version: version as u64, address }
    }

    /// How many leading bits the keys of a prefix of so many bits share.
    pub const fn prefix_length(version: Version, bits: u8) -> u32 {
        let address_bits = match version {
            Version::V4 => u32::BITS,
            Version::V6 => u128::BITS,
        };
        Self::BITS - address_bits + bits as u32
    }
}

impl From<IpAddr> for TunnelEnd {
    fn from(address: IpAddr) -> Self {
        Self::new(Version::of(address), address.into())
    }
}

macro_rules! received {
    ($($variant:ident $name:literal $help:literal)+) => {
        /// What became of a packet in a tunnel to this host: index into the counters of `clb decap`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Received {
            $(#[doc = $help] $variant,)+
        }

        impl Received {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name for a person.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

received! {
    Ipip "ipip"
        "Taken out of an IP header."
    Gue "gue"
        "Taken out of a GUE header."
    RefusedSource "refused-source"
        "Passed as it came: the outer source is not one that is trusted."
    Malformed "malformed"
        "Dropped: from a trusted source, but with a GUE header other than a plain one of variant 0, or with something inside \
         that is no whole IP packet."
    Congested "congested"
        "Dropped: the tunnel met congestion, and the sender of the packet inside understands no other sign of it (RFC 6040)."
}

/// Number of the counters.
pub const RECEIVED_COUNTERS: usize = Received::ALL.len();

/// The ECN field of a packet that leaves a tunnel, from its own and the outer one; nothing if the packet must be dropped
/// (RFC 6040, section 4.2, figure 4).
#[inline(always)]
pub const fn ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CONGESTED) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CONGESTED) => Some(CONGESTED),
        (ECT_0, ECT_1) => Some(ECT_1),
        _ => Some(inner),
    }
}

/// The two bits of the field in a traffic class (RFC 3168, section 5).
pub const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CONGESTED: u8 = 0b11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_is_the_table_of_rfc_6040() {
        let columns = [NOT_ECT, ECT_0, ECT_1, CONGESTED];
        for (inner, row) in [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CONGESTED)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CONGESTED)]),
            (CONGESTED, [Some(CONGESTED); 4]),
        ] {
            assert_eq!(columns.map(|outer| ecn(inner, outer)), row, "inner {inner:02b}");
        }
    }

    #[test]
    fn numbers_are_positions() {
        for (position, received) in Received::ALL.iter().enumerate() {
            assert_eq!(*received as usize, position);
        }
    }

    #[test]
    fn a_mapped_address_is_not_the_address_itself() {
        let [plain, mapped] =
            ["192.0.2.1", "::ffff:192.0.2.1"].map(|text| TunnelEnd::from(text.parse::<IpAddr>().unwrap()));
        assert_ne!(plain, mapped);
        assert_eq!(TunnelEnd::prefix_length(Version::V4, 32), TunnelEnd::BITS);
        assert_eq!(TunnelEnd::prefix_length(Version::V6, 128), TunnelEnd::BITS);
    }
}
