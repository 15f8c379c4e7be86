//! From what is to what shall be: a pure function, so that what a reload will do can be known before it is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clb_common::ForwardingMode;

use crate::{dataplane::ListenerId, slots::BackendId};

/// A listener, as far as the data plane has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredListener {
    /// How packets reach its backends.
    pub mode: ForwardingMode,
    /// The size of its slot table.
    pub slots: u32,
    /// Its backends and their weights: 0 for one that takes no new flows, whatever the reason.
    pub weights: BTreeMap<BackendId, u8>,
    /// Backends whose flows shall go to others.
    pub lost: BTreeSet<BackendId>,
    /// How long old flows have to show themselves when their slot gets another owner.
    pub drain: Duration,
}

impl DesiredListener {
    /// A listener whose backends are all well, and whose flows are followed for five minutes.
    pub const fn new(mode: ForwardingMode, slots: u32, weights: BTreeMap<BackendId, u8>) -> Self {
        Self { mode, slots, weights, lost: BTreeSet::new(), drain: Duration::from_mins(5) }
    }
}

/// One step of a plan. Each is visible to packets at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A listener that was not there.
    AddListener {
        /// Which.
        listener: ListenerId,
        /// What it shall be.
        to: DesiredListener,
    },
    /// A listener that is there and shall be another.
    ChangeListener {
        /// Which.
        listener: ListenerId,
        /// What it shall be.
        to: DesiredListener,
    },
    /// A listener that shall be there no more.
    RemoveListener {
        /// Which.
        listener: ListenerId,
    },
}

/// The steps from `actual` to `desired`. A listener that stays as it is has no step.
///
/// What is removed goes last: so an endpoint that moves from one listener to another is never without an owner, and a
/// map's element that became free is not written again in the same plan.
pub fn plan(
    desired: &BTreeMap<ListenerId, DesiredListener>,
    actual: &BTreeMap<ListenerId, DesiredListener>,
) -> Vec<Step> {
    let added_or_changed = desired.iter().filter_map(|(&listener, to)| match actual.get(&listener) {
        None => Some(Step::AddListener { listener, to: to.clone() }),
        Some(is) if is != to => Some(Step::ChangeListener { listener, to: to.clone() }),
        Some(_) => None,
    });
    let removed = actual.keys().filter(|listener| !desired.contains_key(listener));
    added_or_changed.chain(removed.map(|&listener| Step::RemoveListener { listener })).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use clb_common::Protocol;

    use super::*;

    fn id(port: u16) -> ListenerId {
        ListenerId { vip: IpAddr::from([203, 0, 113, 10]), protocol: Protocol::Tcp, port }
    }

    fn listener(weight: u8) -> DesiredListener {
        let backend = BackendId { address: IpAddr::from([10, 0, 1, 11]), port: 80 };
        DesiredListener::new(ForwardingMode::Dsr, 1_021, BTreeMap::from([(backend, weight)]))
    }

    #[test]
    fn only_what_differs_has_a_step_and_removals_come_last() {
        let actual = BTreeMap::from([(id(1), listener(1)), (id(2), listener(1)), (id(3), listener(1))]);
        let desired = BTreeMap::from([(id(2), listener(1)), (id(3), listener(2)), (id(4), listener(1))]);
        assert_eq!(
            plan(&desired, &actual),
            [
                Step::ChangeListener { listener: id(3), to: listener(2) },
                Step::AddListener { listener: id(4), to: listener(1) },
                Step::RemoveListener { listener: id(1) },
            ]
        );
        assert_eq!(plan(&actual, &actual), []);
    }
}
