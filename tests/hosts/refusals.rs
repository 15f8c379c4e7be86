//! A start that is refused: one error that says what to do, and the host is left as it was.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::ensure;
use clb_tests::{Agent, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    binary::clb,
    config::{Listener, Mode, every_kind, file},
    network::{Arms, Network, PATIENCE, run, signal, xdp_programs},
};

/// How a start ended.
#[derive(Debug)]
struct Refusal {
    code: Option<i32>,
    said: String,
}

impl Network {
    /// The command `clb run` with this file, on the load balancer's host.
    fn clb_run(&self, before: &[&str], file: &str, options: &[&str]) -> Command {
        fs::write(self.config(), file).unwrap();
        // Where everybody may execute it.
        let binary = self.lab.directory().join("clb");
        // By a process of its own: one that another test starts meanwhile would have the open file, too, and no open file
        // can be executed.
        let copied = Command::new("cp").arg(clb()).arg(&binary).status().unwrap();
        assert!(copied.success(), "{copied}");
        let mut words = before.iter().map(Into::into).chain([binary]);
        let mut command = self.balancer.command(words.next().expect("a command"));
        command.args(words).args(["run", "--config"]).arg(self.config());
        command.arg("--socket").arg(self.socket()).arg("--bpf-fs").arg(self.bpf_fs()).args(options);
        command
    }

    fn bpf_fs(&self) -> PathBuf {
        self.lab.bpf_fs(&self.balancer).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.lab.directory().join("refused.sock")
    }
}

/// Runs it to its end, and checks what is true of every refusal.
fn refused(name: &str, network: &Network, command: &mut Command) -> Refusal {
    let before = xdp_programs(&network.balancer);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = wait_until("the start is refused", PATIENCE, || Ok(child.try_wait()?.is_some()));
    if ended.is_err() {
        child.kill().unwrap();
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    ended.unwrap_or_else(|error| panic!("{name}: {error:#}\n{said}"));
    assert!(!status.success(), "{name}: {said}");
    assert_eq!(String::from_utf8(stdout).unwrap(), "", "{name}");
    let errors = said.lines().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 1, "{name}: {said}");
    assert!(said.contains("help: "), "{name}: {said}");
    assert!(!said.contains("panicked"), "{name}: {said}");
    assert_eq!(xdp_programs(&network.balancer), before, "{name}: {said}");
    assert!(!network.socket().exists(), "{name}: the socket's file is left");
    Refusal { code: status.code(), said }
}

fn assert_says(name: &str, refusal: &Refusal, code: i32, parts: &[&str]) {
    assert_eq!(refusal.code, Some(code), "{name}: {}", refusal.said);
    for part in parts {
        assert!(refusal.said.contains(part), "{name}: `{part}` is not in:\n{}", refusal.said);
    }
}

#[test]
fn a_file_or_a_network_that_will_not_do() {
    struct Case {
        name: &'static str,
        change: fn(String) -> String,
        options: &'static [&'static str],
        code: i32,
        says: &'static [&'static str],
    }
    let same = |file| file;
    let network = Network::new(Arms::Two, 1);
    // Its driver has no native mode.
    run(&network.balancer, "ip link add eth2 link eth1 type macvlan mode bridge");
    run(&network.balancer, "ip link set eth2 up");
    run(&network.balancer, "ip route add 10.0.1.12/32 via 10.0.1.11");
    let good = network.file(&[Listener::tcp("web", "203.0.113.10:80", Mode::Dsr, 80, 1)]);
    for Case { name, change, options, code, says } in [
        Case {
            name: "broken YAML",
            change: |_| "version: 1\nload_balancer: {id: x\nlisteners: []\n".to_owned(),
            options: &[],
            code: 1,
            says: &["error[syntax]", "clb.yaml:3:", "1 error; nothing was started"],
        },
        Case {
            name: "an interface that is not there",
            change: |file| file.replacen("eth1", "eth7", 1),
            options: &[],
            code: 2,
            says: &["there is no interface eth7", "`ip link` lists those of this host"],
        },
        Case {
            name: "the second interface cannot be attached to: the first is not left attached",
            change: |file| file.replacen("eth1", "eth2", 1),
            options: &["--xdp-mode", "native"],
            code: 2,
            says: &["attach clb to eth2 in native mode", "`--xdp-mode generic` works on every interface"],
        },
        Case {
            name: "a backend that does not answer",
            change: |_| {
                file(&["eth0"], &[Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 80, 3).weights(&[1, 0, 1])])
            },
            options: &[],
            code: 2,
            says: &[
                "the next hop of a backend is not known\n  10.0.1.13: the MAC address of 10.0.1.13 on eth1",
                "help: check that 10.0.1.13 is running",
                "help: to start all the same",
                "--allow-unresolved",
            ],
        },
        Case {
            name: "a dsr backend behind a router",
            change: |_| file(&["eth0"], &[Listener::tcp("web", "203.0.113.10:80", Mode::Dsr, 80, 2)]),
            options: &[],
            code: 2,
            says: &["10.0.1.12: it is behind the router 10.0.1.11", "use nat otherwise"],
        },
        Case {
            name: "a socket where there is no folder",
            change: same,
            options: &["--socket", "/run/no-such-folder/clb.sock"],
            code: 2,
            says: &["/run/no-such-folder/clb.sock", "No such file or directory", "`--socket PATH`"],
        },
        Case {
            name: "no BPF file system",
            change: same,
            options: &["--bpf-fs", "/run"],
            code: 2,
            says: &["/run is no BPF file system", "help: `mount -t bpf bpf /run`", "`--bpf-fs PATH`"],
        },
    ] {
        // The last of two equal options would be an error of its own.
        let mut command = network.clb_run(&[], &change(good.clone()), &[]);
        if options.contains(&"--socket") || options.contains(&"--bpf-fs") {
            let (option, value) = match options[0] {
                "--socket" => ("--bpf-fs", network.bpf_fs()),
                _ => ("--socket", network.socket()),
            };
            command = network.balancer.command(clb());
            command.args(["run", "--config"]).arg(network.config()).arg(option).arg(value);
        }
        let refusal = refused(name, &network, command.args(options));
        assert_says(name, &refusal, code, says);
    }
    let mut agent = Agent::start(&network.lab, &network.balancer, &network.config(), &[]).unwrap();
    agent.stop().unwrap();
}

