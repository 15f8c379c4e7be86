//! Just-enough tracking: only flows whose slot has changed its owner can need an entry, and only for so long.
//!
//! A slot whose owner stays names its backend, and no packet on it looks for a flow. A change of the owner marks the slot: it
//! names a [`Transition`] instead. While the slot is *moving*, flows of its previous owner are still coming by: a packet that
//! opens a connection goes to the current owner, any other to the previous one, and each such flow is pinned to where it
//! went. When the listener's `drain` is over, every old flow that lives has been seen, and the slot is *settling*: pinned flows
//! keep their backend, all others go to the current owner. When no pin to another backend is left, the slot names its backend
//! again. What must stay true: no packet of a flow whose backend lives is sent to another backend.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Seen;

/// A slot, as it stands in the slot map: the index of its backend, or of its transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub struct Slot(u32);

impl Slot {
    /// A slot whose owner stays, or [`NOBODY`].
    pub const fn stable(backend: u32) -> Self {
        Self(backend)
    }

    /// A slot whose owner has changed.
    pub const fn moved(transition: u32) -> Self {
        Self(MOVED | transition)
    }

    /// The index of its transition, if its owner has changed.
    #[inline(always)]
    pub const fn transition(self) -> Option<u32> {
        if self.0 & MOVED == 0 { None } else { Some(self.0 & !MOVED) }
    }

    /// The index of its backend, if its owner has not changed.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        self.0
    }
}

const MOVED: u32 = 1 << 31;

/// The index of no backend: the owner of slots while no backend takes connections.
pub const NOBODY: u32 = MOVED - 1;

/// The change of the owner of some slots, at one moment and between the same backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Transition {
    /// The backend that new connections go to.
    pub current: u32,
    /// The backend that old flows go to.
    pub previous: u32,
    /// The tick in which moving ends.
    pub until: u32,
    phase: u32,
}

/// How far a change has come, and whether the previous owner may still get new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Old flows that were not seen yet go to the previous owner, which takes new ones, too.
    Moving,
    /// The same, but the previous owner takes no new ones: it is drained.
    Draining,
    /// Flows without a pin go to the current owner.
    Settling,
}

/// What a packet says of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// It opens a connection.
    Opens,
    /// Anything else.
    Continues,
}

/// Where a packet goes, and whether its flow stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The backend's index.
    pub backend: u32,
    /// Whether the flow is to be pinned to it.
    pub pins: bool,
}

impl Transition {
    /// A change that old flows are still to be seen of until this tick, or all of them have been.
    pub const fn new(current: u32, previous: u32, until: u32, phase: Phase) -> Self {
        Self { current, previous, until, phase: phase as u32 }
    }

    /// How far it has come.
    #[inline(always)]
    pub const fn phase(&self) -> Phase {
        if self.phase == Phase::Moving as u32 {
            Phase::Moving
        } else if self.phase == Phase::Draining as u32 {
            Phase::Draining
        } else {
            Phase::Settling
        }
    }

    /// The same when all old flows have been seen. It differs in one byte, so it may be written while packets read it.
    #[must_use]
    pub const fn settled(self) -> Self {
        Self { phase: Phase::Settling as u32, ..self }
    }

    /// Where a packet goes that opens a connection, whatever its flow was pinned to; `may_pin` if there is room for a pin. One
    /// without a pin shall stay whole nevertheless, so it goes where its next packet will go.
    #[inline(always)]
    pub const fn opening(&self, may_pin: bool) -> Way {
        let pins = may_pin && self.is_moving() && self.current != self.previous && self.current != NOBODY;
        let stays = pins || self.phase != Phase::Moving as u32;
        Way { backend: if stays { self.current } else { self.previous }, pins }
    }

    /// Where any other packet goes whose flow has no pin.
    #[inline(always)]
    pub const fn unpinned(&self) -> Way {
        if self.is_moving() {
            Way { backend: self.previous, pins: self.current != self.previous }
        } else {
            Way { backend: self.current, pins: false }
        }
    }

    #[inline(always)]
    const fn is_moving(&self) -> bool {
        self.phase != Phase::Settling as u32
    }
}

/// A flow that stays at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct Pin {
    /// The backend's index.
    pub backend: u32,
    filler: u32,
    /// What was seen of the client.
    pub seen: Seen,
}

impl Pin {
    /// A flow that stays at the backend with this index.
    #[inline(always)]
    pub const fn new(backend: u32, seen: Seen) -> Self {
        Self { backend, filler: 0, seen }
    }
}

/// How many pins one CPU may still make in this tick, for flows of which only a SYN was seen, and for others: so a flood of
/// one kind takes nothing from the other, and neither has the CPU write more than this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct PinBudget {
    /// For packets that open connections.
    pub opening: crate::Budget,
    /// For others.
    pub others: crate::Budget,
    /// The last tick in which a pin was not made for want of it. A flow that was not seen in it may live nevertheless.
    pub refused: u32,
}

/// How many flows can be pinned of which more than a SYN was seen. The one that had no packet for the longest time gives way.
pub const PINS: u32 = 262_144;
/// The same for flows of which only a SYN was seen.
pub const OPENING_PINS: u32 = 131_072;

/// All CPUs together make so many a tick: under a flood a pin stays for eight ticks, so that flows whose packets come more often
/// than that keep theirs.
pub const PINS_PER_TICK: u32 = PINS / 8;
/// The same for flows of which only a SYN was seen: their next packet comes within a tick.
pub const OPENING_PINS_PER_TICK: u32 = OPENING_PINS;

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: u32 = 1;
    const PREVIOUS: u32 = 2;

    #[test]
    fn a_slot_names_a_backend_or_a_transition() {
        assert_eq!((Slot::stable(7).transition(), Slot::stable(7).backend()), (None, 7));
        assert_eq!(Slot::moved(7).transition(), Some(7));
        assert_eq!(Slot::stable(NOBODY).transition(), None);
    }

    #[test]
    fn the_table_of_the_design() {
        let to = |backend, pins| Way { backend, pins };
        for (phase, previous, pinned, not_pinned, unpinned) in [
            (Phase::Moving, PREVIOUS, to(CURRENT, true), to(PREVIOUS, false), to(PREVIOUS, true)),
            (Phase::Draining, PREVIOUS, to(CURRENT, true), to(CURRENT, false), to(PREVIOUS, true)),
            (Phase::Settling, PREVIOUS, to(CURRENT, false), to(CURRENT, false), to(CURRENT, false)),
            // The slot has its old owner back.
            (Phase::Moving, CURRENT, to(CURRENT, false), to(CURRENT, false), to(CURRENT, false)),
        ] {
            let transition = Transition::new(CURRENT, previous, 9, phase);
            assert_eq!(transition.phase(), phase);
            assert_eq!(transition.opening(true), pinned, "{phase:?}");
            assert_eq!(transition.opening(false), not_pinned, "{phase:?}");
            assert_eq!(transition.unpinned(), unpinned, "{phase:?}");
        }
        assert_eq!(Transition::new(1, 2, 3, Phase::Moving).settled(), Transition::new(1, 2, 3, Phase::Settling));
    }
}
