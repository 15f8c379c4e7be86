//! The way back in `nat`: which listener a backend's reply belongs to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Port};

/// What replies of a backend leave as, by its index, which its [`crate::Endpoint`] leads to. A (backend IP, port, protocol) belongs to one
/// `nat` listener only, so replies need no state of their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// The source address that the client expects.
    pub vip: Address,
    /// The source port that the client expects.
    pub port: Port,
    filler: u16,
}

impl Reply {
    /// Replies leave as from this VIP and port.
    pub const fn new(vip: Address, port: Port) -> Self {
        Self { vip, port, filler: 0 }
    }
}
