//! What came of the traffic: shares against weights, the program's counters against the answers, and a verdict.

use std::{fmt, net::IpAddr};

use clb_tests::{BackendStatus, Outcome, Protocol, Status};
use comfy_table::{Cell, CellAlignment, ColumnConstraint, Table, Width, presets};
use serde::Serialize;

use crate::{
    chance::{self, SIGNIFICANCE, real},
    cloud::{Backend, Cloud, Kind, Listener, Mode},
};

/// The result of the demo. Its `Display` is a table for each listener.
#[derive(Debug, Serialize)]
pub struct Report {
    pass: bool,
    listeners: Vec<ListenerReport>,
}

#[derive(Debug, Serialize)]
struct ListenerReport {
    name: String,
    vip: IpAddr,
    protocol: Protocol,
    port: u16,
    mode: Mode,
    connections: u64,
    failed: u64,
    /// How often chance alone is at least so far from the weights; nothing if nobody answered.
    p_value: Option<f64>,
    /// Why it fails; empty if it does not.
    problems: Vec<String>,
    backends: Vec<BackendReport>,
}

#[derive(Debug, Serialize)]
struct BackendReport {
    address: IpAddr,
    port: u16,
    kind: Kind,
    #[serde(skip)]
    bound: String,
    weight: u32,
    expected_share: f64,
    measured_share: f64,
    answers: u64,
    packets: u64,
    reply_packets: u64,
}

impl Report {
    /// Judges outcomes that are in the order of the cloud's listeners.
    pub fn new(cloud: &Cloud, outcomes: &[Outcome], status: &Status) -> Self {
        let pairs = cloud.listeners.iter().zip(outcomes);
        let listeners: Vec<_> =
            pairs.map(|(listener, outcome)| ListenerReport::new(listener, outcome, status)).collect();
        Self { pass: listeners.iter().all(|listener| listener.problems.is_empty()), listeners }
    }

    pub fn is_pass(&self) -> bool {
        self.pass
    }

    /// The last line: pass or fail, and why.
    pub fn conclusion(&self) -> String {
        let of = |protocol| -> u64 {
            let fitting = self.listeners.iter().filter(|listener| listener.protocol == protocol);
            fitting.map(|listener| listener.connections).sum()
        };
        let (tcp, udp) = (of(Protocol::Tcp), of(Protocol::Udp));
        if self.pass {
            return format!(
                "PASS: {tcp} TCP connections and {udp} UDP flows, each answered by a backend of its listener;\n      \
                 every share is what its weight says (chi-squared test at {} %)",
                SIGNIFICANCE * 100.0
            );
        }
        let failed = self.listeners.iter().filter(|listener| !listener.problems.is_empty());
        let reasons: Vec<_> = failed.map(|listener| format!("{}: {}", listener.name, listener.problems[0])).collect();
        format!("FAIL: {}", reasons.join("\n      "))
    }
}

impl ListenerReport {
    fn new(listener: &Listener, outcome: &Outcome, status: &Status) -> Self {
        let answered: u64 = outcome.answers.values().sum();
        let total_weight: u32 = listener.backends.iter().map(|backend| backend.weight).sum();
        let backends: Vec<_> = listener
            .backends
            .iter()
            .map(|backend| {
                let Backend { address, port, weight, kind, ref bound, .. } = *backend;
                let answers = outcome.answers.get(&address.to_string()).copied().unwrap_or_default();
                let counted = status.backend(&listener.name, &address.to_string());
                let &BackendStatus { packets, reply_packets, .. } = counted.unwrap_or(&BackendStatus::default());
                BackendReport {
                    address,
                    port,
                    kind,
                    bound: bound.clone(),
                    weight,
                    expected_share: share(weight.into(), total_weight.into()),
                    measured_share: share(answers, answered),
                    answers,
                    packets,
                    reply_packets,
                }
            })
            .collect();
        let observed: Vec<_> = backends.iter().map(|backend| backend.answers).collect();
        let weights: Vec<_> = backends.iter().map(|backend| backend.weight).collect();
        let Listener { name, vip, protocol, port, mode, .. } = listener;
        let mut report = Self {
            name: name.clone(),
            vip: *vip,
            protocol: *protocol,
            port: *port,
            mode: *mode,
            connections: answered + outcome.failed(),
            failed: outcome.failed(),
            p_value: chance::p_value(&observed, &weights),
            problems: Vec::new(),
            backends,
        };
        report.problems = report.judge(outcome);
        report
    }

