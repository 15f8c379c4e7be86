//! `clb decap` on backends: tunnels from the load balancer end there, and real servers answer the client directly.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    thread,
};

use clb_tests::{Host, Lab, Protocol, Server, Servers, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    binary::clb,
    config::{Listener, backend_address, every_mode},
    connection::{Connection, EchoServer},
    network::{Arms, Network, PATIENCE, checksum_errors, clients, flows, run, xdp_programs},
};

#[test]
fn tunnels_end_at_backends_without_a_tunnel_device() {
    for (options, mode) in [(&[][..], "native"), (&["--xdp-mode", "generic"], "generic")] {
        let network = network();
        let tunnels = every_tunnel();
        let _servers: Vec<_> = network.backends.iter().map(|backend| serve(backend, &tunnels)).collect();
        let mut decaps = network.decap(options);
        assert!(decaps.iter().all(|decap| decap.log().contains(&format!("attached to eth0 in {mode} mode"))));
        let _agent = network.start(&network.file(&tunnels), &[]);
        for listener in &tunnels {
            let outcome = network.flows(listener, FLOWS);
            assert_eq!(outcome.failures, [].into(), "{}, {mode}", listener.name);
            let who: Vec<_> = outcome.answers.keys().map(String::as_str).collect();
            assert_eq!(who, ["ins-1", "ins-2"], "{}, {mode}", listener.name);
        }
        // A flow over TCP is several packets, one over UDP is one; and nothing else was in a tunnel.
        let counts: Vec<_> = decaps.iter_mut().map(Decap::stop).collect();
        let of = |kind| counts.iter().map(|counts| counts.of(kind)).sum::<u64>();
        for kind in ["ipip", "gue"] {
            let (tcp, udp) = (4 * u64::from(FLOWS), 4 * u64::from(FLOWS));
            assert!(of(kind) > 3 * tcp + udp, "{kind}: {counts:?}");
        }
        assert_eq!(["refused-source", "malformed", "congested"].map(of), [0; 3], "{counts:?}");
        for backend in &network.backends {
            assert_eq!(xdp_programs(backend), [""; 0], "nothing stays attached");
            assert_eq!(checksum_errors(backend), 0, "{mode}");
        }
    }
}

/// Segments of full size, which are larger in the tunnel than the client's link allows.
#[test]
fn large_transfers_arrive_intact() {
    let network = network();
    let mut tunnels = every_tunnel();
    tunnels.retain(|tunnel| tunnel.protocol == Protocol::Tcp);
    let echo = |backend| tunnels.iter().map(move |tunnel| EchoServer::start(backend, tunnel.vip));
    let _servers: Vec<_> = network.backends.iter().flat_map(echo).collect();
    let _decaps = network.decap(&[]);
    let _agent = network.start(&network.file(&tunnels), &[]);
    for listener in &tunnels {
        Connection::open(&network.client, listener.vip).exchange(1_000_000);
    }
    for backend in &network.backends {
        assert_eq!(checksum_errors(backend), 0);
    }
}

#[test]
fn a_source_that_is_not_trusted_gets_nothing_through() {
    let network = network();
    let tunnels = every_tunnel();
    let _servers: Vec<_> = network.backends.iter().map(|backend| serve(backend, &tunnels)).collect();
    let _agent = network.start(&network.file(&tunnels), &[]);
    let mut decaps = network.decap(&["--from", "172.17.0.0/16", "--from", "100:0:0:1::/64"]);
    // Side by side: each waits in vain.
    thread::scope(|scope| {
        for listener in &tunnels {
            let source = clients(listener.vip.is_ipv4())[0];
            let client = &network.client;
            scope.spawn(move || {
                let outcome = flows(client, source, listener, 4);
                assert_eq!(outcome.answers, [].into(), "{}", listener.name);
                assert_eq!(outcome.failed(), 4, "{}", listener.name);
            });
        }
    });
    for decap in &mut decaps {
        let counts = decap.stop();
        assert!(counts.of("refused-source") > 0, "{counts:?}");
        assert_eq!(["ipip", "gue", "malformed", "congested"].map(|kind| counts.of(kind)), [0; 4], "{counts:?}");
    }
    // And it was only the source.
    let _decaps = network.decap(&[]);
    for listener in &tunnels {
        assert_eq!(network.flows(listener, 8).failures, [].into(), "{}", listener.name);
    }
}

