//! Health checks of real servers that misbehave on purpose: the verdict with its cause, traffic that avoids such a backend, and
//! its share when it is well again.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use clb_tests::{Agent, BackendStatus, Host, Protocol, Status, wait_until};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader as AsyncBufReader},
    net::{TcpListener, TcpStream as AsyncTcpStream, UdpSocket},
    time::sleep,
};

use crate::{
    config::{Listener, Mode},
    connection::{Serving, listen},
    datagrams,
    network::{Arms, Network, log, run, wait_for_status, wait_for_status_within},
};

/// The backend that falls ill.
const ILL: &str = "10.0.1.11";
/// Two failures at the shortest interval, of which the last may have to be waited for; two good answers likewise.
const VERDICT: Duration = Duration::from_secs(20);

/// How a backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    Well,
    /// Its port is closed.
    NotAtAll,
    /// It is there, and takes no connection.
    FullBacklog,
    /// It takes them, and says nothing in time.
    Late,
    Http(&'static str),
    Datagram(&'static str),
    /// Its interface is down.
    LinkDown,
}

/// A server of a backend, until dropped.
type Running = Box<dyn Any>;

fn start(host: &Host, protocol: Protocol, address: SocketAddr, answers: Answers) -> Running {
    let identity = address.ip().to_string();
    match (answers, protocol) {
        (Answers::NotAtAll, _) => Box::new(()),
        (Answers::FullBacklog, _) => Box::new(full_backlog(host, address)),
        (_, Protocol::Tcp) => {
            let listener = listen(host, address);
            Box::new(Serving::start(async move || {
                serve(listener.try_into().unwrap(), &identity, move || answers).await;
            }))
        }
        (_, Protocol::Udp) => {
            let socket = datagrams::bind(host, address);
            Box::new(Serving::start(async move || {
                serve_datagrams(socket.try_into().unwrap(), &identity, answers).await;
            }))
        }
    }
}

/// A socket whose queue of one is full: the kernel drops the next client's packets.
fn full_backlog(host: &Host, address: SocketAddr) -> (Socket, TcpStream) {
    let work = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(0)?;
        Ok::<_, io::Error>((socket, TcpStream::connect(address)?))
    };
    host.enter(work).unwrap().unwrap()
}

/// Answers each line: a request as `answers` says, any other with its own name and that line.
async fn serve(listener: TcpListener, identity: &str, answers: impl Fn() -> Answers + Clone + Send + 'static) {
    while let Ok((connection, _)) = listener.accept().await {
        // A connection that breaks is the client's to report.
        tokio::spawn(converse(connection, identity.to_owned(), answers.clone()));
    }
}

async fn converse(
    connection: AsyncTcpStream,
    identity: String,
    answers: impl Fn() -> Answers + Send + 'static,
) -> io::Result<()> {
    let mut connection = AsyncBufReader::new(connection);
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        if !line.starts_with("GET ") {
            connection.write_all(format!("{identity}: {line}").as_bytes()).await?;
            // What opens many flows reads to the end.
            if line.starts_with("flow ") {
                return Ok(());
            }
            line.clear();
            continue;
        }
        let answer = match answers() {
            Answers::Http(answer) => answer,
            Answers::Late => {
                sleep(2 * VERDICT).await;
                ""
            }
            _ => "HTTP/1.1 200 OK\r\n\r\n",
        };
        return connection.write_all(answer.as_bytes()).await;
    }
    Ok(())
}

async fn serve_datagrams(socket: UdpSocket, identity: &str, answers: Answers) {
    let mut datagram = [0; 512];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { continue };
        let text = String::from_utf8_lossy(&datagram[..length]);
        let answer = match (&*text, answers) {
            ("ping", Answers::Datagram(answer)) => answer.to_owned(),
            ("ping", Answers::Late) => continue,
            ("ping", _) => "well: pong".to_owned(),
            _ => format!("{identity}: {text}"),
        };
        let _ = socket.send_to(answer.as_bytes(), client).await;
    }
}

