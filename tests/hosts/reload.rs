//! SIGHUP: the new file takes effect, a bad one changes nothing, and connections to what did not change live on.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    slice,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use clb_tests::{Agent, BackendStatus, Protocol};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    config::{Listener, Mode, every_kind},
    connection::Connection,
    network::{Arms, Network, clients, flows, log, run, signal, wait_for_status, xdp_programs},
};

const TAKEN: &str = "read again";
const REFUSED: &str = "the configuration in force stays";

#[test]
fn changed_weights_take_effect() {
    let network = Network::new(Arms::Two, 2);
    let listeners = |weights: [u8; 2]| every_kind(2).into_iter().map(|listener| listener.weights(&weights)).collect();
    let _servers = network.serve(&every_kind(2));
    let start: Vec<Listener> = listeners([10, 10]);
    let agent = network.start(&network.file(&start), &[]);
    for weights in [[0, 10], [10, 0], [30, 10]] {
        let listeners: Vec<Listener> = listeners(weights);
        network.reload(&agent, &network.file(&listeners), TAKEN);
        for listener in &listeners {
            let outcome = network.flows(listener, 60);
            assert_eq!(outcome.failures, [].into(), "{} with {weights:?}", listener.name);
            for (_, backend, weight) in listener.backends() {
                let address = backend.ip().to_string();
                assert_eq!(outcome.answers.contains_key(&address), weight > 0, "{} {weights:?}", listener.name);
                assert_eq!(shown_weight(&agent, &listener.name, &address), u64::from(weight), "{}", listener.name);
            }
        }
    }
}

#[test]
fn added_listeners_serve_and_removed_ones_leave_their_packets_to_the_host() {
    let network = Network::new(Arms::Two, 2);
    // The host has the VIP itself, so that it answers for what is not a listener's.
    run(&network.balancer, "ip address add 203.0.113.10/32 dev lo");
    let first = Listener::tcp("first", "203.0.113.10:80", Mode::Nat, 8081, 2);
    let second = Listener::tcp("second", "203.0.113.10:81", Mode::Nat, 8082, 2);
    let _servers = network.serve(&[first.clone(), second.clone()]);
    let agent = network.start(&network.file(slice::from_ref(&first)), &[]);
    for (has, has_not) in [(&first, &second), (&second, &first), (&first, &second)] {
        network.reload(&agent, &network.file(slice::from_ref(has)), TAKEN);
        assert_eq!(network.flows(has, 40).failures, [].into(), "{}", has.name);
        let outcome = network.flows(has_not, 10);
        assert_eq!(outcome.failures, [("Connection refused (os error 111)".to_owned(), 10)].into(), "{}", has_not.name);
    }
}

#[test]
fn a_bad_file_changes_nothing_and_the_log_says_what_is_wrong_with_it() {
    struct Case {
        name: &'static str,
        change: fn(&str) -> String,
        said: &'static str,
    }
    let network = Network::new(Arms::Two, 2);
    let listener = Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 8081, 2);
    let echo = network.echo(&listener);
    let good = network.file(slice::from_ref(&listener));
    let agent = network.start(&good, &[]);
    let mut connection = Connection::open(&network.client, listener.vip);
    connection.exchange(1_000);
    let before = shape(&agent);
    for Case { name, change, said } in [
        Case { name: "no YAML", change: |_| "version: [\n".to_owned(), said: "clb.yaml:2:1" },
        Case { name: "empty", change: |_| String::new(), said: "clb.yaml:1:1" },
        Case {
            name: "a weight out of range",
            change: |good| good.replacen("weight: 10", "weight: 101", 1),
            said: "clb.yaml:11:40",
        },
        Case {
            name: "another interface, which needs a restart",
            change: |good| good.replacen("eth1", "eth2", 1),
            said: "interfaces changed, which a reload cannot do",
        },
        Case {
            name: "another seed, which needs a restart",
            change: |good| good.replacen("lb-lab", "lb-other", 1),
            said: "hash_seed changed, which a reload cannot do",
        },
        Case {
            name: "a mode that lacks an address",
            change: |good| good.replacen("forwarding: nat", "forwarding: full_nat", 1),
            said: "no-source-address",
        },
    ] {
        network.reload(&agent, &change(&good), REFUSED);
        assert!(log(&agent).contains(said), "{name}: `{said}` is not in the log:\n{}", log(&agent));
        assert_eq!(shape(&agent), before, "{name}");
        connection.exchange(1_000);
    }

    fs::remove_file(network.config()).unwrap();
    signal(&agent, Signal::SIGHUP);
    let refusals = || log(&agent).matches(REFUSED).count();
    clb_tests::wait_until("the missing file is told", crate::network::PATIENCE, || Ok(refusals() == 7)).unwrap();
    assert!(log(&agent).contains("No such file"), "{}", log(&agent));
    connection.exchange(1_000);
    Connection::open(&network.client, listener.vip).exchange(1_000);
    network.reload(&agent, &good, TAKEN);
    drop(echo);
}

