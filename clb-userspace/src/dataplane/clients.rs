//! Clients that the program could not answer, since it knows no MAC address on the way to them.
//!
//! A client on the same link is known once the kernel has heard of it, which is before its first packet in most networks:
//! but the kernel forgets neighbours that it has no traffic with. So the program reports such a client, and the agent has
//! the kernel ask for it. Anybody can be a client, so reports are few: the ring is small, and it is read now and then.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use clb_common::{About, Report};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};
use zerocopy::FromBytes as _;

/// The reports, as they come.
pub struct UnresolvedClients {
    ring: AsyncFd<RingBuf<MapData>>,
    rested: Instant,
}

impl UnresolvedClients {
    pub(super) fn new(ring: RingBuf<MapData>) -> anyhow::Result<Self> {
        #[expect(deprecated, reason = "its successor is unsafe; a ring owns one descriptor and never another")]
        let ring = AsyncFd::with_interest(ring, Interest::READABLE).context("watch for unresolved clients")?;
        Ok(Self { ring, rested: Instant::now() })
    }

    /// Waits for reports and takes all that are there. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> anyhow::Result<BTreeSet<IpAddr>> {
        sleep_until(self.rested).await;
        let mut ready = self.ring.readable_mut().await.context("wait for unresolved clients")?;
        let mut clients = BTreeSet::new();
        while let Some(report) = ready.get_inner_mut().next() {
            let report = Report::read_from_bytes(&report).ok();
            let client = report.filter(|report| report.about() == About::UnresolvedClient);
            clients.extend(client.map(|report| IpAddr::from(report.address)));
        }
        ready.clear_ready();
        self.rested = Instant::now() + REST;
        Ok(clients)
    }
}

/// Bounds what a flood of replies to absent clients costs the agent.
const REST: Duration = Duration::from_millis(20);
