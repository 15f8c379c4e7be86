//! What the program tells the agent: clients that it could not answer, and path MTUs of backends in tunnels.
//!
//! A client on the same link is known once the kernel has heard of it, which is before its first packet in most networks:
//! but the kernel forgets neighbours that it has no traffic with. So the program reports such a client, and the agent has
//! the kernel ask for it. Anybody can be a client, and send an ICMP error, so reports are few: the ring is small, and it is
//! read now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use clb_common::{About, Report};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};
use zerocopy::FromBytes as _;

/// The reports, as they come.
pub struct Reports {
    ring: AsyncFd<RingBuf<MapData>>,
    rested: Instant,
}

/// What was reported since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Clients whose next hop is not known.
    pub unresolved_clients: BTreeSet<IpAddr>,
    /// Backends, and the smallest packet size that a router on the way to each reported.
    pub path_mtus: BTreeMap<IpAddr, u32>,
}

impl Reports {
    pub(super) fn new(ring: RingBuf<MapData>) -> anyhow::Result<Self> {
        #[expect(deprecated, reason = "its successor is unsafe; a ring owns one descriptor and never another")]
        let ring = AsyncFd::with_interest(ring, Interest::READABLE).context("watch for the program's reports")?;
        Ok(Self { ring, rested: Instant::now() })
    }

    /// Waits for reports and takes all that are there. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> anyhow::Result<Reported> {
        sleep_until(self.rested).await;
        let mut ready = self.ring.readable_mut().await.context("wait for the program's reports")?;
        let mut reported = Reported::default();
        while let Some(record) = ready.get_inner_mut().next() {
            if let Ok(report) = Report::read_from_bytes(&record) {
                reported.add(&report);
            }
        }
        ready.clear_ready();
        self.rested = Instant::now() + REST;
        Ok(reported)
    }
}

impl Reported {
    fn add(&mut self, report: &Report) {
        let address = report.address.into();
        match report.about() {
            About::UnresolvedClient => {
                self.unresolved_clients.insert(address);
            }
            About::PathMtu(mtu) => {
                self.path_mtus.entry(address).and_modify(|known| *known = mtu.min(*known)).or_insert(mtu);
            }
        }
    }
}

/// Bounds what a flood of replies to absent clients costs the agent.
const REST: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_reports_on_a_backend_the_smallest_mtu_counts() {
        let (client, backend) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([10, 0, 1, 11]));
        let mut reported = Reported::default();
        for report in [
            Report::path_mtu(backend.into(), 1_400),
            Report::unresolved_client(client.into()),
            Report::path_mtu(backend.into(), 1_300),
            Report::path_mtu(backend.into(), 1_500),
        ] {
            reported.add(&report);
        }
        let (unresolved_clients, path_mtus) = ([client].into(), [(backend, 1_300)].into());
        assert_eq!(reported, Reported { unresolved_clients, path_mtus });
    }
}
