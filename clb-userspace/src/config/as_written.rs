//! Values of a configuration as JSON, in the words of the file: `300s`, `tcp`.

pub mod duration {
    //! A time with its unit.

    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::super::reader::{Seconds, parse_duration};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Seconds(*duration))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).ok_or_else(|| D::Error::custom("no time with its unit"))
    }
}

pub mod protocol {
    //! A protocol by its name.

    use clb_common::Protocol;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub fn serialize<S: Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(protocol.name())
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Protocol, D::Error> {
        let name = String::deserialize(deserializer)?;
        let is_it = |protocol: &Protocol| protocol.name() == name;
        [Protocol::Tcp, Protocol::Udp].into_iter().find(is_it).ok_or_else(|| D::Error::custom("neither tcp nor udp"))
    }
}
