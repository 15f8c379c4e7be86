//! What becomes of a slot when its owner changes, when time passes, and when its last pin is gone: the agent's half of just-enough
//! tracking, as a pure function. `clb_common::Transition` is the program's half.
//!
//! What must stay true, of both halves together: no packet of a flow whose backend lives is sent to another backend. The
//! tests below search all states of one slot for a packet that is.

use clb_common::{NOBODY, Phase, Transition};

/// One slot, with the indexes of its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackedSlot {
    /// Who gets new connections.
    pub current: u32,
    /// Where old flows are.
    pub stage: Stage,
}

/// How far the last change of a slot's owner has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// All flows are at the owner.
    Stable,
    /// Flows that were not seen yet are at the owner before.
    Moving {
        /// The owner before.
        previous: u32,
        /// The tick in which all have been seen.
        until: u32,
    },
    /// Flows that are elsewhere are pinned.
    Settling,
}

impl TrackedSlot {
    /// A slot whose owner stays.
    pub const fn stable(current: u32) -> Self {
        Self { current, stage: Stage::Stable }
    }

    /// A slot whose flows may have pins from another time.
    pub const fn settling(current: u32) -> Self {
        Self { current, stage: Stage::Settling }
    }

    /// A slot that this transition is of.
    pub const fn of(transition: &Transition) -> Self {
        let Transition { current, previous, until, .. } = *transition;
        let stage = match transition.phase() {
            Phase::Moving | Phase::Draining => Stage::Moving { previous, until },
            Phase::Settling => Stage::Settling,
        };
        Self { current, stage }
    }

    /// Its transition, if its flows need one; `is_drained` says of a backend that it takes no new flows.
    pub fn transition(self, is_drained: impl Fn(u32) -> bool) -> Option<Transition> {
        let Self { current, stage } = self;
        match stage {
            Stage::Stable => None,
            Stage::Moving { previous, until } => {
                let phase = if is_drained(previous) { Phase::Draining } else { Phase::Moving };
                Some(Transition::new(current, previous, until, phase))
            }
            Stage::Settling => Some(Transition::new(current, current, 0, Phase::Settling)),
        }
    }

