//! The kernel's side of clb, as the agent holds it: the loaded program, where it is attached, and what its maps hold.
//!
//! It executes steps and knows no policy. A listener's change is prepared beside the live state and made visible by one
//! switch, so a packet sees the old generation or the new one. What a packet may still be reading is not written again
//! until `GRACE` has passed: switched values are held twice, and regions that became free are used again only then.

mod adopt;
mod attach;
mod change;
mod counters;
mod decap;
mod drains;
mod endpoints;
mod explain;
mod flows;
mod home;
mod maps;
mod pins;
mod pool;
mod program;
mod regions;
mod reports;
mod space;
mod sweep;
mod ticks;
mod tunnel;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use aya::programs::Xdp;
use clb_common::{Backend, Endpoint, ForwardingMode, NextHop, Protocol, SlotTable, Transition};

pub use self::{
    attach::{AttachMode, Attachment, Mode, program_name},
    counters::{BackendCounters, Counters, ListenerCounters},
    decap::Decapsulator,
    explain::{End, Outcome, Probe},
    home::{Home, detach, load_balancers},
    program::{DropLog, Settings, refused},
    reports::{Reported, Reports},
    sweep::{Patience, Swept},
    ticks::{now, ticks},
};
use self::{
    flows::{FlowTable, Gone},
    maps::Maps,
    pins::PinTable,
    program::Program,
    space::{Capacity, Space},
    sweep::Left,
};
use crate::{
    control::{DesiredListener, Step},
    network::Prefix,
    slots::{self, BackendId},
};

/// What a listener is found by: unique in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId {
    /// The address that clients connect to.
    pub vip: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: u16,
}

impl ListenerId {
    fn endpoint(self) -> Endpoint {
        Endpoint::of(self.protocol, SocketAddr::new(self.vip, self.port))
    }
}

impl std::fmt::Display for ListenerId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.protocol.name(), SocketAddr::new(self.vip, self.port))
    }
}

/// How packets of a listener get to a backend's address.
pub type Resolve<'a> = dyn Fn(ForwardingMode, IpAddr) -> NextHop + 'a;

/// The loaded program with its maps. When it is dropped, what has a home stays.
pub struct Dataplane {
    program: Program,
    maps: Maps,
    flows: FlowTable,
    pins: PinTable,
    /// What was there when pins and flows were last looked at.
    left: Left,
    listeners: BTreeMap<ListenerId, LiveListener>,
    routes: BTreeMap<Prefix, NextHop>,
    space: Space,
    /// Ways back that lost their backend, removed when everything else of a plan is done.
    lost_replies: Vec<(Endpoint, u32)>,
    /// Listeners and backends that lost their place, given back when no packet and no flow can lead to it.
    lost: Gone,
    last_change: Option<Instant>,
}

/// A listener as it stands in the maps.
struct LiveListener {
    desired: DesiredListener,
    index: u32,
    table: SlotTable,
    /// Counts its changes.
    generation: u64,
    /// Changes of slots' owners that are not over, by their places.
    changes: BTreeMap<u32, SlotChange>,
    /// Also those that are bound no more, as long as flows may lead to them.
    backends: BTreeMap<BackendId, LiveBackend>,
}

/// A change of the owner of some slots.
struct SlotChange {
    transition: Transition,
    /// How many.
    slots: u32,
}

/// A backend as it stands in the maps.
struct LiveBackend {
    index: u32,
    value: Backend,
    /// Slots of the table in force.
    slots: u32,
}

impl Dataplane {
    /// Loads the program, with maps that have room for these listeners and for growth. Nothing is attached yet, and nothing
    /// is left when this ends.
    pub fn load(settings: Settings, desired: &BTreeMap<ListenerId, DesiredListener>) -> anyhow::Result<Self> {
        Self::with(settings, Capacity::for_listeners(desired), Home::private())
    }

    /// The same in a home that outlives this process. What an agent left there is taken over: maps with all that they hold, and
    /// links by `take_over`.
    pub fn open(
        settings: Settings,
        desired: &BTreeMap<ListenerId, DesiredListener>,
        home: Home,
    ) -> anyhow::Result<Self> {
        if home.is_furnished() {
            return Self::adopt(settings, desired, home);
        }
        Self::with(settings, Capacity::for_listeners(desired), Ok(home))
    }

