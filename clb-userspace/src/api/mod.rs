//! The agent's API: HTTP and JSON over a Unix socket that only its owner may open, for the commands that ask it, and metrics
//! and health over TCP for monitoring, if it is told to.
//!
//! The agent's side turns a request into an event of its loop and waits for the answer; it decides nothing itself. A client
//! that sends garbage, or nothing, costs one task and no more. Paths begin with the version: what is there keeps its
//! meaning, and answers may get further fields.

mod client;
mod connections;
mod drain;
mod explanation;
mod reload;
mod routes;
mod server;
mod status;

use tokio::sync::oneshot;

pub use self::{
    client::{apply, config, drain, explain, status, undrain},
    drain::{Drained, DrainedBackend, FlowsLeft, NoBackend},
    explanation::{BoundBackend, Ending, Explanation, Question},
    reload::{Applied, Proposal, Refusal, Terms, Text},
    routes::{ROUTES, Route},
    server::{Server, bind, bind_metrics},
    status::{
        AgentStatus, BackendStatus, DrainStatus, HealthStatus, InterfaceStatus, LeavingStatus, ListenerStatus,
        NextHopState, NextHopStatus, ReloadStatus, Status,
    },
};

use crate::{config::Config, drain::Drain};

/// What a command asks of the running agent.
#[derive(Debug)]
pub enum Request {
    /// What is balanced, and the counters.
    Status(oneshot::Sender<anyhow::Result<Status>>),
    /// The configuration in force.
    Config(oneshot::Sender<anyhow::Result<Config>>),
    /// What would become of a packet.
    Explain(Question, oneshot::Sender<anyhow::Result<Explanation>>),
    /// Another configuration is to be in force.
    Apply(Proposal, oneshot::Sender<Result<Applied, Refusal>>),
    /// Backends are to get no new flows.
    Drain(Drain, oneshot::Sender<anyhow::Result<Result<Drained, NoBackend>>>),
    /// They are to get their share again.
    Undrain(Drain, oneshot::Sender<anyhow::Result<Result<Drained, NoBackend>>>),
}

/// Whether packets go through the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// Not yet.
    Starting,
    /// On every interface of the configuration.
    Attached,
    /// Not everywhere; why.
    Incomplete(String),
}

const STATUS_PATH: &str = "/v1/status";
const CONFIG_PATH: &str = "/v1/config";
const EXPLAIN_PATH: &str = "/v1/explain";
const APPLY_PATH: &str = "/v1/apply";
const RELOAD_PATH: &str = "/v1/reload";
const DRAIN_PATH: &str = "/v1/drain";
const UNDRAIN_PATH: &str = "/v1/undrain";
const METRICS_PATH: &str = "/v1/metrics";
