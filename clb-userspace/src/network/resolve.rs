//! When to ask the kernel for which neighbour: pure, a queue of deadlines.
//!
//! Packets that the XDP program forwards do not refresh the kernel's neighbour entries, and the kernel drops entries
//! that nobody used for 60 seconds (`gc_stale_time`). So the ones that are needed are asked for: at once and with growing
//! pauses while they have no MAC address, and within `VERIFY_WITHIN` of their going stale, spread over that time, so that
//! ten thousand backends are not verified in one moment. Events of the kernel drive the rest; nothing is polled.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

use super::neighbour::{Need, Neighbour};

/// The neighbours that are kept resolved, and when each is asked for next.
#[derive(Debug)]
pub struct Resolver {
    kept: BTreeMap<Neighbour, Kept>,
    queue: BTreeSet<(Instant, Neighbour)>,
    /// Asking pauses until then after a full batch.
    rested: Instant,
    /// Those asked for once since the time beside them.
    asked_once: (Instant, BTreeSet<Neighbour>),
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    need: Need,
    due: Option<Instant>,
    pause: Duration,
}

impl Resolver {
    /// Keeps none yet.
    pub fn new(now: Instant) -> Self {
        Self { kept: BTreeMap::new(), queue: BTreeSet::new(), rested: now, asked_once: (now, BTreeSet::new()) }
    }

    /// Keeps these resolved, and no others.
    pub fn keep(&mut self, neighbours: &BTreeSet<Neighbour>, need: impl Fn(Neighbour) -> Need, now: Instant) {
        let Self { kept, queue, .. } = self;
        kept.retain(|neighbour, Kept { due, .. }| {
            let stays = neighbours.contains(neighbour);
            if !stays && let Some(due) = *due {
                queue.remove(&(due, *neighbour));
            }
            stays
        });
        for &neighbour in neighbours {
            self.kept.entry(neighbour).or_insert(Kept { need: Need::Nothing, due: None, pause: FIRST_PAUSE });
            self.observe(neighbour, need(neighbour), now);
        }
    }

    /// Takes note of what a neighbour needs now.
    pub fn observe(&mut self, neighbour: Neighbour, need: Need, now: Instant) {
        let Some(kept) = self.kept.get_mut(&neighbour) else { return };
        if kept.need == need {
            return;
        }
        kept.need = need;
        kept.pause = FIRST_PAUSE;
        let due = match need {
            Need::Nothing => None,
            Need::Verify => Some(now + spread(neighbour)),
            Need::Resolve => Some(now),
        };
        self.schedule(neighbour, due);
    }

    /// The neighbours to ask for now: a batch of them at most, the rest a moment later.
    pub fn take_due(&mut self, now: Instant) -> Vec<Neighbour> {
        if now < self.rested {
            return Vec::new();
        }
        let due: Vec<_> = self.queue.iter().take_while(|(due, _)| *due <= now).take(BATCH).copied().collect();
        for &(_, neighbour) in &due {
            let Some(kept) = self.kept.get_mut(&neighbour) else { continue };
            let pause = if kept.need == Need::Verify { VERIFY_WITHIN } else { kept.pause };
            kept.pause = (kept.pause * 2).min(LONGEST_PAUSE);
            self.schedule(neighbour, Some(now + pause));
        }
        if due.len() == BATCH {
            self.rested = now + BATCH_PAUSE;
        }
        due.into_iter().map(|(_, neighbour)| neighbour).collect()
    }

    /// When [`Self::take_due`] has something next.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| (*due).max(self.rested))
    }

    /// Whether a neighbour that is not kept may be asked for: once a second, and of all such a few a second, because
    /// strangers choose these addresses.
    pub fn ask_once(&mut self, neighbour: Neighbour, now: Instant) -> Option<Neighbour> {
        let (since, asked) = &mut self.asked_once;
        if now.duration_since(*since) >= ONCE_WINDOW {
            *since = now;
            asked.clear();
        }
        (asked.len() < ONCE_LIMIT && asked.insert(neighbour)).then_some(neighbour)
    }

    fn schedule(&mut self, neighbour: Neighbour, due: Option<Instant>) {
        let Some(kept) = self.kept.get_mut(&neighbour) else { return };
        if let Some(old) = std::mem::replace(&mut kept.due, due) {
            self.queue.remove(&(old, neighbour));
        }
        if let Some(due) = due {
            self.queue.insert((due, neighbour));
        }
    }
}

