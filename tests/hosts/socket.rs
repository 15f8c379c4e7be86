//! What a client of the agent's socket may do: nothing that another client, or the traffic, would notice.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::Stdio,
    time::{Duration, Instant},
};

use clb_tests::wait_until;
use clb_userspace::api::{ROUTES, Route};
use nix::sys::signal::Signal;

use crate::{
    binary::clb,
    config::every_kind,
    network::{Arms, Network, PATIENCE, signal, xdp_programs},
};

#[test]
fn a_client_that_talks_nonsense_harms_nobody() {
    let network = Network::new(Arms::One, 1);
    let listeners = every_kind(1);
    let _servers = network.serve(&listeners);
    let agent = network.start(&network.file(&listeners), &[]);
    let mode = fs::metadata(agent.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only the owner may ask");

    let silent = (0..100).map(|number| {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        stream.write_all(if number % 2 == 0 { &b""[..] } else { b"GET /v1/sta" }).unwrap();
        stream
    });
    let silent: Vec<_> = silent.collect();
    let huge_body =
        [&b"POST /v1/status HTTP/1.1\r\nhost: clb\r\ncontent-length: 10000000\r\n\r\n"[..], &vec![b'x'; 10_000_000]]
            .concat();
    let huge_header = [&b"GET /v1/status HTTP/1.1\r\nx: "[..], &vec![b'x'; 10_000_000], b"\r\n\r\n"].concat();
    for (name, request, answer) in [
        ("garbage", vec![0xff; 10_000], "HTTP/1.1 400"),
        ("ten megabytes of zeros", vec![0; 10_000_000], "HTTP/1.1 400"),
        (
            "another path",
            b"GET /etc/passwd HTTP/1.1\r\nhost: clb\r\nconnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 404",
        ),
        (
            "another verb",
            b"DELETE /v1/status HTTP/1.1\r\nhost: clb\r\nconnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 404",
        ),
        ("ten megabytes of body", huge_body, "HTTP/1.1 404"),
        ("ten megabytes of header", huge_header, "HTTP/1.1 431"),
    ] {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The agent may hang up in the middle.
        let _ = stream.write_all(&request);
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received);
        let received = String::from_utf8_lossy(&received);
        assert!(received.starts_with(answer), "{name}: {received}");
        assert_eq!(agent.status().unwrap().listeners.len(), 8, "{name}");
    }
    // A client that says nothing, or no more, is sent away after its time.
    let started = Instant::now();
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut Vec::new()).expect("the agent hangs up");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    for listener in &listeners {
        assert_eq!(network.flows(listener, 20).failures, [].into(), "{}", listener.name);
    }
}

