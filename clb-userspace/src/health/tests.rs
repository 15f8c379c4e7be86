//! Checks of servers that misbehave on purpose, over loopback.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    thread,
    time::Duration,
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime,
    sync::oneshot,
};

use super::{Counts, Echoes, Failure, Health, Verdict, ask, bad};
use crate::{
    config::{HealthCheck, HealthCheckKind, HttpCheck, HttpMethod, Statuses, UdpCheck, load},
    dataplane::ListenerId,
    slots::BackendId,
};

/// Silence is waited for; anything else is there far sooner than the patience for it ends.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

fn silence() -> Result<(), Failure> {
    Err(bad("no answer within 200ms"))
}

fn check(kind: HealthCheckKind, timeout: Duration) -> HealthCheck {
    HealthCheck { kind, interval: 2 * timeout, timeout, healthy: 3, unhealthy: 3 }
}

fn patience(wanted: &Result<(), Failure>) -> Duration {
    if *wanted == silence() { SHORT } else { LONG }
}

#[tokio::test]
async fn tcp() {
    let echoes = Echoes::open();
    let good = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    // Its queue of one is full, and the kernel drops the next client's packets.
    let hangs = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    hangs.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    hangs.listen(0).unwrap();
    let full = hangs.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(full).await.unwrap();
    let cases = [
        ("accepts", good.local_addr().unwrap(), Ok(())),
        ("refuses", nobody().await, Err(bad("connection refused"))),
        ("hangs", full, silence()),
    ];
    for (name, backend, wanted) in cases {
        assert_eq!(ask(backend, &check(HealthCheckKind::Tcp, patience(&wanted)), &echoes).await, wanted, "{name}");
    }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// What a server does once it has a request.
#[derive(Clone, Copy)]
enum Does {
    Answer(&'static str),
    Close(&'static str),
    Reset,
    Repeat(&'static str),
    Hang(&'static str),
}

async fn serve(listener: TcpListener, does: Does) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = [0; 1024];
    let length = stream.read(&mut request).await.unwrap();
    assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\nHost: shop.example\r\n"));
    match does {
        Does::Answer(text) | Does::Hang(text) => {
            stream.write_all(text.as_bytes()).await.unwrap();
            let _ = stream.read(&mut request).await;
        }
        Does::Close(text) => stream.write_all(text.as_bytes()).await.unwrap(),
        Does::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
        Does::Repeat(text) => while stream.write_all(text.as_bytes()).await.is_ok() {},
    }
}

#[tokio::test]
async fn http() {
    let echoes = Echoes::open();
    let too_long = || Err(bad("no end of the HTTP head within 16384 bytes"));
    let closed = || Err(bad("the connection was closed before an HTTP status"));
    let no_http = || Err(bad("the answer is not HTTP/1"));
    let cases = [
        ("good", Does::Answer("HTTP/1.1 204 No Content\r\n\r\n"), Ok(())),
        ("good, without a reason", Does::Answer("HTTP/1.0 200\r\n\r\n"), Ok(())),
        ("a redirect", Does::Answer("HTTP/1.1 302 Found\r\n\r\n"), Ok(())),
        ("wrong", Does::Answer("HTTP/1.1 503 Down\r\n\r\n"), Err(bad("HTTP status 503, expected 200-399"))),
        ("closes at once", Does::Close(""), closed()),
        ("closes within the status", Does::Close("HTTP/1.1 20"), closed()),
        ("resets", Does::Reset, Err(bad("connection reset"))),
        ("garbage", Does::Answer("SSH-2.0-OpenSSH\r\n"), no_http()),
        ("bytes of no protocol", Does::Answer("\0\u{1}\u{2}\n\n"), no_http()),
        ("hangs", Does::Hang(""), silence()),
        ("hangs within the status", Does::Hang("HTTP/1.1 200 O"), silence()),
        ("a body without an end", Does::Repeat("HTTP/1.1 200 OK\r\n\r\nmore and more"), Ok(())),
        ("a status without an end", Does::Repeat("HTTP/1.1 200 aaaaaaaaaaaaaaaaaaaaa"), too_long()),
        ("empty lines without an end", Does::Repeat("\r\n"), too_long()),
    ];
    for (name, does, wanted) in cases {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let backend = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, does));
        let (path, host) = ("/health".into(), Some("shop.example".into()));
        let kind = HttpCheck { method: HttpMethod::Get, path, host, status: Statuses::DEFAULT };
        let check = check(HealthCheckKind::Http(kind), patience(&wanted));
        assert_eq!(ask(backend, &check, &echoes).await, wanted, "{name}");
        server.await.expect(name);
    }
}

#[tokio::test]
async fn udp() {
    let echoes = Echoes::open();
    let lacks = || Err(bad("the answer does not contain \"pong\""));
    let endless: &[u8] = "x".repeat(60_000).leak().as_bytes();
    let cases: [(_, _, Option<&[u8]>, _); 8] = [
        ("good", Some("pong"), Some(b"the pong of it"), Ok(())),
        ("wrong", Some("pong"), Some(b"pon"), lacks()),
        ("nothing in it", Some("pong"), Some(b""), lacks()),
        ("garbage", Some("pong"), Some(b"\0\xff\xfe"), lacks()),
        ("as long as can be", Some("pong"), Some(endless), lacks()),
        ("hangs", Some("pong"), None, silence()),
        ("any answer", None, Some(b"x"), Ok(())),
        ("no answer is needed", None, None, Ok(())),
    ];
    for (name, expect, answer, wanted) in cases {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let backend = server.local_addr().unwrap();
        let silent = answer.is_none();
        let (done, is_done) = oneshot::channel();
        let server = tokio::spawn(async move {
            let mut request = [0; 1024];
            let (length, client) = server.recv_from(&mut request).await.unwrap();
            assert_eq!(&request[..length], b"ping");
            if let Some(answer) = answer {
                server.send_to(answer, client).await.unwrap();
            }
            is_done.await.unwrap();
            // Too late: nobody is there any longer to take it for an answer to something else.
            server.send_to(b"pong", client).await.unwrap();
        });
        let kind = HealthCheckKind::Udp(asked(expect));
        let check = check(kind, if silent { SHORT } else { LONG });
        assert_eq!(ask(backend, &check, &echoes).await, wanted, "{name}");
        done.send(()).unwrap();
        server.await.expect(name);
    }
    for expect in [None, Some("pong")] {
        let check = check(HealthCheckKind::Udp(asked(expect)), LONG);
        assert_eq!(ask(nobody_by_udp().await, &check, &echoes).await, Err(bad("connection refused")), "{expect:?}");
    }
}

fn asked(expect: Option<&str>) -> UdpCheck {
    UdpCheck { send: "ping".parse().unwrap(), expect: expect.map(|text| text.parse().unwrap()) }
}

async fn nobody_by_udp() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// Runs a test in a network namespace of its own that ends with it, where the kernel answers no echo over IPv4.
fn in_namespace(test: impl AsyncFnOnce() + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip").success());
        fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1").expect("the sysctl");
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test().await });
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn icmp() {
    /// From the request's identifier and sequence number to the answer's bytes.
    type Answer = fn(u16, u16) -> Vec<u8>;
    fn echo(id: u16, seq: u16) -> Vec<u8> {
        Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq }), &[]).to_bytes().to_vec()
    }
    let cases: [(_, Answer, _); 6] = [
        ("good", echo, Ok(())),
        ("hangs", |_, _| vec![], silence()),
        ("another one's reply", |id, seq| echo(id ^ 1, seq), silence()),
        ("an old reply", |id, seq| echo(id, seq.wrapping_sub(1)), silence()),
        ("cut short", |id, seq| echo(id, seq)[..7].to_vec(), silence()),
        ("garbage", |_, _| vec![0xff; 900], silence()),
    ];
    in_namespace(async || {
        let echoes = Echoes::open();
        let backend = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(Protocol::ICMPV4)).unwrap();
        let server = UdpSocket::from_std(server.into()).unwrap();
        for (name, answer, wanted) in cases {
            let check = check(HealthCheckKind::Icmp, patience(&wanted));
            let serve = async {
                let mut packet = [0; 2048];
                loop {
                    let (length, from) = server.recv_from(&mut packet).await.unwrap();
                    let request = packet.get(20..length).and_then(|icmp| Icmpv4Header::from_slice(icmp).ok());
                    if let Some((Icmpv4Header { icmp_type: Icmpv4Type::EchoRequest(echo), .. }, _)) = request {
                        let answer = answer(echo.id, echo.seq);
                        if !answer.is_empty() {
                            server.send_to(&answer, from).await.unwrap();
                        }
                    }
                }
            };
            tokio::select! {
                got = ask(backend, &check, &echoes) => assert_eq!(got, wanted, "{name}"),
                () = serve => {}
            }
            assert!(echoes.is_idle(), "{name}");
        }
        let over_ipv6 = check(HealthCheckKind::Icmp, LONG);
        assert_eq!(ask((Ipv6Addr::LOCALHOST, 0).into(), &over_ipv6, &echoes).await, Ok(()), "IPv6");
    });
}

