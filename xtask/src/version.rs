//! Versions as far as they decide something here: the first two numbers. Debian, rustup and crates.io each append their
//! own tail (`1.96.0+dfsg1-1~deb12u2`, `1.97.0-nightly`), which never does.

use std::fmt;

/// The first two numbers of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Reads the version that `text` begins with.
    pub fn at_start_of(text: &str) -> Option<Self> {
        let (major, rest) = leading_number(text)?;
        let (minor, _) = leading_number(rest.strip_prefix('.')?)?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The number that `text` begins with, and what follows it.
pub fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_numbers_are_read() {
        let cases = [
            ("Debian's", "1.96.0+dfsg1-1~deb12u2", Some((1, 96))),
            ("a nightly's", "1.97.0-nightly", Some((1, 97))),
            ("two numbers alone", "1.95", Some((1, 95))),
            ("an absent candidate", "(none)", None),
            ("one number", "22", None),
        ];
        for (name, text, expected) in cases {
            assert_eq!(Version::at_start_of(text).map(|version| (version.major, version.minor)), expected, "{name}");
        }
    }

    #[test]
    fn minor_versions_compare_as_numbers() {
        assert!(Version::at_start_of("1.100.0") > Version::at_start_of("1.95.0"));
    }
}