#[test]
fn an_address_and_an_interface_that_come_later_are_followed() {
    let network = network();
    let mut tunnels = every_tunnel();
    tunnels.retain(|tunnel| tunnel.backend_is_ipv4 && tunnel.vip.is_ipv4());
    let _servers: Vec<_> = network.backends.iter().map(|backend| serve(backend, &tunnels)).collect();
    let _agent = network.start(&network.file(&tunnels), &[]);
    let backend = &network.backends[0];
    let address = format!("{}/16", backend_address(1, true));
    run(backend, &format!("ip address del {address} dev eth0"));
    let decaps = network.decap(&[]);
    run(backend, &format!("ip address add {address} dev eth0"));
    run(backend, "ip link set eth0 down");
    run(backend, "ip link set eth0 up");
    for listener in &tunnels {
        wait_until("all are answered", PATIENCE, || Ok(network.flows(listener, 8).failed() == 0))
            .unwrap_or_else(|error| panic!("{}: {error:#}\n{}", listener.name, decaps[0].log()));
    }
    decaps[0].signal(Signal::SIGUSR1);
    decaps[0].wait_for("packets: ipip ");
    assert!(decaps[0].counts().of("ipip") > 0, "{}", decaps[0].log());

    run(backend, "ip link del eth0");
    decaps[0].wait_for("eth0 is gone");
    network.lab.plug(&network.back, backend, "eth0").unwrap();
    decaps[0].wait_for("eth0 is back, attached in native mode");
    assert_eq!(xdp_programs(backend), ["eth0: decap"]);
}

#[test]
fn what_cannot_start_says_why_and_leaves_the_host_as_it_was() {
    let network = network();
    let backend = &network.backends[0];
    let decaps = network.decap(&[]);
    for (name, options, code, said) in [
        (
            "a second one on the same interface",
            &["--interface", "eth0"][..],
            2,
            "error: eth0 already has an XDP program: decap, id ",
        ),
        ("an interface that is not there", &["--interface", "eth7"], 2, "help: `ip link` lists those of this host"),
        ("a prefix with bits behind it", &["--interface", "eth1", "--from", "10.0.0.5/8"], 2, "10.0.0.0/8"),
        ("no prefix", &["--interface", "eth1", "--from", "10.0.0.5"], 2, "an address and a length"),
        ("no port", &["--interface", "eth1", "--gue-port", "0"], 2, "--gue-port"),
        ("no interface", &[], 2, "--interface"),
    ] {
        let output = backend.command(clb()).arg("decap").args(options).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{name}: {stderr}");
        assert!(stderr.contains(said), "{name}: {stderr}");
        assert_eq!(xdp_programs(backend), ["eth0: decap"], "{name}");
    }
    drop(decaps);
    assert_eq!(xdp_programs(backend), [""; 0]);
}

/// A listener in each mode that encapsulates.
fn every_tunnel() -> Vec<Listener> {
    let mut tunnels = every_mode(BACKENDS);
    tunnels.retain(Listener::is_tunnel);
    tunnels
}

fn serve(backend: &Host, tunnels: &[Listener]) -> Servers {
    let server = |listener: &Listener| Server {
        listen: listener.vip,
        protocol: listener.protocol,
        device: String::new(),
        identity: backend.label().to_owned(),
    };
    Servers::start(backend, tunnels.iter().map(server).collect()).unwrap()
}

/// With two arms, so that answers do not come by the interface that tunnels end at; and with room for outer headers there.
fn network() -> Network {
    let network = Network::new(Arms::Two, BACKENDS);
    network.make_room(&network.backends);
    network
}

impl Network {
    /// Starts `clb decap` on every backend, and waits until it takes tunnels off.
    pub fn decap(&self, options: &[&str]) -> Vec<Decap> {
        let decaps: Vec<_> = self.backends.iter().map(|backend| Decap::start(&self.lab, backend, options)).collect();
        for decap in &decaps {
            decap.wait_for("taking off");
        }
        decaps
    }
}

/// A running `clb decap`, until dropped.
pub struct Decap {
    process: Child,
    log: PathBuf,
}

impl Decap {
    fn start(lab: &Lab, backend: &Host, options: &[&str]) -> Self {
        let log = lab.directory().join(format!("{}-decap.log", backend.label()));
        let stderr = File::create(&log).unwrap();
        let mut command = backend.command(clb());
        command.args(["decap", "--interface", "eth0"]).args(options);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Self { process, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn wait_for(&self, said: &str) {
        wait_until(&format!("the log says `{said}`"), PATIENCE, || Ok(self.log().contains(said)))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    /// The last counts that the log shows.
    fn counts(&self) -> Counts {
        let log = self.log();
        let (_, counts) = log.trim_end().rsplit_once("packets: ").unwrap_or_else(|| panic!("no counts: {log}"));
        let counts = counts.split(", ").map(|count| {
            let (kind, packets) = count.split_once(' ').unwrap();
            (kind.to_owned(), packets.parse().unwrap())
        });
        Counts(counts.collect())
    }

    /// Ends it with SIGTERM, and returns what it counted.
    fn stop(&mut self) -> Counts {
        self.signal(Signal::SIGTERM);
        let ended = self.process.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.log());
        self.counts()
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        // It may have ended already.
        if let Ok(None) = self.process.try_wait() {
            self.signal(Signal::SIGTERM);
            let _ = self.process.wait();
        }
    }
}

#[derive(Debug)]
struct Counts(Vec<(String, u64)>);

impl Counts {
    fn of(&self, kind: &str) -> u64 {
        let found = self.0.iter().find(|(other, _)| other == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {self:?}")).1
    }
}

const BACKENDS: usize = 2;
const FLOWS: u32 = 40;