    fn with(settings: Settings, capacity: Capacity, home: anyhow::Result<Home>) -> anyhow::Result<Self> {
        let space = Space::new(&capacity);
        let (program, maps, flows, pins) = Program::load(settings, capacity, home)?;
        Ok(Self {
            program,
            maps,
            flows,
            pins,
            left: Left::default(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            space,
            lost_replies: Vec::new(),
            lost: Gone::default(),
            last_change: None,
        })
    }

    /// Attaches the program to an interface that has none.
    pub fn attach(&mut self, interface: &str, index: u32, mode: AttachMode) -> anyhow::Result<&Attachment> {
        self.program.attach(interface, index, mode)
    }

    /// Forgets an interface that is gone.
    pub fn forget(&mut self, interface: &str) {
        self.program.forget(interface);
    }

    /// Where the program is attached.
    pub fn attachments(&self) -> &[Attachment] {
        self.program.attachments()
    }

    /// The program itself, to run it on packets of one's own.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        self.program.xdp()
    }

    /// The program cut off behind a stage, for the benchmark: it sends back what it took so far. To be loaded once.
    pub fn rung(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        self.program.rung(name)
    }

    /// What the program reports. To be taken once.
    pub fn reports(&mut self) -> anyhow::Result<Reports> {
        self.program.reports()
    }

    /// Makes these the addresses that backends see in `full_nat`.
    pub fn set_sources(&mut self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        self.maps.pool.write(addresses)
    }

    /// Makes sure that a plan can be executed, and that packets find its modes and these settings from now on. The keys of
    /// the flow hash and the size of the flow table are for good. Fails before anything changes.
    pub async fn prepare(&mut self, settings: Settings, steps: &[Step]) -> anyhow::Result<()> {
        self.settle().await?;
        self.check_room(steps)?;
        self.run(settings, modes(steps)).await
    }

    /// Has an instance of the program run that knows these modes.
    async fn run(&mut self, settings: Settings, modes: u32) -> anyhow::Result<()> {
        if self.program.is_as(&settings, modes) {
            return Ok(());
        }
        let mut replaced = self.program.replace(settings, modes)?;
        if let Some(flows) = replaced.flows.take() {
            self.flows = flows;
        }
        // The old instance goes when no packet is in it.
        tokio::time::sleep(GRACE).await;
        self.program.forget_other_stages()
    }

    /// What the maps hold now, to plan a change of it.
    pub fn actual(&self) -> BTreeMap<ListenerId, DesiredListener> {
        self.listeners.iter().map(|(&id, live)| (id, live.desired.clone())).collect()
    }

    /// Backends that are bound no more, while flows may lead to them.
    pub fn leaving(&self) -> impl Iterator<Item = (ForwardingMode, IpAddr)> {
        self.listeners.values().flat_map(|live| {
            let unbound = live.backends.keys().filter(|id| !live.desired.weights.contains_key(id));
            unbound.map(|id| (live.desired.mode, id.address))
        })
    }

    /// Executes a plan. Fails before the first write if the maps have no room for it.
    pub async fn apply(&mut self, steps: Vec<Step>, resolve: &Resolve<'_>) -> anyhow::Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        self.check_room(&steps)?;
        self.run(*self.program.settings(), modes(&steps)).await?;
        let done = self.execute(&steps, resolve).and_then(|()| self.remove_lost_replies());
        self.last_change = Some(Instant::now());
        done.and(self.give_back().await)
    }

    fn execute(&mut self, steps: &[Step], resolve: &Resolve<'_>) -> anyhow::Result<()> {
        thread::scope(|scope| {
            // Beside the writes, which take as long. The channel is closed when this returns, and ends the thread.
            let (sender, owners) = sync_channel(TABLES_AHEAD);
            scope.spawn(|| send_owners(steps, sender));
            for step in steps {
                match step {
                    Step::AddListener { listener, to } => self.add_listener(*listener, to, &owners.recv()?, resolve),
                    Step::ChangeListener { listener, to } => {
                        self.change_listener(*listener, to, &owners.recv()?, resolve)
                    }
                    Step::RemoveListener { listener } => self.remove_listener(*listener),
                }?;
            }
            Ok(())
        })
    }

    /// Last of all: an endpoint that moves between listeners is never without an owner, and the kernel has nothing to
    /// give the removed elements to before `GRACE` has passed.
    fn remove_lost_replies(&mut self) -> anyhow::Result<()> {
        for (endpoint, backend) in std::mem::take(&mut self.lost_replies) {
            // Another listener may have taken the endpoint over.
            if self.maps.reply_indexes.get(&endpoint) == Some(backend) {
                self.maps.reply_indexes.remove(&endpoint).context("remove a backend's way back")?;
            }
        }
        Ok(())
    }

