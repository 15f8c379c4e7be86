//! The way back in `nat`: which listener a backend's reply belongs to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Port};

/// The value of the reply map, found by the backend's [`crate::Endpoint`]. A (backend IP, port, protocol) belongs to one
/// `nat` listener only, so replies need no state of their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// The source address that the client expects.
    pub vip: Address,
    /// The source port that the client expects.
    pub port: Port,
    filler: u16,
    /// The backend's place in the backend map and the traffic counters.
    pub backend: u32,
}

impl Reply {
    /// Replies of this backend leave as from this VIP and port.
    pub const fn new(vip: Address, port: Port, backend: u32) -> Self {
        Self { vip, port, filler: 0, backend }
    }
}