/// The file, with a check for each listener, as fast as can be, and what else it has.
fn file(network: &Network, listeners: &[(Listener, String)]) -> String {
    let bare: Vec<_> = listeners.iter().map(|(listener, _)| listener.clone()).collect();
    listeners.iter().fold(network.file(&bare), |file, (Listener { name, .. }, keys)| {
        file.replace(&format!("{{name: \"{name}\", "), &format!("{{name: \"{name}\", {keys}, "))
    })
}

fn health_check(what: &str) -> String {
    format!("health_check: {{{what}, interval: 2001ms, timeout: 2s, healthy: 2, unhealthy: 2}}")
}

fn backend<'s>(status: &'s Status, listener: &Listener, address: &str) -> &'s BackendStatus {
    status.backend(&listener.name, address).unwrap_or_else(|| panic!("{} has {address}", listener.name))
}

fn verdict(status: &Status, listener: &Listener, address: &str) -> String {
    backend(status, listener, address).health.clone().unwrap_or_default().verdict
}

fn shares(status: &Status) -> Vec<Vec<f64>> {
    let of = |listener: &clb_tests::ListenerStatus| listener.backends.iter().map(|backend| backend.share).collect();
    status.listeners.iter().map(of).collect()
}

struct Case {
    name: &'static str,
    protocol: Protocol,
    check: &'static str,
    ill: Answers,
    cause: &'static str,
}

const HTTP: &str = "type: http";
const UDP: &str = "type: udp, send: ping, expect: pong";
const CASES: [Case; 10] = [
    Case {
        name: "tcp-refuses",
        protocol: Protocol::Tcp,
        check: "type: tcp",
        ill: Answers::NotAtAll,
        cause: "connection refused",
    },
    Case {
        name: "tcp-hangs",
        protocol: Protocol::Tcp,
        check: "type: tcp",
        ill: Answers::FullBacklog,
        cause: "no answer within 2s",
    },
    Case { name: "http-late", protocol: Protocol::Tcp, check: HTTP, ill: Answers::Late, cause: "no answer within 2s" },
    Case {
        name: "http-status",
        protocol: Protocol::Tcp,
        check: HTTP,
        ill: Answers::Http("HTTP/1.1 503 Down\r\n\r\n"),
        cause: "HTTP status 503, expected 200-399",
    },
    Case {
        name: "http-garbage",
        protocol: Protocol::Tcp,
        check: HTTP,
        ill: Answers::Http("SSH-2.0-OpenSSH\r\n"),
        cause: "the answer is not HTTP/1",
    },
    Case { name: "udp-silent", protocol: Protocol::Udp, check: UDP, ill: Answers::Late, cause: "no answer within 2s" },
    Case {
        name: "udp-wrong",
        protocol: Protocol::Udp,
        check: UDP,
        ill: Answers::Datagram("pang"),
        cause: "the answer does not contain \"pong\"",
    },
    Case {
        name: "udp-closed",
        protocol: Protocol::Udp,
        check: "type: udp, send: ping",
        ill: Answers::NotAtAll,
        cause: "connection refused",
    },
    Case {
        name: "icmp-down",
        protocol: Protocol::Udp,
        check: "type: icmp",
        ill: Answers::LinkDown,
        cause: "no answer within 2s",
    },
    Case { name: "tcp-down", protocol: Protocol::Tcp, check: "type: tcp", ill: Answers::LinkDown, cause: "" },
];

/// The backends of a case: the one that falls ill, and one that does not. One whose link goes down has that for itself.
fn listener(number: usize, case: &Case) -> Listener {
    let port = 1_000 + number as u16;
    let vip = format!("203.0.113.10:{port}");
    let listener = match case.protocol {
        Protocol::Tcp => Listener::tcp(case.name, &vip, Mode::Nat, 1_000 + port, 3),
        Protocol::Udp => Listener::udp(case.name, &vip, Mode::Nat, 1_000 + port, 3),
    };
    if case.ill == Answers::LinkDown { listener } else { listener.weights(&[10, 20]) }
}

