//! The program's time: ticks of about a second since the machine's start.

use std::time::Duration;

use anyhow::Context as _;
use clb_common::TICK_SHIFT;
use nix::time::{ClockId, clock_gettime};

/// The tick that it is.
pub fn now() -> anyhow::Result<u32> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?);
    Ok((now.as_nanos() >> TICK_SHIFT) as u32)
}

/// How long it is from one tick to the end of another.
pub fn until(end: u32, now: u32) -> Duration {
    Duration::from_nanos(u64::from((end + 1).saturating_sub(now)) << TICK_SHIFT)
}

/// So many whole ticks are at least as long.
pub fn ticks(duration: Duration) -> u32 {
    duration.as_nanos().div_ceil(1 << TICK_SHIFT) as u32
}