/// Whoever reads the log may go away; that must not take the agent along.
#[test]
fn an_agent_whose_log_nobody_reads_any_more_lives_on() {
    let network = Network::new(Arms::One, 1);
    let file = network.file(&every_kind(1));
    fs::write(network.config(), &file).unwrap();
    let socket = network.lab.directory().join("lb.sock");
    let mut command = network.balancer.command(clb());
    command.args(["run", "--config"]).arg(network.config()).arg("--socket").arg(&socket);
    command.arg("--bpf-fs").arg(network.lab.bpf_fs(&network.balancer).unwrap());
    let mut agent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(agent.stderr.take());
    let status = || network.balancer.command(clb()).args(["status", "--json", "--socket"]).arg(&socket).output();
    wait_until("it answers", PATIENCE, || Ok(status()?.status.success())).unwrap();
    let reload = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.id().cast_signed()), Signal::SIGHUP);
    for (file, listeners) in [("bad", 8), (&*network.file(&every_kind(1)[..3]), 3), ("bad", 3)] {
        fs::write(network.config(), file).unwrap();
        reload().unwrap();
        wait_until(&format!("{listeners} listeners are there"), PATIENCE, || {
            let status: serde_json::Value = serde_json::from_slice(&status()?.stdout)?;
            Ok(status["listeners"].as_array().unwrap().len() == listeners)
        })
        .unwrap();
    }
    assert_eq!(xdp_programs(&network.balancer), ["eth0: clb"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(agent.wait().unwrap().success());
}

#[test]
fn every_route_of_the_table_is_answered() {
    let network = Network::new(Arms::One, 1);
    let agent = network.start(&network.file(&every_kind(1)), &[]);
    for Route { method, path, .. } in ROUTES {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: clb\r\ncontent-length: 0\r\n\r\n").unwrap();
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        let code = received.split_whitespace().nth(1).unwrap();
        assert!(["200", "400", "422"].contains(&code), "{method} {path}: {received}");
    }
}

/// Configurations are large, so more of them are received than of other questions, and more can be wrong.
#[test]
fn what_is_sent_as_a_configuration_has_its_bounds() {
    let network = Network::new(Arms::One, 1);
    let agent = network.start(&network.file(&every_kind(1)), &[]);
    let apply = "POST /v1/apply HTTP/1.1\r\nhost: clb\r\n";
    // More than there are places do not come to their end, and others are answered all the same.
    let begun: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            // It may have been sent away already.
            let _ = write!(stream, "{apply}content-length: 1000000\r\n\r\nversion: 1");
            stream
        })
        .collect();
    assert_eq!(agent.status().unwrap().listeners.len(), 8);

    let hundred_megabytes = vec![b'#'; 100_000_000];
    for (name, head, answer) in [
        ("a length that is too large", "content-length: 100000000\r\n\r\n".to_owned(), "HTTP/1.1 413"),
        (
            "one chunk that is too large",
            format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", 100_000_000),
            "HTTP/1.1 413",
        ),
        ("a length that makes no sense", "content-length: -1\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("{apply}{head}");
        std::thread::scope(|scope| {
            let mut writing = stream.try_clone().unwrap();
            let hundred_megabytes = &hundred_megabytes;
            scope.spawn(move || {
                let _ = writing.write_all(request.as_bytes()).and_then(|()| writing.write_all(hundred_megabytes));
            });
            // Another client is answered meanwhile.
            assert_eq!(agent.status().unwrap().listeners.len(), 8, "{name}");
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received);
            let received = String::from_utf8_lossy(&received);
            assert!(received.starts_with(answer), "{name}: {received}");
        });
    }
    for (name, path, body, answer) in [
        ("an empty configuration", "/v1/apply", "", "HTTP/1.1 422"),
        ("what is no YAML", "/v1/apply?name=x", "[", "HTTP/1.1 422"),
        ("an unknown word in the query", "/v1/apply?nmae=x", "version: 1", "HTTP/1.1 400"),
        ("a relative path", "/v1/apply?file=x", "version: 1", "HTTP/1.1 400"),
        ("another version of the API", "/v2/apply", "version: 1", "HTTP/1.1 404"),
        ("the agent's own file", "/v1/reload", "", "HTTP/1.1 200"),
    ] {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nhost: clb\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        assert!(received.starts_with(answer), "{name}: {received}");
        let (_, body) = received.split_once("\r\n\r\n").unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{name}: {body}");
    }
    assert_eq!(agent.status().unwrap().listeners.len(), 8);
    drop(begun);
}

/// More clients than there are places, some of which never read what they asked for.
#[test]
fn clients_that_hold_on_give_way_to_others() {
    let network = Network::new(Arms::One, 1);
    let agent = network.start(&network.file(&every_kind(1)), &[]);
    let held: Vec<_> = (0..500)
        .map(|number| {
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            let said: &[u8] = [&b""[..], b"GET /v1/sta", b"GET /v1/config HTTP/1.1\r\nhost: clb\r\n\r\n"][number % 3];
            // It may have been sent away already.
            let _ = stream.write_all(said);
            if number % 50 == 0 {
                assert_eq!(agent.status().unwrap().listeners.len(), 8, "with {number} clients");
            }
            stream
        })
        .collect();
    assert_eq!(agent.status().unwrap().listeners.len(), 8);
    drop(held);
}

#[test]
fn many_ask_at_once_while_the_file_is_read_again() {
    let network = Network::new(Arms::One, 1);
    let agent = network.start(&network.file(&every_kind(1)), &[]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..10).for_each(|_| assert_eq!(agent.status().unwrap().listeners.len(), 8)));
        }
        for _ in 0..50 {
            signal(&agent, Signal::SIGHUP);
        }
    });
}
