//! The flow hash: which slot a flow falls on. The program and the agent both call this one definition.
//!
//! It is keyed, so that nobody who does not know the seed can aim flows at one backend: a multilinear hash over 32-bit
//! words with 64-bit keys (strongly universal in its upper half: Thorup, "High Speed Hashing for Integers and Strings",
//! 2015), then `MurmurHash3`'s 64-bit finalizer, a bijection that spreads neighbouring ports over distant slots.
//!
//! Only the client's address and port go in. The VIP, the protocol and the listener's port are equal for all flows that
//! share a slot table, so they would cost instructions and change nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Endpoint, Version};

/// The keys of the flow hash. Equal on all load balancers with equal seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub struct FlowHash([u64; FlowHash::KEYS]);

impl FlowHash {
    /// Four words of address, one of port, and the constant term.
    pub const KEYS: usize = 6;

    /// The hash for a configured seed.
    pub const fn from_seed(seed: u64) -> Self {
        let mut keys = [0; Self::KEYS];
        let mut state = seed;
        let mut index = 0;
        while index < Self::KEYS {
            state = state.wrapping_add(SPLIT_MIX_STEP);
            // An odd key never maps two words that differ to the same product.
            keys[index] = split_mix(state) | 1;
            index += 1;
        }
        Self(keys)
    }

    /// The hash with these keys: what the program loads of its settings.
    #[inline(always)]
    pub const fn from_keys(keys: [u64; Self::KEYS]) -> Self {
        Self(keys)
    }

    /// Hashes a client: the words of its address (one for IPv4, four for IPv6) and its port.
    #[inline(always)]
    pub fn hash<const WORDS: usize>(&self, address: [u32; WORDS], port: u16) -> u32 {
        let Self([constant, port_key, address_keys @ ..]) = self;
        let mut sum = constant.wrapping_add(port_key.wrapping_mul(port as u64));
        let mut index = 0;
        while index < WORDS {
            sum = sum.wrapping_add(address_keys[index].wrapping_mul(address[index] as u64));
            index += 1;
        }
        (finalize(sum) >> 32) as u32
    }

    /// Hashes a client, as the program does with the headers of its packets.
    pub fn of(&self, client: &Endpoint) -> u32 {
        let Endpoint { address, port, .. } = client;
        match client.version() {
            Version::V4 => self.hash([address.v4_word()], port.word()),
            Version::V6 => self.hash(address.0, port.word()),
        }
    }
}

#[inline(always)]
const fn finalize(mut sum: u64) -> u64 {
    sum ^= sum >> 33;
    sum = sum.wrapping_mul(0xff51_afd7_ed55_8ccd);
    sum ^= sum >> 33;
    sum = sum.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    sum ^ (sum >> 33)
}

/// `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014): turns one seed into independent keys.
const fn split_mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

const SPLIT_MIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot_of;

    /// Neighbouring ports of one client (Linux gives even ones to `connect`) fill 64 slots evenly.
    #[test]
    fn spreads_the_even_ports_of_one_client() {
        for seed in 0..50 {
            let flow_hash = FlowHash::from_seed(seed);
            let mut slots = [0_u32; 64];
            for port in (32_768..60_999_u16).step_by(2) {
                slots[slot_of(flow_hash.hash([0x0a00_0001], port.to_be()), 64) as usize] += 1;
            }
            let expected = f64::from(slots.iter().sum::<u32>()) / 64.0;
            let chi_squared: f64 = slots.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            // 63 degrees of freedom: 120 is exceeded by chance once in 50,000 times.
            assert!(chi_squared < 120.0, "seed {seed}: chi-squared {chi_squared}");
        }
    }

    #[test]
    fn another_seed_is_another_hash() {
        assert_ne!(FlowHash::from_seed(1).hash([1], 2), FlowHash::from_seed(2).hash([1], 2));
    }

    /// Guards the definition itself: a change of it would move every flow of every deployment.
    #[test]
    fn is_what_it_always_was() {
        let flow_hash = FlowHash::from_seed(7);
        assert_eq!(flow_hash.hash([u32::from_ne_bytes([192, 0, 2, 1])], 40_000), PINNED_V4);
        assert_eq!(flow_hash.hash([1, 2, 3, 4], 40_000), PINNED_V6);
    }

    const PINNED_V4: u32 = 1_844_712_794;
    const PINNED_V6: u32 = 1_215_786_135;
}
