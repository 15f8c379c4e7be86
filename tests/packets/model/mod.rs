//! A reference model of the packet path, simple and slow: from a configuration and a packet to the packet that must come
//! out. Written from the RFCs and the documentation, and not from the program, which it is compared with.
//!
//! It holds what the program remembers: notes on fragments, and the flows of `full_nat`, whose sources the program may
//! choose: the model learns them from what comes out, and wants them to be unique and of the pool.

mod forward;
mod icmp;
mod read;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use clb_common::{BackendTraffic, DropReason, FlowHash, ForwardingMode, NextHop, Port, Traffic, slot_of};
use clb_userspace::{
    dataplane::ListenerId,
    slots::{self, BackendId},
};

pub use self::forward::Tunnel;
use self::read::Ip;
use crate::harness::Listeners;

/// What the program must do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Sent {
        interface: u32,
        bytes: Vec<u8>,
    },
    Answered(Vec<u8>),
    Dropped(DropReason),
    /// Dropped as too big; the sender is told by this frame, if it may be told and if there were not too many.
    TooBig(Option<Vec<u8>>),
}

/// Why a packet is not sent.
enum Stop {
    Pass,
    Answer(Vec<u8>),
    Drop(DropReason),
    TooBig(usize),
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// A packet on its way out, and whom it is counted for.
struct Sent {
    interface: u32,
    bytes: Vec<u8>,
    backend: (ListenerId, BackendId),
    direction: Direction,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToBackend,
    ToClient,
}

type Way = Result<Sent, Stop>;

/// All that the model counts, to be compared with the program's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub passed: u64,
    pub answered: u64,
    pub dropped: BTreeMap<u32, u64>,
    pub arrived: BTreeMap<ListenerId, Traffic>,
    pub backends: BTreeMap<(ListenerId, BackendId), BackendTraffic>,
}

/// A listener with its slot table.
struct Listener {
    mode: ForwardingMode,
    table: Vec<BackendId>,
}

pub struct Model {
    listeners: HashMap<(SocketAddr, u8), (ListenerId, Listener)>,
    /// In `nat`, whose replies come from here.
    replies: HashMap<(SocketAddr, u8), ListenerId>,
    hash: FlowHash,
    next_hops: BTreeMap<IpAddr, NextHop>,
    routes: Vec<(IpAddr, u8, NextHop)>,
    tunnel: Tunnel,
    pool: Vec<IpAddr>,
    ingress: u32,
    notes: HashMap<NoteKey, Note>,
    /// In `full_nat`: by client and listener, the backend and the source that it sees, once that is known.
    pub flows: BTreeMap<(SocketAddr, ListenerId), Flow>,
    /// In `full_nat`: by source, backend and protocol.
    ways_back: HashMap<(SocketAddr, SocketAddr, u8), (SocketAddr, ListenerId)>,
    pub counted: Counted,
}

#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub backend: BackendId,
    pub source: Option<SocketAddr>,
}

/// Source, destination, identification; the protocol, where it is the same in all fragments (RFC 791, RFC 8200).
type NoteKey = (IpAddr, IpAddr, u32, Option<u8>);

/// Where the rest of a datagram goes.
#[derive(Clone, Copy)]
enum Note {
    Host,
    ToBackend { listener: ListenerId, backend: BackendId, client: SocketAddr },
    ToClient { listener: ListenerId, backend: BackendId, vip: IpAddr, client: IpAddr },
}

/// A frame that holds IP.
struct Packet<'a> {
    bytes: &'a [u8],
    tags: Vec<[u8; 4]>,
    ip: Ip,
    /// What the program made of it, to learn from.
    actual: &'a [u8],
}

/// What the model is configured with.
pub struct Setting<'a> {
    pub listeners: &'a Listeners,
    pub hash_seed: u64,
    pub next_hops: BTreeMap<IpAddr, NextHop>,
    pub routes: Vec<(IpAddr, u8, NextHop)>,
    pub tunnel: Tunnel,
    pub pool: Vec<IpAddr>,
    pub ingress: u32,
}

impl Model {
    pub fn new(setting: Setting) -> Self {
        let Setting { listeners, hash_seed, next_hops, routes, tunnel, pool, ingress } = setting;
        let mut model = Self {
            listeners: HashMap::new(),
            replies: HashMap::new(),
            hash: FlowHash::from_seed(hash_seed),
            next_hops,
            routes,
            tunnel,
            pool,
            ingress,
            notes: HashMap::new(),
            flows: BTreeMap::new(),
            ways_back: HashMap::new(),
            counted: Counted::default(),
        };
        for (&id, desired) in listeners {
            let protocol = id.protocol as u8;
            for backend in desired.weights.keys() {
                if desired.mode == ForwardingMode::Nat {
                    model.replies.insert((backend_end(backend), protocol), id);
                }
                model.counted.backends.insert((id, *backend), BackendTraffic::default());
            }
            model.counted.arrived.insert(id, Traffic::default());
            let listener = Listener { mode: desired.mode, table: slots::table(&desired.weights, desired.slots) };
            model.listeners.insert((SocketAddr::new(id.vip, id.port), protocol), (id, listener));
        }
        model.counted.dropped.extend(DropReason::ALL.iter().map(|&reason| (reason as u32, 0)));
        model
    }