/// `clb status`, without what traffic changes.
fn shape(agent: &Agent) -> Value {
    let mut status = status(agent);
    let shown = status.as_object_mut().unwrap();
    shown.retain(|key, _| !["passed", "drops", "reloads"].contains(&key.as_str()));
    for listener in shown["listeners"].as_array_mut().unwrap() {
        let listener = listener.as_object_mut().unwrap();
        let is_counter = |key: &str| key.ends_with("packets") || key.ends_with("bytes");
        listener.retain(|key, _| !is_counter(key));
        for backend in listener["backends"].as_array_mut().unwrap() {
            backend.as_object_mut().unwrap().retain(|key, _| !is_counter(key));
        }
    }
    status
}

fn shown_weight(agent: &Agent, listener: &str, address: &str) -> u64 {
    let status = status(agent);
    let with = |values: &Value, key: &str, wanted: &str| {
        values.as_array().unwrap().iter().find(|value| value[key] == wanted).unwrap().clone()
    };
    let listener = with(&status["listeners"], "name", listener);
    with(&listener["backends"], "address", address)["weight"].as_u64().unwrap()
}

fn status(agent: &Agent) -> Value {
    serde_json::from_slice(&agent.status_command().arg("--json").output().unwrap().stdout).unwrap()
}

/// Reloads in a row while traffic runs: a listener that stays as it is loses nothing, whatever happens beside it.
#[test]
fn a_storm_of_reloads_harms_no_listener_that_stays() {
    let network = Network::new(Arms::Two, 2);
    let kept = every_kind(2);
    let beside = Listener::udp("beside", "203.0.113.10:1000", Mode::Nat, 1001, 2);
    let _servers = network.serve(&kept);
    let echoed = Listener::tcp("echoed", "203.0.113.10:7", Mode::Nat, 7, 2);
    let _echo = network.echo(&echoed);
    let file = |weights: &[u8]| {
        let mut listeners = kept.clone();
        listeners.extend([echoed.clone(), beside.clone().weights(weights)]);
        network.file(&listeners)
    };
    let agent = network.start(&file(&[1, 1]), &[]);
    let client = &network.client;
    let mut connections: Vec<_> = (0..8).map(|_| Connection::open(client, echoed.vip)).collect();

    let storm_is_over = AtomicBool::new(false);
    let outcomes = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut outcomes = Vec::new();
            for (listener, source) in kept.iter().cycle().zip(0..) {
                if storm_is_over.load(Ordering::Relaxed) && source >= kept.len() {
                    break;
                }
                let clients = clients(listener.vip.is_ipv4());
                outcomes.push((listener, flows(client, clients[source % clients.len()], listener, 200)));
            }
            outcomes
        });
        for number in 0..200 {
            let weights = [[1, 1], [1, 2], [0, 1], [2, 1]][number % 4];
            fs::write(network.config(), if number % 10 == 9 { "bad".to_owned() } else { file(&weights) }).unwrap();
            signal(&agent, Signal::SIGHUP);
            connections[number % 8].exchange(100);
        }
        network.reload(&agent, &file(&[5, 1]), TAKEN);
        storm_is_over.store(true, Ordering::Relaxed);
        traffic.join().unwrap()
    });
    for (listener, outcome) in outcomes {
        assert_eq!(outcome.failures, [].into(), "{}", listener.name);
    }
    for connection in &mut connections {
        connection.exchange(10_000);
    }
    let status = agent.status().unwrap();
    assert_eq!(shown_weight(&agent, "beside", "10.0.1.11"), 5);
    assert_eq!(status.drops.values().sum::<u64>(), 0, "{:?}", status.drops);
}

