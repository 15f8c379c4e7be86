//! The answer to `clb status`, as JSON.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::FlowsLeft;
use crate::health::{Counts, Verdict};

/// What an agent balances, and its counters at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The load balancer's id.
    pub load_balancer: String,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets that were none of clb's business.
    pub passed: u64,
    /// Echo requests to VIPs that clb answered itself.
    pub answered: u64,
    /// Flows that `full_nat` remembers.
    pub flows: u64,
    /// Flows that are pinned to their backend, since their slot has another owner.
    pub pins: u64,
    /// Addresses that backends see in `full_nat`.
    pub source_addresses: usize,
    /// What else happened, and how often.
    pub events: BTreeMap<String, u64>,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// By VIP, protocol and port.
    pub listeners: Vec<ListenerStatus>,
    /// What was drained by a person.
    pub drains: Vec<DrainStatus>,
    /// The agent itself.
    pub agent: AgentStatus,
    /// What became of its configuration.
    pub reloads: ReloadStatus,
    /// What the checks of all backends came to since the agent began to serve.
    pub health: Counts,
}

/// What was drained by a person.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DrainStatus {
    /// The private IP.
    pub address: IpAddr,
    /// Its port; nothing for every one.
    pub port: Option<u16>,
    /// Of how many backends that is; of none if all of them were unbound since.
    pub backends: usize,
}

/// The agent itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// The release of the kernel.
    pub kernel: String,
    /// When it began to serve, in seconds since 1970.
    pub started: f64,
}

/// What became of the agent's configuration since it began to serve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// The file that SIGHUP reads.
    pub file: String,
    /// Where the configuration in force came from: that file, or what was applied instead.
    pub in_force: String,
    /// How often another configuration was taken.
    pub taken: u64,
    /// How often it was refused.
    pub refused: u64,
    /// When that was last tried, in seconds since 1970; 0 if never.
    pub last: f64,
    /// How long it took, in seconds.
    pub last_seconds: f64,
    /// Why it was refused, if it was.
    pub last_refused_because: Option<String>,
}

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`; `none` if the program is not on it.
    pub mode: String,
    /// Why it is that mode.
    pub reason: String,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The address that clients connect to.
    pub vip: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The port that clients connect to.
    pub port: u16,
    /// The forwarding mode.
    pub mode: String,
    /// Packets from clients, whatever became of them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Slots with another owner, whose old flows have time to show themselves.
    pub moving_slots: u32,
    /// Slots with another owner, whose old flows are pinned.
    pub settling_slots: u32,
    /// By address and port.
    pub backends: Vec<BackendStatus>,
    /// Backends that are bound no more, while flows may lead to them.
    pub leaving: Vec<LeavingStatus>,
}

/// A backend that is bound no more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeavingStatus {
    /// Its private IP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Packets sent to it.
    pub packets: u64,
    /// Flows that are pinned to it.
    pub pins: u64,
}

/// One backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
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
    /// Its part of the listener's slots, from 0 to 1.
    pub share: f64,
    /// Packets sent to it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its replies sent to clients, in `nat`.
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
    /// Flows that are pinned to it.
    pub pins: u64,
    /// Whether it gets no new flows, as a person asked.
    pub drained: bool,
    /// What is left there if it gets no new flows, whatever the reason.
    #[serde(flatten)]
    pub left: FlowsLeft,
    /// How packets reach it.
    pub next_hop: NextHopStatus,
    /// What its checks say; nothing if it has none.
    pub health: Option<HealthStatus>,
}

/// What the checks of a backend say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthStatus {
    /// `healthy`, `unhealthy`, or `unknown`, which counts as healthy.
    pub verdict: Verdict,
    /// When it became that, in seconds since 1970; 0 if it never was another.
    pub since: f64,
    /// Why the last check that failed did.
    pub cause: Option<String>,
    /// Whether it stays unhealthy for changing too often.
    pub is_flapping: bool,
    /// How often the verdict changed.
    pub changes: u64,
    /// How long the last check took, in seconds; nothing before the first.
    pub last_seconds: Option<f64>,
    /// Why the agent could not make the last check, which says nothing of the backend.
    pub not_asked: Option<String>,
}

/// How packets reach a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NextHopStatus {
    /// Whether they can.
    pub state: NextHopState,
    /// Neighbour, MAC address and interface; or why not.
    pub detail: String,
}

/// Whether a next hop can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NextHopState {
    /// Its MAC address is known.
    Resolved,
    /// Packets are dropped and counted until it is.
    Unresolved,
}