#[test]
fn a_path_that_is_no_readable_file() {
    let network = Network::new(Arms::One, 1);
    let file = network.file(&[]);
    for (name, path, says) in [
        ("missing", "no-such.yaml", "No such file or directory"),
        ("a folder", "", "Is a directory"),
        ("below a file", "clb.yaml/clb.yaml", "Not a directory"),
    ] {
        fs::write(network.config(), &file).unwrap();
        let mut command = network.balancer.command(clb());
        command.args(["run", "--config"]).arg(network.lab.directory().join(path));
        let refusal = refused(name, &network, command.arg("--socket").arg(network.socket()));
        assert_says(name, &refusal, 2, &["error: cannot read /run/", says]);
        assert_eq!(refusal.said.matches(says).count(), 1, "{name}: said twice: {}", refusal.said);
    }
}

#[test]
fn an_interface_with_a_program_of_somebody_else() {
    let network = Network::new(Arms::Two, 1);
    network.lab.receive_frames(&network.balancer, "eth1").unwrap();
    let file = network.file(&every_kind(1));
    for options in [&[][..], &["--xdp-mode", "native"], &["--xdp-mode", "generic"]] {
        let refusal = refused("a foreign program", &network, &mut network.clb_run(&[], &file, options));
        assert_says("a foreign program", &refusal, 2, &["eth1 already has an XDP program: pass", "clb never replaces"]);
        assert_eq!(xdp_programs(&network.balancer), ["eth1: pass"]);
    }
}

#[test]
fn a_second_agent() {
    let network = Network::new(Arms::One, 1);
    let file = network.file(&every_kind(1));
    let agent = network.start(&file, &[]);
    let mut same_socket = network.balancer.command(clb());
    same_socket.args(["run", "--config"]).arg(network.config()).arg("--socket").arg(agent.socket());
    let refusal = refused("the same socket", &network, &mut same_socket);
    assert_says(
        "the same socket",
        &refusal,
        2,
        &["another clb answers on", "a socket of its own with `--socket PATH`"],
    );
    let refusal = refused("the same load balancer", &network, &mut network.clb_run(&[], &file, &[]));
    assert_says("the same load balancer", &refusal, 2, &["another clb runs the load balancer lb-lab", "stop it first"]);
    let another = file.replace("id: lb-lab", "id: lb-other");
    let refusal = refused("the same interface", &network, &mut network.clb_run(&[], &another, &[]));
    assert_says("the same interface", &refusal, 2, &["eth0 already has an XDP program: clb"]);
    let refused = agent.detach_command().output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("another clb runs the load balancer lb-lab"), "{said}");
    assert!(agent.socket().exists());
    assert_eq!(agent.status().unwrap().listeners.len(), 8, "the first agent is as it was");
}

