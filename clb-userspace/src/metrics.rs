//! Metrics for Prometheus: one table of families, read from the same answer as `clb status`.
//!
//! A family is a row of the table; the text that is scraped and `docs/metrics.md` come from it. Names follow Prometheus:
//! base units, `_total` for counters. The format is `OpenMetrics` 1.0, which Prometheus reads, as does what reads its own text
//! format.

use std::{fmt, net::SocketAddr};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    api::{BackendStatus, HealthStatus, ListenerStatus, NextHopState, Status},
    health::Verdict,
};

/// The media type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    /// The name of its samples.
    pub name: &'static str,
    /// What its values say.
    pub help: &'static str,
    /// How values change.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    read: fn(&Status, &mut Samples),
}

/// How the values of a family change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They grow, until the agent starts again, or what they are of is gone. Names end in `_total`.
    Counter,
    /// They go up and down.
    Gauge,
}

/// The table.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "clb_build_info",
        help: "Always 1: the version of clb, and the release of the kernel that it runs on.",
        kind: Kind::Gauge,
        labels: &["version", "kernel"],
        read: |status, samples| samples.put(&[&status.agent.version, &status.agent.kernel], 1),
    },
    Family {
        name: "clb_start_time_seconds",
        help: "When the agent began to serve, in seconds since 1970.",
        kind: Kind::Gauge,
        labels: &[],
        read: |status, samples| samples.put(&[], status.agent.started),
    },
    Family {
        name: "clb_interface_attached",
        help: "1 if the program is on the interface, natively or generically; 0 and the mode none if it is not.",
        kind: Kind::Gauge,
        labels: &["interface", "mode"],
        read: |status, samples| {
            for interface in &status.interfaces {
                samples.put(&[&interface.name, &interface.mode], u64::from(interface.mode != "none"));
            }
        },
    },
    Family {
        name: "clb_passed_packets_total",
        help: "Packets that were none of clb's business: left to the host as they came.",
        kind: Kind::Counter,
        labels: &[],
        read: |status, samples| samples.put(&[], status.passed),
    },
    Family {
        name: "clb_answered_packets_total",
        help: "Echo requests to VIPs that clb answered itself.",
        kind: Kind::Counter,
        labels: &[],
        read: |status, samples| samples.put(&[], status.answered),
    },
    Family {
        name: "clb_dropped_packets_total",
        help: "Packets for listeners, and replies, that were not sent, by drop reason (docs/drop-reasons.md).",
        kind: Kind::Counter,
        labels: &["reason"],
        read: |status, samples| status.drops.iter().for_each(|(reason, &packets)| samples.put(&[reason], packets)),
    },
    Family {
        name: "clb_events_total",
        help: "What else happened to packets, by event.",
        kind: Kind::Counter,
        labels: &["event"],
        read: |status, samples| status.events.iter().for_each(|(event, &times)| samples.put(&[event], times)),
    },
    Family {
        name: "clb_listener_info",
        help: "Always 1: the VIP, protocol, port and forwarding mode of the listener.",
        kind: Kind::Gauge,
        labels: &["listener", "vip", "protocol", "port", "mode"],
        read: |status, samples| {
            for ListenerStatus { name, vip, protocol, port, mode, .. } in &status.listeners {
                samples.put(&[name, &vip.to_string(), protocol, &port.to_string(), mode], 1);
            }
        },
    },
    Family {
        name: "clb_listener_packets_total",
        help: "Packets from clients for the listener, whatever became of them.",
        kind: Kind::Counter,
        labels: &["listener"],
        read: |status, samples| status.listeners.iter().for_each(|of| samples.put(&[&of.name], of.packets)),
    },
    Family {
        name: "clb_listener_bytes_total",
        help: "Bytes of these packets, from the Ethernet header on.",
        kind: Kind::Counter,
        labels: &["listener"],
        read: |status, samples| status.listeners.iter().for_each(|of| samples.put(&[&of.name], of.bytes)),
    },
    Family {
        name: "clb_listener_changing_slots",
        help: "Slots with another owner: moving while old flows have time to show themselves, settling while some are pinned.",
        kind: Kind::Gauge,
        labels: &["listener", "phase"],
        read: |status, samples| {
            for ListenerStatus { name, moving_slots, settling_slots, .. } in &status.listeners {
                samples.put(&[name, "moving"], u64::from(*moving_slots));
                samples.put(&[name, "settling"], u64::from(*settling_slots));
            }
        },
    },
    Family {
        name: "clb_backend_info",
        help: "Always 1: how the backend is bound, cvm or eni, and the CVM that has its address.",
        kind: Kind::Gauge,
        labels: &["listener", "backend", "kind", "cvm"],
        read: |status, samples| {
            of_backends(status, |listener, name, backend| {
                samples.put(&[listener, name, &backend.kind, &backend.cvm], 1);
            });
        },
    },
    Family {
        name: "clb_backend_packets_total",
        help: "Packets that were sent to the backend.",
        kind: Kind::Counter,
        labels: PER_BACKEND,
        read: |status, samples| of_each_backend(status, samples, |backend| backend.packets),
    },
    Family {
        name: "clb_backend_bytes_total",
        help: "Bytes of these packets, as they came in.",
        kind: Kind::Counter,
        labels: PER_BACKEND,
        read: |status, samples| of_each_backend(status, samples, |backend| backend.bytes),
    },
    Family {
        name: "clb_backend_reply_packets_total",
        help: "The backend's replies that were sent to clients, in nat and full_nat.",
        kind: Kind::Counter,
        labels: PER_BACKEND,
        read: |status, samples| of_each_backend(status, samples, |backend| backend.reply_packets),
    },
    Family {
        name: "clb_backend_reply_bytes_total",
        help: "Bytes of these packets, as they came in.",
        kind: Kind::Counter,
        labels: PER_BACKEND,
        read: |status, samples| of_each_backend(status, samples, |backend| backend.reply_bytes),
    },
    Family {
        name: "clb_backend_weight",
        help: "The backend's weight in the configuration.",
        kind: Kind::Gauge,
        labels: PER_BACKEND,
        read: |status, samples| of_each_backend(status, samples, |backend| u64::from(backend.weight)),
    },
    Family {
        name: "clb_backend_drained",
        help: "1 if the backend gets no new flows since a person drained it, else 0.",
        kind: Kind::Gauge,
        labels: PER_BACKEND,
        read: |status, samples| of_each_backend(status, samples, |backend| u64::from(backend.drained)),
    },
    Family {
        name: "clb_backend_slots_ratio",
        help: "The backend's part of the listener's slots, from 0 to 1.",
        kind: Kind::Gauge,
        labels: PER_BACKEND,
        read: |status, samples| of_each_backend(status, samples, |backend| backend.share),
    },
    Family {
        name: "clb_backend_next_hop_resolved",
        help: "1 if the backend's next hop is known, 0 if its packets are dropped.",
        kind: Kind::Gauge,
        labels: PER_BACKEND,
        read: |status, samples| {
            of_each_backend(status, samples, |backend| u64::from(backend.next_hop.state == NextHopState::Resolved));
        },
    },
    Family {
        name: "clb_backend_healthy",
        help: "0 if the backend does not answer its checks, or is held back for flapping, else 1; nothing if it is not checked.",
        kind: Kind::Gauge,
        labels: PER_BACKEND,
        read: |status, samples| {
            of_checked(status, samples, |health| u64::from(health.verdict != Verdict::Unhealthy));
        },
    },
    Family {
        name: "clb_backend_flapping",
        help: "1 if the backend is held back for changing its verdict too often.",
        kind: Kind::Gauge,
        labels: PER_BACKEND,
        read: |status, samples| of_checked(status, samples, |health| u64::from(health.is_flapping)),
    },
    Family {
        name: "clb_backend_verdict_changes_total",
        help: "How often the backend became healthy or unhealthy.",
        kind: Kind::Counter,
        labels: PER_BACKEND,
        read: |status, samples| of_checked(status, samples, |health| health.changes),
    },
    Family {
        name: "clb_verdict_changes_total",
        help: "Backends that became healthy or unhealthy, also those that are gone.",
        kind: Kind::Counter,
        labels: &["to"],
        read: |status, samples| {
            samples.put(&["healthy"], status.health.to_healthy);
            samples.put(&["unhealthy"], status.health.to_unhealthy);
        },
    },
    Family {
        name: "clb_checks_not_made_total",
        help: "Health checks that the agent could not make, which say nothing of the backend.",
        kind: Kind::Counter,
        labels: &[],
        read: |status, samples| samples.put(&[], status.health.not_asked),
    },
    Family {
        name: "clb_next_hops",
        help: "Backends of all listeners by the state of their next hop: resolved or unresolved.",
        kind: Kind::Gauge,
        labels: &["state"],
        read: |status, samples| {
            for (name, state) in [("resolved", NextHopState::Resolved), ("unresolved", NextHopState::Unresolved)] {
                let backends = status.listeners.iter().flat_map(|listener| &listener.backends);
                samples.put(&[name], backends.filter(|backend| backend.next_hop.state == state).count() as u64);
            }
        },
    },
    Family {
        name: "clb_pins",
        help: "Flows that are pinned to their backends since their slots have other owners, as of the last walk over them.",
        kind: Kind::Gauge,
        labels: &[],
        read: |status, samples| samples.put(&[], status.pins),
    },
    Family {
        name: "clb_flows",
        help: "Flows that full_nat remembers, as of the last walk over them.",
        kind: Kind::Gauge,
        labels: &[],
        read: |status, samples| samples.put(&[], status.flows),
    },
    Family {
        name: "clb_source_addresses",
        help: "Addresses that backends see in full_nat.",
        kind: Kind::Gauge,
        labels: &[],
        read: |status, samples| samples.put(&[], status.source_addresses as u64),
    },
    Family {
        name: "clb_reloads_total",
        help: "Configurations that were to replace the one in force, by result: taken or refused.",
        kind: Kind::Counter,
        labels: &["result"],
        read: |status, samples| {
            samples.put(&["taken"], status.reloads.taken);
            samples.put(&["refused"], status.reloads.refused);
        },
    },
    Family {
        name: "clb_last_reload_successful",
        help: "1 if the last of them was taken, or none was tried; 0 if it was refused.",
        kind: Kind::Gauge,
        labels: &[],
        read: |status, samples| samples.put(&[], u64::from(status.reloads.last_refused_because.is_none())),
    },
    Family {
        name: "clb_last_reload_timestamp_seconds",
        help: "When the last of them was tried, in seconds since 1970; 0 if none was.",
        kind: Kind::Gauge,
        labels: &[],
        read: |status, samples| samples.put(&[], status.reloads.last),
    },
    Family {
        name: "clb_last_reload_duration_seconds",
        help: "How long the last of them took, from reading it to the last change, or to its refusal.",
        kind: Kind::Gauge,
        labels: &[],
        read: |status, samples| samples.put(&[], status.reloads.last_seconds),
    },
];

