//! Slot tables: weighted Maglev with exact quotas.
//!
//! Every backend walks its own permutation of the slots and takes the next free one whenever its turn comes (Maglev, NSDI
//! 2016, section 3.4). Turns come in proportion to the weights, and a backend that has its quota is finished, so every
//! share is exact to one slot. What must stay true: the table is a pure function of the set of backends, their weights
//! and the number of slots. The same file gives the same table on every machine, and a backend that comes back gets its
//! slots back.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::IpAddr,
};

use clb_common::Address;
use xxhash_rust::xxh3::xxh3_128;

/// What a backend is to its slot table: its place in every permutation hangs on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// Its private IP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// The owner of each slot.
///
/// Backends without weight own none. Empty if no backend has weight: then nobody can own a slot.
pub fn table(weights: &BTreeMap<BackendId, u8>, slots: u32) -> Vec<BackendId> {
    let ids: Vec<BackendId> = weights.keys().copied().collect();
    owners(weights, slots).into_iter().map(|owner| ids[owner as usize]).collect()
}

/// The same by the backends' places among all of them.
pub fn owners(weights: &BTreeMap<BackendId, u8>, slots: u32) -> Vec<u32> {
    let mut fillers: Vec<Filler> = quotas(weights, slots).collect();
    let mut turns = Turns::new(&fillers);
    if fillers.is_empty() {
        return Vec::new();
    }
    // Most of the time goes into looking for free slots: a bit each, so that they stay in the nearest cache.
    let mut taken = vec![0_u64; slots.div_ceil(u64::BITS) as usize];
    let mut owners = vec![0; slots as usize];
    while let Some(due) = turns.next() {
        for &index in due {
            let filler = &mut fillers[index];
            if filler.left == 0 {
                continue;
            }
            let is_free = |&slot: &u32| taken[(slot / u64::BITS) as usize] & 1 << (slot % u64::BITS) == 0;
            let slot = filler.permutation.find(is_free).expect("a permutation reaches every slot, and one is free");
            taken[(slot / u64::BITS) as usize] |= 1 << (slot % u64::BITS);
            owners[slot as usize] = filler.place;
            filler.left -= 1;
        }
    }
    owners
}

/// Whose turn it is: at 1/weight, 2/weight, 3/weight and so on, until the quota is full. At the same time in the order of the
/// fillers.
///
/// The times hang on a backend's own weight only. In rounds paced by the heaviest backend, as others have it, a change of that one
/// would shift the turns of all. Backends of one weight have their turns together.
struct Turns {
    groups: Vec<Group>,
    /// When the next turn of each group is.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    due: Vec<usize>,
}

/// The fillers of one weight.
#[derive(Default)]
struct Group {
    weight: u64,
    members: Vec<usize>,
    turn: u64,
    turns: u64,
}

impl Turns {
    fn new(fillers: &[Filler]) -> Self {
        let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
        for (index, filler) in fillers.iter().enumerate() {
            let group = groups.entry(filler.weight).or_default();
            group.weight = filler.weight;
            group.members.push(index);
            group.turns = group.turns.max(filler.left);
        }
        let mut turns = Self { groups: groups.into_values().collect(), next: BinaryHeap::new(), due: Vec::new() };
        (0..turns.groups.len()).for_each(|group| turns.plan(group));
        turns
    }

    fn plan(&mut self, group: usize) {
        let Group { weight, turn, turns, .. } = &mut self.groups[group];
        if *turn < *turns {
            *turn += 1;
            self.next.push(Reverse(((*turn << 32) / *weight, group)));
        }
    }

    fn next(&mut self) -> Option<&[usize]> {
        self.due.clear();
        let Reverse((now, first)) = self.next.pop()?;
        self.take(first);
        while let Some(&Reverse((time, group))) = self.next.peek()
            && time == now
        {
            self.next.pop();
            self.take(group);
            self.due.sort_unstable();
        }
        Some(&self.due)
    }

    fn take(&mut self, group: usize) {
        self.due.extend_from_slice(&self.groups[group].members);
        self.plan(group);
    }
}

/// What each backend with weight gets: slots × weight / total weight, by largest remainder.
fn quotas(weights: &BTreeMap<BackendId, u8>, slots: u32) -> impl Iterator<Item = Filler> {
    let places = weights.iter().zip(0..);
    let weighted: Vec<(BackendId, u32, u64)> = places
        .filter(|((_, weight), _)| **weight > 0)
        .map(|((&id, &weight), place)| (id, place, weight.into()))
        .collect();
    let total: u64 = weighted.iter().map(|(.., weight)| weight).sum();
    let share = move |weight: u64| u64::from(slots) * weight;
    let whole: u64 = weighted.iter().map(|&(.., weight)| share(weight) / total).sum();

    let mut by_remainder: Vec<usize> = (0..weighted.len()).collect();
    // Equal remainders go by identity: the sort is stable and `weighted` is in the order of the map.
    by_remainder.sort_by_key(|&index| Reverse(share(weighted[index].2) % total));
    let mut extra = vec![0; weighted.len()];
    for &index in by_remainder.iter().take((u64::from(slots) - whole.min(u64::from(slots))) as usize) {
        extra[index] = 1;
    }
    weighted.into_iter().zip(extra).map(move |((id, place, weight), extra)| Filler {
        place,
        weight,
        left: share(weight) / total + extra,
        permutation: Permutation::new(id, slots),
    })
}

/// A backend while the table is filled.
struct Filler {
    place: u32,
    weight: u64,
    /// How many slots it still gets.
    left: u64,
    permutation: Permutation,
}

/// A backend's order of preference: every slot once, since the number of slots is a prime.
struct Permutation {
    next: u32,
    skip: u32,
    slots: u32,
}

