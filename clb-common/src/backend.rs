//! A bound backend with all that a packet needs of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, NextHop, Port, Version, switch::switched};

/// An element of the backend map: one backend of one listener, of a cache line's size. How packets reach it is a matter
/// of its listener: the mode stands beside the slot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Backend {
    /// Its private IP.
    pub address: Address,
    /// Its port.
    pub port: Port,
    /// The [`Version`] of its address by number.
    version: u8,
    /// 1 if it is lost: flows do not stay with it.
    lost: u8,
    /// Where packets for it go on the link.
    pub next_hop: BackendNextHop,
}

switched!(
    /// A backend's next hop: it changes while packets flow.
    BackendNextHop of NextHop
);

impl Backend {
    /// A backend whose next hop is not known yet.
    pub fn new(address: core::net::IpAddr, port: Port) -> Self {
        let version = Version::of(address) as u8;
        Self { address: address.into(), port, version, lost: 0, next_hop: BackendNextHop::new(NextHop::UNRESOLVED) }
    }

    /// The same backend, lost: it fails its checks, and its flows shall go to others. Or found again.
    #[must_use]
    pub const fn with_lost(self, lost: bool) -> Self {
        Self { lost: lost as u8, ..self }
    }

    /// Whether it is lost.
    #[inline(always)]
    pub const fn is_lost(&self) -> bool {
        self.lost != 0
    }

    /// The version of its address: where packets are encapsulated, that of the outer header.
    #[inline(always)]
    pub const fn version(&self) -> Version {
        if self.version == Version::V4 as u8 { Version::V4 } else { Version::V6 }
    }
}

const _: () = assert!(size_of::<Backend>() == 64, "a backend is as large as a cache line");
