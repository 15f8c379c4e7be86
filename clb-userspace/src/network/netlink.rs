//! The wire to the kernel: a socket that hears of changes, and one that reads tables and asks for neighbours.
//!
//! Two sockets, so that a burst of changes can never push out the answer to a request. Nothing here keeps more than one
//! datagram: what is not read yet waits in the kernel's buffer, and when that overflows the kernel says so.

use std::{collections::VecDeque, io, net::IpAddr};

use anyhow::{Context as _, bail};
use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage},
};
use nix::errno::Errno;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{
    decode::decode,
    neighbour::Neighbour,
    state::{Event, Table},
};

type Message = NetlinkMessage<RouteNetlinkMessage>;

/// A socket to the kernel's routing and link tables.
pub struct Socket {
    kernel: TokioSocket,
    datagram: Vec<u8>,
    sequence: u32,
}

/// What came from the kernel.
pub enum Received {
    /// The messages of one datagram.
    Messages(Vec<Message>),
    /// Messages were lost, because they came faster than they were read.
    Overrun,
}

impl Socket {
    /// One that hears of every change.
    pub fn for_changes() -> anyhow::Result<Self> {
        let mut socket = Self::open()?;
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let groups = groups.into_iter().fold(0, |groups, group| groups | 1 << (group as u32 - 1));
        socket.kernel.socket_mut().bind(&SocketAddr::new(0, groups)).context("subscribe to changes of the network")?;
        Ok(socket)
    }

    /// One that sends requests.
    pub fn for_requests() -> anyhow::Result<Self> {
        let socket = Self::open()?;
        // Lets the kernel filter the routing tables. Since Linux 4.20; an older one sends all of them, and decoding filters.
        let _ = socket.kernel.socket_ref().set_netlink_get_strict_chk(true);
        Ok(socket)
    }

    /// The next datagram; dropping the future loses nothing.
    pub async fn receive(&mut self) -> anyhow::Result<Received> {
        self.datagram.clear();
        let sender = match self.kernel.recv_from(&mut self.datagram).await {
            Ok(sender) => sender,
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(Received::Overrun),
            Err(error) => return Err(error).context("read from the kernel's netlink socket"),
        };
        if sender.port_number() != 0 {
            return Ok(Received::Messages(Vec::new()));
        }
        Ok(Received::Messages(messages(&self.datagram)))
    }

    /// Makes the kernel resolve a neighbour, or verify it if it is stale: it sends the ARP or NDP request itself. An
    /// error comes later, as a message.
    pub fn ask(&mut self, neighbour: Neighbour) -> io::Result<()> {
        let mut message = neighbour_message(neighbour);
        message.header.flags = NeighbourFlags::Use;
        self.send(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REQUEST | NLM_F_CREATE).map(|_| ())
    }

    /// Makes the kernel forget the MAC address of a neighbour. An error comes later, as a message.
    pub fn forget(&mut self, neighbour: Neighbour) -> io::Result<()> {
        let message = neighbour_message(neighbour);
        self.send(RouteNetlinkMessage::DelNeighbour(message), NLM_F_REQUEST).map(|_| ())
    }

    /// Sends a request and gives its sequence number. It never waits: the kernel works it off at once.
    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.kernel.socket_ref().send_to(&buffer, &SocketAddr::new(0, 0), 0)?;
        Ok(self.sequence)
    }

    fn open() -> anyhow::Result<Self> {
        let kernel = TokioSocket::new(NETLINK_ROUTE).context("open a netlink socket")?;
        // A hint: the kernel caps it at net.core.rmem_max, and an overrun is handled anyway.
        let _ = kernel.socket_ref().set_rx_buf_sz(RECEIVE_BUFFER);
        Ok(Self { kernel, datagram: Vec::with_capacity(LARGEST_DATAGRAM), sequence: 0 })
    }
}

/// The reading of one of the kernel's tables. Its rows come with the answers on the socket that it was started on.
pub struct Reading {
    /// Which table.
    pub table: Table,
    sequence: u32,
    /// What is still to be requested: routes are read one family after the other.
    requests: VecDeque<RouteNetlinkMessage>,
    rows: Vec<Event>,
    consistency: Consistency,
}

