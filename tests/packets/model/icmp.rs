//! ICMP (RFC 792, RFC 4443): echo to a VIP, errors about flows, and the errors that clb itself sends.

use std::net::{IpAddr, SocketAddr};

use clb_common::{DropReason, ForwardingMode};
use clb_userspace::{dataplane::ListenerId, slots::BackendId};

use super::{
    Direction, Model, Packet, Stop, Way, backend_end,
    read::{self, Ip},
    write::{self, Ends, HOP_LIMIT, Header},
};

/// The number of a family's ICMP.
pub fn number(family: IpAddr) -> u8 {
    if family.is_ipv4() { 1 } else { 58 }
}

fn is_error(family: IpAddr, kind: u8) -> bool {
    if family.is_ipv4() { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) }
}

impl Model {
    pub(super) fn icmp(&mut self, packet: &Packet) -> Way {
        let at = packet.ip.payload;
        if packet.ip.is_first_fragment() || at + 8 > packet.bytes.len() {
            return Err(Stop::Pass);
        }
        let kind = packet.bytes[at];
        let request = if packet.ip.source.is_ipv4() { 8 } else { 128 };
        if kind == request {
            return Err(self.echo(packet)?);
        }
        if is_error(packet.ip.source, kind) { self.error(packet) } else { Err(Stop::Pass) }
    }

    /// The answer: the addresses exchanged, another type, and the rest as it was.
    fn echo(&self, packet: &Packet) -> Result<Stop, Stop> {
        let Packet { bytes, ip, .. } = packet;
        if !self.is_vip(ip.destination) {
            return Err(Stop::Pass);
        }
        packet.check_end()?;
        if ip.payload + 8 > ip.end {
            return Err(DropReason::TruncatedHeader.into());
        }
        let mut out = bytes.to_vec();
        out[..6].copy_from_slice(&bytes[6..12]);
        out[6..12].copy_from_slice(&bytes[..6]);
        write::addresses_only(&mut out, ip, Some(ip.destination), Some(ip.source));
        write::hop_limit(&mut out, ip, HOP_LIMIT);
        let before = write::icmp_sum(&out, ip.payload, ip.end);
        out[ip.payload] = if ip.source.is_ipv4() { 0 } else { 129 };
        write::icmp_checksum(&mut out, ip.payload, ip.end, before, (0, 0));
        // Of all zeros the checksum must be all ones, and of anything else it may.
        if out[ip.payload + 2..ip.payload + 4] == [0, 0] {
            out[ip.payload + 2..ip.payload + 4].fill(0xff);
        }
        Ok(Stop::Answer(out))
    }

    /// An error is for whom the packet that it quotes is from.
    fn error(&mut self, packet: &Packet) -> Way {
        let Packet { bytes, ip, .. } = packet;
        let at = ip.payload + 8;
        let quoted = read::quoted(bytes, at, &ip.source).filter(|quoted| quoted.source == ip.destination);
        let Some(quoted) = quoted else { return Err(Stop::Pass) };
        // RFC 792: at least eight bytes behind the IP header are quoted.
        if quoted.payload + 8 > ip.end {
            return Err(Stop::Pass);
        }
        let Some((from, to)) = quoted.ends(bytes) else { return Err(Stop::Pass) };
        if let Some(&(listener, _)) = self.listeners.get(&(from, quoted.protocol)) {
            return self.error_to_backend(packet, &quoted, to, listener);
        }
        if let Some(&listener) = self.replies.get(&(to, quoted.protocol)) {
            return self.error_to_client(packet, &quoted, (to, from), listener);
        }
        if let Some(&(client, listener)) = self.ways_back.get(&(from, to, quoted.protocol)) {
            return self.error_to_client(packet, &quoted, (to, client), listener);
        }
        Err(Stop::Pass)
    }

    /// The backend made the packet that is quoted.
    fn error_to_backend(&mut self, packet: &Packet, quoted: &Ip, client: SocketAddr, listener: ListenerId) -> Way {
        self.arrived(packet, listener);
        packet.check_end()?;
        let hash = self.hash(client);
        let (backend, is_full) = match self.mode(listener) {
            ForwardingMode::Nat => (self.select(listener, hash)?, false),
            ForwardingMode::FullNat => {
                (self.flows.get(&(client, listener)).ok_or(DropReason::UnknownFlow)?.backend, true)
            }
            _ => return self.keep(packet, listener, self.select(listener, hash)?, hash),
        };
        let hop = self.backend_hop(&backend)?;
        packet.fits(hop, 0)?;
        packet.check_hop_limit()?;
        let source = if is_full { Some(self.source(packet, client, listener)?) } else { None };
        let inside = Ends { source: Some(backend_end(&backend)), destination: source };
        let outside = (source.map(|end| end.ip()), Some(backend.address));
        let bytes = rewritten(packet, quoted, inside, outside);
        Ok(self.sent(packet, &bytes[packet.ip.at..], hop, (listener, backend), Direction::ToBackend))
    }

