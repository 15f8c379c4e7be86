//! Where outer headers come from: prefixes as they stand in packets, with the bits that vary with the flow.

use clb_common::Address;

use crate::prefix::Prefix;

/// An IPv4 prefix, and the mask of the bits behind it.
pub fn words_v4(prefix: Prefix) -> [u32; 2] {
    let mask = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
    [Address::from(prefix.address()).v4_word(), mask.to_be()]
}

/// The four words of an IPv6 prefix, and the mask for the last of them: of the bits behind the prefix, the last 32 vary.
pub fn words_v6(prefix: Prefix) -> [u32; 5] {
    let mask = u32::MAX.checked_shr(u32::from(prefix.length()).saturating_sub(96)).unwrap_or(0);
    let Address([a, b, c, d]) = prefix.address().into();
    [a, b, c, d, mask.to_be()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_behind_the_prefix_vary() {
        let word = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
        let v4 = |text: &str| words_v4(text.parse().unwrap());
        let v6 = |text: &str| words_v6(text.parse().unwrap());
        assert_eq!(v4("172.16.0.0/16"), [word([172, 16, 0, 0]), word([0, 0, 255, 255])]);
        assert_eq!(v4("10.0.0.0/8"), [word([10, 0, 0, 0]), word([0, 255, 255, 255])]);
        assert_eq!(v4("192.0.2.1/32"), [word([192, 0, 2, 1]), 0]);
        let first = word([1, 0, 0, 0]);
        assert_eq!(v6("100::/64"), [first, 0, 0, 0, u32::MAX]);
        assert_eq!(v6("100::/112"), [first, 0, 0, 0, word([0, 0, 255, 255])]);
        assert_eq!(v6("100::1/128"), [first, 0, 0, word([0, 0, 0, 1]), 0]);
    }
}