    /// What must become of this frame. `actual` is what came out, from which the model learns only sources of new flows.
    pub fn process(&mut self, bytes: &[u8], actual: &[u8]) -> Verdict {
        let way = self.way(bytes, actual);
        match way {
            Ok(Sent { interface, bytes: out, backend, direction }) => {
                let traffic = self.counted.backends.get_mut(&backend).expect("a configured backend");
                let traffic = match direction {
                    Direction::ToBackend => &mut traffic.forwarded,
                    Direction::ToClient => &mut traffic.replies,
                };
                traffic.count(bytes.len() as u64);
                Verdict::Sent { interface, bytes: out }
            }
            Err(Stop::Pass) => {
                self.counted.passed += 1;
                Verdict::Pass
            }
            Err(Stop::Answer(out)) => {
                self.counted.answered += 1;
                Verdict::Answered(out)
            }
            Err(Stop::Drop(reason)) => {
                self.dropped(reason);
                Verdict::Dropped(reason)
            }
            Err(Stop::TooBig(mtu)) => {
                self.dropped(DropReason::PacketTooBig);
                Verdict::TooBig(icmp::too_big(bytes, mtu))
            }
        }
    }

    /// A packet to a source that a flow may have of which nothing was sent yet: the model has not learned its source, so it
    /// cannot say whether the packet is the flow's.
    pub fn is_undecided(&self, bytes: &[u8]) -> bool {
        let Some((_, ip)) = read::frame(bytes) else { return false };
        let ends = if ip.protocol == icmp::number(ip.source) {
            let quoted = read::quoted(bytes, ip.payload + 8, &ip.source);
            quoted.and_then(|quoted| quoted.ends(bytes)).map(|(source, backend)| (backend, source))
        } else {
            ip.ends(bytes)
        };
        ends.is_some_and(|(backend, source)| {
            self.pool.contains(&source.ip())
                && !self.ways_back.keys().any(|&(known, of, _)| (known, of) == (source, backend))
                && self.flows.values().any(|flow| flow.source.is_none() && backend_end(&flow.backend) == backend)
        })
    }

    fn dropped(&mut self, reason: DropReason) {
        *self.counted.dropped.entry(reason as u32).or_default() += 1;
    }

    fn way(&mut self, bytes: &[u8], actual: &[u8]) -> Way {
        // A frame for a group of hosts is never for a listener.
        if bytes[0] & 1 != 0 {
            return Err(Stop::Pass);
        }
        let Some((tags, ip)) = read::frame(bytes) else { return Err(Stop::Pass) };
        let packet = Packet { bytes, tags, ip, actual };
        if packet.ip.fragment.is_some_and(|fragment| !fragment.is_first) {
            return self.later_fragment(&packet);
        }
        if packet.ip.protocol == icmp::number(packet.ip.source) {
            return self.icmp(&packet);
        }
        let Some((from, to)) = packet.ip.ends(bytes) else { return Err(Stop::Pass) };
        let protocol = packet.ip.protocol;
        if let Some(&(listener, _)) = self.listeners.get(&(to, protocol)) {
            return self.forward(&packet, from, listener);
        }
        if let Some(&listener) = self.replies.get(&(from, protocol)) {
            return self.nat_reply(&packet, from, to, listener);
        }
        if let Some(&(client, listener)) = self.ways_back.get(&(to, from, protocol)) {
            return self.full_nat_reply(&packet, from, client, listener);
        }
        if self.is_vip(to.ip()) {
            self.note(&packet, Note::Host);
        }
        Err(Stop::Pass)
    }

    fn mode(&self, listener: ListenerId) -> ForwardingMode {
        self.listeners[&(SocketAddr::new(listener.vip, listener.port), listener.protocol as u8)].1.mode
    }

    /// The backend that a client's flow falls on.
    fn select(&self, listener: ListenerId, hash: u32) -> Result<BackendId, DropReason> {
        let (_, Listener { table, .. }) =
            &self.listeners[&(SocketAddr::new(listener.vip, listener.port), listener.protocol as u8)];
        if table.is_empty() {
            return Err(DropReason::NoBackend);
        }
        Ok(table[slot_of(hash, table.len() as u32) as usize])
    }

    /// The hash is a contract of its own, with tests of its own.
    fn hash(&self, client: SocketAddr) -> u32 {
        let address = clb_common::Address::from(client.ip());
        let port = Port::new(client.port()).word();
        if client.is_ipv4() { self.hash.hash([address.v4_word()], port) } else { self.hash.hash(address.0, port) }
    }

    fn is_vip(&self, address: IpAddr) -> bool {
        self.listeners.values().any(|(id, _)| id.vip == address)
    }

    /// A first fragment leaves a note for the rest.
    fn note(&mut self, packet: &Packet, note: Note) {
        if let Some(fragment) = packet.ip.fragment {
            self.notes.insert(note_key(&packet.ip, fragment.identification), note);
        }
    }

    /// Counts a packet for a listener, whatever becomes of it.
    fn arrived(&mut self, packet: &Packet, listener: ListenerId) {
        self.counted.arrived.entry(listener).or_default().count(packet.bytes.len() as u64);
    }
}

fn note_key(ip: &Ip, identification: u32) -> NoteKey {
    let protocol = ip.source.is_ipv4().then_some(ip.protocol);
    (ip.source, ip.destination, identification, protocol)
}

fn backend_end(backend: &BackendId) -> SocketAddr {
    SocketAddr::new(backend.address, backend.port)
}
