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
        let mut failing = self.listeners.iter().filter(|listener| !listener.problems.is_empty());
        let Some(first) = failing.next() else {
            return format!("PASS: {tcp} connections and {udp} UDP flows, none failed, every share within chance");
        };
        let others = match failing.count() {
            0 => String::new(),
            count => format!(" (and {count} more listeners)"),
        };
        format!("FAIL: {}: {}{others}", first.name, first.problems[0])
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clb_tests::ListenerStatus;
    use serde_json::json;

    use super::*;

    /// One listener, with the weights 1 and 3.
    fn listener(mode: Mode, protocol: Protocol) -> Listener {
        let backend = |last: u8, weight| Backend {
            address: [10, 0, 0, last].into(),
            port: 80,
            weight,
            kind: Kind::Cvm,
            bound: format!("cvm ins-{last}"),
            cvm: format!("ins-{last}"),
            device: "eth0".to_owned(),
        };
        let vip = [203, 0, 113, 10].into();
        Listener { name: "web".to_owned(), vip, protocol, port: 80, mode, backends: vec![backend(1, 1), backend(2, 3)] }
    }

    fn report(listener: Listener, outcome: Outcome, packets: [u64; 2], replies: [u64; 2]) -> Report {
        let backend = |number: usize| BackendStatus {
            address: format!("10.0.0.{}", number + 1),
            packets: packets[number],
            reply_packets: replies[number],
            ..BackendStatus::default()
        };
        let web =
            ListenerStatus { name: "web".to_owned(), backends: vec![backend(0), backend(1)], ..Default::default() };
        let status = Status { listeners: vec![web], ..Status::default() };
        Report::new(&Cloud { cvms: Vec::new(), listeners: vec![listener] }, &[outcome], &status)
    }

    fn outcome(answers: &[(&str, u64)], failures: &[(&str, u64)]) -> Outcome {
        let owned = |counts: &[(&str, u64)]| counts.iter().map(|&(key, count)| (key.to_owned(), count)).collect();
        Outcome { answers: owned(answers), failures: owned(failures), elapsed: Duration::ZERO }
    }

    #[test]
    fn a_listener_passes_only_if_everything_about_it_is_right() {
        use {Mode::*, Protocol::*};
        struct Case {
            name: &'static str,
            mode: Mode,
            protocol: Protocol,
            answers: &'static [(&'static str, u64)],
            failures: &'static [(&'static str, u64)],
            packets: [u64; 2],
            replies: [u64; 2],
            problem: Option<&'static str>,
        }
        let good = Case {
            name: "TCP by dsr, all well",
            mode: Dsr,
            protocol: Tcp,
            answers: &[("10.0.0.1", 100), ("10.0.0.2", 300)],
            failures: &[],
            packets: [500, 1_500],
            replies: [0, 0],
            problem: None,
        };
        for case in [
            Case { name: "TCP by nat, all well", mode: Nat, replies: [300, 900], ..good },
            Case { name: "UDP by dsr, all well", protocol: Udp, packets: [100, 300], ..good },
            Case {
                name: "UDP by nat, all well",
                mode: Nat,
                protocol: Udp,
                packets: [100, 300],
                replies: [100, 300],
                ..good
            },
            Case {
                name: "one connection failed",
                failures: &[("no answer within 3 s", 1)],
                problem: Some("1 of 401 failed: no answer within 3 s"),
                ..good
            },
            Case {
                name: "an answer of somebody else",
                answers: &[("10.0.0.1", 100), ("10.0.0.2", 300), ("10.0.0.9", 1)],
                problem: Some("1 answers came from 10.0.0.9, which is no backend of it"),
                ..good
            },
            Case {
                name: "equal shares for unequal weights",
                answers: &[("10.0.0.1", 200), ("10.0.0.2", 200)],
                packets: [1_000, 1_000],
                problem: Some("the shares are not what the weights say (chi-squared p = 7.6e-31)"),
                ..good
            },
            Case {
                name: "too few packets for the connections",
                packets: [500, 1_199],
                problem: Some("10.0.0.2 answered 300 times, but clb counted 1199 packets to it"),
                ..good
            },
            Case {
                name: "a datagram counted twice",
                protocol: Udp,
                packets: [101, 300],
                problem: Some("10.0.0.1 answered 100 times, but clb counted 101 packets to it"),
                ..good
            },
            Case {
                name: "nat replies that clb did not see",
                mode: Nat,
                replies: [300, 0],
                problem: Some("10.0.0.2 answered 300 times, but clb counted 0 packets back from it"),
                ..good
            },
            Case {
                name: "dsr replies that came through clb",
                replies: [1, 0],
                problem: Some("10.0.0.1 answered 100 times, but clb counted 1 packets back from it"),
                ..good
            },
            good,
        ] {
            let outcome = outcome(case.answers, case.failures);
            let report = report(listener(case.mode, case.protocol), outcome, case.packets, case.replies);
            assert_eq!(report.listeners[0].problems, Vec::from_iter(case.problem), "{}", case.name);
            assert_eq!(report.is_pass(), case.problem.is_none(), "{}", case.name);
        }
    }

    #[test]
    fn the_json_form_names_each_backend_and_its_shares() {
        let outcome = outcome(&[("10.0.0.1", 100), ("10.0.0.2", 300)], &[]);
        let report = report(listener(Mode::Dsr, Protocol::Tcp), outcome, [500, 1_500], [0, 0]);
        let backend = |address, weight, share, answers, packets| {
            json!({
                "address": address, "port": 80, "kind": "cvm", "weight": weight, "expected_share": share,
                "measured_share": share, "answers": answers, "packets": packets, "reply_packets": 0,
            })
        };
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            json!({"pass": true, "listeners": [{
                "name": "web", "vip": "203.0.113.10", "protocol": "tcp", "port": 80, "mode": "dsr", "connections": 400,
                "failed": 0, "p_value": 1.0, "problems": [],
                "backends": [backend("10.0.0.1", 1, 0.25, 100, 500), backend("10.0.0.2", 3, 0.75, 300, 1_500)],
            }]})
        );
    }
}
