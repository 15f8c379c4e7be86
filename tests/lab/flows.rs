//! Real clients on a host: many flows to one listener, each from an (address, port) of its own.
//!
//! What must stay true: a flow is tried once. An answer that is late, missing, or of another flow is a failure; in UDP
//! nothing is sent again, so one lost datagram shows.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime, time,
};

use crate::{
    Host, Protocol,
    servers::{bind_udp, tcp_socket},
};

/// Flows to open.
#[derive(Clone, Debug)]
pub struct Flows {
    /// Where to.
    pub target: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// The client's addresses, of the target's family, used in turn.
    pub sources: Vec<IpAddr>,
    /// How many, at most [`Flows::most`].
    pub count: u32,
}

/// What became of the flows.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many were answered by each server, by its identity.
    pub answers: BTreeMap<String, u64>,
    /// How many failed, by what happened.
    pub failures: BTreeMap<String, u64>,
    /// From the first flow to the last.
    pub elapsed: Duration,
}

impl Outcome {
    /// How many flows failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

impl Flows {
    /// How many flows so many client addresses are good for.
    pub const fn most(addresses: u32) -> u32 {
        addresses * (u16::MAX - FIRST_PORT + 1) as u32
    }

    /// Opens them from this host, a bounded number at a time; calls `done` after each. After fifty failures it gives the
    /// rest up.
    pub fn run(&self, host: &Host, mut done: impl FnMut() + Send) -> Result<Outcome> {
        host.enter(|| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
            let started = Instant::now();
            let mut outcome = runtime.block_on(async {
                let mut outcome = Outcome::default();
                let mut flows = stream::iter(0..self.count).map(|number| self.flow(number)).buffer_unordered(AT_A_TIME);
                while let Some(flow) = flows.next().await {
                    let (count, key) = match flow {
                        Ok(identity) => (&mut outcome.answers, identity),
                        Err(error) => (&mut outcome.failures, error.to_string()),
                    };
                    *count.entry(key).or_default() += 1;
                    done();
                    if outcome.failed() >= MOST_FAILURES {
                        break;
                    }
                }
                outcome
            });
            outcome.elapsed = started.elapsed();
            Ok(outcome)
        })?
    }

    async fn flow(&self, number: u32) -> io::Result<String> {
        let request = format!("flow {number}\n");
        let source = self.source(number);
        let answer = match self.protocol {
            Protocol::Tcp => time::timeout(DEADLINE, self.connection(source, &request)).await,
            Protocol::Udp => time::timeout(DEADLINE, self.datagram(source, &request)).await,
        };
        let answer = answer.map_err(|_| io::Error::other(format!("no answer within {} s", DEADLINE.as_secs())))??;
        let identity = answer.strip_suffix(&request).and_then(|identity| identity.strip_suffix(": "));
        identity.map(str::to_owned).ok_or_else(|| io::Error::other("the answer is of another flow, or cut short"))
    }

    /// Every (address, port) is used once for a target, so flows are distinct and none waits for an old one's end.
    fn source(&self, number: u32) -> SocketAddr {
        let addresses = self.sources.len() as u32;
        let address = self.sources[(number % addresses) as usize];
        (address, FIRST_PORT + (number / addresses) as u16).into()
    }

    async fn connection(&self, source: SocketAddr, request: &str) -> io::Result<String> {
        let socket = tcp_socket(source)?;
        socket.bind(source)?;
        let mut connection = socket.connect(self.target).await?;
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn datagram(&self, source: SocketAddr, request: &str) -> io::Result<String> {
        let socket = bind_udp(source)?;
        socket.connect(self.target).await?;
        socket.send(request.as_bytes()).await?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

/// Fewer than the 256 frames that a veth end queues, with room for a TCP connection's several packets.
const AT_A_TIME: usize = 48;

/// A listener that does not work costs some seconds, not minutes.
const MOST_FAILURES: u64 = 50;

const DEADLINE: Duration = Duration::from_secs(3);

const FIRST_PORT: u16 = 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_flow_has_a_source_of_its_own() {
        let sources: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse().unwrap()).into();
        let count = Flows::most(3);
        let flows = Flows { target: ([192, 0, 2, 9], 80).into(), protocol: Protocol::Tcp, sources, count };
        let distinct: HashSet<_> = (0..count).map(|number| flows.source(number)).collect();
        assert_eq!(distinct.len(), count as usize);
        assert!(distinct.iter().all(|source| source.port() >= FIRST_PORT));
    }
}