#[test]
fn without_privileges() {
    let network = Network::new(Arms::One, 1);
    let file = network.file(&every_kind(1));
    fs::set_permissions(network.lab.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    for (name, wrapper, says) in [
        ("root without the capabilities", &["setpriv", "--bounding-set=-bpf,-net_admin"][..], "needs CAP_BPF"),
        ("root without one of them", &["setpriv", "--bounding-set=-net_admin"], "needs CAP_NET_ADMIN"),
        ("root without another of them", &["setpriv", "--bounding-set=-perfmon"], "needs CAP_PERFMON"),
        ("nobody", &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "needs CAP_BPF"),
    ] {
        let mut command = network.clb_run(wrapper, &file, &[]);
        let refusal = refused(name, &network, &mut command);
        assert_says(name, &refusal, 2, &[says, "run clb as root"]);
    }
}

#[test]
fn the_capabilities_that_are_asked_for_are_enough() {
    let network = Network::new(Arms::One, 1);
    let listeners = every_kind(1);
    let _servers = network.serve(&listeners);
    fs::set_permissions(network.lab.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+bpf,+perfmon,+net_admin",
        "--ambient-caps=-all,+bpf,+perfmon,+net_admin",
    ];
    fs::set_permissions(network.bpf_fs(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = network.clb_run(&nobody, &network.file(&listeners), &[]);
    let mut agent = command.stderr(Stdio::null()).spawn().unwrap();
    wait_until("it serves", PATIENCE, || {
        ensure!(agent.try_wait()?.is_none(), "the agent has ended");
        Ok(xdp_programs(&network.balancer) == ["eth0: clb"])
    })
    .unwrap();
    for listener in &listeners {
        assert_eq!(network.flows(listener, 10).failures, [].into(), "{}", listener.name);
    }
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(agent.wait().unwrap().success());
    assert!(!network.socket().exists());
}

#[test]
fn an_unresolved_backend_may_be_allowed() {
    let network = Network::new(Arms::One, 1);
    let listeners = [Listener::udp("web", "203.0.113.10:53", Mode::Nat, 5354, 2)];
    fs::write(network.config(), network.file(&listeners)).unwrap();
    let agent = Agent::start(&network.lab, &network.balancer, &network.config(), &["--allow-unresolved"]).unwrap();
    wait_until(
        "it serves",
        PATIENCE,
        || Ok(xdp_programs(&network.balancer) == ["eth0: clb"] && agent.status().is_ok()),
    )
    .unwrap_or_else(|error| panic!("{error:#}\n{}", crate::network::log(&agent)));
    let status = agent.status().unwrap();
    assert_eq!(status.backend("web", "10.0.1.11").unwrap().next_hop.state, "resolved");
    assert_eq!(status.backend("web", "10.0.1.12").unwrap().next_hop.state, "unresolved");
    // Its share of the packets is dropped, and the rest arrives.
    let _servers = network.serve(&listeners);
    let outcome = network.flows(&listeners[0], 40);
    let status = agent.status().unwrap();
    let dropped = status.drops["next-hop-unresolved"];
    assert!(dropped > 0 && outcome.failed() == dropped, "{outcome:?}: {status:#?}");
    assert_eq!(outcome.answers.keys().collect::<Vec<_>>(), ["10.0.1.11"]);
}

/// A killed agent leaves its socket's file behind, and forwarding; the next one is not hindered.
#[test]
fn after_a_killed_agent_the_next_one_starts() {
    let network = Network::new(Arms::One, 1);
    let listeners = every_kind(1);
    let file = network.file(&listeners);
    let _servers = network.serve(&listeners);
    let mut killed = network.start(&file, &[]);
    signal(&killed, Signal::SIGKILL);
    assert!(killed.stop().unwrap().code().is_none(), "it was killed");
    assert!(killed.socket().exists(), "the socket's file is left");
    let _next = network.start(&file, &[]);
    for listener in &listeners {
        assert_eq!(network.flows(listener, 10).failures, [].into(), "{}", listener.name);
    }
}

/// What stands at the socket's place and is no socket of a dead agent is not touched.
#[test]
fn a_place_for_the_socket_that_is_taken() {
    let network = Network::new(Arms::One, 1);
    let path = network.socket();
    fs::write(&path, "precious").unwrap();
    let file = network.file(&every_kind(1));
    let output = network.clb_run(&[], &file, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no socket\nhelp: "), "{output:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();

    let _somebody = UnixListener::bind(&path).unwrap();
    let output = network.clb_run(&[], &file, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(path.exists(), "the socket of a living process stays");
    fs::remove_file(&path).unwrap();
    assert_eq!(xdp_programs(&network.balancer), [""; 0]);
}
