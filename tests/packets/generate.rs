//! Packets as networks bring them, and as nobody should send them: for listeners of every mode, replies, errors, fragments,
//! others' traffic; with tags, options and extension headers; some with bytes that are changed, cut off or put behind.

use std::net::{IpAddr, SocketAddr};

use clb_common::{ForwardingMode, Protocol};
use clb_userspace::{dataplane::ListenerId, slots::BackendId};

use crate::{
    build::{CLB_MAC, CLIENT_MAC, Checksum, Segment, frame, icmp},
    model::Model,
};

/// `SplitMix64`: the same packets for the same seed, everywhere.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut state = self.0;
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number() as u8).collect()
    }
}

/// What packets are made from.
pub struct Generator<'a> {
    pub random: Random,
    /// Listeners with their modes and backends.
    pub listeners: &'a [(ListenerId, ForwardingMode, Vec<BackendId>)],
    pub clients: &'a [IpAddr],
    /// Addresses that are nobody's of whom clb knows.
    pub strangers: &'a [IpAddr],
    /// Sources of outer headers, and those of the pool.
    pub own: &'a [IpAddr],
    /// Fragments that are still to come.
    pub waiting: Vec<Vec<u8>>,
}

/// Whether a packet was made worse than any honest sender would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Honest,
    Mutated,
}

