//! Real servers on a host: each answers a line with its own name and that line, over the kernel's own sockets.

use std::{
    fmt, io,
    net::SocketAddr,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    runtime,
    sync::oneshot,
    task::JoinSet,
};

use crate::Host;

/// What a listener's packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection: one line there, one line back, and the server closes.
    Tcp,
    /// One datagram there, one back.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One server socket.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its address and port; the host must have the address.
    pub listen: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The only interface that it takes packets from and sends packets to.
    pub device: String,
    /// How it calls itself in its answers.
    pub identity: String,
}

/// Running servers of one host, until dropped.
#[derive(Debug)]
pub struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Starts them; when this returns, every socket takes packets.
    pub fn start(host: &Host, servers: Vec<Server>) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
        let sockets = host.enter(|| {
            let _inside = runtime.enter();
            servers.into_iter().map(Socket::open).collect::<Result<Vec<_>>>()
        })??;
        let (stop, stopped) = oneshot::channel();
        // A socket stays on the host where it was made, whoever uses it; so this thread need not enter.
        let thread = thread::Builder::new().name(format!("servers of {}", host.label())).spawn(move || {
            runtime.block_on(async {
                let mut serving: JoinSet<()> = sockets.into_iter().map(Socket::serve).collect();
                tokio::select! {
                    _ = stopped => {}
                    _ = serving.join_next() => {}
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Both may be over already: a server that panicked has said so itself.
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

enum Socket {
    Tcp(TcpListener, String),
    Udp(UdpSocket, String),
}

impl Socket {
    fn open(server: Server) -> Result<Self> {
        let Server { listen, protocol, device, identity } = server;
        let context = || anyhow!("serve {protocol} on {listen} through {device}");
        let opened: io::Result<Self> = match protocol {
            Protocol::Tcp => tcp_socket(listen).and_then(|socket| {
                socket.bind_device(Some(device.as_bytes()))?;
                socket.bind(listen)?;
                Ok(Self::Tcp(socket.listen(BACKLOG)?, identity))
            }),
            Protocol::Udp => bind_udp(listen).and_then(|socket| {
                socket.bind_device(Some(device.as_bytes()))?;
                Ok(Self::Udp(socket, identity))
            }),
        };
        opened.with_context(context)
    }

    async fn serve(self) {
        match self {
            Self::Tcp(listener, identity) => serve_tcp(&listener, &identity).await,
            Self::Udp(socket, identity) => serve_udp(&socket, &identity).await,
        }
    }
}

/// A TCP socket of the address's family that may take a port whose last connection has only just closed.
pub(crate) fn tcp_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// A UDP socket at this address.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn serve_tcp(listener: &TcpListener, identity: &str) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((connection, _)) = accepted {
                connections.spawn(answer(connection, identity.to_owned()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection that breaks is the client's to report.
async fn answer(connection: TcpStream, identity: String) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    connection.write_all(format!("{identity}: {line}").as_bytes()).await
}

async fn serve_udp(socket: &UdpSocket, identity: &str) {
    let mut datagram = [0; 512];
    loop {
        // An error here is of an earlier answer (an ICMP message from the client); the client reports it, too.
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { continue };
        let answer = format!("{identity}: {}", String::from_utf8_lossy(&datagram[..length]));
        let _ = socket.send_to(answer.as_bytes(), client).await;
    }
}

const BACKLOG: u32 = 1024;
