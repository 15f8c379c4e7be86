//! The ways of TCP and UDP: to a backend in each mode, back to a client, and what follows a first fragment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clb_common::{DropReason, ForwardingMode, NextHop};
use clb_userspace::{dataplane::ListenerId, slots::BackendId};

use super::{
    Direction, Flow, Model, Note, Packet, Sent, Stop, Way, backend_end, note_key,
    read::{self, TCP, UDP},
    write::{self, Ends, Header},
};

/// Where outer headers come from, and where `gue` goes to.
#[derive(Clone, Copy)]
pub struct Tunnel {
    pub v4: (IpAddr, u8),
    pub v6: (IpAddr, u8),
    pub gue_port: u16,
}

impl Model {
    pub(super) fn forward(&mut self, packet: &Packet, client: SocketAddr, listener: ListenerId) -> Way {
        self.arrived(packet, listener);
        packet.check_lengths()?;
        let backend = match self.mode(listener) {
            ForwardingMode::FullNat => self.remember(client, listener)?.backend,
            _ => self.select(listener, self.hash(client))?,
        };
        self.note(packet, Note::ToBackend { listener, backend, client });
        match self.mode(listener) {
            ForwardingMode::Dsr | ForwardingMode::Ipip | ForwardingMode::Gue => {
                self.keep(packet, listener, backend, self.hash(client))
            }
            ForwardingMode::Nat => {
                let ends = Ends { source: None, destination: Some(backend_end(&backend)) };
                self.rewrite(packet, listener, backend, ends)
            }
            ForwardingMode::FullNat => {
                packet.fits(self.backend_hop(&backend)?, 0)?;
                let source = Some(self.source(packet, client, listener)?);
                let ends = Ends { source, destination: Some(backend_end(&backend)) };
                self.rewrite(packet, listener, backend, ends)
            }
        }
    }

    /// The flow of this client, a new one if there is none.
    fn remember(&mut self, client: SocketAddr, listener: ListenerId) -> Result<Flow, DropReason> {
        if let Some(flow) = self.flows.get(&(client, listener)) {
            return Ok(*flow);
        }
        let backend = self.select(listener, self.hash(client))?;
        if !self.pool.iter().any(|source| source.is_ipv4() == client.is_ipv4()) {
            return Err(DropReason::SourcePortsExhausted);
        }
        let flow = Flow { backend, source: None };
        self.flows.insert((client, listener), flow);
        Ok(flow)
    }

    /// The source of a flow; of a new one, the one that the program took.
    pub(super) fn source(
        &mut self,
        packet: &Packet,
        client: SocketAddr,
        listener: ListenerId,
    ) -> Result<SocketAddr, Stop> {
        let flow = self.flows[&(client, listener)];
        if let Some(source) = flow.source {
            return Ok(source);
        }
        // A used up hop limit ends the packet's way before anything is to be seen of the source.
        packet.check_hop_limit()?;
        let (_, ip) = read::frame(packet.actual).expect("an IP packet comes out");
        let source = if ip.protocol == packet.ip.protocol && matches!(ip.protocol, TCP | UDP) {
            ip.ends(packet.actual).expect("with ports").0
        } else {
            let quoted = read::quoted(packet.actual, ip.payload + 8, &ip.source).expect("it quotes a packet");
            let (_, port) = read::ports(packet.actual, quoted.payload).expect("with ports");
            SocketAddr::new(quoted.destination, port)
        };
        assert!(self.pool.contains(&source.ip()), "{source} is in the pool");
        assert!(source.port() >= 1_024, "{source} is no port of a service");
        let way = (source, backend_end(&flow.backend), listener.protocol as u8);
        let taken = self.ways_back.insert(way, (client, listener));
        assert_eq!(taken, None, "{source} is not given to two flows with one backend");
        self.flows.get_mut(&(client, listener)).expect("the flow is there").source = Some(source);
        Ok(source)
    }

    pub(super) fn nat_reply(
        &mut self,
        packet: &Packet,
        backend: SocketAddr,
        client: SocketAddr,
        listener: ListenerId,
    ) -> Way {
        let ends = Ends { source: Some(SocketAddr::new(listener.vip, listener.port)), destination: None };
        self.reply(packet, backend, client, listener, ends)
    }

