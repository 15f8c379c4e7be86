//! From an endpoint to an index: a hash table with linear probing, laid out in an array map.
//!
//! The kernel inlines a look-up in an array and calls a function for one in a hash map, so this costs a packet a few instructions,
//! whether it is for a listener or not. What must stay true: an entry that packets may read changes in one byte only, which says
//! whether it is taken; it never moves; and the agent writes a new one to a place that no packet that began before can be at.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Endpoint;

/// A place of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct EndpointEntry {
    /// Whose it is, if it is taken.
    pub endpoint: Endpoint,
    /// The index that the endpoint leads to.
    pub index: u32,
    state: u32,
}

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// Free, and so is the way on: what was not found yet is not there.
    Free = 0,
    /// Somebody's.
    Taken = 1,
    /// Free, but others may come behind it.
    Left = 2,
}

impl EndpointEntry {
    /// An entry in this state.
    pub const fn new(endpoint: Endpoint, index: u32, place: Place) -> Self {
        Self { endpoint, index, state: place as u32 }
    }

    /// The same entry in another state: differs in one byte.
    #[must_use]
    pub const fn at(self, place: Place) -> Self {
        Self { state: place as u32, ..self }
    }

    /// Whether it leads this endpoint to its index.
    #[inline(always)]
    pub fn is_of(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.is_same(endpoint) && self.is_taken()
    }

    /// Whether it leads an endpoint to its index.
    #[inline(always)]
    pub const fn is_taken(&self) -> bool {
        self.state == Place::Taken as u32
    }

    /// Whether the table ends here for those that were looked for up to here.
    #[inline(always)]
    pub const fn is_end(&self) -> bool {
        self.state == Place::Free as u32
    }
}

/// How many places a table has for so many endpoints: a power of two, so that a place is found without a division, and four
/// times as many, so that nearly all are found at the first place.
pub const fn places(endpoints: u32) -> u32 {
    (endpoints * 4).next_power_of_two()
}

/// How far from its first place an endpoint may stand.
pub const MOST_PROBES: u32 = 32;

/// The places where an endpoint may stand, in the order in which it is looked for, in a table with one place more than this mask.
#[inline(always)]
pub fn probes(endpoint: &Endpoint, mask: u32) -> impl Iterator<Item = u32> {
    let first = endpoint.spread();
    (0..MOST_PROBES).map(move |step| first.wrapping_add(step) & mask)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use super::*;
    use crate::Protocol;

    /// Listeners as people number them: some ports of neighbouring addresses, or many ports of a few.
    #[test]
    fn endpoints_stand_near_their_first_place() {
        const MASK: u32 = places(10_000) - 1;
        for ports in [1, 2, 100, 10_000] {
            for address in ["203.0.113.0", "2001:db8::"] {
                let first: IpAddr = address.parse().unwrap();
                let endpoint = |number: u32| {
                    let address = match first {
                        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number / ports).into(),
                        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(number / ports)).into(),
                    };
                    Endpoint::of(Protocol::Tcp, SocketAddr::new(address, (number % ports) as u16 + 1))
                };
                let mut taken = std::vec![false; MASK as usize + 1];
                for number in 0..10_000 {
                    let is_free = |place: &u32| !core::mem::replace(&mut taken[*place as usize], true);
                    let found = probes(&endpoint(number), MASK).take(MOST_PROBES as usize / 2).find(is_free);
                    assert!(found.is_some(), "{ports} ports of {address}: no place for the {number}th");
                }
            }
        }
    }

    #[test]
    fn whoever_differs_is_another() {
        let one = Endpoint::of(Protocol::Tcp, "203.0.113.10:80".parse().unwrap());
        let entry = EndpointEntry::new(one, 7, Place::Taken);
        assert!(entry.is_of(&one) && !entry.is_end());
        for other in ["203.0.113.11:80", "203.0.113.10:81", "[::ffff:203.0.113.10]:80", "[2001:db8::1]:80"] {
            assert!(!entry.is_of(&Endpoint::of(Protocol::Tcp, other.parse().unwrap())), "{other}");
        }
        assert!(!entry.is_of(&Endpoint::of(Protocol::Udp, "203.0.113.10:80".parse().unwrap())));
        for place in [Place::Free, Place::Left] {
            assert!(!entry.at(place).is_of(&one));
        }
        for (one, other) in [("[2001:db8::1]:80", "[2001:db9::1]:80"), ("[2001:db8::1]:80", "[2001:db8:0:1::1]:80")] {
            let [one, other] = [one, other].map(|socket| Endpoint::of(Protocol::Tcp, socket.parse().unwrap()));
            assert!(!EndpointEntry::new(one, 0, Place::Taken).is_of(&other));
        }
    }
}