    /// Gives a slot an owner. Flows stay where they are until they have been seen, at the latest in the tick `until`; those of
    /// a backend that is lost do not.
    #[must_use]
    pub fn assign(self, owner: u32, until: u32, is_lost: impl Fn(u32) -> bool) -> Self {
        // Nobody has no flows.
        let keeps_flows = |backend: u32| backend != NOBODY && !is_lost(backend);
        let is_same = owner == self.current;
        let stage = match self.stage {
            Stage::Moving { previous, .. } if !keeps_flows(previous) => Stage::Settling,
            Stage::Moving { previous, until } if is_same => Stage::Moving { previous, until },
            Stage::Moving { previous, .. } => Stage::Moving { previous, until },
            stage if is_same || self.current == NOBODY => stage,
            _ if keeps_flows(self.current) => Stage::Moving { previous: self.current, until },
            // Pins of the time before its owner was lost shall not outlive that.
            _ => Stage::Settling,
        };
        Self { current: owner, stage }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Everything that matters to one slot: its state, which backends fail their checks, and some flows.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    struct World {
        slot: TrackedSlot,
        unhealthy: [bool; BACKENDS],
        flows: [Flow; FLOWS],
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    struct Flow {
        /// The backend that has its state. Nothing if it is over.
        home: Option<u32>,
        /// Whether it was seen since the last change of the slot's owner.
        seen: bool,
        /// Where it is pinned; longer than it lives, until the pin is aged.
        pin: Option<u32>,
    }

    const BACKENDS: usize = 3;
    const FLOWS: usize = 3;

    impl World {
        /// Every world that can be next, by whatever may happen.
        fn next(self, protocol: Protocol) -> Vec<Self> {
            let mut next = Vec::new();
            for backend in 0..BACKENDS as u32 {
                next.extend(self.assigned(backend));
                next.push(self.with_health_changed(backend));
            }
            next.extend(self.moved());
            next.extend(self.settled());
            for flow in 0..FLOWS {
                for may_pin in [true, false] {
                    next.extend(self.opened(protocol, flow, may_pin));
                    next.push(self.went_on(protocol, flow, may_pin));
                }
                next.push(self.ended(flow));
                next.extend(self.aged(flow));
            }
            next
        }

        /// If all fail, all get traffic.
        fn is_lost(&self, backend: u32) -> bool {
            self.unhealthy[backend as usize] && !self.unhealthy.iter().all(|&unhealthy| unhealthy)
        }

        /// The slot gets an owner that is not lost.
        fn assigned(mut self, owner: u32) -> Option<Self> {
            if self.is_lost(owner) {
                return None;
            }
            let before = self.slot;
            self.slot = before.assign(owner, 0, |backend| self.is_lost(backend));
            if self.slot != before {
                self.flows.iter_mut().for_each(|flow| flow.seen = false);
            }
            Some(self)
        }

        /// A backend fails, or is back. The connections of one that is lost are, too, and another gets its slots at once.
        fn with_health_changed(mut self, backend: u32) -> Self {
            self.unhealthy[backend as usize] ^= true;
            for flow in 0..FLOWS {
                self.flows[flow].home = self.flows[flow].home.filter(|&home| !self.is_lost(home));
            }
            let owner = if self.is_lost(self.slot.current) {
                (0..BACKENDS as u32).find(|&other| !self.is_lost(other))
            } else {
                Some(self.slot.current)
            };
            owner.and_then(|owner| self.assigned(owner)).expect("somebody is alive, or nobody is lost")
        }

        /// The drain time is over: every flow that lives has been seen.
        fn moved(mut self) -> Option<Self> {
            let is_over = self.flows.iter().all(|flow| flow.home.is_none() || flow.seen);
            if !matches!(self.slot.stage, Stage::Moving { .. }) || !is_over {
                return None;
            }
            self.slot.stage = Stage::Settling;
            Some(self)
        }

        /// No pin to another backend is left.
        fn settled(mut self) -> Option<Self> {
            let has_others = self.flows.iter().any(|flow| flow.pin.is_some_and(|pin| pin != self.slot.current));
            if self.slot.stage != Stage::Settling || has_others {
                return None;
            }
            self.slot.stage = Stage::Stable;
            Some(self)
        }

        fn transition(self) -> Option<Transition> {
            self.slot.transition(|_| false)
        }

        /// A client connects, also by a port that it had before.
        fn opened(mut self, protocol: Protocol, flow: usize, may_pin: bool) -> Option<Self> {
            if protocol == Protocol::Udp {
                return None;
            }
            let before = self.flows[flow];
            let (home, pin, seen) = match self.transition() {
                None => (self.slot.current, before.pin, true),
                Some(transition) => {
                    let way = transition.opening(may_pin);
                    // One that goes to the owner before is seen by its next packet.
                    (way.backend, way.pins.then_some(way.backend), way.pins || way.backend == self.slot.current)
                }
            };
            self.flows[flow] = Flow { home: Some(home), seen, pin };
            Some(self)
        }

        /// A packet of a flow, or the first datagram of one.
        fn went_on(mut self, protocol: Protocol, flow: usize, may_pin: bool) -> Self {
            let Flow { home, pin, .. } = self.flows[flow];
            // In a slot whose owner stays, nobody looks for a pin.
            let pin = pin.filter(|&pin| self.transition().is_none() || !self.is_lost(pin));
            self.flows[flow].pin = pin;
            let (backend, pins) = match (self.transition(), pin) {
                (None, _) => (self.slot.current, false),
                (Some(_), Some(pin)) => (pin, false),
                (Some(transition), None) => {
                    let way = transition.unpinned();
                    (way.backend, way.pins)
                }
            };
            if let Some(home) = home {
                assert_eq!(backend, home, "a packet of flow {flow} goes astray: {self:?}");
            }
            if pins && may_pin {
                self.flows[flow].pin = Some(backend);
            }
            // One that may not be pinned now is not seen yet: its next packet may.
            self.flows[flow].seen &= home.is_some();
            self.flows[flow].seen |= !pins || may_pin;
            if protocol == Protocol::Udp && !self.is_lost(backend) {
                self.flows[flow].home = Some(backend);
            }
            self
        }

        fn ended(mut self, flow: usize) -> Self {
            self.flows[flow].home = None;
            self
        }

        /// The pin of a flow that is over has been idle for long, or its backend is lost.
        fn aged(mut self, flow: usize) -> Option<Self> {
            let Flow { home, pin, .. } = self.flows[flow];
            (home.is_none() || pin.is_some_and(|pin| self.is_lost(pin))).then(|| {
                self.flows[flow].pin = None;
                self
            })
        }
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Protocol {
        Tcp,
        Udp,
    }

    /// All states that a slot can get into, by any sequence of changes, losses, returns, packets and time: in none of them does a
    /// packet of a flow whose backend lives go to another backend.
    #[test]
    fn no_packet_of_a_flow_goes_astray() {
        for (protocol, at_least) in [(Protocol::Tcp, 100_000), (Protocol::Udp, 100_000)] {
            let flow = Flow { home: None, seen: true, pin: None };
            let first = World { slot: TrackedSlot::stable(0), unhealthy: [false; BACKENDS], flows: [flow; FLOWS] };
            let mut known = HashSet::from([first]);
            let mut left = vec![first];
            while let Some(world) = left.pop() {
                left.extend(world.next(protocol).into_iter().filter(|&next| known.insert(next)));
            }
            assert!(known.len() > at_least, "only {} states were reached", known.len());
        }
    }
}
