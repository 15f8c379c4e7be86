//! The kernel's side of clb, as the agent holds it: the loaded program, where it is attached, and what its maps hold.
//!
//! It executes steps and knows no policy. A listener's change is prepared beside the live state and made visible by one
//! switch, so a packet sees the old generation or the new one. What a packet may still be reading is not written again
//! until `GRACE` has passed: switched values are held twice, and regions that became free are used again only then.

mod attach;
mod counters;
mod decap;
mod explain;
mod flows;
mod maps;
mod pool;
mod program;
mod regions;
mod reports;
mod shared;
mod tunnel;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use aya::programs::Xdp;
use clb_common::{
    Backend, BackendTraffic, Endpoint, ForwardingMode, Listener, NextHop, Port, Protocol, Reply, SLOTS_PER_BLOCK,
    SlotBlock, SlotTable,
};

use tokio::task::JoinHandle;

pub use self::{
    attach::{AttachMode, Attachment, Mode, program_name},
    counters::{Counters, ListenerCounters},
    decap::Decapsulator,
    explain::{End, Outcome, Probe},
    program::{DropLog, Settings},
    reports::{Reported, Reports},
};
use self::{
    flows::{FlowTable, Gone, Lifetime},
    maps::Maps,
    program::Program,
    regions::Regions,
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

/// The loaded program with its maps. Dropping it detaches the program.
pub struct Dataplane {
    program: Program,
    maps: Maps,
    flows: FlowTable,
    listeners: BTreeMap<ListenerId, LiveListener>,
    routes: BTreeMap<Prefix, NextHop>,
    space: Space,
    /// What was counted for backends that are gone.
    gone: BackendTraffic,
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
    backends: BTreeMap<BackendId, LiveBackend>,
}

/// A backend as it stands in the maps.
struct LiveBackend {
    index: u32,
    value: Backend,
    /// Slots of the table in force.
    slots: u32,
}

/// What of the maps is in use.
#[derive(Clone)]
struct Space {
    listeners: Regions,
    backends: Regions,
    blocks: Regions,
}

impl Dataplane {
    /// Loads the program, with maps that have room for these listeners and for growth. Nothing is attached yet.
    pub fn load(settings: Settings, desired: &BTreeMap<ListenerId, DesiredListener>) -> anyhow::Result<Self> {
        let capacity = Capacity::for_listeners(desired);
        let space = Space {
            listeners: Regions::new(capacity.listeners),
            backends: Regions::new(capacity.backends),
            blocks: Regions::new(capacity.blocks),
        };
        let (program, maps, flows) = Program::load(settings, capacity)?;
        Ok(Self {
            program,
            maps,
            flows,
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            space,
            gone: BackendTraffic::default(),
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
        self.settle().await;
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
        Ok(())
    }

    /// Ends the flows of `full_nat` that are over, on a thread of its own; of each listener after its idle timeout. Gives
    /// how many flows are left.
    pub fn sweep(&self, idle_timeout: impl Fn(ListenerId) -> Option<Duration>) -> JoinHandle<anyhow::Result<u64>> {
        let lifetimes = self.listeners.iter().filter_map(|(&id, live)| {
            Some((live.index, Lifetime { protocol: id.protocol, idle_timeout: idle_timeout(id)? }))
        });
        self.flows.sweep(lifetimes.collect())
    }

    /// What the maps hold now, to plan a change of it.
    pub fn actual(&self) -> BTreeMap<ListenerId, DesiredListener> {
        self.listeners.iter().map(|(&id, live)| (id, live.desired.clone())).collect()
    }

    /// Executes a plan. Fails before the first write if the maps have no room for it.
    pub async fn apply(&mut self, steps: Vec<Step>, resolve: &Resolve<'_>) -> anyhow::Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        self.settle().await;
        self.check_room(&steps)?;
        self.run(*self.program.settings(), modes(&steps)).await?;
        let done = self.execute(steps, resolve).and_then(|()| self.remove_lost_replies());
        self.last_change = Some(Instant::now());
        done.and(self.give_back().await)
    }

    fn execute(&mut self, steps: Vec<Step>, resolve: &Resolve<'_>) -> anyhow::Result<()> {
        for step in steps {
            match step {
                Step::AddListener { listener, to } => self.add_listener(listener, to, resolve),
                Step::ChangeListener { listener, to } => self.change_listener(listener, to, resolve),
                Step::RemoveListener { listener } => self.remove_listener(listener),
            }?;
        }
        Ok(())
    }

    /// Last of all: an endpoint that moves between listeners is never without an owner, and the kernel has nothing to
    /// give the removed elements to before `GRACE` has passed.
    fn remove_lost_replies(&mut self) -> anyhow::Result<()> {
        for (endpoint, backend) in std::mem::take(&mut self.lost_replies) {
            // Another listener may have taken the endpoint over.
            if self.maps.replies.get(&endpoint, 0).is_ok_and(|reply| reply.backend == backend) {
                self.maps.replies.remove(&endpoint).context("remove a backend's way back")?;
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
        for index in lost.backends {
            self.gone += self.maps.backend_traffic(index)?;
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
            self.settle().await;
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
        counters::read(&self.maps, &self.flows, &self.listeners, self.gone)
    }

    /// Waits until no packet can still be reading what the last change replaced.
    async fn settle(&mut self) {
        if let Some(last_change) = self.last_change {
            tokio::time::sleep_until((last_change + GRACE).into()).await;
        }
        let Space { listeners, backends, blocks } = &mut self.space;
        listeners.reclaim();
        backends.reclaim();
        blocks.reclaim();
    }

    /// Tries a plan's allocations on a copy.
    fn check_room(&self, steps: &[Step]) -> anyhow::Result<()> {
        let mut space = self.space.clone();
        for step in steps {
            let (listener, to) = match step {
                Step::AddListener { listener, to } => {
                    space.listeners.allocate(1).context(FULL)?;
                    (listener, to)
                }
                Step::ChangeListener { listener, to } => (listener, to),
                Step::RemoveListener { .. } => continue,
            };
            let live = self.listeners.get(listener);
            let added = to.weights.keys().filter(|id| live.is_none_or(|live| !live.keeps(id, to)));
            for _ in added {
                space.backends.allocate(1).context(FULL)?;
            }
            space.blocks.allocate(blocks(to)).context(FULL)?;
        }
        Ok(())
    }

    fn add_listener(&mut self, id: ListenerId, to: DesiredListener, resolve: &Resolve<'_>) -> anyhow::Result<()> {
        let index = self.space.listeners.allocate(1).context(FULL)?;
        self.maps.clear_listener_traffic(index)?;
        let empty = DesiredListener { weights: BTreeMap::new(), ..to };
        let live = LiveListener { desired: empty, index, table: SlotTable::EMPTY, backends: BTreeMap::new() };
        self.maps.listeners.set(index, Listener::new(live.table), 0).context("write a listener")?;
        self.listeners.insert(id, live);
        self.change_listener(id, to, resolve)?;
        // First the VIP: a packet for the listener may be an ICMP error.
        self.maps.listener_indexes.insert(Endpoint::of_address(id.vip), index, 0).context("publish a VIP")?;
        self.maps.listener_indexes.insert(id.endpoint(), index, 0).with_context(|| format!("publish listener {id}"))
    }

    fn change_listener(&mut self, id: ListenerId, to: DesiredListener, resolve: &Resolve<'_>) -> anyhow::Result<()> {
        let Self { maps, listeners, space, .. } = self;
        let live = listeners.get_mut(&id).with_context(|| format!("listener {id} is there"))?;

        let (kept, old) = std::mem::take(&mut live.backends).into_iter().partition(|(id, _)| live.keeps(id, &to));
        live.backends = kept;
        for &backend in to.weights.keys() {
            if let Entry::Vacant(vacant) = live.backends.entry(backend) {
                vacant.insert(add_backend(maps, space, id, backend, to.mode, resolve)?);
            }
        }

        let table = write_table(maps, space, live, &to)?;
        for listener in maps.listeners.get(&live.index, 0).context("read a listener")?.switch_to(table) {
            maps.listeners.set(live.index, listener, 0).context("switch a listener's slot table")?;
        }
        space.blocks.retire(live.table.first_block, live.table.slots.div_ceil(SLOTS_PER_BLOCK));
        live.table = table;
        live.desired = to;
        self.lose_backends(id, old);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> anyhow::Result<()> {
        let Some(live) = self.listeners.remove(&id) else { bail!("listener {id} is there") };
        self.maps.listener_indexes.remove(&id.endpoint()).with_context(|| format!("remove listener {id}"))?;
        if !self.listeners.keys().any(|other| other.vip == id.vip) {
            self.maps.listener_indexes.remove(&Endpoint::of_address(id.vip)).context("remove a VIP")?;
        }
        self.lost.listeners.insert(live.index);
        self.space.blocks.retire(live.table.first_block, live.table.slots.div_ceil(SLOTS_PER_BLOCK));
        self.lose_backends(id, live.backends);
        Ok(())
    }

    fn lose_backends(&mut self, listener: ListenerId, backends: BTreeMap<BackendId, LiveBackend>) {
        for (id, LiveBackend { index, .. }) in backends {
            self.lost_replies.push((reply_endpoint(listener, id), index));
            self.lost.backends.insert(index);
        }
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

impl LiveListener {
    /// Whether a backend stays as it is when the listener changes.
    fn keeps(&self, backend: &BackendId, to: &DesiredListener) -> bool {
        self.desired.mode == to.mode && self.desired.weights.contains_key(backend) && to.weights.contains_key(backend)
    }
}

fn add_backend(
    maps: &mut Maps,
    space: &mut Space,
    listener: ListenerId,
    id: BackendId,
    mode: ForwardingMode,
    resolve: &Resolve<'_>,
) -> anyhow::Result<LiveBackend> {
    let index = space.backends.allocate(1).context(FULL)?;
    maps.clear_backend_traffic(index)?;
    let mut value = Backend::new(id.address, Port::new(id.port));
    let [_, next_hop] = value.next_hop.switch_to(resolve(mode, id.address));
    value.next_hop = next_hop;
    maps.backends.set(index, value, 0).context("write a backend")?;
    if mode == ForwardingMode::Nat {
        let reply = Reply::new(listener.vip.into(), Port::new(listener.port), index);
        maps.replies.insert(reply_endpoint(listener, id), reply, 0).context("write a backend's way back")?;
    }
    Ok(LiveBackend { index, value, slots: 0 })
}

/// Writes a listener's new slot table where no packet looks yet.
fn write_table(
    maps: &mut Maps,
    space: &mut Space,
    live: &mut LiveListener,
    to: &DesiredListener,
) -> anyhow::Result<SlotTable> {
    let owners = slots::table(&to.weights, to.slots);
    for backend in live.backends.values_mut() {
        backend.slots = 0;
    }
    let mut indexes = Vec::with_capacity(owners.len());
    for owner in &owners {
        let backend = live.backends.get_mut(owner).context("a slot's owner is a backend of its listener")?;
        backend.slots += 1;
        indexes.push(backend.index);
    }
    let first_block = space.blocks.allocate(blocks(to)).context(FULL)?;
    for (block, slots) in (first_block..).zip(indexes.chunks(SLOTS_PER_BLOCK as usize)) {
        let mut filled = [0; SLOTS_PER_BLOCK as usize];
        filled[..slots.len()].copy_from_slice(slots);
        maps.slots.set(block, SlotBlock(filled), 0).context("write a slot table")?;
    }
    Ok(SlotTable::new(first_block, owners.len() as u32, to.mode))
}

/// The modes that listeners get, each a bit.
fn modes(steps: &[Step]) -> u32 {
    steps.iter().fold(0, |modes, step| match step {
        Step::AddListener { to, .. } | Step::ChangeListener { to, .. } => modes | to.mode.bit(),
        Step::RemoveListener { .. } => modes,
    })
}

/// The blocks of a listener's slot table: none if no backend has weight.
fn blocks(listener: &DesiredListener) -> u32 {
    if listener.weights.values().all(|&weight| weight == 0) { 0 } else { listener.slots.div_ceil(SLOTS_PER_BLOCK) }
}

fn reply_endpoint(listener: ListenerId, backend: BackendId) -> Endpoint {
    Endpoint::of(listener.protocol, SocketAddr::new(backend.address, backend.port))
}

/// How much the maps hold.
struct Capacity {
    listeners: u32,
    backends: u32,
    blocks: u32,
    /// The modes that the program has to know, each a bit.
    modes: u32,
}

impl Capacity {
    /// Twice what is needed now, since a change is prepared beside the live state, and room to grow.
    fn for_listeners(desired: &BTreeMap<ListenerId, DesiredListener>) -> Self {
        let backends: usize = desired.values().map(|listener| listener.weights.len()).sum();
        let used: u32 = desired.values().map(blocks).sum();
        Self {
            listeners: desired.len() as u32 * 2 + 256,
            backends: backends as u32 * 2 + 1_024,
            blocks: used * 2 + 16 * 65_537_u32.div_ceil(SLOTS_PER_BLOCK),
            modes: desired.values().fold(0, |modes, listener| modes | listener.mode.bit()),
        }
    }
}

/// How many routes and neighbours the way back in `nat` can know.
const ROUTES: u32 = 65_536;

/// Far longer than any packet stays in the program, and too short for a person to notice.
const GRACE: Duration = Duration::from_millis(10);

const FULL: &str = "the maps have no room for this change\n\
                    help: they are sized when clb starts: start it again with the new file";
