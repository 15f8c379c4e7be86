//! `clb drain`: no new connection reaches the backend, the old ones stay, and `clb undrain` gives it the same slots again.

use std::{
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use clb_tests::{Agent, BackendStatus, DrainStatus, Status};
use serde_json::Value;
use socket2::SockRef;

use crate::{
    config::{Listener, Mode},
    connection::Connection,
    network::{Arms, Network, log, wait_for_status, wait_for_status_within},
};

const DRAINED: &str = "10.0.1.11";

/// A listener in each mode for connections that stay, and one for many that do not.
fn listeners(backends: usize) -> [Vec<Listener>; 2] {
    let modes = [(Mode::Dsr, 80, 80), (Mode::Nat, 8080, 9080), (Mode::FullNat, 8081, 9081)];
    [("long", 0), ("short", 10)].map(|(kind, offset)| {
        let listener = |(mode, port, backend_port): (Mode, u16, u16)| {
            let name = format!("{kind}-{}", mode.name());
            Listener::tcp(&name, &format!("203.0.113.10:{}", port + offset), mode, backend_port + offset, backends)
        };
        modes.map(listener).into()
    })
}

/// With time for old flows that a test can wait for.
fn file(network: &Network, listeners: &[Listener]) -> String {
    network.file(listeners).replace("slots: 4093, ", "slots: 4093, drain: 2s, ")
}

/// `clb drain` or `clb undrain` with these words.
fn command(agent: &Agent, verb: &str, words: &str) -> Command {
    let mut command = agent.command(verb);
    command.args(words.split_whitespace());
    command
}

fn ask(agent: &Agent, verb: &str, words: &str) -> Output {
    command(agent, verb, words).output().unwrap()
}

/// What it printed, what it said, and its exit status.
fn told(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// By listener and backend.
fn shares(status: &Status) -> Vec<(String, String, f64)> {
    let of = |listener: &str, backend: &BackendStatus| (listener.to_owned(), backend.address.clone(), backend.share);
    let listeners = status.listeners.iter();
    listeners.flat_map(|listener| listener.backends.iter().map(|backend| of(&listener.name, backend))).collect()
}

fn of_drained(status: &Status) -> impl Iterator<Item = &BackendStatus> {
    let backends = status.listeners.iter().flat_map(|listener| &listener.backends);
    backends.filter(|backend| backend.address == DRAINED)
}

fn exchange(connections: &mut [Connection]) {
    for connection in connections {
        connection.exchange(100);
    }
}

/// No new connection reaches it.
fn assert_drained(network: &Network, short: &[Listener], when: &str) {
    for listener in short {
        let outcome = network.flows(listener, 200);
        assert_eq!(outcome.failures, [].into(), "{}, {when}", listener.name);
        assert_eq!(outcome.answers.get(DRAINED), None, "{}, {when}: {:?}", listener.name, outcome.answers);
    }
}

#[test]
fn new_connections_go_elsewhere_old_ones_stay_and_undrain_gives_the_slots_back() {
    let network = Network::new(Arms::Two, 3);
    network.add_source_addresses();
    let [long, short] = listeners(3);
    let file = file(&network, &[long.clone(), short.clone()].concat());
    let _echo: Vec<_> = long.iter().flat_map(|listener| network.echo(listener)).collect();
    let _servers = network.serve(&short);
    let mut agent = network.start(&file, &[]);
    let opened = long.iter().flat_map(|listener| std::iter::repeat_n(listener.vip, 20));
    let mut connections: Vec<_> = opened.map(|vip| Connection::open(&network.client, vip)).collect();
    exchange(&mut connections);
    let before = shares(&agent.status().unwrap());

    let (printed, said, code) = told(&ask(&agent, "drain", DRAINED));
    assert_eq!((said.as_str(), code), ("", Some(0)), "{printed}");
    assert!(
        printed.starts_with("10.0.1.11 is drained\n") && printed.contains("\n  long-dsr: tcp 10.0.1.11:80, "),
        "{printed}"
    );
    assert_drained(&network, &short, "at once");
    exchange(&mut connections);
    let status = agent.status().unwrap();
    assert!(of_drained(&status).all(|backend| backend.drained && backend.share == 0.0), "{status:#?}");
    assert_eq!(status.drains, [DrainStatus { address: DRAINED.into(), port: None, backends: 6 }]);

    network.reload(&agent, &file, "read again");
    assert_drained(&network, &short, "after a reload");
    agent.kill().unwrap();
    assert_drained(&network, &short, "without an agent");
    agent = network.start(&file, &[]);
    assert_drained(&network, &short, "with another agent");
    assert_eq!(agent.status().unwrap().drains, [DrainStatus { address: DRAINED.into(), port: None, backends: 6 }]);
    exchange(&mut connections);
    wait_for_status_within(Duration::from_secs(20), &agent, "the old connections are known", |status| {
        let mut long = status.listeners.iter().filter(|listener| listener.name.starts_with("long"));
        long.all(|listener| {
            let backend = listener.backends.iter().find(|backend| backend.address == DRAINED).unwrap();
            backend.flows > 0 && backend.drain_seconds.is_none()
        })
    });
    let (shown, ..) = told(&agent.status_command().output().unwrap());
    assert!(shown.contains("  10.0.1.11:80 is drained: ") && shown.contains(" flows left\n"), "{shown}");
    exchange(&mut connections);
    let output = ask(&agent, "drain", "10.0.1.11 --wait --timeout 1s");
    let (_, said, code) = told(&output);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("10.0.1.11: ") && said.contains(" flows left\n"), "{said}");
    assert!(said.contains("error: after 1 s, ") && said.contains("\nhelp: 10.0.1.11 stays drained"), "{said}");

    let waiting = spawn(command(&agent, "drain", "10.0.1.11 --wait --json"));
    for connection in connections {
        reset(connection);
    }
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(waited.status.code(), Some(0), "{waited:?}");
    let waited = json(&waited);
    assert_eq!(
        [&waited["changed"], &waited["waited"]["is_empty"]],
        [&Value::from(false), &Value::from(true)],
        "{waited}"
    );
    let status = agent.status().unwrap();
    assert!(of_drained(&status).all(|backend| backend.is_empty && backend.flows == 0), "{status:#?}");

    let (printed, said, code) = told(&ask(&agent, "undrain", DRAINED));
    assert_eq!((said.as_str(), code), ("", Some(0)), "{printed}");
    assert!(printed.starts_with("10.0.1.11 is not drained any more\n  "), "{printed}");
    let status = agent.status().unwrap();
    assert_eq!(shares(&status), before);
    assert!(of_drained(&status).all(|backend| !backend.drained), "{status:#?}");
    for listener in &short {
        assert!(network.flows(listener, 200).answers.contains_key(DRAINED), "{}: {}", listener.name, log(&agent));
    }
}

/// Ends a connection so that both ends, and clb, forget it at once.
fn reset(connection: Connection) {
    SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(connection);
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn what_is_odd_is_told() {
    struct Case {
        name: &'static str,
        verb: &'static str,
        words: &'static str,
        printed: &'static str,
        said: &'static str,
        code: i32,
    }
    let network = Network::new(Arms::One, 2);
    let listener = |name: &str, port: u16| Listener::tcp(name, &format!("203.0.113.10:{port}"), Mode::Nat, port, 2);
    let agent = network.start(&file(&network, &[listener("web", 80), listener("api", 81)]), &[]);
    for Case { name, verb, words, printed, said, code } in [
        Case {
            name: "no such address",
            verb: "drain",
            words: "192.0.2.1",
            printed: "",
            said: "error: no backend is 192.0.2.1\nhelp: the backends are 10.0.1.11, 10.0.1.12\n",
            code: 1,
        },
        Case {
            name: "a slip of the finger",
            verb: "drain",
            words: "10.0.11.1",
            printed: "",
            said: "error: no backend is 10.0.11.1\nhelp: do you mean 10.0.1.11? `clb status` shows all backends\n",
            code: 1,
        },
        Case {
            name: "no such port",
            verb: "undrain",
            words: "10.0.1.11:8080",
            printed: "",
            said: "error: no backend is 10.0.1.11:8080\nhelp: the ports of 10.0.1.11 are 80, 81\n",
            code: 1,
        },
        Case {
            name: "not drained",
            verb: "undrain",
            words: "10.0.1.11",
            printed: "10.0.1.11 was not drained\n  web: tcp 10.0.1.11:80, share 50.01 %\n  api: tcp 10.0.1.11:81, share 50.01 %\n",
            said: "",
            code: 0,
        },
        Case {
            name: "one port",
            verb: "drain",
            words: "10.0.1.11:80",
            printed: "10.0.1.11:80 is drained\n",
            said: "",
            code: 0,
        },
        Case {
            name: "drained already",
            verb: "drain",
            words: "10.0.1.11:80",
            printed: "10.0.1.11:80 was drained already\n",
            said: "",
            code: 0,
        },
        Case {
            name: "the last one of a listener",
            verb: "drain",
            words: "10.0.1.12",
            printed: "10.0.1.12 is drained\n",
            said: "warning: listener web has no backend left for new connections: they are dropped\n",
            code: 0,
        },
        Case {
            name: "one port of all",
            verb: "undrain",
            words: "10.0.1.12:80",
            printed: "",
            said: "error: 10.0.1.12:80 is drained with every port of 10.0.1.12\n\
                   help: `clb undrain 10.0.1.12`, then drain the ports that shall stay drained\n",
            code: 1,
        },
    ] {
        let (shown, complained, ended) = told(&ask(&agent, verb, words));
        assert!(shown.starts_with(printed) && shown.is_empty() == printed.is_empty(), "{name}: {shown}");
        assert_eq!((complained.as_str(), ended), (said, Some(code)), "{name}");
    }
    let refused = ask(&agent, "drain", "192.0.2.1 --json");
    assert_eq!((&json(&refused)["changed"], refused.status.code()), (&Value::from(false), Some(1)));
}

#[test]
fn the_next_agent_keeps_a_drain() {
    let network = Network::new(Arms::One, 2);
    let listener = Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 80, 2);
    let listeners = std::slice::from_ref(&listener);
    let file = file(&network, listeners);
    let _servers = network.serve(listeners);
    let mut agent = network.start(&file, &[]);
    let before = shares(&agent.status().unwrap());
    assert_eq!(ask(&agent, "drain", DRAINED).status.code(), Some(0));
    for when in ["it was told to end", "it was killed"] {
        if when == "it was killed" {
            agent.kill().unwrap();
        } else {
            assert!(agent.stop().unwrap().success());
        }
        assert_drained(&network, listeners, when);
        agent = network.start(&file, &[]);
        assert_drained(&network, listeners, when);
        let status = agent.status().unwrap();
        assert_eq!(status.drains, [DrainStatus { address: DRAINED.into(), port: None, backends: 1 }], "{when}");
    }
    assert_eq!(ask(&agent, "undrain", DRAINED).status.code(), Some(0));
    assert_eq!(shares(&agent.status().unwrap()), before);
}

/// It is drained again when it is bound again, until somebody asks it back.
#[test]
fn a_drain_outlasts_its_backend() {
    let network = Network::new(Arms::One, 2);
    let with = |backends| file(&network, &[Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 80, backends)]);
    let agent = network.start(&with(2), &[]);
    assert_eq!(ask(&agent, "drain", "10.0.1.12:80").status.code(), Some(0));
    network.reload(&agent, &with(1), "read again");
    let drain = |backends| DrainStatus { address: "10.0.1.12".into(), port: Some(80), backends };
    assert_eq!(agent.status().unwrap().drains, [drain(0)]);
    let (shown, ..) = told(&agent.status_command().output().unwrap());
    assert!(shown.contains("\n10.0.1.12:80 is drained, and no listener has it: "), "{shown}");
    network.reload(&agent, &with(2), "read again");
    let status = wait_for_status(&agent, "it is bound again", |status| status.drains == [drain(1)]);
    assert_eq!(status.backend("web", "10.0.1.12").map(|backend| (backend.drained, backend.share)), Some((true, 0.0)));
    assert_eq!(ask(&agent, "undrain", "10.0.1.12").status.code(), Some(0));
    assert_eq!(agent.status().unwrap().drains, []);
}