#[test]
fn trouble_of_the_agent_is_not_the_backends() {
    use std::io::Error;

    use nix::errno::Errno;

    for errno in [Errno::EPERM, Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL] {
        assert!(matches!(Failure::from(Error::from(errno)), Failure::Own(_)), "{errno}");
    }
    for errno in [Errno::ECONNREFUSED, Errno::ECONNRESET, Errno::EHOSTUNREACH, Errno::ENETUNREACH, Errno::EACCES] {
        assert!(matches!(Failure::from(Error::from(errno)), Failure::Backend(_)), "{errno}");
    }
}

#[tokio::test]
async fn without_its_socket_an_icmp_check_is_not_made() {
    let echoes = Echoes::closed();
    let check = check(HealthCheckKind::Icmp, LONG);
    for backend in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
        assert!(matches!(ask(backend, &check, &echoes).await, Err(Failure::Own(_))), "{backend}");
    }
}

#[tokio::test]
async fn verdicts_follow_the_backend_and_stay_through_a_reload() {
    let text = include_str!("../../../config/minimal-nat.yaml");
    let mut config = load("clb.yaml", text.as_bytes()).expect("a valid file").config;
    let backend = nobody().await;
    let listener = &mut config.listeners[0];
    let (interval, timeout) = (Duration::from_millis(10), LONG);
    listener.health_check = Some(HealthCheck { interval, ..check(HealthCheckKind::Tcp, timeout) });
    listener.backends.truncate(1);
    (listener.backends[0].address, listener.backends[0].port) = (backend.ip(), backend.port());
    let id = ListenerId { vip: listener.vip, protocol: listener.protocol, port: listener.port };
    let backend_id = BackendId { address: backend.ip(), port: backend.port() };

    let mut health = Health::start(&config, &BTreeSet::new());
    assert_eq!(health.verdict(id, backend_id), Verdict::Unknown);
    tokio::time::timeout(LONG, health.changed()).await.expect("a verdict");
    let state = health.state(id, backend_id).expect("it is checked");
    assert_eq!((state.verdict, state.cause.as_deref()), (Verdict::Unhealthy, Some("connection refused")));
    assert_eq!(health.counts(), Counts { to_unhealthy: 1, ..Counts::default() });

    health.follow(&config);
    assert_eq!(health.verdict(id, backend_id), Verdict::Unhealthy, "after a reload");

    let _server = TcpListener::bind(backend).await.unwrap();
    tokio::time::timeout(LONG, health.changed()).await.expect("another verdict");
    let state = health.state(id, backend_id).expect("it is checked");
    assert_eq!((state.verdict, state.cause), (Verdict::Healthy, None));
    assert_eq!(health.counts(), Counts { to_healthy: 1, to_unhealthy: 1, not_asked: 0 });

    config.listeners.clear();
    health.follow(&config);
    assert!(health.state(id, backend_id).is_none(), "it is checked no longer");
}
