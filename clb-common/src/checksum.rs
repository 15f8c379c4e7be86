//! The Internet checksum (RFC 1071), patched rather than computed again (RFC 1624, equation 3).
//!
//! All words are as loaded from the packet: one's complement sums do not depend on byte order (RFC 1071, section 2B).

/// What replacing words of a packet does to its checksum. One change serves the IP header and the transport header,
/// whose pseudo-header holds the same addresses.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Change(u64);

impl Change {
    /// Adds: a 32-bit word at an even offset was `old` and is now `new`.
    #[inline(always)]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Adds: a 16-bit word was `old` and is now `new`.
    #[inline(always)]
    pub const fn half_word(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Both changes.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }

    /// The checksum after a change that may leave nothing but zeros, whose checksum is all ones. Of anything else, all ones
    /// is as right as 0.
    #[inline(always)]
    pub const fn apply_to_any(self, checksum: u16) -> u16 {
        match self.apply(checksum) {
            0 => 0xffff,
            patched => patched,
        }
    }

    /// The UDP checksum after the change: 0 says that there is none and stays (RFC 768, RFC 6935), and a computed 0 is
    /// sent as all ones.
    #[inline(always)]
    pub const fn apply_to_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        self.apply_to_any(checksum)
    }
}

/// A sum of words, on the way to a checksum that nobody computed before.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// Adds a 32-bit word at an even offset.
    #[inline(always)]
    pub const fn word(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds a 16-bit word at an even offset.
    #[inline(always)]
    pub const fn half_word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes a 32-bit word away.
    #[inline(always)]
    pub const fn without_word(self, word: u32) -> Self {
        self.word(!word)
    }

    /// Takes a 16-bit word away.
    #[inline(always)]
    pub const fn without_half_word(self, word: u16) -> Self {
        self.half_word(!word)
    }

    /// The checksum of what was added.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// The same for UDP, which sends a computed 0 as all ones (RFC 768).
    #[inline(always)]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// Folds a sum of words into 16 bits, with end-around carry.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // Twenty words sum to less than 2^37, so: < 2^32 + 2^5, < 2^17, < 2^16 + 2, and then it fits.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition (RFC 1071): the complement of the one's complement sum of all words.
    fn recomputed(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&word| u32::from(word)).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    fn as_word(halves: [u16; 2]) -> u32 {
        let ([a, b], [c, d]) = (halves[0].to_ne_bytes(), halves[1].to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    proptest! {
        #[test]
        fn a_patched_checksum_equals_a_recomputed_one(
            // A header is never all zero: its version field is not.
            first in 1..=u16::MAX,
            mut words in prop::array::uniform20(any::<u16>()),
            replacement in prop::array::uniform20(any::<u16>()),
        ) {
            words[0] = first;
            let before = recomputed(&words);
            let mut change = Change::default();
            for pair in (2..18).step_by(2) {
                change = change.word(
                    as_word([words[pair], words[pair + 1]]),
                    as_word([replacement[pair], replacement[pair + 1]]),
                );
                words[pair] = replacement[pair];
                words[pair + 1] = replacement[pair + 1];
            }
            change = change.half_word(words[19], replacement[19]);
            words[19] = replacement[19];
            prop_assert_eq!(change.apply(before), recomputed(&words));
        }

        #[test]
        fn a_udp_checksum_is_never_patched_to_none(old: u16, new: u16, checksum in 1..=u16::MAX) {
            prop_assert_ne!(Change::default().half_word(old, new).apply_to_udp(checksum), 0);
        }
    }

    #[test]
    fn no_udp_checksum_stays_none() {
        assert_eq!(Change::default().word(1, 2).apply_to_udp(0), 0);
    }

    /// RFC 1624, section 4: the case that equation 2 gets wrong.
    #[test]
    fn the_example_of_rfc_1624() {
        assert_eq!(Change::default().half_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }
}
