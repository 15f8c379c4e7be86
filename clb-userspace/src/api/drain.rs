//! The answer to `clb drain` and `clb undrain`, as JSON. The question is a [`Drain`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::drain::Drain;

/// What is drained now, or no longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    /// What was asked for.
    pub asked: Drain,
    /// Whether it is drained now.
    pub drained: bool,
    /// Whether that is new.
    pub changed: bool,
    /// The backends that it is, by listener.
    pub backends: Vec<DrainedBackend>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// A backend of a listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainedBackend {
    /// The listener's name.
    pub listener: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The backend's private IP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its part of the listener's slots, from 0 to 1.
    pub share: f64,
    /// What is left there.
    #[serde(flatten)]
    pub left: FlowsLeft,
}

/// The flows of a backend that gets no new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowsLeft {
    /// Flows that are known: pinned to it, or remembered in `full_nat`. While it gets new ones, others are not known.
    pub flows: u64,
    /// How long flows that were not seen yet have to show themselves, in seconds; nothing if none can.
    pub drain_seconds: Option<f64>,
    /// Whether no flow is left, and none can come.
    pub is_empty: bool,
}

/// There is no such backend, and which there are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoBackend(pub String);