    /// The client made the packet that is quoted, and saw it leave for the VIP.
    fn error_to_client(
        &mut self,
        packet: &Packet,
        quoted: &Ip,
        (backend, client): (SocketAddr, SocketAddr),
        listener: ListenerId,
    ) -> Way {
        let hop = self.client_hop(client.ip())?;
        packet.fits(hop, 0)?;
        packet.check_end()?;
        packet.check_hop_limit()?;
        let vip = SocketAddr::new(listener.vip, listener.port);
        let inside = Ends { source: Some(client), destination: Some(vip) };
        // The client knows of no backend.
        let source = (packet.ip.source == backend.ip()).then_some(vip.ip());
        let bytes = rewritten(packet, quoted, inside, (source, Some(client.ip())));
        let backend = BackendId { address: backend.ip(), port: backend.port() };
        Ok(self.sent(packet, &bytes[packet.ip.at..], hop, (listener, backend), Direction::ToClient))
    }
}

/// The message with other ends inside and other addresses outside.
fn rewritten(
    packet: &Packet,
    quoted: &Ip,
    inside: Ends,
    (source, destination): (Option<IpAddr>, Option<IpAddr>),
) -> Vec<u8> {
    let ip = &packet.ip;
    let mut bytes = packet.bytes.to_vec();
    let addresses = |bytes: &[u8]| if ip.source.is_ipv4() { 0 } else { write::sum(&bytes[ip.at + 8..ip.at + 40]) };
    let (before, pseudo_before) = (write::icmp_sum(&bytes, ip.payload, ip.end), addresses(&bytes));
    write::ends(&mut bytes, quoted, ip.end, inside);
    write::addresses_only(&mut bytes, ip, source, destination);
    write::hop_limit(&mut bytes, ip, ip.hop_limit - 1);
    // RFC 4443, section 2.3: there is a pseudo-header.
    let pseudo = (pseudo_before, addresses(&bytes));
    write::icmp_checksum(&mut bytes, ip.payload, ip.end, before, pseudo);
    bytes
}

/// The frame that tells a packet's sender the MTU, if it may be told.
pub fn too_big(bytes: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let (tags, ip) = read::frame(bytes).expect("only IP is too big");
    let first = [&bytes[6..12], &bytes[..6]].concat();
    // RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e).
    let is_later = ip.fragment.is_some_and(|fragment| !fragment.is_first);
    let of_error = ip.first_protocol == number(ip.source)
        && !is_later
        && bytes.get(ip.payload).is_none_or(|&kind| is_error(ip.source, kind));
    let later_v4 = ip.source.is_ipv4() && is_later;
    let is_one_host = match ip.source {
        IpAddr::V4(source) => !matches!(source.octets()[0], 0 | 127 | 224..=255),
        IpAddr::V6(source) => !source.is_multicast() && !source.is_unspecified() && !source.is_loopback(),
    };
    if of_error || later_v4 || !is_one_host {
        return None;
    }
    let quote = bytes.get(ip.at..ip.at + QUOTED)?;
    let kind = if ip.source.is_ipv4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
    let mut message = [&kind, (mtu as u32).to_be_bytes().as_slice(), quote].concat();
    let (source, destination) = (ip.destination, ip.source);
    let pseudo = match source {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => write::pseudo(source, destination, 58, message.len()),
    };
    let checksum = write::checksum(write::sum(&message) + pseudo);
    write::put(&mut message, 2, &checksum.to_be_bytes());
    let header = Header {
        source,
        destination,
        class: 0,
        fragmentation: [0, 0, 0x40, 0],
        flow_label: 0,
        protocol: number(source),
        payload: message.len(),
    };
    let ether_type = if source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    Some([first, tags.concat(), ether_type.to_vec(), header.bytes(), message].concat())
}

/// So much of a packet is quoted.
const QUOTED: usize = 128;