/// From half of [`VERIFY_WITHIN`] to all of it, the same for a neighbour every time.
fn spread(neighbour: Neighbour) -> Duration {
    let mut hasher = DefaultHasher::new();
    neighbour.hash(&mut hasher);
    VERIFY_WITHIN / 2 + VERIFY_WITHIN / 2 * (hasher.finish() % 1024) as u32 / 1024
}

/// Half of the kernel's default `gc_stale_time`.
const VERIFY_WITHIN: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Each is a broadcast on a link: 2,560 a second at most.
const BATCH: usize = 64;
const BATCH_PAUSE: Duration = Duration::from_millis(25);
const ONCE_LIMIT: usize = 64;
const ONCE_WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_silent_neighbour_is_asked_for_with_growing_pauses() {
        let (mut resolver, start) = keeping(1, Need::Resolve);
        let mut asked_at = Vec::new();
        while asked_at.len() < 8 {
            let due = resolver.next_due().expect("an unresolved neighbour stays in the queue");
            assert_eq!(resolver.take_due(due), [neighbour(0)]);
            // The kernel gave up: nothing new, so the pauses go on growing.
            resolver.observe(neighbour(0), Need::Resolve, due);
            asked_at.push((due - start).as_secs());
        }
        assert_eq!(asked_at, [0, 1, 3, 7, 15, 31, 61, 91]);
    }

    #[test]
    fn a_neighbour_that_answers_is_left_alone_until_it_is_stale_or_lost() {
        let (mut resolver, start) = keeping(1, Need::Resolve);
        assert_eq!(resolver.take_due(start), [neighbour(0)]);
        resolver.observe(neighbour(0), Need::Nothing, start);
        assert_eq!(resolver.next_due(), None, "nothing to do for a reachable neighbour");

        resolver.observe(neighbour(0), Need::Verify, start);
        let verified = resolver.next_due().unwrap() - start;
        assert!((VERIFY_WITHIN / 2..VERIFY_WITHIN).contains(&verified), "verified after {verified:?}");

        resolver.observe(neighbour(0), Need::Resolve, start);
        assert_eq!(resolver.next_due(), Some(start), "a lost neighbour is asked for at once");
    }

    #[test]
    fn many_neighbours_are_neither_resolved_nor_verified_in_one_moment() {
        let (mut resolver, start) = keeping(1000, Need::Resolve);
        let mut now = start;
        let mut batches = Vec::new();
        while now < start + FIRST_PAUSE {
            batches.push(resolver.take_due(now).len());
            now = resolver.next_due().unwrap();
        }
        assert_eq!(batches.iter().sum::<usize>(), 1000);
        assert_eq!((batches.len(), batches[0], batches[15]), (16, 64, 40));

        let (resolver, start) = keeping(1000, Need::Verify);
        let mut by_second = BTreeMap::<u64, usize>::new();
        for (due, _) in &resolver.queue {
            *by_second.entry((*due - start).as_secs()).or_default() += 1;
        }
        assert_eq!(by_second.keys().copied().collect::<Vec<_>>(), (15..30).collect::<Vec<_>>());
        assert!(by_second.values().all(|&count| count < 120), "not spread evenly: {by_second:?}");
    }

    #[test]
    fn a_neighbour_no_longer_kept_is_forgotten() {
        let (mut resolver, start) = keeping(2, Need::Resolve);
        resolver.keep(&[neighbour(1)].into(), |_| Need::Resolve, start);
        assert_eq!(resolver.take_due(start), [neighbour(1)]);
        resolver.observe(neighbour(0), Need::Resolve, start);
        assert_eq!(resolver.queue.len(), 1);
    }

    #[test]
    fn strangers_cannot_make_the_kernel_ask_without_bound() {
        let now = Instant::now();
        let mut resolver = Resolver::new(now);
        let asked = |resolver: &mut Resolver, now| {
            (0..1000).filter(|&host| resolver.ask_once(neighbour(host % 500), now).is_some()).count()
        };
        assert_eq!(asked(&mut resolver, now), ONCE_LIMIT);
        assert_eq!(asked(&mut resolver, now + ONCE_WINDOW / 2), 0);
        assert_eq!(asked(&mut resolver, now + ONCE_WINDOW), ONCE_LIMIT);
    }

    fn keeping(count: u32, need: Need) -> (Resolver, Instant) {
        let now = Instant::now();
        let mut resolver = Resolver::new(now);
        resolver.keep(&(0..count).map(neighbour).collect(), |_| need, now);
        (resolver, now)
    }

    fn neighbour(host: u32) -> Neighbour {
        Neighbour { interface: 1, address: Ipv4Addr::from_bits(0x0a00_0000 + host).into() }
    }
}