impl Generator<'_> {
    /// The next frame. The model knows the flows of `full_nat`.
    pub fn packet(&mut self, model: &Model) -> (Vec<u8>, Made) {
        loop {
            let (bytes, made) = self.any(model);
            if !model.is_undecided(&bytes) {
                return (bytes, made);
            }
        }
    }

    fn any(&mut self, model: &Model) -> (Vec<u8>, Made) {
        let mut made = Made::Honest;
        let mut bytes = if !self.waiting.is_empty() && self.random.one_in(4) {
            let at = self.random.below(self.waiting.len());
            self.waiting.swap_remove(at)
        } else {
            match self.random.below(20) {
                0..=9 => self.for_listener(),
                10..=13 => self.reply(model),
                14..=16 => self.error(model),
                17 => self.echo(),
                18 => self.stranger(),
                _ => {
                    made = Made::Mutated;
                    self.other_protocol()
                }
            }
        };
        if bytes.len() <= LINEAR - 24 && self.random.one_in(12) {
            let trailer = 1 + self.random.below(24);
            bytes.extend(self.random.bytes(trailer));
        }
        if bytes.len() <= LINEAR && self.random.one_in(4) {
            return (self.mutated(bytes), Made::Mutated);
        }
        (bytes, made)
    }

    fn for_listener(&mut self) -> Vec<u8> {
        let (listener, ..) = *self.random.of(self.listeners);
        let client = self.client(listener.vip.is_ipv4());
        let segment = self.segment(listener.protocol, client, SocketAddr::new(listener.vip, listener.port));
        self.whole_or_not(&segment)
    }

    fn reply(&mut self, model: &Model) -> Vec<u8> {
        let Some((protocol, from, to)) = self.way_back(model) else { return self.for_listener() };
        let segment = self.segment(protocol, from, to);
        self.whole_or_not(&segment)
    }

    /// A backend and whom it answers.
    fn way_back(&mut self, model: &Model) -> Option<(Protocol, SocketAddr, SocketAddr)> {
        if self.random.one_in(2) && !model.flows.is_empty() {
            let number = self.random.below(model.flows.len());
            let ((_, listener), flow) = model.flows.iter().nth(number)?;
            return Some((listener.protocol, SocketAddr::new(flow.backend.address, flow.backend.port), flow.source?));
        }
        let (listener, _, backends) = self.random.of(self.listeners).clone();
        if backends.is_empty() {
            return None;
        }
        let backend = *self.random.of(&backends);
        let client = self.client(backend.address.is_ipv4());
        Some((listener.protocol, SocketAddr::new(backend.address, backend.port), client))
    }

    /// An error about a packet in one direction or the other.
    fn error(&mut self, model: &Model) -> Vec<u8> {
        let quoted = match self.random.below(5) {
            0 | 1 => {
                let (listener, ..) = *self.random.of(self.listeners);
                let client = self.client(listener.vip.is_ipv4());
                self.segment(listener.protocol, SocketAddr::new(listener.vip, listener.port), client)
            }
            2 => {
                let flow = self.random.below(model.flows.len().max(1));
                let Some(((client, listener), _)) = model.flows.iter().nth(flow) else { return self.echo() };
                self.segment(listener.protocol, SocketAddr::new(listener.vip, listener.port), *client)
            }
            _ => {
                let Some((protocol, backend, client)) = self.way_back(model) else { return self.echo() };
                self.segment(protocol, client, backend)
            }
        };
        // Whoever is on the way may send it, or the end itself; rarely for somebody else.
        let for_whom = if self.random.one_in(20) { self.stranger_of(quoted.from.is_ipv4()) } else { quoted.from.ip() };
        let from = if self.random.one_in(2) { quoted.to.ip() } else { self.stranger_of(quoted.from.is_ipv4()) };
        let whole = quoted.packet();
        let header = whole.len() - quoted.payload.len() - if quoted.protocol == Protocol::Tcp { 20 } else { 8 };
        let length = match self.random.below(4) {
            0 => header + 8,
            1 => (header + 8 + self.random.below(40)).min(whole.len()),
            2 => whole.len().min(548),
            _ => whole.len().min(1_200),
        };
        let kinds: &[[u8; 2]] = if from.is_ipv4() {
            &[[3, 0], [3, 1], [3, 3], [3, 4], [11, 0], [11, 1], [12, 0], [5, 0]]
        } else {
            &[[1, 0], [1, 4], [2, 0], [3, 0], [3, 1], [4, 0], [4, 1], [5, 0]]
        };
        let kind = *self.random.of(kinds);
        let rest = (self.random.number() as u32 & 0xffff).to_be_bytes();
        let packet = icmp(from, for_whom, 64, kind, rest, &whole[..length]);
        let tags = self.tags();
        frame(quoted.destination_mac, quoted.source_mac, &tags, &packet)
    }

    fn echo(&mut self) -> Vec<u8> {
        let (listener, ..) = *self.random.of(self.listeners);
        let is_v4 = listener.vip.is_ipv4();
        let to = if self.random.one_in(4) { self.stranger_of(is_v4) } else { listener.vip };
        let kinds: &[u8] = if is_v4 { &[8, 8, 8, 0, 13] } else { &[128, 128, 128, 129, 135] };
        let kind = *self.random.of(kinds);
        let rest = if self.random.one_in(4) { [0; 4] } else { (self.random.number() as u32).to_be_bytes() };
        let length = self.random.below(70);
        let content = if self.random.one_in(3) { vec![0; length] } else { self.random.bytes(length) };
        let packet = icmp(self.client(is_v4).ip(), to, 64, [kind, 0], rest, &content);
        let tags = self.tags();
        frame(CLB_MAC, CLIENT_MAC, &tags, &packet)
    }

    /// For no listener.
    fn stranger(&mut self) -> Vec<u8> {
        let (listener, ..) = *self.random.of(self.listeners);
        let is_v4 = listener.vip.is_ipv4();
        let to = if self.random.one_in(3) { listener.vip } else { self.stranger_of(is_v4) };
        let port = 1 + self.random.below(65_535) as u16;
        let client = self.client(is_v4);
        let segment = self.segment(listener.protocol, client, SocketAddr::new(to, port));
        self.whole_or_not(&segment)
    }

    /// Tunnels, other transports, and what is no IP.
    fn other_protocol(&mut self) -> Vec<u8> {
        let mut bytes = self.for_listener();
        if bytes.len() > LINEAR {
            return bytes;
        }
        let at = if bytes[12..14] == [0x08, 0x00] { 23 } else { 20 };
        match self.random.below(3) {
            0 => bytes[at] = *self.random.of(&[4, 41, 47, 50, 51, 58, 1, 132, 0, 59]),
            1 => bytes[12..14].copy_from_slice(&[0x08, 0x06]),
            _ => {
                let length = 14 + self.random.below(80);
                bytes = self.random.bytes(length);
                bytes[0] &= 0xfe;
                let types: &[[u8; 2]] = &[[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8], [0x88, 0xcc]];
                let ether_type = *self.random.of(types);
                bytes[12..14].copy_from_slice(&ether_type);
            }
        }
        bytes
    }

    fn segment(&mut self, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Segment {
        let random = &mut self.random;
        let length = match random.below(6) {
            0 => 0,
            1 => random.below(16),
            2 | 3 => random.below(200),
            4 => random.below(1_460),
            _ if random.one_in(20) => random.below(8_900),
            _ => 540 + random.below(1_000),
        };
        let mut segment = Segment::new(protocol, "0.0.0.0:0", "0.0.0.0:0");
        (segment.from, segment.to) = (from, to);
        segment.payload = random.bytes(length);
        segment.hop_limit = if random.one_in(16) { random.below(3) as u8 } else { 2 + random.below(250) as u8 };
        segment.class = random.number() as u8;
        segment.dont_fragment = random.one_in(2);
        segment.identification = random.below(500) as u32;
        segment.syn = random.one_in(3);
        if protocol == Protocol::Udp && from.is_ipv4() && random.one_in(4) {
            segment.checksum = Checksum::None;
        }
        if random.one_in(6) {
            let words = 1 + random.below(10);
            segment.options = vec![1; words * 4];
        }
        if random.one_in(5) {
            for _ in 0..=random.below(3) {
                let words = random.below(3);
                let mut content = vec![1, words as u8 * 8 + 4];
                content.resize(6 + words * 8, 0);
                let number = *random.of(&[0, 60, 43]);
                if number == 43 {
                    // Of a routing header that has been followed to its end.
                    (content[0], content[1]) = (4, u8::from(random.one_in(8)));
                }
                segment.extensions.push((number, content));
            }
        }
        segment.tags = self.tags();
        segment
    }

    /// A datagram, or its fragments in any order and not always all.
    fn whole_or_not(&mut self, segment: &Segment) -> Vec<u8> {
        if !self.random.one_in(8) {
            return segment.bytes();
        }
        let size = *self.random.of(&[8, 24, 200, 600, 1_208]);
        let mut fragments = segment.fragments(size.max(segment.payload.len() / 12 / 8 * 8));
        if self.random.one_in(3) {
            let other = self.random.below(fragments.len());
            fragments.swap(0, other);
        }
        let first = fragments.remove(0);
        if self.waiting.len() < 64 {
            self.waiting.extend(fragments);
        }
        first
    }

    fn tags(&mut self) -> Vec<(u16, u16)> {
        let count = *self.random.of(&[0, 0, 0, 0, 0, 0, 1, 1, 2, 3]);
        (0..count).map(|_| (*self.random.of(&[0x8100, 0x88a8]), self.random.number() as u16)).collect()
    }

    fn client(&mut self, is_v4: bool) -> SocketAddr {
        let port = if self.random.one_in(4) { 40_000 } else { 1_024 + self.random.below(300) as u16 };
        SocketAddr::new(one(&mut self.random, self.clients, is_v4), port)
    }

    fn stranger_of(&mut self, is_v4: bool) -> IpAddr {
        let strangers = if self.random.one_in(2) { self.strangers } else { self.own };
        one(&mut self.random, strangers, is_v4)
    }

    /// Some bytes of the headers changed, or the end cut off.
    fn mutated(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let random = &mut self.random;
        for _ in 0..random.below(4) {
            // The headers are where it matters. Addresses that clb looks up are not changed to those of groups of frames.
            let at = random.below(bytes.len().min(120));
            bytes[at] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ (1 << random.below(8)),
                _ => random.number() as u8,
            };
        }
        if random.one_in(3) {
            // The kernel refuses to run a program on less than an Ethernet header.
            let length = 14 + random.below(bytes.len() - 13);
            bytes.truncate(length);
        }
        bytes
    }
}

fn one(random: &mut Random, addresses: &[IpAddr], is_v4: bool) -> IpAddr {
    loop {
        let address = *random.of(addresses);
        if address.is_ipv4() == is_v4 {
            return address;
        }
    }
}

/// What of a frame a program can look at directly, at least, when the kernel runs it on a frame of ours. Longer frames are as
/// long as their IP header says: bytes behind the packet that only a jumbo frame's length tells of are not counted.
const LINEAR: usize = 3_400;