    pub(super) fn full_nat_reply(
        &mut self,
        packet: &Packet,
        backend: SocketAddr,
        client: SocketAddr,
        listener: ListenerId,
    ) -> Way {
        let vip = SocketAddr::new(listener.vip, listener.port);
        self.reply(packet, backend, client, listener, Ends { source: Some(vip), destination: Some(client) })
    }

    fn reply(
        &mut self,
        packet: &Packet,
        backend: SocketAddr,
        client: SocketAddr,
        listener: ListenerId,
        ends: Ends,
    ) -> Way {
        let hop = self.client_hop(client.ip())?;
        packet.fits(hop, 0)?;
        packet.check_lengths()?;
        let backend = BackendId { address: backend.ip(), port: backend.port() };
        self.note(packet, Note::ToClient { listener, backend, vip: listener.vip, client: client.ip() });
        packet.check_hop_limit()?;
        let mut bytes = packet.bytes.to_vec();
        write::ends(&mut bytes, &packet.ip, packet.bytes.len(), ends);
        write::hop_limit(&mut bytes, &packet.ip, packet.ip.hop_limit - 1);
        Ok(self.sent(packet, &bytes[packet.ip.at..], hop, (listener, backend), Direction::ToClient))
    }

    /// With other addresses, ports and hop limit.
    fn rewrite(&self, packet: &Packet, listener: ListenerId, backend: BackendId, ends: Ends) -> Way {
        let hop = self.backend_hop(&backend)?;
        packet.fits(hop, 0)?;
        packet.check_hop_limit()?;
        let mut bytes = packet.bytes.to_vec();
        write::ends(&mut bytes, &packet.ip, packet.bytes.len(), ends);
        write::hop_limit(&mut bytes, &packet.ip, packet.ip.hop_limit - 1);
        Ok(self.sent(packet, &bytes[packet.ip.at..], hop, (listener, backend), Direction::ToBackend))
    }

    /// In the modes that leave a packet as it is, or put it into another one: whatever it is.
    pub(super) fn keep(&self, packet: &Packet, listener: ListenerId, backend: BackendId, hash: u32) -> Way {
        let hop = self.backend_hop(&backend)?;
        let outer = if backend.address.is_ipv4() { 20 } else { 40 };
        let shim = match self.mode(listener) {
            ForwardingMode::Gue => 12,
            ForwardingMode::Ipip => 0,
            _ => {
                packet.fits(hop, 0)?;
                let out = &packet.bytes[packet.ip.at..];
                return Ok(self.sent(packet, out, hop, (listener, backend), Direction::ToBackend));
            }
        };
        packet.fits(hop, outer + shim)?;
        packet.check_hop_limit()?;
        let mut bytes = packet.bytes.to_vec();
        write::hop_limit(&mut bytes, &packet.ip, packet.ip.hop_limit - 1);
        let mut inner = self.tunnelled(packet, &bytes, backend.address, shim, hash);
        inner.extend(&bytes[packet.ip.at..]);
        Ok(self.sent(packet, &inner, hop, (listener, backend), Direction::ToBackend))
    }

    /// The headers around a packet, in which the hop limit is that of the inner packet as it leaves.
    fn tunnelled(&self, packet: &Packet, bytes: &[u8], backend: IpAddr, shim: usize, hash: u32) -> Vec<u8> {
        let ip = &packet.ip;
        let inside = if ip.source.is_ipv4() { 4 } else { 41 };
        // RFC 2003, section 3.1: DF is copied; and set around a fragment, whose identification another one has, too. Routers
        // do not fragment IPv6 (RFC 4213, section 3.2.2).
        let fragmentation = match ip.source {
            IpAddr::V4(_) => {
                let dont_fragment = if ip.fragment.is_some() { 0x40 } else { bytes[ip.at + 6] & 0x40 };
                [bytes[ip.at + 4], bytes[ip.at + 5], dont_fragment, 0]
            }
            IpAddr::V6(_) => [0, 0, 0x40, 0],
        };
        let source = self.tunnel_source(backend, hash);
        let payload = ip.end - ip.at + shim;
        let mut headers = Header {
            source,
            destination: backend,
            // RFC 6040, section 4.1, normal mode.
            class: ip.class,
            fragmentation,
            flow_label: hash & 0x000f_ffff,
            protocol: if shim == 0 { inside } else { UDP },
            payload,
        }
        .bytes();
        if shim == 0 {
            return headers;
        }
        let port: u16 = 0xc000 | (hash >> 16) as u16;
        let mut udp = [port.to_be_bytes(), self.tunnel.gue_port.to_be_bytes(), (payload as u16).to_be_bytes()].concat();
        udp.extend([0, 0, 0, inside, 0, 0]);
        if backend.is_ipv6() {
            let inner = write::sum(&bytes[ip.at..ip.end]) + ERROR_FREE - packet.error(bytes);
            let sum = write::pseudo(source, backend, UDP, payload) + write::sum(&udp) + inner;
            write::put(&mut udp, 6, &write::udp_checksum(sum).to_be_bytes());
        }
        headers.extend(udp);
        headers
    }

