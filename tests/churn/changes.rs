//! What happens to a load balancer in its life, drawn at random from a seed: the same seed, the same changes.

use std::fmt;

use fastrand::Rng;

/// One change. Listeners and backends are numbers from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Bind {
        listener: usize,
        backend: usize,
        weight: u8,
    },
    Unbind {
        listener: usize,
        backend: usize,
    },
    Reweight {
        listener: usize,
        backend: usize,
        weight: u8,
    },
    Drain {
        backend: usize,
    },
    Undrain {
        backend: usize,
    },
    /// Its link is cut: it answers nobody.
    Death {
        backend: usize,
    },
    Return {
        backend: usize,
    },
    /// Its addresses get another MAC address, as an ENI that is attached elsewhere.
    Move {
        backend: usize,
    },
    /// The agent ends by SIGTERM, and another one starts.
    Restart,
    /// The agent is killed, and another one starts.
    Kill,
    /// The agent ends by SIGTERM, and one of another binary with another program starts.
    Upgrade,
}

impl Change {
    /// The names of all kinds.
    pub const KINDS: [&str; 11] = [
        "bind",
        "unbind",
        "re-weight",
        "drain",
        "undrain",
        "backend death",
        "backend return",
        "ENI move",
        "agent restart",
        "kill -9",
        "upgrade",
    ];

    /// Its place in [`Self::KINDS`].
    pub const fn kind(self) -> usize {
        match self {
            Self::Bind { .. } => 0,
            Self::Unbind { .. } => 1,
            Self::Reweight { .. } => 2,
            Self::Drain { .. } => 3,
            Self::Undrain { .. } => 4,
            Self::Death { .. } => 5,
            Self::Return { .. } => 6,
            Self::Move { .. } => 7,
            Self::Restart => 8,
            Self::Kill => 9,
            Self::Upgrade => 10,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = Self::KINDS[self.kind()];
        match self {
            Self::Bind { listener, backend, weight } | Self::Reweight { listener, backend, weight } => {
                write!(formatter, "{kind} backend {backend} of listener {listener} with weight {weight}")
            }
            Self::Unbind { listener, backend } => write!(formatter, "{kind} backend {backend} of listener {listener}"),
            Self::Drain { backend }
            | Self::Undrain { backend }
            | Self::Death { backend }
            | Self::Return { backend }
            | Self::Move { backend } => write!(formatter, "{kind}: backend {backend}"),
            Self::Restart | Self::Kill | Self::Upgrade => formatter.write_str(kind),
        }
    }
}

/// What is as it is after the changes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// By listener and backend; nothing if it is not bound.
    pub weights: Vec<Vec<Option<u8>>>,
    /// By backend.
    pub drained: Vec<bool>,
    /// At most one at a time.
    pub dead: Option<usize>,
}

impl World {
    /// All backends are bound with the same weight.
    pub fn new(listeners: usize, backends: usize) -> Self {
        Self { weights: vec![vec![Some(USUAL); backends]; listeners], drained: vec![false; backends], dead: None }
    }

    /// Whether a backend may get new connections of a listener.
    pub fn takes_new(&self, listener: usize, backend: usize) -> bool {
        !self.drained[backend] && self.weights[listener][backend].is_some_and(|weight| weight > 0)
    }

    /// Draws the next change, and is what it makes.
    pub fn change(&mut self, random: &mut Rng) -> Change {
        loop {
            let change = self.draw(random);
            let mut after = self.clone();
            if after.make(change) && after.has_enough() {
                *self = after;
                return change;
            }
        }
    }

    fn draw(&self, random: &mut Rng) -> Change {
        let (listener, backend) = (random.usize(..self.weights.len()), random.usize(..self.drained.len()));
        match random.u8(..100) {
            0..20 => Change::Bind { listener, backend, weight: USUAL },
            20..28 => Change::Unbind { listener, backend },
            28..48 => Change::Reweight { listener, backend, weight: *random.choice(&WEIGHTS).unwrap_or(&USUAL) },
            48..56 => Change::Drain { backend },
            56..72 => Change::Undrain { backend },
            72..76 => Change::Death { backend },
            76..84 => Change::Return { backend: self.dead.unwrap_or(backend) },
            84..91 => Change::Move { backend },
            91..94 => Change::Restart,
            94..97 => Change::Kill,
            _ => Change::Upgrade,
        }
    }

    /// Says whether there is something to change.
    pub fn make(&mut self, change: Change) -> bool {
        match change {
            Change::Bind { listener, backend, weight } => {
                let bound = &mut self.weights[listener][backend];
                bound.is_none() && bound.replace(weight).is_none()
            }
            Change::Unbind { listener, backend } => self.weights[listener][backend].take().is_some(),
            Change::Reweight { listener, backend, weight } => {
                let bound = &mut self.weights[listener][backend];
                bound.is_some_and(|before| before != weight) && bound.replace(weight).is_some()
            }
            Change::Drain { backend } => {
                let is_bound = self.weights.iter().any(|weights| weights[backend].is_some());
                is_bound && !std::mem::replace(&mut self.drained[backend], true)
            }
            Change::Undrain { backend } => std::mem::replace(&mut self.drained[backend], false),
            Change::Death { backend } => self.dead.is_none() && self.dead.replace(backend).is_none(),
            Change::Return { backend } => self.dead.take_if(|dead| *dead == backend).is_some(),
            Change::Move { backend } => self.dead != Some(backend),
            Change::Restart | Change::Kill | Change::Upgrade => true,
        }
    }

    /// Every listener has two backends that live and take new connections.
    fn has_enough(&self) -> bool {
        (0..self.weights.len()).all(|listener| {
            let takers = (0..self.drained.len()).filter(|&backend| self.takes_new(listener, backend));
            takers.filter(|backend| self.dead != Some(*backend)).count() >= 2
        })
    }
}

const USUAL: u8 = 10;
/// Mostly small steps, as people take them.
const WEIGHTS: [u8; 8] = [0, 1, 5, 8, 9, 10, 12, 20];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn changes(seed: u64) -> Vec<Change> {
        let (mut world, mut random) = (World::new(5, 8), Rng::with_seed(seed));
        (0..500).map(|_| world.change(&mut random)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_changes_and_another_gives_others() {
        assert_eq!(changes(7), changes(7));
        assert_ne!(changes(7), changes(8));
        let kinds: BTreeSet<usize> = changes(7).into_iter().map(Change::kind).collect();
        assert_eq!(kinds.len(), Change::KINDS.len(), "{kinds:?}");
    }

    #[test]
    fn every_listener_keeps_two_backends() {
        let (mut world, mut random) = (World::new(5, 8), Rng::with_seed(1));
        for number in 0..2_000 {
            let change = world.change(&mut random);
            assert!(world.has_enough(), "{number}: {change}: {world:?}");
        }
    }
}
