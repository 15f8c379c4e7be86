//! The agent's view of the kernel's network: which MAC addresses and interface packets leave by, kept fresh.
//!
//! The packet path never asks the FIB; it reads next hops that come from here. [`Network`] subscribes to changes, reads
//! the kernel's tables, and from then on follows what the kernel tells. Neighbours follow single messages; the main
//! routing table is read anew after any change of a route, link or address, because the kernel drops IPv4 routes of a
//! lost link or address silently. Half a million routes take 0.7 s and 350 bytes each, so reading is given a tenth of the time.
//!
//! Out of scope: policy routing, VRFs, tables other than the main one, types of service, routes by source, and routes by
//! nexthop objects with `net.ipv4.nexthop_compat_mode=0`. More than a few hundred neighbours need
//! `net.ipv4.neigh.default.gc_thresh2` (and IPv6's) above their number, or the kernel drops them.

mod decode;
mod interface;
mod neighbour;
mod netlink;
mod path_mtu;
mod resolve;
mod routes;
mod state;
mod unresolved;

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    net::IpAddr,
    time::Duration,
};

use clb_common::NextHop;
use nix::errno::Errno;
use tokio::time::{Instant, sleep_until};

pub use self::{
    interface::{AttachedProgram, Interface, LinkState, Tag, Vlan, XdpMode},
    neighbour::NeighbourState,
    state::{Hop, Reach},
    unresolved::{Refusal, Unresolved},
};
use self::{
    neighbour::{Need, Neighbour},
    netlink::{Progress, Reading, Received, Socket, refusal},
    path_mtu::PathMtus,
    resolve::Resolver,
    state::{Effect, Event, State, Table},
};
pub use crate::prefix::Prefix;

/// The kernel's network as last heard of, and the conversation that keeps it so. For one task.
pub struct Network {
    changes: Socket,
    requests: Socket,
    state: State,
    wanted: BTreeSet<(IpAddr, Reach)>,
    resolver: Resolver,
    path_mtus: PathMtus,
    /// The tables to read, and when.
    unread: BTreeMap<Table, Instant>,
    reading: Option<UnderWay>,
    /// The next reading of the routes starts no earlier.
    routes_rested: Instant,
    /// When links and addresses have stayed the same for so long that the kernel must have dropped their routes.
    settled: Instant,
    /// When [`Network::changed`] tells of what it heard.
    tell: Option<Instant>,
    /// When the log last said that the kernel has no room for neighbours.
    warned: Option<Instant>,
}

/// A reading, and what happened meanwhile: its rows may be older or newer than that.
struct UnderWay {
    reading: Reading,
    since: Instant,
    meanwhile: Vec<Event>,
}

impl Network {
    /// Subscribes to changes, then reads all tables, so that nothing is missed between.
    pub async fn connect() -> anyhow::Result<Self> {
        let now = Instant::now();
        let mut network = Self {
            changes: Socket::for_changes()?,
            requests: Socket::for_requests()?,
            state: State::default(),
            wanted: BTreeSet::new(),
            resolver: Resolver::new(now),
            path_mtus: PathMtus::default(),
            unread: Table::ALL.map(|table| (table, now)).into(),
            reading: None,
            routes_rested: now,
            settled: now,
            tell: None,
            warned: None,
        };
        while !network.state.is_complete() {
            network.step().await?;
        }
        network.tell = None;
        Ok(network)
    }