    /// How the outer source varies with a flow is clb's own choice; that it stays in the prefix is the configuration's.
    fn tunnel_source(&self, backend: IpAddr, hash: u32) -> IpAddr {
        let hash = u32::from_be(hash);
        let behind = |length: u8| u32::MAX.checked_shr(length.into()).unwrap_or(0);
        match if backend.is_ipv4() { self.tunnel.v4 } else { self.tunnel.v6 } {
            (IpAddr::V4(prefix), length) => Ipv4Addr::from(prefix.to_bits() | (hash & behind(length))).into(),
            (IpAddr::V6(prefix), length) => {
                let varying = hash & behind(length.saturating_sub(96));
                Ipv6Addr::from(prefix.to_bits() | u128::from(varying)).into()
            }
        }
    }

    pub(super) fn later_fragment(&mut self, packet: &Packet) -> Way {
        let Some(fragment) = packet.ip.fragment else { return Err(Stop::Pass) };
        let Some(&note) = self.notes.get(&note_key(&packet.ip, fragment.identification)) else {
            // It may be for a listener if it may hold TCP or UDP: behind extension headers nobody knows.
            let may_be = matches!(packet.ip.protocol, TCP | UDP)
                || packet.ip.source.is_ipv6() && matches!(packet.ip.protocol, 0 | 43 | 60);
            let is_for_vip = may_be && self.is_vip(packet.ip.destination);
            return Err(if is_for_vip { DropReason::FragmentWithoutFirst.into() } else { Stop::Pass });
        };
        match note {
            Note::Host => Err(Stop::Pass),
            Note::ToBackend { listener, backend, client } => {
                self.arrived(packet, listener);
                packet.check_headers()?;
                let source = match self.mode(listener) {
                    ForwardingMode::Nat => None,
                    ForwardingMode::FullNat => match self.flows[&(client, listener)].source {
                        Some(source) => Some(source.ip()),
                        // Nothing of the flow was sent yet.
                        None => read::frame(packet.actual).map(|(_, ip)| ip.source),
                    },
                    _ => return self.keep(packet, listener, backend, self.hash(client)),
                };
                let hop = self.backend_hop(&backend)?;
                packet.fits(hop, 0)?;
                self.readdress(packet, hop, (source, Some(backend.address)), (listener, backend), Direction::ToBackend)
            }
            Note::ToClient { listener, backend, vip, client } => {
                let hop = self.client_hop(client)?;
                packet.fits(hop, 0)?;
                packet.check_headers()?;
                self.readdress(packet, hop, (Some(vip), Some(client)), (listener, backend), Direction::ToClient)
            }
        }
    }

    fn readdress(
        &self,
        packet: &Packet,
        hop: NextHop,
        (source, destination): (Option<IpAddr>, Option<IpAddr>),
        backend: (ListenerId, BackendId),
        direction: Direction,
    ) -> Way {
        packet.check_hop_limit()?;
        let mut bytes = packet.bytes.to_vec();
        write::addresses_only(&mut bytes, &packet.ip, source, destination);
        write::hop_limit(&mut bytes, &packet.ip, packet.ip.hop_limit - 1);
        Ok(self.sent(packet, &bytes[packet.ip.at..], hop, backend, direction))
    }

    pub(super) fn backend_hop(&self, backend: &BackendId) -> Result<NextHop, Stop> {
        let hop = self.next_hops.get(&backend.address).filter(|hop| hop.interface != 0);
        hop.copied().ok_or(Stop::Drop(DropReason::NextHopUnresolved))
    }