    fn judge(&self, outcome: &Outcome) -> Vec<String> {
        let mut problems: Vec<String> = Vec::new();
        for (failure, count) in &outcome.failures {
            problems.push(format!("{count} of {} failed: {failure}", self.connections));
        }
        for (identity, count) in &outcome.answers {
            if !self.backends.iter().any(|backend| backend.address.to_string() == *identity) {
                problems.push(format!("{count} answers came from {identity}, which is no backend of it"));
            }
        }
        if let Some(p_value) = self.p_value.filter(|&p_value| p_value < SIGNIFICANCE) {
            problems.push(format!("the shares are not what the weights say (chi-squared p = {p_value:.1e})"));
        }
        problems.extend(self.backends.iter().filter_map(|backend| self.judge_counters(backend)));
        problems
    }

    /// Counters and answers must agree. A datagram is one packet each way; a connection's handshake, line and end are at
    /// least four packets there and two back.
    fn judge_counters(&self, backend: &BackendReport) -> Option<String> {
        let agrees = |packets: u64, least_of_connection: u64| match self.protocol {
            Protocol::Tcp => packets >= backend.answers * least_of_connection,
            Protocol::Udp if self.failed == 0 => packets == backend.answers,
            Protocol::Udp => packets >= backend.answers,
        };
        let BackendReport { address, answers, packets, reply_packets, .. } = backend;
        if !agrees(*packets, 4) {
            return Some(format!("{address} answered {answers} times, but clb counted {packets} packets to it"));
        }
        let replies_agree = match self.mode {
            Mode::Dsr => *reply_packets == 0,
            Mode::Nat => agrees(*reply_packets, 2),
        };
        (!replies_agree).then(|| {
            format!("{address} answered {answers} times, but clb counted {reply_packets} packets back from it")
        })
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { real(part) / real(whole) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listeners.iter().try_for_each(|listener| listener.fmt(f))
    }
}

impl fmt::Display for ListenerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, vip, protocol, port, mode, connections, failed, p_value, problems, backends } = self;
        let target = std::net::SocketAddr::from((*vip, *port));
        writeln!(f, "\n{name}: {protocol} {target}, {mode}")?;
        writeln!(f, "{}", table(backends))?;
        let shares = p_value.map_or_else(String::new, |p_value| format!(", chi-squared p = {p_value:.3}"));
        let verdict = if problems.is_empty() { "ok" } else { "FAIL" };
        let flows = match protocol {
            Protocol::Tcp => "connections",
            Protocol::Udp => "flows",
        };
        writeln!(f, "  {verdict}: {connections} {flows}, {failed} failed{shares}")?;
        problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))
    }
}

fn table(backends: &[BackendReport]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let numbers = |cells: [String; 4]| cells.map(|text| Cell::new(text).set_alignment(CellAlignment::Right));
    let header = numbers(["weight", "expected", "measured", "packets"].map(str::to_owned));
    table.set_header([Cell::new("backend"), Cell::new("bound as")].into_iter().chain(header));
    for backend in backends {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let values = numbers([
            backend.weight.to_string(),
            percent(backend.expected_share),
            percent(backend.measured_share),
            backend.packets.to_string(),
        ]);
        table.add_row([Cell::new(backend.address), Cell::new(&backend.bound)].into_iter().chain(values));
    }
    // The same widths in every table, so that the listeners' columns stand below each other.
    let widths = [15, 26, 8, 10, 10, 9];
    table.set_constraints(widths.map(|width| ColumnConstraint::LowerBoundary(Width::Fixed(width))));
    table
}