    /// Waits until an answer may differ. A burst of changes is told once, a few milliseconds after its first. Nothing is
    /// lost when the future is dropped; but the view stays fresh only while somebody waits.
    ///
    /// Fails if the netlink sockets do: connect anew.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        loop {
            if self.tell.is_some_and(|tell| tell <= Instant::now()) {
                self.tell = None;
                return Ok(());
            }
            self.step().await?;
        }
    }

    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.state.interface(name)
    }

    /// How packets to this address leave now.
    pub fn next_hop(&self, address: IpAddr, reach: Reach) -> Result<Hop, Unresolved> {
        let mut hop = self.state.next_hop(address, reach)?;
        if let Some(mtu) = self.path_mtus.of(address, Instant::now()) {
            hop.next_hop = hop.next_hop.within(mtu);
        }
        Ok(hop)
    }

    /// A router on the way to this address, which is to be resolved, lets packets up to this size through. Holds for ten
    /// minutes.
    pub fn note_path_mtu(&mut self, address: IpAddr, mtu: u32) {
        let now = Instant::now();
        if self.wanted.contains(&(address, Reach::Routed)) && self.path_mtus.note(address, mtu, now) {
            tracing::info!("packets for {address} larger than {mtu} bytes do not come through");
            self.tell_soon(now);
        }
    }

    /// The next hop toward any client, for a longest-prefix match: every prefix of the main table, every neighbour with
    /// a known MAC address, and every address of this machine, which is [`NextHop::HOST`]. [`NextHop::UNRESOLVED`] stands
    /// where no packet may go, and where a neighbour must be asked for first.
    pub fn client_routes(&self) -> BTreeMap<Prefix, NextHop> {
        self.state.client_routes()
    }

    /// Every address of this machine, whichever interface has it.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.state.own_addresses()
    }

    /// Keeps the next hops of these addresses resolved from now on, and those of all routers in the main table.
    pub fn keep_resolved(&mut self, addresses: BTreeSet<(IpAddr, Reach)>) {
        self.wanted = addresses;
        self.keep_neighbours();
    }

    /// This address has moved to another host: what the kernel knew of it on the link is forgotten, and resolved anew if it is kept
    /// so. Does nothing for one behind a router.
    pub fn resolve_again(&mut self, address: IpAddr) {
        let neighbours: BTreeSet<Neighbour> = [Reach::OnLink, Reach::Routed]
            .iter()
            .filter_map(|&reach| self.state.neighbour_toward(address, reach))
            .collect();
        for neighbour in neighbours.into_iter().filter(|neighbour| neighbour.address == address) {
            if let Err(error) = self.requests.forget(neighbour) {
                tracing::debug!(%address, %error, "could not forget a neighbour");
            }
        }
    }

    /// Makes the kernel resolve the next hop of this address once. Bounded: a client chooses the address.
    pub fn ask(&mut self, address: IpAddr) {
        if let Some(neighbour) = self.state.neighbour_toward(address, Reach::Routed)
            && self.state.need(neighbour) == Need::Resolve
            && let Some(neighbour) = self.resolver.ask_once(neighbour, Instant::now())
        {
            self.ask_kernel(neighbour);
        }
    }

    /// Sends what is due, then takes one message of the kernel or waits until the next thing is due.
    async fn step(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        for neighbour in self.resolver.take_due(now) {
            self.ask_kernel(neighbour);
        }
        if self.path_mtus.forget(now) {
            self.tell_soon(now);
        }
        self.read_next(now)?;
        let reading =
            Table::ALL.into_iter().filter_map(|table| self.due(table)).min().filter(|_| self.reading.is_none());
        let wake =
            [self.tell, self.resolver.next_due(), self.path_mtus.next_forgotten(), reading].into_iter().flatten().min();
        let alarm = async {
            match wake {
                Some(wake) => sleep_until(wake).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            received = self.changes.receive() => self.hear(received?),
            received = self.requests.receive() => self.take_answers(received?)?,
            () = alarm => {}
        }
        Ok(())
    }

    fn hear(&mut self, received: Received) {
        let now = Instant::now();
        let Received::Messages(messages) = received else {
            tracing::info!("the kernel told of changes faster than they were read: reading its tables again");
            return self.read_all(now);
        };
        for message in messages {
            let netlink_packet_core::NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            let Some(event) = decode::decode(message) else { continue };
            if let Some(under_way) = &mut self.reading
                && !matches!(event, Event::Route(_) | Event::RouteGone)
            {
                under_way.meanwhile.push(event.clone());
            }
            self.apply(event, now);
        }
    }

    fn apply(&mut self, event: Event, now: Instant) {
        let neighbour = match event {
            Event::Neighbour(neighbour, _) | Event::NeighbourGone(neighbour) => Some(neighbour),
            _ => None,
        };
        let effect = self.state.apply(event);
        if let Some(neighbour) = neighbour {
            self.resolver.observe(neighbour, self.state.need(neighbour), now);
        }
        match effect {
            Effect::Nothing => {}
            Effect::Answers => self.tell_soon(now),
            Effect::Routes => self.read(Table::Routes, now + BURST),
            Effect::Topology => {
                self.settled = now + SETTLING;
                self.read(Table::Routes, now + BURST);
                self.keep_neighbours();
                self.tell_soon(now);
            }
        }
    }

    fn take_answers(&mut self, received: Received) -> anyhow::Result<()> {
        let now = Instant::now();
        // Answers wait for their reader; only refusals can be lost, and what was refused is asked again.
        let Received::Messages(messages) = received else { return Ok(()) };
        for message in messages {
            let Some(UnderWay { reading, since, meanwhile }) =
                self.reading.take_if(|other| other.reading.awaits(&message))
            else {
                self.note_refusal(refusal(&message), now);
                continue;
            };
            let table = reading.table;
            match reading.take(message, &mut self.requests)? {
                Progress::Reading(reading) => self.reading = Some(UnderWay { reading, since, meanwhile }),
                Progress::Complete(rows) => self.take_table(table, rows, meanwhile),
                Progress::Interrupted => self.read(table, now + BURST),
            }
            if table == Table::Routes && self.reading.is_none() {
                self.routes_rested = now + (now - since) * ROUTES_REST;
                if since < self.settled {
                    self.read(Table::Routes, self.settled);
                }
            }
        }
        Ok(())
    }

    fn take_table(&mut self, table: Table, rows: Vec<Event>, meanwhile: Vec<Event>) {
        let effect = self.state.replace(table, rows);
        let now = Instant::now();
        for event in meanwhile {
            self.apply(event, now);
        }
        self.keep_neighbours();
        if effect != Effect::Nothing {
            self.tell_soon(now);
        }
    }

    fn read_next(&mut self, now: Instant) -> anyhow::Result<()> {
        if self.reading.is_some() {
            return Ok(());
        }
        let Some(table) = Table::ALL.into_iter().find(|&table| self.due(table).is_some_and(|due| due <= now)) else {
            return Ok(());
        };
        self.unread.remove(&table);
        let reading = Reading::start(table, &mut self.requests)?;
        self.reading = Some(UnderWay { reading, since: now, meanwhile: Vec::new() });
        Ok(())
    }

    /// When a table is read next.
    fn due(&self, table: Table) -> Option<Instant> {
        let due = *self.unread.get(&table)?;
        Some(if table == Table::Routes { due.max(self.routes_rested) } else { due })
    }

    /// After messages were lost. The answers stay as they were until the tables are read.
    fn read_all(&mut self, now: Instant) {
        if let Some(under_way) = &mut self.reading {
            under_way.reading.interrupt();
        }
        for table in Table::ALL {
            self.read(table, now);
        }
    }

    fn read(&mut self, table: Table, due: Instant) {
        self.unread.entry(table).and_modify(|other| *other = due.min(*other)).or_insert(due);
    }

    fn tell_soon(&mut self, now: Instant) {
        self.tell.get_or_insert(now + BURST);
    }

    fn keep_neighbours(&mut self) {
        let Self { state, wanted, resolver, .. } = self;
        let toward = wanted.iter().filter_map(|&(address, reach)| state.neighbour_toward(address, reach));
        let neighbours = toward.chain(state.gateways()).collect();
        resolver.keep(&neighbours, |neighbour| state.need(neighbour), Instant::now());
    }

    fn ask_kernel(&mut self, neighbour: Neighbour) {
        if let Err(error) = self.requests.ask(neighbour) {
            tracing::debug!(address = %neighbour.address, %error, "could not ask for a neighbour");
        }
    }

    /// The kernel could not ask for a neighbour. It is asked again; the log tells what a person can mend.
    fn note_refusal(&mut self, errno: Option<Errno>, now: Instant) {
        let Some(errno) = errno else { return };
        let quiet = self.warned.is_some_and(|warned| now < warned + WARN_EVERY);
        if errno == Errno::ENOBUFS && !quiet {
            self.warned = Some(now);
            tracing::warn!(
                "the kernel's neighbour table is full, so MAC addresses cannot be resolved; help: raise the sysctls \
                 net.ipv4.neigh.default.gc_thresh1, 2 and 3 (and net.ipv6's) above the number of neighbours"
            );
        } else {
            tracing::debug!(%errno, "the kernel did not ask for a neighbour");
        }
    }
}

/// Changes within it are told, and followed by a reading, together.
const BURST: Duration = Duration::from_millis(5);
/// The kernel tells that a link or address went away before it drops the routes that used it.
const SETTLING: Duration = Duration::from_secs(1);
/// Reading the routes pauses for so many times as long as it took.
const ROUTES_REST: u32 = 9;
const WARN_EVERY: Duration = Duration::from_mins(1);
