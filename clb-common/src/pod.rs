//! Lets the agent's aya copy the shared types to and from maps.

use crate::{
    Address, Backend, BackendTraffic, Endpoint, EndpointEntry, Flow, FlowHash, FlowKey, FragmentKey, FragmentNote,
    Listener, NextHop, Pin, PinBudget, Pool, Reply, Return, ReturnKey, SlotBlock, Traffic, Transition, bench::Template,
    decap::TunnelEnd,
};

macro_rules! plain_old_data {
    ($($shared:ty),+ $(,)?) => {
        $(
            // SAFETY: zerocopy's derives on the type prove that it has no padding and that every bit pattern is valid,
            // which `assert_plain` makes a condition of compiling.
            unsafe impl aya::Pod for $shared {}
            const _: () = assert_plain::<$shared>();
        )+
    };
}

const fn assert_plain<T: Copy + zerocopy::FromBytes + zerocopy::IntoBytes>() {}

plain_old_data!(
    Address,
    Backend,
    BackendTraffic,
    Endpoint,
    EndpointEntry,
    Flow,
    FlowHash,
    FlowKey,
    FragmentKey,
    FragmentNote,
    Listener,
    NextHop,
    Pin,
    PinBudget,
    Pool,
    Reply,
    Return,
    ReturnKey,
    SlotBlock,
    Template,
    Traffic,
    Transition,
    TunnelEnd
);
