//! What is scraped, read by a parser that knows nothing of clb.

use std::{collections::BTreeMap, net::IpAddr};

use clb_userspace::{
    api::{
        AgentStatus, BackendStatus, FlowsLeft, HealthStatus, InterfaceStatus, ListenerStatus, NextHopState,
        NextHopStatus, ReloadStatus, Status,
    },
    health::{Counts, Verdict},
    metrics::{FAMILIES, Kind, render},
};
use openmetrics_parser::openmetrics::parse_openmetrics;

/// Every sample as its name with labels, and its value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let exposition = parse_openmetrics(text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    let mut samples = BTreeMap::new();
    for (name, family) in &exposition.families {
        for sample in family.iter_samples() {
            let labels = sample.get_labelset().expect("labels");
            let mut labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            labels.sort();
            let value = match &sample.value {
                openmetrics_parser::OpenMetricsValue::Counter(counter) => counter.value.as_f64(),
                openmetrics_parser::OpenMetricsValue::Gauge(gauge) => gauge.as_f64(),
                other => panic!("{name}: {other:?}"),
            };
            samples.insert(format!("{name}{{{}}}", labels.join(",")), value);
        }
    }
    samples
}

fn backend(address: &str, next_hop: NextHopState) -> BackendStatus {
    BackendStatus {
        address: address.parse().unwrap(),
        port: 80,
        kind: "cvm".into(),
        cvm: "ins-1".into(),
        weight: 10,
        share: 0.5,
        packets: 3,
        bytes: 300,
        reply_packets: 2,
        reply_bytes: 200,
        pins: 0,
        drained: next_hop == NextHopState::Resolved,
        left: FlowsLeft::default(),
        next_hop: NextHopStatus { state: next_hop, detail: String::new() },
        health: (next_hop == NextHopState::Resolved).then_some(HealthStatus {
            verdict: Verdict::Unhealthy,
            since: 0.0,
            cause: None,
            is_flapping: true,
            changes: 7,
            last_seconds: None,
            not_asked: None,
        }),
    }
}

fn status(listener: &str) -> Status {
    let backends =
        vec![backend("10.0.1.11", NextHopState::Resolved), backend("fd00:10::1:11", NextHopState::Unresolved)];
    Status {
        load_balancer: "lb".into(),
        interfaces: vec![
            InterfaceStatus { name: "eth0".into(), mode: "native".into(), reason: String::new() },
            InterfaceStatus { name: "eth1".into(), mode: "none".into(), reason: String::new() },
        ],
        passed: 7,
        answered: 1,
        flows: 4,
        pins: 9,
        source_addresses: 2,
        events: [("an-event".to_owned(), 5)].into(),
        drops: [("no-backend".to_owned(), 9_007_199_254_740_993)].into(),
        listeners: vec![ListenerStatus {
            name: listener.into(),
            vip: IpAddr::from([203, 0, 113, 10]),
            protocol: "tcp".into(),
            port: 80,
            mode: "nat".into(),
            packets: 6,
            bytes: 600,
            moving_slots: 8,
            settling_slots: 5,
            backends,
            leaving: Vec::new(),
        }],
        drains: Vec::new(),
        agent: AgentStatus { version: "1.2.3".into(), kernel: "6.1.0".into(), started: 1_700_000_000.5 },
        reloads: ReloadStatus {
            taken: 3,
            refused: 1,
            last: 1_700_000_001.25,
            last_seconds: 0.012,
            last_refused_because: Some("1 error".into()),
            ..ReloadStatus::default()
        },
        health: Counts { to_healthy: 11, to_unhealthy: 12, not_asked: 13 },
    }
}

#[test]
fn a_scrape_is_open_metrics_and_says_what_status_says() {
    let text = render(status("web"));
    let samples = samples(&text);
    for (sample, value) in [
        ("clb_passed_packets{}", 7.0),
        ("clb_listener_packets{listener=web}", 6.0),
        ("clb_backend_bytes{backend=10.0.1.11:80,listener=web}", 300.0),
        ("clb_backend_reply_packets{backend=[fd00:10::1:11]:80,listener=web}", 2.0),
        ("clb_backend_next_hop_resolved{backend=10.0.1.11:80,listener=web}", 1.0),
        ("clb_backend_next_hop_resolved{backend=[fd00:10::1:11]:80,listener=web}", 0.0),
        ("clb_backend_slots_ratio{backend=10.0.1.11:80,listener=web}", 0.5),
        ("clb_backend_healthy{backend=10.0.1.11:80,listener=web}", 0.0),
        ("clb_backend_flapping{backend=10.0.1.11:80,listener=web}", 1.0),
        ("clb_backend_verdict_changes{backend=10.0.1.11:80,listener=web}", 7.0),
        ("clb_verdict_changes{to=unhealthy}", 12.0),
        ("clb_checks_not_made{}", 13.0),
        ("clb_backend_drained{backend=10.0.1.11:80,listener=web}", 1.0),
        ("clb_backend_drained{backend=[fd00:10::1:11]:80,listener=web}", 0.0),
        ("clb_listener_changing_slots{listener=web,phase=moving}", 8.0),
        ("clb_listener_changing_slots{listener=web,phase=settling}", 5.0),
        ("clb_pins{}", 9.0),
        ("clb_next_hops{state=unresolved}", 1.0),
        ("clb_interface_attached{interface=eth0,mode=native}", 1.0),
        ("clb_interface_attached{interface=eth1,mode=none}", 0.0),
        ("clb_reloads{result=taken}", 3.0),
        ("clb_last_reload_successful{}", 0.0),
        ("clb_last_reload_timestamp_seconds{}", 1_700_000_001.25),
        ("clb_build_info{kernel=6.1.0,version=1.2.3}", 1.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}:\n{text}");
    }
    assert!(text.contains("clb_dropped_packets_total{reason=\"no-backend\"} 9007199254740993\n"), "exact: {text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn every_row_of_the_table_is_scraped_and_named_as_prometheus_wants() {
    let text = render(status("web"));
    for family in FAMILIES {
        let begin = [format!("\n{}{{", family.name), format!("\n{} ", family.name)];
        assert!(begin.iter().any(|begin| text.contains(begin)), "{}:\n{text}", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.name.starts_with("clb_"), "{}", family.name);
        assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\', '"']), "{}", family.help);
        let same = FAMILIES.iter().filter(|other| other.name == family.name).count();
        assert_eq!(same, 1, "{} stands twice", family.name);
    }
}

#[test]
fn names_that_want_escaping_arrive_as_they_are() {
    for name in ["São Paulo 🌍", "a\"b", "a\\b", "a\\nb", "a\nb", "a{b=\"c\"} 1", "", " "] {
        let text = render(status(name));
        let escaped = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let line = format!("\nclb_listener_packets_total{{listener=\"{escaped}\"}} 6\n");
        assert!(text.contains(&line), "{name:?}:\n{text}");
        let families = samples(&text).keys().filter(|key| key.starts_with("clb_listener_packets{")).count();
        assert_eq!(families, 1, "{name:?}");
    }
}
