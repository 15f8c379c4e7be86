//! A bound backend with all that a packet needs of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Port, switch::switched};

/// How packets reach a backend. The numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ForwardingMode {
    /// Rewrite the MAC addresses; the backend holds the VIP and answers the client itself (direct server return).
    Dsr = 0,
    /// Rewrite the destination address and port; replies come back through clb.
    Nat = 1,
}

impl ForwardingMode {
    /// The name in configuration and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dsr => "dsr",
            Self::Nat => "nat",
        }
    }
}

/// An element of the backend map: one backend of one listener, of a cache line's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Backend {
    /// Its private IP.
    pub address: Address,
    /// Its port.
    pub port: Port,
    /// A [`ForwardingMode`] by its number.
    mode: u16,
    /// Where packets for it go on the link.
    pub next_hop: BackendNextHop,
}

switched!(
    /// A backend's next hop: it changes while packets flow.
    BackendNextHop of NextHop
);

impl Backend {
    /// A backend whose next hop is not known yet.
    pub const fn new(address: Address, port: Port, mode: ForwardingMode) -> Self {
        Self { address, port, mode: mode as u16, next_hop: BackendNextHop::new(NextHop::UNRESOLVED) }
    }

    /// How packets reach it.
    #[inline(always)]
    pub const fn mode(&self) -> ForwardingMode {
        if self.mode == ForwardingMode::Nat as u16 { ForwardingMode::Nat } else { ForwardingMode::Dsr }
    }
}

/// Where a packet goes next on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct NextHop {
    /// The first twelve bytes of the Ethernet header: destination MAC, source MAC.
    pub ethernet: [u32; 3],
    /// The interface's index; 0 while the next hop is unresolved.
    pub interface: u32,
    /// The largest IP packet that fits.
    pub mtu: u32,
}

impl NextHop {
    /// No MAC address is known: packets for it are dropped and counted.
    pub const UNRESOLVED: Self = Self { ethernet: [0; 3], interface: 0, mtu: 0 };

    /// The address is the host's own: its packets are none of clb's business.
    pub const HOST: Self = Self { interface: u32::MAX, ..Self::UNRESOLVED };

    /// The next hop with this MAC address, through this interface with that MAC address.
    pub fn new(destination: [u8; 6], source: [u8; 6], interface: u32, mtu: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..6].copy_from_slice(&destination);
        bytes[6..].copy_from_slice(&source);
        Self { ethernet: zerocopy::transmute!(bytes), interface, mtu }
    }

    /// Whether packets can go there: to a MAC address, or to the host itself.
    #[inline(always)]
    pub const fn is_resolved(&self) -> bool {
        self.interface != 0
    }

    /// Whether the packet is for the host itself.
    #[inline(always)]
    pub const fn is_host(&self) -> bool {
        self.interface == Self::HOST.interface
    }

    /// The destination MAC address.
    pub fn destination(&self) -> [u8; 6] {
        let bytes: [u8; 12] = zerocopy::transmute!(self.ethernet);
        [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
    }
}

const _: () = assert!(size_of::<Backend>() == 64, "a backend is as large as a cache line");