/// The number of the backend that falls ill, from 1.
fn falls_ill(case: &Case) -> usize {
    if case.ill == Answers::LinkDown { 3 } else { 1 }
}

#[test]
fn every_kind_of_failure_is_told_avoided_and_got_over() {
    let network = Network::new(Arms::Two, 3);
    let listeners: Vec<_> =
        CASES.iter().enumerate().map(|(number, case)| (listener(number, case), health_check(case.check))).collect();
    let cases = || CASES.iter().zip(listeners.iter().map(|(listener, _)| listener));
    let address = |number: usize| format!("10.0.1.1{number}");
    let mut ill = Vec::new();
    let mut others = Vec::new();
    for (case, listener) in cases() {
        for (number, backend, _) in listener.backends() {
            let server = start(&network.backends[number - 1], case.protocol, backend, Answers::Well);
            if number == falls_ill(case) { ill.push(server) } else { others.push(server) }
        }
    }
    let agent = network.start(&file(&network, &listeners), &[]);
    let before = shares(&agent.status().unwrap());
    wait_for_status_within(VERDICT, &agent, "all are healthy", |status| {
        let mut all =
            cases().flat_map(|(_, listener)| listener.backends().map(move |(_, backend, _)| (listener, backend)));
        all.all(|(listener, backend)| verdict(status, listener, &backend.ip().to_string()) == "healthy")
    });

    for (server, (case, listener)) in ill.iter_mut().zip(cases()) {
        // First the old one has to go.
        *server = Box::new(());
        let (number, backend, _) = listener.backends().nth(falls_ill(case) - 1).unwrap();
        *server = start(&network.backends[number - 1], case.protocol, backend, case.ill);
    }
    run(&network.backends[2], "ip link set eth0 down");
    let status = wait_for_status_within(VERDICT, &agent, "the ill ones are told", |status| {
        cases().all(|(case, listener)| verdict(status, listener, &address(falls_ill(case))) == "unhealthy")
    });
    for (case, listener) in cases() {
        let unhealthy = backend(&status, listener, &address(falls_ill(case)));
        let cause = unhealthy.health.as_ref().and_then(|health| health.cause.clone()).unwrap_or_default();
        assert!(cause.contains(case.cause) && !cause.is_empty(), "{}: {cause}", case.name);
        let outcome = network.flows(listener, 60);
        assert_eq!(outcome.failures, [].into(), "{}\n{}", case.name, log(&agent));
        assert_eq!(outcome.answers.get(&address(falls_ill(case))), None, "{}", case.name);
    }

    run(&network.backends[2], "ip link set eth0 up");
    run(&network.backends[2], "ip route add default via 10.0.0.2");
    for (server, (case, listener)) in ill.iter_mut().zip(cases()) {
        *server = Box::new(());
        let (number, backend, _) = listener.backends().nth(falls_ill(case) - 1).unwrap();
        *server = start(&network.backends[number - 1], case.protocol, backend, Answers::Well);
    }
    let status = wait_for_status_within(VERDICT, &agent, "they are well again", |status| {
        cases().all(|(case, listener)| verdict(status, listener, &address(falls_ill(case))) == "healthy")
    });
    assert_eq!(shares(&status), before);
    for (case, listener) in cases() {
        let outcome = network.flows(listener, 60);
        assert_eq!(outcome.failures, [].into(), "{}\n{}", case.name, log(&agent));
        assert!(outcome.answers.contains_key(&address(falls_ill(case))), "{}", case.name);
    }
}

/// Servers of a backend that can be told to answer their checks badly, while they serve their connections.
struct Ward {
    is_ill: Arc<AtomicBool>,
    _serving: Vec<Serving>,
}