    /// The way to a client by the longest prefix; its own packets are the host's.
    pub(super) fn client_hop(&self, client: IpAddr) -> Result<NextHop, Stop> {
        let matching = self.routes.iter().filter(|(prefix, length, _)| is_in(client, *prefix, *length));
        match matching.max_by_key(|(_, length, _)| *length) {
            Some((.., hop)) if *hop == NextHop::HOST => Err(Stop::Pass),
            Some((.., hop)) if hop.interface != 0 => Ok(*hop),
            _ => Err(DropReason::ClientUnresolved.into()),
        }
    }

    /// In a frame for the next hop, with the tags that belong there.
    pub(super) fn sent(
        &self,
        packet: &Packet,
        out: &[u8],
        hop: NextHop,
        backend: (ListenerId, BackendId),
        direction: Direction,
    ) -> Sent {
        let mut bytes: Vec<u8> = hop.ethernet.iter().flat_map(|word| word.to_ne_bytes()).collect();
        if hop.vlan != 0 {
            // The priority stays (IEEE 802.1Q).
            let priority = packet.tags.first().map_or(0, |tag| tag[2] & 0xe0);
            let [high, low] = hop.vlan.to_be_bytes();
            bytes.extend([0x81, 0x00, priority | high, low]);
        } else if hop.interface == self.ingress {
            bytes.extend(packet.tags.concat());
        }
        bytes.extend(if out[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(out);
        Sent { interface: hop.interface, bytes, backend, direction }
    }
}

impl Packet<'_> {
    /// The frame holds the whole packet, and the packet a whole transport header.
    fn check_lengths(&self) -> Result<(), DropReason> {
        self.check_end()?;
        let header = if self.ip.protocol == TCP { 20 } else { 8 };
        if self.ip.payload + header > self.ip.end {
            return Err(DropReason::TruncatedHeader);
        }
        Ok(())
    }

    pub(super) fn check_end(&self) -> Result<(), DropReason> {
        if self.ip.end > self.bytes.len() { Err(DropReason::TruncatedPacket) } else { Ok(()) }
    }

    /// A fragment behind the first holds its own headers.
    fn check_headers(&self) -> Result<(), DropReason> {
        self.check_end()?;
        if self.ip.payload > self.ip.end { Err(DropReason::TruncatedHeader) } else { Ok(()) }
    }

    /// Whoever forwards a packet takes one from its hop limit (RFC 1812, RFC 8200).
    pub(super) fn check_hop_limit(&self) -> Result<(), DropReason> {
        if self.ip.hop_limit <= 1 { Err(DropReason::HopLimitExceeded) } else { Ok(()) }
    }

    pub(super) fn fits(&self, hop: NextHop, overhead: usize) -> Result<(), Stop> {
        let mtu = usize::from(hop.mtu);
        let length = self.ip.end - self.ip.at + overhead;
        if length > mtu { Err(Stop::TooBig(mtu.saturating_sub(overhead))) } else { Ok(()) }
    }

    /// How wrong the packet's own checksums are, modulo 65,535: an outer checksum that is made from them is as wrong, and
    /// the receiver throws the packet away a header earlier.
    fn error(&self, bytes: &[u8]) -> u64 {
        let ip = &self.ip;
        let is_plain = ip.fragment.is_none() && ip.payload == ip.at + if ip.source.is_ipv4() { 20 } else { 40 };
        let has_checksum = match ip.protocol {
            TCP => true,
            UDP => {
                read::half(bytes, ip.payload + 6) != Some(0)
                    && read::half(bytes, ip.payload + 4).map(usize::from) == Some(ip.end - ip.payload)
            }
            _ => false,
        };
        if !is_plain || !has_checksum {
            return 0;
        }
        let header = if ip.source.is_ipv4() { write::sum(&bytes[ip.at..ip.payload]) } else { 0 };
        let length = ip.end - ip.payload;
        let segment = write::sum(&bytes[ip.payload..ip.end]);
        (header + segment + write::pseudo(ip.source, ip.destination, ip.protocol, length)) % ERROR_FREE
    }
}

fn is_in(address: IpAddr, prefix: IpAddr, length: u8) -> bool {
    match (address, prefix) {
        (IpAddr::V4(address), IpAddr::V4(prefix)) => {
            (address.to_bits() ^ prefix.to_bits()).checked_shr(32 - u32::from(length)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(prefix)) => {
            (address.to_bits() ^ prefix.to_bits()).checked_shr(128 - u32::from(length)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Nothing, modulo 65,535.
const ERROR_FREE: u64 = 0xffff;
