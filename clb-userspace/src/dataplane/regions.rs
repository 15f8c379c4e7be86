//! Which parts of a flat map are in use: runs of consecutive elements, taken first fit.
//!
//! A run that became free is retired first: packets that began before may still read it. `reclaim` makes retired runs
//! free, and its caller knows that enough time has passed.

use std::collections::BTreeMap;

/// The free and the retired runs of one map.
#[derive(Clone, Debug)]
pub struct Regions {
    /// Start to length. Neighbouring runs are always merged.
    free: BTreeMap<u32, u32>,
    retired: Vec<(u32, u32)>,
}

impl Regions {
    /// All of a map with this many elements is free.
    pub fn new(capacity: u32) -> Self {
        Self { free: BTreeMap::from([(0, capacity)]), retired: Vec::new() }
    }

    /// Takes a run of this length, or nothing if no free run is long enough. A run of length 0 takes nothing.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let (&start, &available) = self.free.iter().find(|&(_, &available)| available >= length)?;
        self.free.remove(&start);
        if available > length {
            self.free.insert(start + length, available - length);
        }
        Some(start)
    }

    /// Takes this run, which is free.
    pub fn claim(&mut self, start: u32, length: u32) -> Option<()> {
        if length == 0 {
            return Some(());
        }
        let (&before, &available) = self.free.range(..=start).next_back()?;
        let end = start.checked_add(length)?;
        let left = (before + available).checked_sub(end)?;
        self.free.remove(&before);
        for (start, length) in [(before, start - before), (end, left)] {
            if length > 0 {
                self.free.insert(start, length);
            }
        }
        Some(())
    }

    /// Gives a run back that packets may still be reading.
    pub fn retire(&mut self, start: u32, length: u32) {
        if length > 0 {
            self.retired.push((start, length));
        }
    }

    /// Makes the retired runs free.
    pub fn reclaim(&mut self) {
        for (mut start, mut length) in std::mem::take(&mut self.retired) {
            if let Some((&before, &before_length)) = self.free.range(..start).next_back()
                && before + before_length == start
            {
                self.free.remove(&before);
                (start, length) = (before, before_length + length);
            }
            if let Some(after_length) = self.free.remove(&(start + length)) {
                length += after_length;
            }
            self.free.insert(start, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_retired_run_is_not_given_out_before_it_is_reclaimed() {
        let mut regions = Regions::new(4);
        let start = regions.allocate(4).unwrap();
        regions.retire(start, 4);
        assert_eq!(regions.allocate(1), None);
        regions.reclaim();
        assert_eq!(regions.allocate(4), Some(0));
    }

    #[test]
    fn a_run_that_is_claimed_is_not_given_out() {
        let mut regions = Regions::new(10);
        for (start, length, expected) in
            [(2, 3, Some(())), (4, 1, None), (0, 2, Some(())), (5, 6, None), (9, 1, Some(())), (3, 0, Some(()))]
        {
            assert_eq!(regions.claim(start, length), expected, "{length} from {start}");
        }
        assert_eq!((regions.allocate(4), regions.allocate(1)), (Some(5), None));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_space_comes_back(actions in prop::collection::vec((1..40_u32, any::<bool>()), 1..200)) {
            let mut regions = Regions::new(200);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (length, give_back) in actions {
                if give_back && !held.is_empty() {
                    let (start, length) = held.swap_remove(length as usize % held.len());
                    regions.retire(start, length);
                    regions.reclaim();
                } else if let Some(start) = regions.allocate(length) {
                    prop_assert!(start + length <= 200);
                    for &(other, other_length) in &held {
                        prop_assert!(start + length <= other || other + other_length <= start);
                    }
                    held.push((start, length));
                }
            }
            for (start, length) in held {
                regions.retire(start, length);
            }
            regions.reclaim();
            prop_assert_eq!(regions.allocate(200), Some(0));
        }
    }
}
