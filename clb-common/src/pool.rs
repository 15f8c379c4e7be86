//! The source addresses and ports of `full_nat`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Version;

/// How many addresses of each family the pool holds: the first ones of the map are IPv4, those behind them IPv6.
pub const POOL_ADDRESSES: u32 = 64;

/// The one element of the pool map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Pool {
    /// How many IPv4 addresses are in use.
    pub v4: u32,
    /// How many IPv6 addresses are in use.
    pub v6: u32,
}

impl Pool {
    /// Where the addresses of a family begin, and how many there are.
    #[inline(always)]
    pub const fn addresses(&self, version: Version) -> (u32, u32) {
        match version {
            Version::V4 => (0, self.v4),
            Version::V6 => (POOL_ADDRESSES, self.v6),
        }
    }
}

/// The ports that flows get. Those below are for services of the host.
pub const FIRST_POOL_PORT: u16 = 1_024;