impl Ward {
    fn open(network: &Network, listeners: &[(Listener, String)], number: usize) -> Self {
        let is_ill = Arc::new(AtomicBool::new(false));
        let serving = listeners.iter().filter_map(|(listener, _)| {
            let (_, backend, _) = listener.backends().find(|(bound, ..)| *bound == number)?;
            // Also in `dsr`, checks ask the private address.
            let everywhere = (Ipv4Addr::UNSPECIFIED, backend.port()).into();
            let socket = listen(&network.backends[number - 1], everywhere);
            let (identity, is_ill) = (backend.ip().to_string(), Arc::clone(&is_ill));
            let answers = move || {
                if is_ill.load(Ordering::Relaxed) { Answers::Http("HTTP/1.1 500 Ill\r\n\r\n") } else { Answers::Well }
            };
            Some(Serving::start(async move || serve(socket.try_into().unwrap(), &identity, answers).await))
        });
        let serving = serving.collect();
        Self { is_ill, _serving: serving }
    }

    fn set_ill(&self, is_ill: bool) {
        self.is_ill.store(is_ill, Ordering::Relaxed);
    }
}

/// A connection that stays, and who has it.
struct Guest {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Guest {
    fn new(network: &Network, listener: &Listener) -> Self {
        let connect = || TcpStream::connect_timeout(&listener.vip, Duration::from_secs(5));
        let stream = network.client.enter(connect).unwrap();
        let stream = stream.unwrap_or_else(|error| panic!("connect to {}: {error}", listener.name));
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut guest = Self { stream: BufReader::new(stream), host: String::new() };
        guest.host = guest.ask().unwrap_or_else(|error| panic!("ask {}: {error}", listener.name));
        guest
    }

    /// Who answers.
    fn ask(&mut self) -> io::Result<String> {
        self.stream.get_mut().write_all(b"who\n")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let (host, _) = line.split_once(": ").ok_or_else(|| io::Error::other("it was closed"))?;
        Ok(host.to_owned())
    }