    /// Gives back what lost its place, when no packet and no flow leads to it any more; what was counted stays in the sum.
    async fn give_back(&mut self) -> anyhow::Result<()> {
        let lost = std::mem::take(&mut self.lost);
        if lost.listeners.is_empty() && lost.backends.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(GRACE).await;
        self.flows.clear(lost.clone()).await?;
        self.pins.clear(lost.clone()).await?;
        for (index, listener) in lost.backends {
            self.maps.move_backend_traffic(index, Some(listener), self.space.gone)?;
            self.space.backends.retire(index, 1);
        }
        for index in lost.listeners {
            self.space.listeners.retire(index, 1);
        }
        Ok(())
    }

    /// Gives every backend the next hop that is right now, and clients their routes.
    pub async fn update_next_hops(
        &mut self,
        resolve: &Resolve<'_>,
        routes: BTreeMap<Prefix, NextHop>,
    ) -> anyhow::Result<()> {
        let changes: Vec<(ListenerId, BackendId, NextHop)> = self
            .listeners
            .iter()
            .flat_map(|(&listener, live)| live.backends.iter().map(move |(&id, backend)| (listener, live, id, backend)))
            .filter_map(|(listener, live, id, backend)| {
                let next_hop = resolve(live.desired.mode, id.address);
                (next_hop != *backend.value.next_hop.current()).then_some((listener, id, next_hop))
            })
            .collect();
        if !changes.is_empty() {
            self.settle().await?;
            let done = self.write_next_hops(changes);
            self.last_change = Some(Instant::now());
            done?;
        }
        let has_replies = self
            .listeners
            .values()
            .any(|live| matches!(live.desired.mode, ForwardingMode::Nat | ForwardingMode::FullNat));
        self.update_routes(if has_replies { routes } else { BTreeMap::new() })
    }

    fn write_next_hops(&mut self, changes: Vec<(ListenerId, BackendId, NextHop)>) -> anyhow::Result<()> {
        for (listener, id, next_hop) in changes {
            let live = self.listeners.get_mut(&listener).and_then(|live| live.backends.get_mut(&id));
            let backend = live.context("a backend whose next hop changes is there")?;
            for next_hop in backend.value.next_hop.switch_to(next_hop) {
                let mut value = backend.value;
                value.next_hop = next_hop;
                self.maps.backends.set(backend.index, value, 0).context("write a backend's next hop")?;
                backend.value = value;
            }
        }
        Ok(())
    }

    /// The counters of all CPUs, added up.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        counters::read(self)
    }

    /// Waits until no packet can still be reading what the last change replaced.
    async fn settle(&mut self) -> anyhow::Result<()> {
        if let Some(last_change) = self.last_change {
            tokio::time::sleep_until((last_change + GRACE).into()).await;
        }
        self.space.reclaim();
        self.maps.listener_indexes.reclaim()?;
        self.maps.reply_indexes.reclaim()
    }

    /// Removes first, so that what fits always finds room, and remembers each write: whatever fails, the next update
    /// begins with what the map holds.
    fn update_routes(&mut self, routes: BTreeMap<Prefix, NextHop>) -> anyhow::Result<()> {
        if routes.len() > ROUTES as usize {
            bail!(
                "{} routes and neighbours are more than the {ROUTES} that clb can know, so replies go where they went\n\
                 help: let this host have a default route instead of a full table",
                routes.len()
            );
        }
        let gone: Vec<Prefix> = self.routes.keys().filter(|prefix| !routes.contains_key(prefix)).copied().collect();
        for prefix in gone {
            self.maps.remove_route(prefix)?;
            self.routes.remove(&prefix);
        }
        for (prefix, next_hop) in routes {
            if self.routes.get(&prefix) != Some(&next_hop) {
                self.maps.set_route(prefix, next_hop)?;
                self.routes.insert(prefix, next_hop);
            }
        }
        Ok(())
    }
}

/// The slots' owners of each listener that a plan adds or changes, until nobody wants them any more.
#[expect(clippy::needless_pass_by_value, reason = "the channel is closed at the end")]
fn send_owners(steps: &[Step], sender: SyncSender<Vec<u32>>) {
    for step in steps {
        let (Step::AddListener { to, .. } | Step::ChangeListener { to, .. }) = step else { continue };
        if sender.send(slots::owners(&to.weights, to.slots)).is_err() {
            return;
        }
    }
}

/// The modes that listeners get, each a bit.
fn modes(steps: &[Step]) -> u32 {
    steps.iter().fold(0, |modes, step| match step {
        Step::AddListener { to, .. } | Step::ChangeListener { to, .. } => modes | to.mode.bit(),
        Step::RemoveListener { .. } => modes,
    })
}

/// How many listeners' slots are known before they are written.
const TABLES_AHEAD: usize = 64;

/// How many routes and neighbours the way back in `nat` can know.
const ROUTES: u32 = 65_536;

/// Far longer than any packet stays in the program, and too short for a person to notice.
const GRACE: Duration = Duration::from_millis(10);
