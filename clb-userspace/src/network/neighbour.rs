//! A neighbour on a link, and when packets may be sent to it.
//!
//! A stale entry is used, as the kernel does: its MAC address is right until proved wrong, and the resolver has it proved.

use std::{fmt, net::IpAddr};

/// A neighbour: an address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The index of the interface.
    pub interface: u32,
    /// Its address.
    pub address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// Its MAC address.
    pub mac: Option<[u8; 6]>,
    /// How far the kernel trusts it.
    pub state: NeighbourState,
}

impl NeighbourEntry {
    /// What the kernel knows of a neighbour that it has no entry for.
    pub const NONE: Self = Self { mac: None, state: NeighbourState::None };

    /// The MAC address, if packets may be sent to it.
    pub fn usable(self) -> Option<[u8; 6]> {
        match self.state {
            NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed => None,
            // Loopback has only zeros; a group address is no host's.
            _ => self.mac.filter(|mac| *mac != [0; 6] && mac[0] & 1 == 0),
        }
    }

    /// What it needs to stay usable.
    pub fn need(self) -> Need {
        match (self.usable(), self.state) {
            (None, _) => Need::Resolve,
            (Some(_), NeighbourState::Stale) => Need::Verify,
            (Some(_), _) => Need::Nothing,
        }
    }
}

/// The kernel's neighbour states (`NUD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "ip-neighbour(8) describes them")]
pub enum NeighbourState {
    None,
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    NoArp,
    Permanent,
}

impl fmt::Display for NeighbourState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "missing",
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Failed => "failed",
            Self::NoArp => "noarp",
            Self::Permanent => "permanent",
        })
    }
}

/// What must be done for a neighbour so that packets can be sent to it, now and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: its MAC address is known, and the kernel tells when it gets old.
    Nothing,
    /// Its MAC address is known but old: the kernel should check it.
    Verify,
    /// Its MAC address is not known.
    Resolve,
}
