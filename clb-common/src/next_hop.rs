//! Where a packet goes next on the link.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// MAC addresses, VLAN, interface and MTU: all that sending needs, resolved by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct NextHop {
    /// The first twelve bytes of the Ethernet header: destination MAC, source MAC.
    pub ethernet: [u32; 3],
    /// The interface's index; 0 while the next hop is unresolved.
    pub interface: u32,
    /// The largest IP packet that fits.
    pub mtu: u16,
    /// The VLAN that it is in; 0: none. A packet that leaves as it came in by the same interface then keeps its tags.
    pub vlan: u16,
}

impl NextHop {
    /// No MAC address is known: packets for it are dropped and counted. None fits its MTU.
    pub const UNRESOLVED: Self = Self { ethernet: [0; 3], interface: 0, mtu: 0, vlan: 0 };

    /// The address is the host's own: its packets are none of clb's business.
    pub const HOST: Self = Self { interface: u32::MAX, ..Self::UNRESOLVED };

    /// The next hop with this MAC address, through this interface with that MAC address. Packets larger than IP allows
    /// never come, so an MTU above 65,535 (the loopback interface has one) is that.
    pub fn new(destination: [u8; 6], source: [u8; 6], interface: u32, mtu: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..6].copy_from_slice(&destination);
        bytes[6..].copy_from_slice(&source);
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        Self { ethernet: zerocopy::transmute!(bytes), interface, mtu, vlan: 0 }
    }

    /// The same next hop in this VLAN of its interface.
    #[must_use]
    pub const fn in_vlan(self, vlan: u16) -> Self {
        Self { vlan, ..self }
    }

    /// The same next hop, at most with this MTU.
    #[must_use]
    pub fn within(self, mtu: u32) -> Self {
        Self { mtu: u16::try_from(mtu).unwrap_or(u16::MAX).min(self.mtu), ..self }
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
