//! What each CPU may do only so often.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How often it was done in this tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Budget {
    tick: u32,
    taken: u32,
}

impl Budget {
    /// Takes one of so many a tick, if there is one left.
    #[inline(always)]
    pub const fn take(&mut self, tick: u32, limit: u32) -> bool {
        if self.tick != tick {
            (self.tick, self.taken) = (tick, 0);
        }
        if self.taken >= limit {
            return false;
        }
        self.taken += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_each_tick_and_no_more() {
        let mut budget = Budget::default();
        for tick in [1, 2] {
            assert_eq!((0..30).filter(|_| budget.take(tick, 10)).count(), 10);
        }
    }
}
