//! From one configuration to the next: what the cloud forbids, and how many slots move.

use clb_userspace::{
    api,
    config::{Config, load, load_change},
    control::Change,
};
use proptest::{collection::vec, prelude::*};

const OLD: &str = include_str!("offline/old.yaml");

fn config(text: &str) -> Config {
    load("clb.yaml", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}")).config
}

/// The codes that a change of the old file is refused with.
fn refused(changes: &[(&str, &str)]) -> Vec<String> {
    let new = changes.iter().fold(OLD.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    match load_change(&config(OLD), "clb.yaml", new.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            let code = |problem: &serde_json::Value| problem["code"].as_str().expect("a code").to_owned();
            problems.to_json().as_array().expect("an array").iter().map(code).collect()
        }
    }
}

#[test]
fn an_eni_moves_only_as_the_cloud_lets_it() {
    const DATA: &str = "attached_to: ins-b, primary_ip: 10.0.2.1";
    const SPARE: &str = "zone: zone-1, primary_ip: 10.0.2.2";
    const UNBIND: (&str, &str) = (", {eni: 10.0.2.1, port: 8080}", "");
    struct Case {
        name: &'static str,
        changes: Vec<(&'static str, &'static str)>,
        refused: &'static [&'static str],
    }
    let cases = [
        Case { name: "nothing changes", changes: vec![], refused: &[] },
        Case {
            name: "a secondary ENI moves within its zone",
            changes: vec![(DATA, "attached_to: ins-a, primary_ip: 10.0.2.1")],
            refused: &[],
        },
        Case {
            name: "a secondary ENI is detached",
            changes: vec![(DATA, "primary_ip: 10.0.2.1"), UNBIND],
            refused: &[],
        },
        Case {
            name: "an ENI that was not attached is attached within its zone",
            changes: vec![(SPARE, "zone: zone-1, attached_to: ins-a, primary_ip: 10.0.2.2")],
            refused: &[],
        },
        Case {
            name: "an ENI that was not attached is attached in another zone and VPC",
            changes: vec![(
                "vpc: vpc-prod, zone: zone-1, primary_ip: 10.0.2.2",
                "vpc: vpc-test, zone: zone-2, attached_to: ins-far, primary_ip: 10.0.2.2",
            )],
            refused: &["eni-moved-zone"],
        },
        Case {
            name: "an ENI goes to another zone and still says its own",
            changes: vec![(DATA, "attached_to: ins-far, primary_ip: 10.0.2.1"), UNBIND],
            refused: &["vpc-mismatch", "zone-mismatch", "eni-moved-zone"],
        },
        Case {
            name: "primary ENIs change places",
            changes: vec![
                ("attached_to: ins-a, primary_ip: 10.0.1.1", "attached_to: ins-x, primary_ip: 10.0.1.1"),
                ("attached_to: ins-b, primary_ip: 10.0.1.3", "attached_to: ins-a, primary_ip: 10.0.1.3"),
                ("attached_to: ins-x, primary_ip: 10.0.1.1", "attached_to: ins-b, primary_ip: 10.0.1.1"),
            ],
            refused: &["primary-eni-moved", "primary-eni-moved"],
        },
        Case {
            name: "a primary ENI is made a secondary one and detached",
            changes: vec![(
                "role: primary, vpc: vpc-test, zone: zone-2, attached_to: ins-far",
                "role: secondary, vpc: vpc-test, zone: zone-2",
            )],
            refused: &["primary-eni-moved"],
        },
        Case {
            name: "a CVM goes with its primary ENI, and another takes its address",
            changes: vec![("id: eni-far", "id: eni-other"), ("attached_to: ins-far", "attached_to: ins-bare")],
            refused: &["vpc-mismatch", "zone-mismatch"],
        },
    ];
    for Case { name, changes, refused: expected } in cases {
        assert_eq!(refused(&changes), expected, "{name}");
    }
}

