//! Connections and UDP flows that stay open, each with an exchange about every second, and what becomes of them.
//!
//! Servers say who they are in every answer: so a flow that comes to another backend is seen, also where it goes on.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clb_tests::{Host, Protocol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Builder,
    sync::{mpsc, oneshot},
    task::spawn_local,
    time::{sleep, timeout},
};

/// A connection, or a UDP flow.
#[derive(Clone, Debug)]
pub struct Flow {
    pub listener: usize,
    pub protocol: Protocol,
    /// The backend that answered first.
    pub home: Option<usize>,
    /// Its backend died.
    pub is_excused: bool,
    pub exchanges: u64,
    pub end: Option<End>,
}

/// Why a flow is over that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// No backend ever answered.
    NeverOpened(String),
    /// An answer did not come, or the connection was reset.
    Lost(String),
    /// Another backend answered.
    Elsewhere(usize),
}

/// All flows, and their client.
pub struct Clients {
    flows: Arc<Mutex<Vec<Flow>>>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Order {
    number: usize,
    target: SocketAddr,
    protocol: Protocol,
    opened: oneshot::Sender<()>,
}

/// A flow that is being opened.
pub struct Opening {
    pub number: usize,
    opened: oneshot::Receiver<()>,
}

impl Clients {
    /// Clients on this host.
    pub fn start(host: &Host) -> Self {
        let flows = Arc::new(Mutex::new(Vec::new()));
        let (orders, received) = mpsc::unbounded_channel();
        let (host, shared) = (host.clone(), Arc::clone(&flows));
        let thread = thread::spawn(move || host.enter(|| open_all(received, &shared))?);
        Self { flows, orders: Some(orders), thread: Some(thread) }
    }

    /// Begins to open a flow.
    pub fn open(&self, listener: usize, target: SocketAddr, protocol: Protocol) -> Result<Opening> {
        let mut flows = self.flows();
        let number = flows.len();
        flows.push(Flow { listener, protocol, home: None, is_excused: false, exchanges: 0, end: None });
        let (opened, receiver) = oneshot::channel();
        let orders = self.orders.as_ref().context("clients take orders until they end")?;
        orders.send(Order { number, target, protocol, opened }).ok().context("the clients' thread has ended")?;
        Ok(Opening { number, opened: receiver })
    }

    /// Waits for the first answer, or for the end.
    pub fn wait(&self, opening: Opening) -> Flow {
        let _ = opening.opened.blocking_recv();
        self.flows()[opening.number].clone()
    }

    pub fn flows(&self) -> MutexGuard<'_, Vec<Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is to blame for what becomes of a dead backend's flows.
    pub fn excuse(&self, backend: usize) {
        for flow in self.flows().iter_mut().filter(|flow| flow.home.is_none_or(|home| home == backend)) {
            flow.is_excused |= flow.end.is_none();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn open_all(mut orders: mpsc::UnboundedReceiver<Order>, flows: &Arc<Mutex<Vec<Flow>>>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("make a runtime for clients")?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        while let Some(Order { number, target, protocol, opened }) = orders.recv().await {
            let of = Exchanges { number, opened: Some(opened), flows: Arc::clone(flows) };
            match protocol {
                Protocol::Tcp => spawn_local(tcp(target, of)),
                Protocol::Udp => spawn_local(udp(target, of)),
            };
        }
        Ok(())
    })
}

/// What a flow reports.
struct Exchanges {
    number: usize,
    opened: Option<oneshot::Sender<()>>,
    flows: Arc<Mutex<Vec<Flow>>>,
}

impl Exchanges {
    fn with<T>(&mut self, report: impl FnOnce(&mut Flow) -> T) -> T {
        report(&mut self.flows.lock().unwrap_or_else(PoisonError::into_inner)[self.number])
    }

    /// Says whether the flow goes on.
    fn answered(&mut self, by: usize) -> bool {
        let goes_on = self.with(|flow| {
            flow.exchanges += 1;
            if *flow.home.get_or_insert(by) != by && !flow.is_excused {
                flow.end = Some(End::Elsewhere(by));
            }
            flow.end.is_none() && !flow.is_excused
        });
        drop(self.opened.take());
        goes_on
    }

    fn failed(&mut self, why: &io::Error) {
        let why = why.to_string();
        self.with(|flow| {
            if !flow.is_excused {
                flow.end = Some(if flow.home.is_some() { End::Lost(why) } else { End::NeverOpened(why) });
            }
        });
        drop(self.opened.take());
    }

