//! What routers said of the ways to backends in tunnels: the largest packet that each lets through.
//!
//! The kernel keeps such an exception for ten minutes (`net.ipv4.route.mtu_expires`), and so does this: a way that got wider
//! is found out by then. What must stay true: anybody can make such a message up, so it never makes an MTU larger, nor
//! smaller than what the kernel believes, and it counts for backends only.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

/// The ways that are narrower than the link that they begin with.
#[derive(Debug, Default)]
pub struct PathMtus(BTreeMap<IpAddr, Known>);

#[derive(Clone, Copy, Debug)]
struct Known {
    mtu: u32,
    until: Instant,
}

impl PathMtus {
    /// Takes note of a report; says whether an answer differs now.
    pub fn note(&mut self, address: IpAddr, mtu: u32, now: Instant) -> bool {
        let before = self.of(address, now);
        let mtu = mtu.max(least(address)).min(before.unwrap_or(u32::MAX));
        self.0.insert(address, Known { mtu, until: now + KEPT });
        before != Some(mtu)
    }

    /// The largest packet that comes through to this address, if there is a report on it.
    pub fn of(&self, address: IpAddr, now: Instant) -> Option<u32> {
        self.0.get(&address).filter(|known| now < known.until).map(|known| known.mtu)
    }

    /// Forgets what is too old; says whether there was such.
    pub fn forget(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, known| now < known.until);
        self.0.len() != before
    }

    /// When [`Self::forget`] has something next.
    pub fn next_forgotten(&self) -> Option<Instant> {
        self.0.values().map(|known| known.until).min()
    }
}

/// The least that the kernel believes (`net.ipv4.route.min_pmtu`), and that every IPv6 link has (RFC 8200, section 5).
fn least(address: IpAddr) -> u32 {
    if address.is_ipv4() { 552 } else { 1_280 }
}

const KEPT: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_for_ten_minutes_and_within_bounds() {
        let v4 = IpAddr::from([10, 0, 1, 11]);
        let v6: IpAddr = "2001:db8::11".parse().unwrap();
        let start = Instant::now();
        let mut known = PathMtus::default();
        for (name, address, mtu, differs, expected) in [
            ("the first", v4, 1_400, true, 1_400),
            ("the same again", v4, 1_400, false, 1_400),
            ("a wider way is not believed before the time is over", v4, 1_500, false, 1_400),
            ("a narrower one is", v4, 1_300, true, 1_300),
            ("one that is too narrow", v4, 68, true, 552),
            ("the same for IPv6", v6, 68, true, 1_280),
        ] {
            assert_eq!(known.note(address, mtu, start), differs, "{name}");
            assert_eq!(known.of(address, start), Some(expected), "{name}");
        }
        assert_eq!(known.of(IpAddr::from([10, 0, 1, 12]), start), None, "another backend");

        let later = start + Duration::from_mins(5);
        assert!(!known.note(v4, 552, later));
        let end = known.next_forgotten().unwrap();
        assert_eq!(end, start + KEPT, "that of IPv6 is older");
        assert!(known.forget(end));
        assert_eq!((known.of(v4, end), known.of(v6, end)), (Some(552), None));
        assert_eq!(known.of(v4, later + KEPT), None);
        assert!(known.note(v4, 1_400, later + KEPT), "then a wider one is believed");
        assert_eq!(known.of(v4, later + KEPT), Some(1_400));
    }
}
