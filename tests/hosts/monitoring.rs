//! `clb run --metrics`: what Prometheus scrapes is what `clb status` says, health is told, and who only looks harms nobody.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
};

use clb_tests::{Agent, Host, wait_until};
use nix::sys::signal::Signal;
use openmetrics_parser::openmetrics::parse_openmetrics;

use crate::{
    config::{Listener, Mode, every_kind},
    network::{Arms, Network, PATIENCE, log, run, signal},
};

const ADDRESS: &str = "127.0.0.1:9117";

/// The code and the body of the answer.
fn get(host: &Host, path: &str) -> anyhow::Result<(u16, String)> {
    let answer = host.enter(|| {
        let mut stream = TcpStream::connect(ADDRESS)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: clb\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    })??;
    parsed(&answer)
}

fn parsed(answer: &str) -> anyhow::Result<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let code = head.split_whitespace().nth(1).unwrap_or_default().parse()?;
    Ok((code, body.to_owned()))
}

fn start(network: &Network, listeners: &[Listener]) -> Agent {
    network.start(&network.file(listeners), &["--metrics", ADDRESS])
}

/// The value of the only sample that begins so.
fn sample(text: &str, begin: &str) -> u64 {
    let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(begin)).collect();
    assert_eq!(found.len(), 1, "{begin}:\n{text}");
    found[0].trim().parse().unwrap()
}