/// What a scrape gets.
pub fn render(status: Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scraped(status)));
    let mut rendered = String::new();
    text::encode(&mut rendered, &registry).expect("text can be written into text");
    rendered
}

/// The samples of a family, each with the values of its labels.
#[derive(Default)]
struct Samples(Vec<(Vec<String>, Number)>);

impl Samples {
    fn put(&mut self, labels: &[&str], value: impl Into<Number>) {
        self.0.push((labels.iter().map(|&label| label.to_owned()).collect(), value.into()));
    }
}

/// Counts are exact; a floating-point number holds only those below 2^53.
#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

fn of_each_backend<N: Into<Number>>(status: &Status, samples: &mut Samples, value: impl Fn(&BackendStatus) -> N) {
    of_backends(status, |listener, name, backend| samples.put(&[listener, name], value(backend)));
}

/// Backends that have checks.
fn of_checked(status: &Status, samples: &mut Samples, value: impl Fn(&HealthStatus) -> u64) {
    of_backends(status, |listener, name, backend| {
        if let Some(health) = &backend.health {
            samples.put(&[listener, name], value(health));
        }
    });
}

/// Calls with the listener's name and the backend's.
fn of_backends(status: &Status, mut each: impl FnMut(&str, &str, &BackendStatus)) {
    for listener in &status.listeners {
        for backend in &listener.backends {
            each(&listener.name, &SocketAddr::new(backend.address, backend.port).to_string(), backend);
        }
    }
}

#[derive(Debug)]
struct Scraped(Status);

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            let mut samples = Samples::default();
            (family.read)(&self.0, &mut samples);
            // Not every parser takes a family of none.
            if samples.0.is_empty() {
                continue;
            }
            let (name, kind) = match family.kind {
                // The encoder appends it to the samples.
                Kind::Counter => (family.name.trim_end_matches("_total"), MetricType::Counter),
                Kind::Gauge => (family.name, MetricType::Gauge),
            };
            let mut metric = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (values, number) in &samples.0 {
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                if labels.is_empty() {
                    write(&mut metric, family.kind, *number)?;
                } else {
                    write(&mut metric.encode_family(&labels)?, family.kind, *number)?;
                }
            }
        }
        Ok(())
    }
}

fn write(metric: &mut MetricEncoder<'_>, kind: Kind, number: Number) -> fmt::Result {
    match (kind, number) {
        (Kind::Counter, Number::Whole(value)) => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Counter, Number::Real(value)) => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Gauge, Number::Whole(value)) => metric.encode_gauge(&value),
        (Kind::Gauge, Number::Real(value)) => metric.encode_gauge(&value),
    }
}

/// The backend's name is its address and port.
const PER_BACKEND: &[&str] = &["listener", "backend"];
