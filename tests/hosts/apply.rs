//! `clb apply`: what it says is in force when it returns, and what it refuses changes nothing.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use clb_tests::{Agent, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    binary::clb,
    config::{Listener, Mode},
    connection::{Connection, EchoServer},
    network::{Arms, Network, PATIENCE, log, signal, wait_for_status},
};

fn listeners(number: u16) -> Vec<Listener> {
    (0..number)
        .map(|number| {
            Listener::tcp(
                &format!("web-{number}"),
                &format!("203.0.113.10:{}", 80 + number),
                Mode::Nat,
                8_080 + number,
                2,
            )
        })
        .collect()
}

/// `clb apply` with these words, in the lab's folder.
fn command(network: &Network, agent: &Agent, words: &[&str]) -> Command {
    let mut command = Command::new(clb());
    command.arg("apply").arg("--socket").arg(agent.socket()).args(words).current_dir(network.lab.directory());
    command
}

fn apply(network: &Network, agent: &Agent, words: &[&str]) -> Output {
    command(network, agent, words).output().unwrap()
}

fn apply_text(network: &Network, agent: &Agent, words: &[&str], text: &str) -> Output {
    let mut child = command(network, agent, words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What it printed, what it said, and its exit status.
fn told(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Without the time, which is another one each time.
fn without_time(printed: &str) -> String {
    let timeless = |line: &str| match line.split_once(" is in force after ") {
        Some((what, time)) => {
            let milliseconds = time.strip_suffix(" ms").expect("a time in milliseconds");
            assert!(milliseconds.parse::<u64>().unwrap() < 10_000, "{line}");
            format!("{what} is in force\n")
        }
        None => format!("{line}\n"),
    };
    printed.lines().map(timeless).collect()
}

#[test]
fn a_good_file_is_in_force_with_its_plan_and_is_the_agents_from_then_on() {
    let network = Network::new(Arms::Two, 2);
    let folder = network.lab.directory();
    let _servers = network.serve(&listeners(4));
    let agent = network.start(&network.file(&listeners(1)), &[]);
    fs::write(folder.join("new.yaml"), network.file(&listeners(2))).unwrap();
    let plan = Command::new(clb())
        .args(["plan", "--socket"])
        .arg(agent.socket())
        .arg(folder.join("new.yaml"))
        .output()
        .unwrap();
    let (planned, ..) = told(&plan);

    let (printed, said, code) = told(&apply(&network, &agent, &["new.yaml"]));
    assert_eq!((said.as_str(), code), ("", Some(0)));
    let new = folder.join("new.yaml").display().to_string();
    assert_eq!(
        without_time(&printed),
        format!(
            "{planned}{new} is in force\nSIGHUP reads {new} from now on, a restart what `clb run` is started with\n"
        )
    );
    for listener in &listeners(2) {
        assert_eq!(network.flows(listener, 20).failures, [].into(), "{}", listener.name);
    }

    // The same file again is the agent's own now.
    fs::write(folder.join("new.yaml"), network.file(&listeners(3))).unwrap();
    let again = json(&apply(&network, &agent, &["new.yaml", "--json"]));
    assert_eq!(
        [&again["applied"], &again["changed"], &again["file"], &again["listeners"][0]["change"]],
        [&Value::Bool(true), &Value::Bool(true), &Value::from(new.clone()), &Value::from("added")]
    );
    assert!(again["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{again}");
    let (printed, ..) = told(&apply(&network, &agent, &["new.yaml"]));
    assert_eq!(without_time(&printed), format!("no change\n{new} is in force\n"));

    fs::write(folder.join("new.yaml"), network.file(&listeners(4))).unwrap();
    signal(&agent, Signal::SIGHUP);
    wait_for_status(&agent, "SIGHUP reads the file that was applied", |status| status.listeners.len() == 4);
    fs::write(folder.join("new.yaml"), network.file(&listeners(1))).unwrap();
    let (printed, ..) = told(&apply(&network, &agent, &[]));
    assert!(printed.contains("listeners: 0 added, 0 changed, 3 removed\n"), "{printed}");
    assert_eq!(agent.status().unwrap().listeners.len(), 1, "without a file it is read again");
}

#[test]
fn what_comes_from_standard_input_is_in_force_until_the_file_is_read_again() {
    let network = Network::new(Arms::Two, 2);
    let agent = network.start(&network.file(&listeners(1)), &[]);
    let (printed, said, code) = told(&apply_text(&network, &agent, &["-"], &network.file(&listeners(2))));
    assert_eq!((said.as_str(), code), ("", Some(0)));
    let end = format!("<stdin> is in force\nSIGHUP goes back to {}\n", network.config().display());
    assert!(without_time(&printed).ends_with(&end), "{printed}");
    assert_eq!(agent.status().unwrap().listeners.len(), 2);
    signal(&agent, Signal::SIGHUP);
    wait_for_status(&agent, "the file is in force again", |status| status.listeners.len() == 1);

    let (printed, said, code) = told(&apply_text(&network, &agent, &["-"], "version: 1\n"));
    assert_eq!((printed.as_str(), code), ("", Some(1)));
    assert!(said.contains("--> <stdin>:1:1"), "{said}");
}

#[test]
fn a_file_with_errors_is_refused_with_all_of_them_and_changes_nothing() {
    let network = Network::new(Arms::Two, 2);
    let folder = network.lab.directory();
    let listener = listeners(1).remove(0);
    let _echo: Vec<_> = listener
        .backends()
        .map(|(number, backend, _)| EchoServer::start(&network.backends[number - 1], backend))
        .collect();
    let good = network.file(std::slice::from_ref(&listener));
    let agent = network.start(&good, &[]);
    let mut connection = Connection::open(&network.client, listener.vip);
    connection.exchange(1_000);
    fs::write(folder.join("bad.yaml"), good.replace("weight: 10", "weight: 101").replace("port: 8080", "port: 0"))
        .unwrap();

    let check = Command::new(clb()).args(["check", "bad.yaml"]).current_dir(folder).output().unwrap();
    let (_, problems, _) = told(&check);
    let (problems, _) = problems.rsplit_once("bad.yaml: 4 errors\n").unwrap();
    let (printed, said, code) = told(&apply(&network, &agent, &["bad.yaml"]));
    assert_eq!((printed.as_str(), code), ("", Some(1)), "{said}");
    assert_eq!(said, format!("{problems}the configuration in force stays: 4 errors and 0 warnings in bad.yaml\n"));
    let output = apply(&network, &agent, &["bad.yaml", "--json"]);
    let refused = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(refused["applied"], false);
    assert_eq!(refused["problems"].as_array().unwrap().len(), 4, "{refused}");
    assert!(log(&agent).contains("the configuration in force stays"), "{}", log(&agent));
    connection.exchange(1_000);

    // It did not become the agent's file, and `clb status` tells of it until another one is taken.
    let (shown, ..) = told(&agent.status_command().output().unwrap());
    let line = format!("{} stays in force, another configuration was refused: 4 errors", network.config().display());
    assert!(shown.contains(&line), "{shown}");
    let (printed, _, code) = told(&apply(&network, &agent, &[]));
    assert_eq!(
        (without_time(&printed), code),
        (format!("no change\n{} is in force\n", network.config().display()), Some(0))
    );
    let (shown, ..) = told(&agent.status_command().output().unwrap());
    assert!(!shown.contains("refused"), "{shown}");
}

#[test]
fn what_is_refused_for_another_reason_changes_nothing() {
    struct Case {
        name: &'static str,
        change: fn(&str) -> String,
        words: &'static [&'static str],
        said: &'static str,
    }
    let network = Network::new(Arms::Two, 2);
    let good = network.file(&listeners(1));
    let agent = network.start(&good, &[]);
    let path = network.lab.directory().join("new.yaml");
    for Case { name, change, words, said } in [
        Case {
            name: "another interface",
            change: |good| good.replacen("eth1", "eth2", 1),
            words: &["new.yaml"],
            said: "error: load_balancer.interfaces changed, which a reload cannot do\nhelp: start clb again with the new file\n",
        },
        Case {
            name: "too many slots move",
            change: |good| good.replacen("weight: 10", "weight: 30", 1),
            words: &["new.yaml", "--max-moved", "10"],
            said: "error: listener web-0: 24.99 % of the slots move, more than --max-moved\n",
        },
    ] {
        fs::write(&path, change(&good)).unwrap();
        let (printed, complaint, code) = told(&apply(&network, &agent, words));
        assert_eq!((printed.as_str(), code), ("", Some(2)), "{name}: {complaint}");
        assert!(complaint.starts_with(said) && complaint.contains("\nhelp: "), "{name}: {complaint}");
        let output = apply(&network, &agent, &[words, &["--json"]].concat());
        assert_eq!(json(&output)["applied"], false, "{name}");
        let (printed, ..) = told(&apply(&network, &agent, &[]));
        assert!(printed.starts_with("no change\n"), "{name}: {printed}");
    }
    let (printed, _, code) = told(&apply(&network, &agent, &["new.yaml", "--max-moved", "30"]));
    assert_eq!(code, Some(0), "{printed}");
    fs::remove_file(&path).unwrap();
    let (_, said, code) = told(&apply(&network, &agent, &[]));
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.starts_with("error: cannot read ") && said.contains("No such file") && said.contains("\nhelp: "),
        "{said}"
    );
}

/// A path that means another file to the agent is not one that it may read later.
#[test]
fn a_file_that_the_agent_does_not_see_does_not_become_its_own() {
    let network = Network::new(Arms::Two, 2);
    let agent = network.start(&network.file(&listeners(1)), &[]);
    let path = network.lab.directory().join("elsewhere.yaml");
    fs::write(&path, "another text").unwrap();
    for (name, file) in
        [("another text", &*path), ("no file", Path::new("/no/such/file")), ("a device", Path::new("/dev/zero"))]
    {
        let request = Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--data-binary", &network.file(&listeners(2))])
            .arg("--unix-socket")
            .arg(agent.socket())
            .arg(format!("http://clb/v1/apply?name=sent&file={}", file.display()))
            .output()
            .unwrap();
        let applied = json(&request);
        assert_eq!(applied["configuration"], "sent", "{name}: {applied}");
        assert_eq!(applied["file"], network.config().display().to_string(), "{name}: {applied}");
    }
}

/// Only what is new is waited for.
#[test]
fn a_backend_that_has_long_been_silent_does_not_hold_up_a_change() {
    let network = Network::new(Arms::Two, 1);
    let with = |weight| network.file(&[listeners(1).remove(0).weights(&[10, weight])]);
    fs::write(network.config(), with(10)).unwrap();
    let agent = Agent::start(&network.lab, &network.balancer, &network.config(), &["--allow-unresolved"]).unwrap();
    wait_until("it serves", PATIENCE, || Ok(agent.status().is_ok())).unwrap();
    let waits = || log(&agent).matches("neighbours to answer").count();
    assert_eq!(waits(), 1, "at the start: {}", log(&agent));
    let (printed, _, code) = told(&apply_text(&network, &agent, &["-"], &with(30)));
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(waits(), 1, "{}", log(&agent));
    let new = network.file(&[listeners(1).remove(0).weights(&[10, 30, 10])]);
    assert_eq!(apply_text(&network, &agent, &["-"], &new).status.code(), Some(0));
    assert_eq!(waits(), 2, "{}", log(&agent));
}