/// A backend's port that changes its listener: its replies must leave with the new VIP from then on.
#[test]
fn a_backend_that_moves_to_another_nat_listener_replies_for_that_one() {
    let network = Network::new(Arms::One, 2);
    let listener = |name: &str, vip: &str, backend_port| Listener::tcp(name, vip, Mode::Nat, backend_port, 2);
    let both_protocols = |listeners: Vec<Listener>| -> Vec<Listener> {
        let udp = |listener: &Listener| Listener {
            name: format!("{}-udp", listener.name),
            protocol: Protocol::Udp,
            ..listener.clone()
        };
        listeners.iter().cloned().chain(listeners.iter().map(udp)).collect()
    };
    // From the second file on, `high` has the ports of three others that are no more, then `low` has, and so on.
    let files = [
        both_protocols(vec![
            listener("low", "203.0.113.10:80", 1001),
            listener("a", "203.0.113.10:81", 1002),
            listener("b", "203.0.113.10:82", 1003),
            listener("high", "203.0.113.10:90", 1004),
        ]),
        both_protocols(vec![listener("high", "203.0.113.10:90", 1001)]),
        both_protocols(vec![listener("low", "203.0.113.10:80", 1001), listener("high", "203.0.113.10:90", 1004)]),
        both_protocols(vec![listener("low", "203.0.113.10:80", 1004), listener("high", "203.0.113.10:90", 1001)]),
        both_protocols(vec![listener("low", "203.0.113.10:80", 1001), listener("high", "203.0.113.10:90", 1004)]),
        both_protocols(vec![listener("other", "203.0.113.11:80", 1001)]),
    ];
    let _servers = network.serve(&files[0]);
    let agent = network.start(&network.file(&files[0]), &[]);
    for (number, listeners) in files.iter().enumerate() {
        network.reload(&agent, &network.file(listeners), TAKEN);
        for listener in listeners {
            let outcome = network.flows(listener, 40);
            assert_eq!(outcome.failures, [].into(), "{} in file {number}", listener.name);
        }
        let status = agent.status().unwrap();
        assert_eq!(status.listeners.len(), listeners.len());
        for listener in &status.listeners {
            let sum = |count: fn(&BackendStatus) -> u64| listener.backends.iter().map(count).sum::<u64>();
            let (there, back) = (sum(|backend| backend.packets), sum(|backend| backend.reply_packets));
            assert!(there >= 40 && back >= 40, "{} in file {number}: {there} there, {back} back", listener.name);
        }
    }
}

/// A SIGHUP that comes while the agent still starts is not forgotten.
#[test]
fn a_reload_asked_for_during_the_start_is_done_after_it() {
    let network = Network::new(Arms::One, 1);
    let silent = Listener::tcp("silent", "203.0.113.10:80", Mode::Nat, 80, 2);
    let file = network.file(&[silent]);
    fs::write(network.config(), &file).unwrap();
    let agent = Agent::start(&network.lab, &network.balancer, &network.config(), &["--allow-unresolved"]).unwrap();
    clb_tests::wait_until("the agent waits for its neighbours", crate::network::PATIENCE, || {
        Ok(log(&agent).contains("neighbours to answer"))
    })
    .unwrap();
    network.reload(&agent, &file.replacen("port: 80,", "port: 81,", 1), TAKEN);
    assert_eq!(xdp_programs(&network.balancer), ["eth0: clb"]);
    wait_for_status(&agent, "the new file is in force", |status| status.listeners.len() == 1);
}

/// As with `sudo clb run --config ~/clb.yaml`: the folder is another user's, and nobody else may look into it.
#[test]
fn a_file_in_a_private_folder_of_another_user_is_read_again() {
    let network = Network::new(Arms::One, 1);
    let listener = |port| Listener::tcp("web", &format!("203.0.113.10:{port}"), Mode::Nat, 80, 1);
    let home = network.lab.directory().join("home");
    fs::create_dir(&home).unwrap();
    let config = home.join("clb.yaml");
    fs::write(&config, network.file(&[listener(80)])).unwrap();
    for path in [&home, &config] {
        chown(path, Some(4_711), Some(4_711)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let mut agent = Agent::start(&network.lab, &network.balancer, &config, &[]).unwrap();
    agent.wait_until_ready().unwrap();
    fs::write(
        &config,
        network.file(&[listener(80), Listener { name: "more".to_owned(), backend_port: 81, ..listener(81) }]),
    )
    .unwrap();
    signal(&agent, Signal::SIGHUP);
    wait_for_status(&agent, "the new file is in force", |status| status.listeners.len() == 2);
}
