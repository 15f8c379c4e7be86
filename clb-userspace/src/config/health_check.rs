//! How the backends of a listener are checked, as meant, and the two values of it that have a form of their own: which
//! statuses are good ones, and the bytes of a datagram.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Visitor},
};

use super::as_written;

/// How the backends of a listener are checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    #[serde(flatten)]
    pub kind: HealthCheckKind,
    /// From one check to the next.
    #[serde(with = "as_written::duration")]
    pub interval: Duration,
    /// How long an answer may take.
    #[serde(with = "as_written::duration")]
    pub timeout: Duration,
    /// So many good answers in a row make a backend healthy.
    pub healthy: u8,
    /// So many failures in a row make it unhealthy.
    pub unhealthy: u8,
}

/// What a health check asks of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HealthCheckKind {
    /// A TCP connection.
    Tcp,
    /// An HTTP response.
    Http(HttpCheck),
    /// No ICMP error after a UDP datagram, or an answer to it.
    Udp(UdpCheck),
    /// An ICMP echo reply.
    Icmp,
}

/// The `type` of a health check, without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckType {
    /// A TCP connection.
    Tcp,
    /// An HTTP response.
    Http,
    /// A UDP datagram.
    Udp,
    /// An ICMP echo.
    Icmp,
}

/// What an HTTP check asks, and which answer is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpCheck {
    /// How it asks.
    pub method: HttpMethod,
    /// For what it asks.
    pub path: String,
    /// The `Host` header; `None`: the backend's address and port.
    pub host: Option<String>,
    /// The good statuses.
    pub status: Statuses,
}

/// A method that changes nothing on the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HttpMethod {
    /// The whole page; its body is not read.
    #[default]
    #[serde(rename = "GET")]
    Get,
    /// Its head only.
    #[serde(rename = "HEAD")]
    Head,
}

/// What a UDP check sends, and which answer is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UdpCheck {
    /// The datagram.
    pub send: Payload,
    /// What the answer has to contain; `None`: silence is good too.
    pub expect: Option<Payload>,
}

/// The HTTP statuses from one to another: `200-399`, or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Statuses {
    first: u16,
    last: u16,
}

impl Statuses {
    /// Those of a page that is there, or elsewhere.
    pub const DEFAULT: Self = Self { first: 200, last: 399 };

    /// Whether this is one of them.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }

    fn new(first: u64, last: u64) -> Option<Self> {
        const POSSIBLE: RangeInclusive<u64> = 100..=599;
        let is_possible = POSSIBLE.contains(&first) && POSSIBLE.contains(&last) && first <= last;
        is_possible.then_some(Self { first: first as u16, last: last as u16 })
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (first, last) if first == last => write!(formatter, "{first}"),
            (first, last) => write!(formatter, "{first}-{last}"),
        }
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'d> Deserialize<'d> for Statuses {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Statuses;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a status or two with a dash between them")
            }

            fn visit_u64<E: serde::de::Error>(self, status: u64) -> Result<Statuses, E> {
                Statuses::new(status, status).ok_or_else(|| E::custom("not a status"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Statuses, E> {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                let number = |digits: &str| if digits.len() == 3 { digits.parse().ok() } else { None };
                let range = number(first).zip(number(last)).and_then(|(first, last)| Statuses::new(first, last));
                range.ok_or_else(|| E::custom("not statuses"))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// Bytes, written as text with the escapes `\n`, `\r`, `\t`, `\0`, `\\`, `\'`, `\"` and `\xHH`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Payload(Vec<u8>);

impl Payload {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why a text is no payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPayload {
    /// A backslash with something else behind it.
    #[error("`\\{0}` is no escape")]
    Escape(String),
    /// A datagram of that length may be fragmented on its way.
    #[error("it has {0} bytes, more than {MAX_PAYLOAD}")]
    TooLong(usize),
}

/// Fits every path, with room for the headers.
pub const MAX_PAYLOAD: usize = 512;

impl FromStr for Payload {
    type Err = NotAPayload;

    fn from_str(text: &str) -> Result<Self, NotAPayload> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((plain, escape)) = rest.split_once('\\') {
            bytes.extend_from_slice(plain.as_bytes());
            let mut characters = escape.chars();
            let byte = match characters.next() {
                Some('n') => b'\n',
                Some('r') => b'\r',
                Some('t') => b'\t',
                Some('0') => 0,
                Some(character @ ('\\' | '\'' | '"')) => character as u8,
                Some('x') => {
                    let digits = characters
                        .as_str()
                        .get(..2)
                        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    let Some(byte) = byte else { return Err(NotAPayload::Escape(escape.chars().take(3).collect())) };
                    characters = characters.as_str()[2..].chars();
                    byte
                }
                other => return Err(NotAPayload::Escape(other.into_iter().collect())),
            };
            bytes.push(byte);
            rest = characters.as_str();
        }
        bytes.extend_from_slice(rest.as_bytes());
        if bytes.len() > MAX_PAYLOAD { Err(NotAPayload::TooLong(bytes.len())) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{self}\"")
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'d> Deserialize<'d> for Payload {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_and_written_back() {
        type Wanted = Result<&'static [u8], NotAPayload>;
        let cases: [(&str, &str, Wanted); 8] = [
            ("plain text", "PING", Ok(b"PING")),
            ("every escape", r#"\n\r\t\0\\\'\"\x00\xfF"#, Ok(b"\n\r\t\0\\'\"\0\xff")),
            ("UTF-8", "é", Ok("é".as_bytes())),
            ("an unknown escape", r"\q", Err(NotAPayload::Escape("q".into()))),
            ("an escape without its end", r"a\", Err(NotAPayload::Escape(String::new()))),
            ("one digit", r"\x1", Err(NotAPayload::Escape("x1".into()))),
            ("digits that are none", r"\x+1", Err(NotAPayload::Escape("x+1".into()))),
            ("a character across the digits", r"\x1é", Err(NotAPayload::Escape("x1é".into()))),
        ];
        for (name, text, wanted) in cases {
            let payload = text.parse::<Payload>();
            assert_eq!(payload.as_ref().map(Payload::as_bytes).map_err(Clone::clone), wanted, "{name}");
            if let Ok(payload) = payload {
                assert_eq!(payload.to_string().parse(), Ok(payload), "{name}, written back");
            }
        }
        assert_eq!("x".repeat(513).parse::<Payload>(), Err(NotAPayload::TooLong(513)));
    }

    #[test]
    fn a_check_is_the_same_after_a_way_through_json() {
        let http = HttpCheck {
            method: HttpMethod::Head,
            path: "/health?full".into(),
            host: Some("shop.example".into()),
            status: Statuses { first: 200, last: 204 },
        };
        let udp = UdpCheck { send: Payload(b"\xff\0".into()), expect: Some(Payload(b"ok".into())) };
        for kind in
            [HealthCheckKind::Tcp, HealthCheckKind::Icmp, HealthCheckKind::Http(http), HealthCheckKind::Udp(udp)]
        {
            let seconds = Duration::from_secs;
            let check = HealthCheck { kind, interval: seconds(5), timeout: seconds(2), healthy: 2, unhealthy: 3 };
            let json = serde_json::to_string(&check).expect("JSON");
            assert_eq!(serde_json::from_str::<HealthCheck>(&json).expect(&json), check, "{json}");
        }
    }
}
