//! Waiting until drained backends are empty: progress on a terminal, a line a change elsewhere.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use anyhow::bail;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep};

use super::{drain::render_left, tell};
use crate::{
    api::{self, BackendStatus, FlowsLeft, LeavingStatus, Status},
    drain::Drain,
    slots::BackendId,
};

/// How the waiting ended.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// Whether no flow is left.
    pub is_empty: bool,
    /// How long it took.
    pub seconds: f64,
    /// How many are known to be left.
    pub flows: u64,
}

/// Asks the agent on this socket until no flow of these backends is left, or the time is over.
pub async fn until_empty(socket: &Path, drain: Drain, timeout: Option<Duration>) -> anyhow::Result<Waited> {
    let started = Instant::now();
    let mut shown = Shown::new(drain);
    loop {
        let status = api::status(socket).await?;
        if !is_drained(&status, drain) {
            bail!("{drain} is not drained any more\nhelp: somebody else ended it with `clb undrain`");
        }
        let left = left(&status, drain);
        let seconds = started.elapsed().as_secs_f64();
        if left.is_empty || timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
            return Ok(Waited { is_empty: left.is_empty, seconds, flows: left.flows });
        }
        shown.show(&left);
        sleep(PAUSE).await;
    }
}

fn is_drained(status: &Status, drain: Drain) -> bool {
    status.drains.iter().any(|of| of.address == drain.address && (of.port.is_none() || of.port == drain.port))
}

/// What is left at all of these backends, also at those that were unbound meanwhile.
fn left(status: &Status, drain: Drain) -> FlowsLeft {
    let covers = |address, port| drain.covers(BackendId { address, port });
    let bound = status.listeners.iter().flat_map(|listener| &listener.backends);
    let bound = bound.filter(|of| covers(of.address, of.port)).map(|BackendStatus { left, .. }| *left);
    let leaving = status.listeners.iter().flat_map(|listener| &listener.leaving);
    let leaving = leaving.filter(|of| covers(of.address, of.port));
    let leaving =
        leaving.map(|LeavingStatus { pins, .. }| FlowsLeft { flows: *pins, drain_seconds: None, is_empty: false });
    bound.chain(leaving).fold(FlowsLeft { is_empty: true, ..FlowsLeft::default() }, |sum, one| FlowsLeft {
        flows: sum.flows + one.flows,
        drain_seconds: [sum.drain_seconds, one.drain_seconds].into_iter().flatten().reduce(f64::max),
        is_empty: sum.is_empty && one.is_empty,
    })
}

/// What the person who waits sees.
struct Shown {
    drain: Drain,
    spinner: Option<ProgressBar>,
    last: Option<(u64, bool)>,
}

impl Shown {
    fn new(drain: Drain) -> Self {
        let spinner = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        Self { drain, spinner, last: None }
    }

    fn show(&mut self, left: &FlowsLeft) {
        let text = format!("{}: {}", self.drain, render_left(left));
        // The time that is left changes all the time.
        let now = (left.flows, left.drain_seconds.is_some());
        match &self.spinner {
            Some(spinner) => {
                spinner.set_message(text);
                spinner.tick();
            }
            None if self.last != Some(now) => tell(&format!("{text}\n")),
            None => {}
        }
        self.last = Some(now);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

const PAUSE: Duration = Duration::from_millis(500);
