//! The question and the answer of `clb explain`, as JSON.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A packet that a client might send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client.
    pub from: SocketAddr,
    /// The VIP, or any other address.
    pub to: SocketAddr,
    /// How many bytes the segment or datagram carries.
    pub payload: u16,
}

/// What becomes of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet.
    pub packet: Question,
    /// The end of its way.
    pub ending: Ending,
    /// Why it is dropped: a drop reason.
    pub reason: Option<String>,
    /// What that means.
    pub help: Option<String>,
    /// The name of the listener that it is for.
    pub listener: Option<String>,
    /// That listener's forwarding mode.
    pub mode: Option<String>,
    /// Its slot, from 0.
    pub slot: Option<u32>,
    /// Slots of the listener's table.
    pub slots: Option<u32>,
    /// The backend that gets it, or would.
    pub backend: Option<BoundBackend>,
    /// The headers of the frame that is sent, from the outside to the inside.
    pub headers: Vec<String>,
}

/// The end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// To the host's own network stack, as it came.
    Passed,
    /// To a backend.
    Sent,
    /// Nowhere.
    Dropped,
    /// Nowhere, and the sender is told: the frame is that message.
    Answered,
}

/// A backend, as it is bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BoundBackend {
    /// Its private IP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How it is bound: `cvm` or `eni`.
    pub kind: String,
    /// The CVM that has the address.
    pub cvm: String,
    /// Its weight.
    pub weight: u8,
    /// Neighbour, MAC address and interface; or why packets do not reach it.
    pub next_hop: String,
}
