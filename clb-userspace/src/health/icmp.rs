//! ICMP echoes, over one raw socket a family, opened before the agent gives up its privileges and shared by all checks: a
//! socket of unprivileged users is closed to root too where the system's settings leave it so.
//!
//! The kernel hands over echo replies with this agent's identifier only; a task for each socket gives each to the check
//! that waits for its address and sequence number.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, Ipv4HeaderSlice};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{net::UdpSocket, sync::oneshot, task::JoinHandle};

use super::Failure;

/// The sockets, and who waits for what comes in by them.
#[derive(Debug)]
pub struct Echoes {
    id: u16,
    next: AtomicU16,
    waiting: Waiting,
    v4: io::Result<Shared>,
    v6: io::Result<Shared>,
}

type Waiting = Arc<Mutex<HashMap<(IpAddr, u16), oneshot::Sender<()>>>>;

#[derive(Debug)]
struct Shared {
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Echoes {
    /// Opens the sockets. One that cannot be had is the problem of the checks that need it.
    pub fn open() -> Self {
        let random = RandomState::new().hash_one(());
        let (id, next) = (random as u16, (random >> 16) as u16);
        let waiting = Waiting::default();
        let [v4, v6] = [Domain::IPV4, Domain::IPV6].map(|domain| {
            let socket = Arc::new(open(domain, id)?);
            let reader = tokio::spawn(hand_out(Arc::clone(&socket), Arc::clone(&waiting)));
            Ok(Shared { socket, reader })
        });
        Self { id, next: AtomicU16::new(next), waiting, v4, v6 }
    }

    /// Asks for an echo, and waits for it.
    pub async fn check(&self, backend: IpAddr) -> Result<(), Failure> {
        let shared = if backend.is_ipv4() { &self.v4 } else { &self.v6 };
        let Shared { socket, .. } = shared.as_ref().map_err(|error| Failure::Own(error.to_string()))?;
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let echo = IcmpEchoHeader { id: self.id, seq };
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert((backend, seq), sender);
        let _forgotten = Forget { waiting: &self.waiting, key: (backend, seq) };
        let backend = SocketAddr::new(backend, 0);
        if backend.is_ipv4() {
            let request = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &[]);
            socket.send_to(&request.to_bytes(), backend).await?;
        } else {
            // The kernel writes this checksum.
            socket.send_to(&Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes(), backend).await?;
        }
        answer.await.map_err(|_| Failure::Own("another check took its sequence number".into()))
    }
}

/// A check that is over waits no longer, however it ended.
struct Forget<'w> {
    waiting: &'w Waiting,
    key: (IpAddr, u16),
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.key);
    }
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, HashMap<(IpAddr, u16), oneshot::Sender<()>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(domain: Domain, id: u16) -> io::Result<UdpSocket> {
    let protocol = if domain == Domain::IPV4 { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.attach_filter(&filter(domain, id))?;
    UdpSocket::from_std(socket.into())
}

/// A few thousand replies that come at once; the kernel gives what its settings allow.
const RECEIVE_BUFFER: usize = 4 << 20;

/// In the kernel's words: an echo reply with this identifier. Before an ICMP header the socket has the one of IPv4, not of IPv6.
fn filter(domain: Domain, id: u16) -> [SockFilter; 7] {
    const NO_HEADER: SockFilter = SockFilter::new(0x01, 0, 0, 0);
    const IPV4_HEADER: SockFilter = SockFilter::new(0xb1, 0, 0, 0);
    let (skip, reply) = if domain == Domain::IPV4 { (IPV4_HEADER, 0) } else { (NO_HEADER, 129) };
    [
        skip,
        SockFilter::new(0x50, 0, 0, 0), // the type
        SockFilter::new(0x15, 0, 3, reply),
        SockFilter::new(0x48, 0, 0, 4), // the identifier
        SockFilter::new(0x15, 0, 1, id.into()),
        SockFilter::new(0x06, 0, 0, u32::MAX), // take it
        SockFilter::new(0x06, 0, 0, 0),        // leave it
    ]
}

async fn hand_out(socket: Arc<UdpSocket>, waiting: Waiting) {
    let mut packet = [0; 256];
    loop {
        // An error here is about one packet; the check that waits for it runs out of time.
        let Ok((length, from)) = socket.recv_from(&mut packet).await else { continue };
        if let Some(seq) = reply(from.ip(), &packet[..length])
            && let Some(check) = lock(&waiting).remove(&(from.ip(), seq))
        {
            // It may just have given up.
            let _ = check.send(());
        }
    }
}

/// The sequence number of an echo reply.
fn reply(from: IpAddr, packet: &[u8]) -> Option<u16> {
    if from.is_ipv4() {
        let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
        match Icmpv4Header::from_slice(&packet[ip.slice().len()..]).ok()?.0.icmp_type {
            Icmpv4Type::EchoReply(echo) => Some(echo.seq),
            _ => None,
        }
    } else {
        match Icmpv6Header::from_slice(packet).ok()?.0.icmp_type {
            Icmpv6Type::EchoReply(echo) => Some(echo.seq),
            _ => None,
        }
    }
}

#[cfg(test)]
impl Echoes {
    /// As without the privilege to open sockets.
    pub fn closed() -> Self {
        let none = || Err(io::ErrorKind::PermissionDenied.into());
        Self { id: 0, next: AtomicU16::new(0), waiting: Waiting::default(), v4: none(), v6: none() }
    }

    /// Whether no check waits.
    pub fn is_idle(&self) -> bool {
        lock(&self.waiting).is_empty()
    }
}