#[test]
fn a_scrape_says_what_status_says_at_that_moment() {
    let network = Network::new(Arms::Two, 2);
    let mut listeners = every_kind(2);
    listeners[0].name = "São Paulo (web)".to_owned();
    let _servers = network.serve(&listeners);
    let agent = start(&network, &listeners);
    for listener in &listeners {
        assert_eq!(network.flows(listener, 20).failures, [].into(), "{}", listener.name);
    }
    for _ in 0..2 {
        let status = agent.status().unwrap();
        let (code, text) = get(&network.balancer, "/metrics").unwrap();
        assert_eq!(code, 200, "{text}");
        parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        for listener in &status.listeners {
            let name = &listener.name;
            let packets = sample(&text, &format!("clb_listener_packets_total{{listener=\"{name}\"}}"));
            assert_eq!(packets, listener.packets, "{name}");
            for backend in &listener.backends {
                let address = match backend.address.parse().unwrap() {
                    std::net::IpAddr::V4(address) => format!("{address}:{}", backend.port),
                    std::net::IpAddr::V6(address) => format!("[{address}]:{}", backend.port),
                };
                let labels = format!("{{listener=\"{name}\",backend=\"{address}\"}}");
                assert_eq!(sample(&text, &format!("clb_backend_packets_total{labels}")), backend.packets, "{labels}");
                assert_eq!(sample(&text, &format!("clb_backend_reply_packets_total{labels}")), backend.reply_packets);
            }
        }
        assert_eq!(sample(&text, "clb_dropped_packets_total{reason=\"no-backend\"}"), status.drops["no-backend"]);
        assert_eq!(sample(&text, "clb_next_hops{state=\"resolved\"}"), 16);
        assert_eq!(network.flows(&listeners[1], 20).failures, [].into());
    }

    let mut socket = UnixStream::connect(agent.socket()).unwrap();
    socket.write_all(b"GET /v1/metrics HTTP/1.1\r\nhost: clb\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (code, text) = parsed(&answer).unwrap();
    assert_eq!(code, 200, "{answer}");
    assert!(parse_openmetrics(&text).is_ok(), "{text}");
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
}

#[test]
fn reloads_are_counted() {
    let network = Network::new(Arms::One, 1);
    let file = network.file(&every_kind(1));
    let agent = start(&network, &every_kind(1));
    let counted = |taken, refused, successful| {
        let (_, text) = get(&network.balancer, "/metrics").unwrap();
        assert_eq!(sample(&text, "clb_reloads_total{result=\"taken\"}"), taken);
        assert_eq!(sample(&text, "clb_reloads_total{result=\"refused\"}"), refused);
        assert_eq!(sample(&text, "clb_last_reload_successful"), successful);
    };
    counted(0, 0, 1);
    network.reload(&agent, &file, "read again");
    counted(1, 0, 1);
    network.reload(&agent, "bad", "the configuration in force stays");
    counted(1, 1, 0);
    network.reload(&agent, &file, "read again");
    counted(2, 1, 1);
}

#[test]
fn health_is_that_of_the_data_path() {
    let network = Network::new(Arms::Two, 1);
    let silent = network.file(&[Listener::tcp("silent", "203.0.113.10:80", Mode::Nat, 80, 2)]);
    fs::write(network.config(), silent).unwrap();
    let options = ["--allow-unresolved", "--metrics", ADDRESS];
    let agent = Agent::start(&network.lab, &network.balancer, &network.config(), &options).unwrap();
    wait_until("it waits", PATIENCE, || Ok(log(&agent).contains("neighbours to answer"))).unwrap();
    for path in ["/healthz", "/metrics"] {
        let starting = (503, "the agent is starting: nothing is attached yet\n".to_owned());
        assert_eq!(get(&network.balancer, path).unwrap(), starting, "{path}");
    }
    let becomes = |code, body: &str| {
        let mut latest = None;
        wait_until(body, PATIENCE, || {
            latest = Some(get(&network.balancer, "/healthz")?);
            Ok(latest == Some((code, format!("{body}\n"))))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {latest:?}"));
    };
    becomes(200, "ok");
    run(&network.balancer, "ip link delete eth1");
    becomes(503, "the program is not on eth1");
    let (code, text) = get(&network.balancer, "/metrics").unwrap();
    assert_eq!(code, 200, "what is left is still counted");
    assert_eq!(sample(&text, "clb_interface_attached{interface=\"eth1\",mode=\"none\"}"), 0);
    network.lab.plug(&network.back, &network.balancer, "eth1").unwrap();
    becomes(200, "ok");
    signal(&agent, Signal::SIGTERM);
}

#[test]
fn who_only_looks_harms_nobody() {
    let network = Network::new(Arms::One, 1);
    let listeners = every_kind(1);
    let _servers = network.serve(&listeners);
    let agent = start(&network, &listeners);
    let connect = || network.balancer.enter(|| TcpStream::connect(ADDRESS).unwrap()).unwrap();
    // More than there are places: the ones that say nothing give way.
    let silent: Vec<_> = (0..300)
        .map(|number| {
            let mut stream = connect();
            let said: &[u8] = [&b""[..], b"GET /met", b"GET /metrics HTTP/1.1\r\nhost: clb\r\nx: "][number % 3];
            // It may have been sent away already.
            let _ = stream.write_all(said);
            stream
        })
        .collect();
    for request in [vec![0xff; 10_000], [&b"GET /metrics HTTP/1.1\r\nx: "[..], &vec![b'x'; 1_000_000]].concat()] {
        let mut stream = connect();
        let _ = stream.write_all(&request);
        assert_eq!(get(&network.balancer, "/healthz").unwrap().0, 200);
    }
    for (path, code) in [("/metrics", 200), ("/", 404), ("/v1/status", 404), ("/v1/config", 404), ("/metrics/", 404)] {
        assert_eq!(get(&network.balancer, path).unwrap().0, code, "{path}");
    }
    let mut stream = connect();
    stream.write_all(b"POST /v1/apply HTTP/1.1\r\nhost: clb\r\ncontent-length: 3\r\n\r\nbad").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "only the owner's socket takes configurations: {answer}");
    assert_eq!(agent.status().unwrap().listeners.len(), 8);
    drop(silent);
}

#[test]
fn an_address_that_is_taken_is_told() {
    let network = Network::new(Arms::One, 1);
    let _taken = network.balancer.enter(|| std::net::TcpListener::bind(ADDRESS).unwrap()).unwrap();
    fs::write(network.config(), network.file(&every_kind(1))).unwrap();
    let agent = Agent::start(&network.lab, &network.balancer, &network.config(), &["--metrics", ADDRESS]).unwrap();
    let said = "error: answer on 127.0.0.1:9117: Address already in use (os error 98)\nhelp: ";
    wait_until("it says so", PATIENCE, || Ok(log(&agent).contains(said)))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", log(&agent)));
}