/// One listener with these weights; 101 is a backend that is not there.
fn weighted(weights: &[u8]) -> Config {
    let mut text = String::from(
        "version: 1\nload_balancer: {id: lb, vpc: v, interfaces: [eth0], forwarding: nat, slots: 1021}\n\
         cvms: [{id: c, vpc: v, zone: z}]\nenis:\n  - {id: e, role: secondary, vpc: v, zone: z, attached_to: c, \
         primary_ip: 10.0.0.255, secondary_ips: [",
    );
    let address = |number: usize| format!("10.0.0.{number}");
    text.push_str(&(0..weights.len()).map(address).collect::<Vec<_>>().join(", "));
    text.push_str("]}\nlisteners:\n  - {name: l, vip: 203.0.113.1, protocol: tcp, port: 80, backends: [");
    for (number, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight <= 100) {
        text.push_str(&format!("{{eni: {}, weight: {weight}}}, ", address(number)));
    }
    text.push_str("]}\n");
    config(&text)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn no_change_moves_less_than_it_must_or_more_than_all(weights in vec((0..=101_u8, 0..=101_u8), 1..20)) {
        let (before, after): (Vec<_>, Vec<_>) = weights.into_iter().unzip();
        let (old, new) = (weighted(&before), weighted(&after));
        let change = Change::between(&old, &new);
        prop_assert_eq!(change.is_empty(), before == after);
        prop_assert!(Change::between(&new, &new).is_empty());
        for listener in change.listeners {
            prop_assert!(listener.least_moved_share <= listener.moved_share + 1e-9, "{listener:?}");
            prop_assert!(listener.moved_share <= 1.0, "{listener:?}");
        }
    }
}

#[test]
fn what_the_weights_demand_is_what_shrinking_backends_give_up() {
    let cases = [
        ("one of two equal backends goes", vec![10, 10], vec![10, 101], 0.5),
        ("a backend comes beside an equal one", vec![10, 101], vec![10, 10], 0.5),
        ("all weights double", vec![10, 20], vec![20, 40], 0.0),
        ("the only backend gets its weight: nobody had a slot", vec![0], vec![10], 0.0),
        ("the only backend loses its weight", vec![10], vec![0], 1.0),
    ];
    for (name, before, after, expected) in cases {
        let change = Change::between(&weighted(&before), &weighted(&after));
        let [listener] = change.listeners.as_slice() else { panic!("{name}: {change:?}") };
        assert!((listener.least_moved_share - expected).abs() < 0.001, "{name}: {listener:?}");
    }
}

#[test]
fn a_new_seed_may_move_every_flow_of_every_listener() {
    let old = config(OLD);
    let new = config(&OLD.replacen("id: lb,", "id: lb-2,", 1));
    let change = Change::between(&old, &new);
    assert_eq!(change.needs_restart.as_deref(), Some("id or hash_seed"));
    assert_eq!(change.listeners.len(), old.listeners.len());
    assert!(change.listeners.iter().all(|listener| listener.moved_share >= 1.0), "{change:?}");
}

#[test]
fn a_configuration_survives_being_told() {
    for text in [OLD, include_str!("../../config/full.yaml")] {
        let told = serde_json::to_string(&config(text)).expect("JSON");
        assert_eq!(serde_json::from_str::<Config>(&told).expect("a configuration"), config(text));
    }
}

/// What `clb plan NEW` compares with: an agent's configuration comes over its socket as it is.
#[tokio::test]
async fn an_agent_tells_its_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("clb.sock");
    let (sender, mut requests) = tokio::sync::mpsc::channel(1);
    let _server = api::bind(&socket, sender).expect("a socket");
    let answering = tokio::spawn(async move {
        match requests.recv().await {
            Some(api::Request::Config(answer)) => answer.send(Ok(config(OLD))).expect("an asker"),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(api::config(&socket).await.expect("an answer"), config(OLD));
    answering.await.expect("an end");
}
