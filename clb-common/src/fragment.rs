//! Which way the fragments of a datagram go. Only the first one has ports, so it leaves a note for the rest.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Version};

/// What the fragments of one datagram have in common (RFC 791, section 2.3; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct FragmentKey {
    /// The datagram's source.
    pub source: Address,
    /// The datagram's destination.
    pub destination: Address,
    /// Its identification, as it stands in the packet.
    pub identification: u32,
    /// The protocol in it, of IPv4.
    protocol: u16,
    version: u16,
}

impl FragmentKey {
    /// The key of a datagram's fragments.
    #[inline(always)]
    pub const fn new(
        version: Version,
        source: Address,
        destination: Address,
        identification: u32,
        protocol: u8,
    ) -> Self {
        // What follows IPv6's fragment header need not be said alike in all fragments: only the first one counts.
        let protocol = match version {
            Version::V4 => protocol as u16,
            Version::V6 => 0,
        };
        Self { source, destination, identification, protocol, version: version as u16 }
    }
}

/// The note that a first fragment leaves.
///
/// What may be constant stands in pairs on boundaries of eight bytes: the compiler stores such pairs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct FragmentNote {
    /// The source address that the fragments leave with.
    pub source: Address,
    /// The destination address that they leave with.
    pub destination: Address,
    /// The backend's index.
    pub backend: u32,
    /// When the first fragment came, in ticks.
    pub tick: u32,
    /// The listener's index, on the way to a backend.
    pub listener: u32,
    /// What tells the flow from others, where they are encapsulated.
    pub hash: u32,
    /// A [`FragmentWay`] by its number.
    way: u32,
    filler: u32,
}

/// Where the fragments of a datagram go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FragmentWay {
    /// To the host: the datagram is for no listener.
    Host = 0,
    /// To the backend.
    Backend = 1,
    /// From the backend to the client.
    Client = 2,
}

impl FragmentNote {
    /// A note on the fragments of a datagram from `source` to `destination`, as they leave.
    #[inline(always)]
    pub const fn new(way: FragmentWay, source: Address, destination: Address, tick: u32) -> Self {
        Self { source, destination, tick, way: way as u32, listener: 0, backend: 0, hash: 0, filler: 0 }
    }

    /// Where they go.
    #[inline(always)]
    pub const fn way(&self) -> FragmentWay {
        if self.way == FragmentWay::Backend as u32 {
            FragmentWay::Backend
        } else if self.way == FragmentWay::Client as u32 {
            FragmentWay::Client
        } else {
            FragmentWay::Host
        }
    }
}

/// How long a note holds, in ticks: about as long as Linux waits for the rest of a datagram.
pub const FRAGMENT_TICKS: u32 = 30;
