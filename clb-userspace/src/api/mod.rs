//! The socket between a running agent and the commands that ask it: HTTP and JSON over a Unix socket that only its owner
//! may open.
//!
//! The agent's side turns a request into an event of its loop and waits for the answer; it decides nothing itself. A client
//! that sends garbage, or nothing, costs one task and no more.

mod client;
mod explanation;
mod server;
mod status;

use tokio::sync::oneshot;

pub use self::{
    client::{config, explain, status},
    explanation::{BoundBackend, Ending, Explanation, Question},
    server::{Server, bind},
    status::{BackendStatus, InterfaceStatus, ListenerStatus, NextHopState, NextHopStatus, Status},
};

use crate::config::Config;

/// What a command asks of the running agent.
#[derive(Debug)]
pub enum Request {
    /// What is balanced, and the counters.
    Status(oneshot::Sender<anyhow::Result<Status>>),
    /// The configuration in force.
    Config(oneshot::Sender<anyhow::Result<Config>>),
    /// What would become of a packet.
    Explain(Question, oneshot::Sender<anyhow::Result<Explanation>>),
}

const STATUS_PATH: &str = "/v1/status";
const CONFIG_PATH: &str = "/v1/config";
const EXPLAIN_PATH: &str = "/v1/explain";
