//! Blocks of addresses, as routes and the configuration have them: `10.0.0.0/8`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A block of addresses. The bits after its length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of this length that holds the address; a length beyond the address's own is that of the address.
    pub fn new(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        };
        Self { address, length }
    }

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: bits(address) }
    }

    /// Its first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many leading bits its addresses share.
    pub fn length(self) -> u8 {
        self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let (address, length) = text.split_once('/').ok_or(NotAPrefix::Other)?;
        let address: IpAddr = address.parse().map_err(|_| NotAPrefix::Other)?;
        let is_short = |length: &u8| *length <= bits(address);
        let length = length.parse().ok().filter(is_short).ok_or(NotAPrefix::Other)?;
        let prefix = Self::new(address, length);
        if prefix.address == address { Ok(prefix) } else { Err(NotAPrefix::InTheMiddle { block: prefix }) }
    }
}

/// Why a text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPrefix {
    /// The address is not the first one of its block.
    #[error("the block begins with {}: write {block}", block.address())]
    InTheMiddle {
        /// The block that it is in.
        block: Prefix,
    },
    /// It does not look like one.
    #[error("write an address and a length, such as 172.16.0.0/16 or 100::/64")]
    Other,
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'d> Deserialize<'d> for Prefix {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_no_bits_after_its_length() {
        let cases = [
            ("0.0.0.0/0", "203.0.113.9", 0, "0.0.0.0", 0),
            ("in the middle of a byte", "203.0.113.255", 28, "203.0.113.240", 28),
            ("one address", "203.0.113.9", 32, "203.0.113.9", 32),
            ("longer than an address", "203.0.113.9", 64, "203.0.113.9", 32),
            ("::/0", "2001:db8::1", 0, "::", 0),
            ("an IPv6 link", "2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::", 64),
            ("one IPv6 address", "2001:db8::1", 128, "2001:db8::1", 128),
        ];
        for (name, address, length, expected, expected_length) in cases {
            let prefix = Prefix::new(address.parse().unwrap(), length);
            assert_eq!((prefix.address().to_string().as_str(), prefix.length()), (expected, expected_length), "{name}");
        }
    }

    #[test]
    fn a_text_is_a_prefix_or_says_why_not() {
        let cases = [
            ("172.16.0.0/16", Ok(("172.16.0.0", 16))),
            ("100::/64", Ok(("100::", 64))),
            ("10.0.0.1/32", Ok(("10.0.0.1", 32))),
            (
                "172.16.5.0/16",
                Err(NotAPrefix::InTheMiddle { block: Prefix::new(Ipv4Addr::new(172, 16, 0, 0).into(), 16) }),
            ),
            ("172.16.0.0", Err(NotAPrefix::Other)),
            ("172.16.0.0/33", Err(NotAPrefix::Other)),
            ("172.16/16", Err(NotAPrefix::Other)),
            ("/16", Err(NotAPrefix::Other)),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(address, length)| Prefix::new(address.parse().unwrap(), length));
            assert_eq!(text.parse(), expected, "{text}");
            assert!(expected.is_err() || expected.unwrap().to_string() == text, "{text}");
        }
    }
}
