//! How often clb tells senders that their packets are too big, and what it tells them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What one CPU may still send in this tick, and about the packet that it is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct TooBig {
    tick: u32,
    sent: u32,
    /// The largest packet that fits.
    pub mtu: u32,
}

impl TooBig {
    /// Takes one, if there is one left.
    #[inline(always)]
    pub const fn take(&mut self, tick: u32) -> bool {
        if self.tick != tick {
            (self.tick, self.sent) = (tick, 0);
        }
        self.sent += 1;
        self.sent <= TOO_BIG_PER_TICK
    }
}

/// So many messages a tick and CPU. Linux sends 1,000 ICMP messages a second.
pub const TOO_BIG_PER_TICK: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_each_tick_and_no_more() {
        let mut tokens = TooBig::default();
        for tick in [1, 2] {
            let sent = (0..3 * TOO_BIG_PER_TICK).filter(|_| tokens.take(tick)).count();
            assert_eq!(sent, TOO_BIG_PER_TICK as usize);
        }
    }
}
