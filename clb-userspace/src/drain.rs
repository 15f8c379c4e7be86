//! What a person asks to be drained: a backend by its private IP, with one of its ports or all of them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::slots::BackendId;

/// Backends that shall get no new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Their private IP.
    pub address: IpAddr,
    /// Their port; `None`: every one.
    pub port: Option<u16>,
}

impl Drain {
    /// Whether it is of this backend.
    pub fn covers(self, backend: BackendId) -> bool {
        self.address == backend.address && self.port.is_none_or(|port| port == backend.port)
    }

    /// The same for every port.
    #[must_use]
    pub const fn of_every_port(self) -> Self {
        Self { port: None, ..self }
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(formatter),
            None => self.address.fmt(formatter),
        }
    }
}

/// What was typed is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an address, or an address and a port: 10.0.1.11, 10.0.1.11:80, fd00::11, [fd00::11]:80")]
pub struct NotADrain;

impl FromStr for Drain {
    type Err = NotADrain;

    fn from_str(text: &str) -> Result<Self, NotADrain> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let socket: SocketAddr = text.parse().map_err(|_| NotADrain)?;
        if socket.port() == 0 {
            return Err(NotADrain);
        }
        Ok(Self { address: socket.ip(), port: Some(socket.port()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_address_with_or_without_a_port() {
        for text in ["10.0.1.11", "10.0.1.11:80", "fd00::11", "[fd00::11]:80"] {
            assert_eq!(text.parse::<Drain>().map(|drain| drain.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "web",
            "10.0.1",
            "10.0.1.11:",
            "10.0.1.11:0",
            "10.0.1.11:65536",
            "10.0.1.0/24",
            "[fd00::11]",
            " 10.0.1.11",
        ] {
            assert_eq!(text.parse::<Drain>(), Err(NotADrain), "{text:?}");
        }
    }

    #[test]
    fn it_covers_one_port_or_every_one() {
        let backend = BackendId { address: [10, 0, 1, 11].into(), port: 80 };
        for (text, covers) in
            [("10.0.1.11", true), ("10.0.1.11:80", true), ("10.0.1.11:81", false), ("10.0.1.12", false)]
        {
            assert_eq!(text.parse::<Drain>().unwrap().covers(backend), covers, "{text}");
        }
    }
}
