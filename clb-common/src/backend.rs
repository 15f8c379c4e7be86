//! A bound backend with all that a packet needs of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Port};

/// How packets reach a backend. The numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ForwardingMode {
    /// Rewrite the MAC addresses; the backend holds the VIP and answers the client itself (direct server return).
    Dsr = 0,
    /// Rewrite the destination address and port; replies come back through clb.
    Nat = 1,
}

/// An element of the backend map: one backend of one listener, in one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Backend {
    /// Its private IP.
    pub address: Address,
    /// Its port.
    pub port: Port,
    /// A [`ForwardingMode`] by its number.
    mode: u8,
    /// Which of the two next hops is in force: 0 or 1.
    active: u8,
    /// The listener's place in the traffic counters.
    pub listener: u32,
    next_hops: [NextHop; 2],
}

impl Backend {
    /// A backend whose next hop is not known yet.
    pub const fn new(address: Address, port: Port, mode: ForwardingMode, listener: u32) -> Self {
        Self { address, port, mode: mode as u8, active: 0, listener, next_hops: [NextHop::UNRESOLVED; 2] }
    }

    /// Whether this backend is reached by `nat`, else by `dsr`.
    #[inline(always)]
    pub const fn is_nat(&self) -> bool {
        self.mode == ForwardingMode::Nat as u8
    }

    /// The next hop in force.
    #[inline(always)]
    pub const fn next_hop(&self) -> &NextHop {
        if self.active == 0 { &self.next_hops[0] } else { &self.next_hops[1] }
    }

    /// The two writes that change the next hop under traffic. The kernel copies an array's element byte by byte, while
    /// other CPUs read it: so the first write fills the copy that nobody reads, and the second differs from the first in
    /// one byte. A packet sees the old next hop or the new one, never a mixture.
    #[must_use]
    pub const fn with_next_hop(self, next_hop: NextHop) -> [Self; 2] {
        let mut filled = self;
        filled.next_hops[1 - self.active as usize] = next_hop;
        let mut switched = filled;
        switched.active = 1 - self.active;
        [filled, switched]
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
    pub mtu: u16,
    /// Always 0: makes the size a multiple of four without padding.
    filler: u16,
}

impl NextHop {
    /// No MAC address is known: packets for it are dropped and counted.
    pub const UNRESOLVED: Self = Self { ethernet: [0; 3], interface: 0, mtu: 0, filler: 0 };

    /// The next hop with this MAC address, through this interface with that MAC address.
    pub fn new(destination: [u8; 6], source: [u8; 6], interface: u32, mtu: u16) -> Self {
        let mut bytes = [0; 12];
        bytes[..6].copy_from_slice(&destination);
        bytes[6..].copy_from_slice(&source);
        Self { ethernet: zerocopy::transmute!(bytes), interface, mtu, filler: 0 }
    }

    /// Whether packets can be sent to it.
    #[inline(always)]
    pub const fn is_resolved(&self) -> bool {
        self.interface != 0
    }

    /// The destination MAC address.
    pub fn destination(&self) -> [u8; 6] {
        let bytes: [u8; 12] = zerocopy::transmute!(self.ethernet);
        [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    #[test]
    fn a_backend_fills_one_cache_line() {
        assert_eq!(size_of::<Backend>(), 64);
    }

    #[test]
    fn a_next_hop_changes_under_traffic_in_two_writes_that_no_reader_can_mix() {
        let old = NextHop::new([1; 6], [2; 6], 3, 1500);
        let new = NextHop::new([4; 6], [5; 6], 6, 9000);
        let [_, before] =
            Backend::new(Address::from_v4_word(1), Port::new(80), ForwardingMode::Nat, 0).with_next_hop(old);
        assert_eq!(*before.next_hop(), old);

        let [filled, switched] = before.with_next_hop(new);
        assert_eq!(*filled.next_hop(), old, "the first write is not seen");
        assert_eq!(*switched.next_hop(), new);
        let differing = filled.as_bytes().iter().zip(switched.as_bytes()).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 1, "the second write changes one byte");
    }
}