    /// From one exchange to the next; spread, so that not all come at once.
    fn pause(&self) -> Duration {
        PERIOD / 2 + PERIOD * (self.number as u32 % 997) / 997
    }
}

async fn tcp(target: SocketAddr, mut of: Exchanges) {
    let exchanges = async {
        let mut stream = timeout(PATIENCE, TcpStream::connect(target)).await??;
        let mut answer = [0; 1 + ASKED.len()];
        loop {
            timeout(PATIENCE, async {
                stream.write_all(ASKED).await?;
                stream.read_exact(&mut answer).await
            })
            .await??;
            if !of.answered(usize::from(answer[0])) {
                return Ok(());
            }
            sleep(of.pause()).await;
        }
    };
    let ended: io::Result<()> = exchanges.await;
    if let Err(error) = ended {
        of.failed(&error);
    }
}

async fn udp(target: SocketAddr, mut of: Exchanges) {
    let exchanges = async {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(target).await?;
        loop {
            let by = ask(&socket).await?;
            if !of.answered(by) {
                return Ok(());
            }
            sleep(of.pause()).await;
        }
    };
    let ended: io::Result<()> = exchanges.await;
    if let Err(error) = ended {
        of.failed(&error);
    }
}

/// A link may lose a datagram, so it is sent again.
async fn ask(socket: &UdpSocket) -> io::Result<usize> {
    let mut answer = [0; 1 + ASKED.len()];
    let mut result = Err(io::ErrorKind::TimedOut.into());
    for _ in 0..TRIES {
        socket.send(ASKED).await?;
        match timeout(PERIOD, socket.recv(&mut answer)).await {
            Ok(Ok(_)) => return Ok(usize::from(answer[0])),
            Ok(Err(error)) => result = Err(error),
            Err(_) => {}
        }
    }
    result
}

/// Servers on several hosts, until dropped.
pub struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A server that says that it is this backend.
pub struct Server<'a> {
    pub host: &'a Host,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub backend: usize,
}

enum Socket {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

impl Servers {
    pub fn start(servers: Vec<Server<'_>>) -> Result<Self> {
        let mut sockets = Vec::new();
        for Server { host, address, protocol, backend } in servers {
            let bound = host.enter(|| {
                Ok::<_, io::Error>(match protocol {
                    Protocol::Tcp => Socket::Tcp(std::net::TcpListener::bind(address)?),
                    Protocol::Udp => Socket::Udp(std::net::UdpSocket::bind(address)?),
                })
            });
            let socket = bound?.with_context(|| format!("listen on {address} of {}", host.label()))?;
            match &socket {
                Socket::Tcp(listener) => listener.set_nonblocking(true)?,
                Socket::Udp(socket) => socket.set_nonblocking(true)?,
            }
            sockets.push((socket, backend as u8));
        }
        let runtime = Builder::new_current_thread().enable_all().build().context("make a runtime for servers")?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, async {
                for (socket, backend) in sockets {
                    match socket {
                        Socket::Tcp(listener) => spawn_local(serve_tcp(listener, backend)),
                        Socket::Udp(socket) => spawn_local(serve_udp(socket, backend)),
                    };
                }
                let _ = stopped.await;
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve_tcp(listener: std::net::TcpListener, backend: u8) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        spawn_local(async move {
            let mut asked = [0; ASKED.len()];
            // A connection that breaks is the client's to report.
            while stream.read_exact(&mut asked).await.is_ok() && stream.write_all(&answer(backend, asked)).await.is_ok()
            {
            }
        });
    }
}

async fn serve_udp(socket: std::net::UdpSocket, backend: u8) {
    let Ok(socket) = UdpSocket::from_std(socket) else { return };
    let mut asked = [0; ASKED.len()];
    loop {
        let Ok((_, client)) = socket.recv_from(&mut asked).await else { continue };
        let _ = socket.send_to(&answer(backend, asked), client).await;
    }
}

fn answer(backend: u8, asked: [u8; ASKED.len()]) -> [u8; 1 + ASKED.len()] {
    let mut answer = [backend; 1 + ASKED.len()];
    answer[1..].copy_from_slice(&asked);
    answer
}

const ASKED: &[u8; 8] = b"who's it";
const PERIOD: Duration = Duration::from_secs(1);
const TRIES: u32 = 5;
/// Longer than TCP takes to send a lost segment again, several times.
const PATIENCE: Duration = Duration::from_secs(20);