    fn is_served(&mut self) -> bool {
        self.ask().is_ok_and(|host| host == self.host)
    }
}

fn guests(network: &Network, listener: &Listener) -> Vec<Guest> {
    (0..24).map(|_| Guest::new(network, listener)).collect()
}

fn hosts(guests: &[Guest]) -> BTreeSet<&str> {
    guests.iter().map(|guest| guest.host.as_str()).collect()
}

#[test]
fn connections_of_an_unhealthy_backend_move_or_stay_and_all_unhealthy_is_as_all_healthy() {
    let network = Network::new(Arms::Two, 3);
    network.add_source_addresses();
    let listeners = [
        ("moves", 80, Mode::Nat, "move", [10, 10, 0]),
        ("keeps", 81, Mode::Nat, "keep", [10, 10, 0]),
        ("moves-dsr", 82, Mode::Dsr, "move", [10, 10, 0]),
        ("moves-full-nat", 83, Mode::FullNat, "move", [10, 10, 0]),
    ];
    let listeners = listeners.map(|(name, port, mode, on_unhealthy, weights)| {
        // Each with a port of its own: the modes share the backends.
        let backend_port = if mode == Mode::Dsr { port } else { 9_000 + port };
        let listener = Listener::tcp(name, &format!("203.0.113.10:{port}"), mode, backend_port, 3).weights(&weights);
        (listener, format!("on_unhealthy: {on_unhealthy}, {}", health_check(HTTP)))
    });
    let wards: Vec<_> = (1..=3).map(|number| Ward::open(&network, &listeners, number)).collect();
    let agent = network.start(&file(&network, &listeners), &[]);
    let before = shares(&agent.status().unwrap());
    let is = |status: &Status, address: &str, wanted: &str| {
        listeners.iter().all(|(listener, _)| verdict(status, listener, address) == wanted)
    };
    let mut connected: BTreeMap<&str, Vec<Guest>> =
        listeners.iter().map(|(listener, _)| (listener.name.as_str(), guests(&network, listener))).collect();
    for (name, guests) in &connected {
        assert_eq!(hosts(guests).len(), 2, "{name}: weight 0 gets none");
    }

    // One of them, and the one whose weight is 0.
    wards[0].set_ill(true);
    wards[2].set_ill(true);
    let status = wait_for_status_within(VERDICT, &agent, "two are unhealthy", |status| {
        is(status, ILL, "unhealthy") && is(status, "10.0.1.13", "unhealthy")
    });
    wait_until("its flows in full_nat are over", Duration::from_secs(4), || {
        let status = agent.status()?;
        Ok(status.backend("moves-full-nat", ILL).is_some_and(|backend| backend.flows == 0))
    })
    .unwrap();
    for (listener, _) in &listeners {
        assert!(backend(&status, listener, ILL).share == 0.0, "{}", listener.name);
        for guest in connected.get_mut(listener.name.as_str()).unwrap() {
            let stays = guest.host != ILL || listener.name == "keeps";
            assert_eq!(guest.is_served(), stays, "{} at {}\n{}", listener.name, guest.host, log(&agent));
        }
        assert_eq!(hosts(&guests(&network, listener)), ["10.0.1.12"].into(), "{}", listener.name);
    }

    // All of them: somebody has to get the traffic.
    wards[1].set_ill(true);
    let status =
        wait_for_status_within(VERDICT, &agent, "all are unhealthy", |status| is(status, "10.0.1.12", "unhealthy"));
    wait_for_status(&agent, "all get traffic", |status| shares(status) == before);
    for (listener, _) in &listeners {
        assert!(backend(&status, listener, "10.0.1.12").health.is_some());
        assert_eq!(hosts(&guests(&network, listener)).len(), 2, "{}", listener.name);
    }

    for ward in &wards {
        ward.set_ill(false);
    }
    let status = wait_for_status_within(VERDICT, &agent, "all are healthy", |status| {
        [ILL, "10.0.1.12", "10.0.1.13"].iter().all(|address| is(status, address, "healthy"))
    });
    assert_eq!(shares(&status), before);
    for guest in connected.get_mut("keeps").unwrap() {
        assert!(guest.is_served(), "through all of that, at {}", guest.host);
    }
}

/// A backend that becomes healthy and unhealthy by turns is held back. No interval is shorter, so this takes half a minute.
#[test]
fn a_backend_that_flaps_is_held_back_and_told() {
    let network = Network::new(Arms::One, 2);
    let listeners = [(Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 8080, 2), health_check(HTTP))];
    let [(listener, _)] = &listeners;
    let asked = Arc::new(AtomicU32::new(0));
    let mut servers = Vec::new();
    for (number, address, _) in listener.backends() {
        let (socket, asked) = (listen(&network.backends[number - 1], address), Arc::clone(&asked));
        let answers = move || {
            let turn = if number == 1 { asked.fetch_add(1, Ordering::Relaxed) } else { 2 };
            // Two failures, two good answers, and so on, until it is held back.
            if turn / 2 % 2 == 0 && turn < FLAPS { Answers::Http("HTTP/1.1 500 Ill\r\n\r\n") } else { Answers::Well }
        };
        servers.push(Serving::start(async move || serve(socket.try_into().unwrap(), "web", answers).await));
    }
    let agent = network.start(&file(&network, &listeners), &[]);
    let held =
        |status: &Status| backend(status, listener, ILL).health.as_ref().is_some_and(|health| health.is_flapping);
    wait_for_status_within(2 * VERDICT, &agent, "it is held back", held);
    let status = agent.status().unwrap();
    assert_eq!(verdict(&status, listener, ILL), "unhealthy");
    assert!(backend(&status, listener, ILL).share == 0.0);
    assert!(
        shown(&agent).contains("10.0.1.11:8080 is unhealthy, and held back for changing too often: "),
        "{}",
        shown(&agent)
    );
}

fn shown(agent: &Agent) -> String {
    String::from_utf8(agent.status_command().output().unwrap().stdout).unwrap()
}

/// So many checks of a backend that flaps, until it is held back: at its seventh change.
const FLAPS: u32 = 14;