impl Permutation {
    fn new(BackendId { address, port }: BackendId, slots: u32) -> Self {
        let mut identity = [0; 18];
        identity[..16].copy_from_slice(&Address::from(address).octets());
        identity[16..].copy_from_slice(&port.to_be_bytes());
        let hash = xxh3_128(&identity);
        let (high, low) = ((hash >> 64) as u64, hash as u64);
        Self { next: (high % u64::from(slots)) as u32, skip: (low % u64::from(slots - 1)) as u32 + 1, slots }
    }
}

impl Iterator for Permutation {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let slot = self.next;
        // Both are less than the number of slots.
        let next = self.next + self.skip;
        self.next = if next < self.slots { next } else { next - self.slots };
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 4_093;

    fn id(number: u32) -> BackendId {
        BackendId { address: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)), port: 80 }
    }

    fn weights(given: &[u8]) -> BTreeMap<BackendId, u8> {
        given.iter().enumerate().map(|(number, &weight)| (id(number as u32), weight)).collect()
    }

    fn owned(table: &[BackendId]) -> BTreeMap<BackendId, u32> {
        let mut owned = BTreeMap::new();
        for &owner in table {
            *owned.entry(owner).or_default() += 1;
        }
        owned
    }

    /// How many slots have another owner.
    fn moved(before: &[BackendId], after: &[BackendId]) -> usize {
        before.iter().zip(after).filter(|(before, after)| before != after).count()
    }

    /// Weighted Maglev as others have it: turns in proportion to weight until the table is full, without quotas.
    fn plain_weighted_maglev(weights: &BTreeMap<BackendId, u8>, slots: u32) -> Vec<BackendId> {
        let mut credits: Vec<(u64, u64, BackendId, Permutation)> = weights
            .iter()
            .filter(|&(_, &weight)| weight > 0)
            .map(|(&id, &weight)| (0, u64::from(weight), id, Permutation::new(id, slots)))
            .collect();
        let heaviest = credits.iter().map(|(_, weight, ..)| *weight).max().unwrap();
        let mut owners = vec![None; slots as usize];
        let mut free = slots;
        'full: loop {
            for (credit, weight, id, permutation) in &mut credits {
                *credit += *weight;
                if *credit < heaviest {
                    continue;
                }
                *credit -= heaviest;
                let slot = permutation.find(|&slot| owners[slot as usize].is_none()).unwrap();
                owners[slot as usize] = Some(*id);
                free -= 1;
                if free == 0 {
                    break 'full;
                }
            }
        }
        owners.into_iter().flatten().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn every_backend_is_within_one_slot_of_its_exact_share(
            given in prop::collection::vec(0..=100_u8, 1..100),
            slots in prop::sample::select(vec![1_021_u32, 4_093, 16_381]),
        ) {
            let weights = weights(&given);
            let total: u64 = given.iter().map(|&weight| u64::from(weight)).sum();
            let table = table(&weights, slots);
            prop_assert_eq!(table.len(), if total == 0 { 0 } else { slots as usize });
            let owned = owned(&table);
            for (id, &weight) in &weights {
                let owned = f64::from(owned.get(id).copied().unwrap_or(0));
                let exact = f64::from(slots) * f64::from(weight) / f64::from(total.max(1) as u32);
                prop_assert!((owned - exact).abs() < 1.0, "{:?} owns {} instead of {}", id, owned, exact);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_backend_that_comes_back_gets_its_slots_back(
            given in prop::collection::vec(1..=100_u8, 2..50), chosen: prop::sample::Index,
        ) {
            let before = weights(&given);
            let mut without = before.clone();
            without.remove(&id(chosen.index(given.len()) as u32));
            let original = table(&before, SLOTS);
            prop_assert_ne!(&table(&without, SLOTS), &original);
            prop_assert_eq!(table(&before, SLOTS), original);
        }
    }

    /// One change each of 1,500 random sets: removal, addition, or a new weight. Single sets differ either way by a slot
    /// or two, since an exact share may itself have to move one; over many the table must not pay for its exactness.
    #[test]
    fn a_change_moves_no_more_slots_than_plain_weighted_maglev() {
        let mut random = Random(42);
        let (mut ours, mut plain) = (0, 0);
        for case in 0..1_500 {
            let given: Vec<u8> = (0..random.below(60) + 3).map(|_| random.below(100) as u8 + 1).collect();
            let before = weights(&given);
            let mut after = before.clone();
            match case % 3 {
                0 => drop(after.remove(&id(random.below(given.len() as u64) as u32))),
                1 => drop(after.insert(id(1_000), random.below(100) as u8 + 1)),
                _ => drop(after.insert(id(random.below(given.len() as u64) as u32), random.below(100) as u8 + 1)),
            }
            ours += moved(&table(&before, SLOTS), &table(&after, SLOTS));
            plain += moved(&plain_weighted_maglev(&before, SLOTS), &plain_weighted_maglev(&after, SLOTS));
        }
        assert!(ours <= plain, "exact quotas moved {ours} slots, plain weighted Maglev {plain}");
    }

    /// Guards the definition itself: a change of it would move the flows of every deployment.
    #[test]
    fn a_table_is_what_it_always_was() {
        let table = table(&weights(&[1, 2, 3]), 1_021);
        let digest = table.iter().fold(0_u64, |digest, owner| {
            let IpAddr::V4(address) = owner.address else { unreachable!("the test's addresses are IPv4") };
            digest.wrapping_mul(31).wrapping_add(u64::from(address.to_bits()))
        });
        assert_eq!(digest, PINNED);
    }

    const PINNED: u64 = 8_434_197_372_740_111_260;

    /// A small generator, so that the comparison is the same in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }
}
