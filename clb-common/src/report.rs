//! What the program tells the agent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// A record of the report ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Report {
    /// Whom it is about.
    pub address: Address,
    /// For a backend, the largest packet that a router on the way to it lets through; 0: a client whose next hop is not
    /// known.
    mtu: u32,
}

/// A report, as the agent reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A reply could not be sent to this client: the kernel is to be asked for its neighbour.
    UnresolvedClient,
    /// A router on the way to this backend lets only packets of this size through.
    PathMtu(u32),
}

impl Report {
    /// A client whose next hop is not known.
    #[inline(always)]
    pub const fn unresolved_client(address: Address) -> Self {
        Self { address, mtu: 0 }
    }

    /// A backend behind a link with this MTU.
    #[inline(always)]
    pub const fn path_mtu(backend: Address, mtu: u16) -> Self {
        Self { address: backend, mtu: mtu as u32 }
    }

    /// What it says.
    pub const fn about(&self) -> About {
        if self.mtu == 0 { About::UnresolvedClient } else { About::PathMtu(self.mtu) }
    }
}