/// How far a reading got.
pub enum Progress {
    /// More answers will come.
    Reading(Reading),
    /// These are all rows of the table.
    Complete(Vec<Event>),
    /// The table changed so much that rows may be missing or doubled: it must be read again.
    Interrupted,
}

#[derive(PartialEq, Eq)]
enum Consistency {
    Whole,
    Torn,
}

impl Reading {
    /// Requests the table.
    pub fn start(table: Table, socket: &mut Socket) -> anyhow::Result<Self> {
        let requests = requests(table).into();
        let mut reading = Self { table, sequence: 0, requests, rows: Vec::new(), consistency: Consistency::Whole };
        reading.request_next(socket)?;
        Ok(reading)
    }

    /// Whether a message is an answer to this reading.
    pub fn awaits(&self, message: &Message) -> bool {
        message.header.sequence_number == self.sequence
    }

    /// Lets the reading end as interrupted. (The kernel starts no other one before its end.)
    pub fn interrupt(&mut self) {
        self.consistency = Consistency::Torn;
    }

    /// Takes one answer of the kernel.
    pub fn take(mut self, message: Message, socket: &mut Socket) -> anyhow::Result<Progress> {
        let (header, payload) = message.into_parts();
        if header.flags & NLM_F_DUMP_INTR != 0 {
            self.consistency = Consistency::Torn;
        }
        let code = match payload {
            NetlinkPayload::InnerMessage(message) => {
                self.rows.extend(decode(message));
                return Ok(Progress::Reading(self));
            }
            NetlinkPayload::Done(done) => done.code,
            NetlinkPayload::Error(error) => error.raw_code(),
            _ => return Ok(Progress::Reading(self)),
        };
        match Errno::from_raw(-code) {
            // A table that does not exist yet, or a family that the kernel has not got, is empty.
            _ if code >= 0 => {}
            Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => {}
            errno => bail!("the kernel refused to list its {}: {errno}", self.table),
        }
        if self.request_next(socket)? {
            return Ok(Progress::Reading(self));
        }
        Ok(match self.consistency {
            Consistency::Whole => Progress::Complete(self.rows),
            Consistency::Torn => Progress::Interrupted,
        })
    }

    fn request_next(&mut self, socket: &mut Socket) -> anyhow::Result<bool> {
        let Some(request) = self.requests.pop_front() else { return Ok(false) };
        self.sequence = socket
            .send(request, NLM_F_REQUEST | NLM_F_DUMP)
            .with_context(|| format!("ask the kernel for its {}", self.table))?;
        Ok(true)
    }
}

fn neighbour_message(Neighbour { interface, address }: Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = interface;
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

/// The error that the kernel answered a request for a neighbour with.
pub fn refusal(message: &Message) -> Option<Errno> {
    match &message.payload {
        NetlinkPayload::Error(error) if error.raw_code() < 0 => Some(Errno::from_raw(-error.raw_code())),
        _ => None,
    }
}

fn requests(table: Table) -> Vec<RouteNetlinkMessage> {
    match table {
        Table::Links => {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            vec![RouteNetlinkMessage::GetLink(message)]
        }
        Table::Addresses => vec![RouteNetlinkMessage::GetAddress(AddressMessage::default())],
        Table::Neighbours => vec![RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())],
        Table::Routes => [AddressFamily::Inet, AddressFamily::Inet6]
            .into_iter()
            .map(|family| {
                let mut message = RouteMessage::default();
                message.header.address_family = family;
                message.attributes.push(RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into()));
                RouteNetlinkMessage::GetRoute(message)
            })
            .collect(),
    }
}

/// The messages of a datagram. One that this program cannot read is skipped, and the log says so.
fn messages(mut datagram: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Ok(buffer) = NetlinkBuffer::new_checked(datagram) {
        let length = buffer.length() as usize;
        match Message::deserialize(&datagram[..length]) {
            Ok(message) => messages.push(message),
            Err(error) => tracing::warn!(%error, "skipped a message of the kernel about the network"),
        }
        datagram = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    messages
}

const RECEIVE_BUFFER: i32 = 4 << 20;
/// The kernel makes datagrams of at most 32 KiB for a reader that gives it room.
const LARGEST_DATAGRAM: usize = 64 << 10;
/// Messages start at multiples of it (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;
