//! Flows keep their backends through any changes: the real maps and the real program, packet for packet against the rules that
//! `clb_userspace::tracking` and `clb_common::Transition` say, and against what a client expects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use clb_common::{
    Endpoint, FlowHash,
    ForwardingMode::{self, Dsr, Gue, Ipip, Nat},
    NOBODY, NextHop, PINS_PER_TICK, Protocol, slot_of,
};
use clb_userspace::{
    bench::{self, Packet, Wrapper},
    control::DesiredListener,
    dataplane::{ListenerId, Patience},
    slots::{self, BackendId},
    tracking::TrackedSlot,
};

use crate::{
    build::{CLB_MAC, Segment},
    differential::number,
    generate::Random,
    harness::{Action, Harness, LOOPBACK, SEED},
};

/// Many short histories: each ends with all slots stable and no pin left.
#[test]
fn flows_keep_their_backends_through_any_changes() {
    let seed = number("CLB_SEED").unwrap_or(1);
    for history in 0..number("CLB_HISTORIES").unwrap_or(24) {
        let mut random = Random::new(seed.wrapping_add(history).wrapping_mul(0x1_0001));
        let mode = [Dsr, Nat, Ipip, Gue][history as usize % 4];
        let protocol = if history / 4 % 2 == 0 { Protocol::Tcp } else { Protocol::Udp };
        let is_ipv6 = history / 8 % 2 == 1;
        World::new(mode, protocol, is_ipv6).live(&mut random, &format!("seed {seed}, history {history}"));
    }
}

/// Old flows that find no room to be pinned may live: their time begins again.
#[test]
fn a_flood_ends_no_drain() {
    let mut world = World::new(Dsr, Protocol::Tcp, false);
    world.desired.weights.remove(&world.backends[0]);
    // Only the flood can make it any longer.
    world.desired.drain = Duration::from_secs(1);
    world.harness.apply(&BTreeMap::from([(world.listener, world.desired.clone())]));
    let client = "198.51.100.10:1024".parse().unwrap();
    let to = SocketAddr::new(world.listener.vip, world.listener.port);
    let packet = Packet::request(Protocol::Tcp, client, to, bench::Segment::Established).unwrap();
    let mut flood = Wrapper::load().unwrap();
    flood.measure(world.harness.xdp().fd().unwrap()).unwrap();
    flood.prepare(packet.template(u32::MAX, 1).unwrap()).unwrap();
    // Of which some are of slots that have moved: far more than two ticks' worth of pins, in less than two ticks.
    flood.run(&packet, BACKENDS as u32 * 10 * PINS_PER_TICK).unwrap();
    let flooded = clb_userspace::dataplane::now().unwrap();
    let mut sweep = |tick| {
        world.harness.sweep(tick, FOREVER);
        world.harness.counters().listeners[&world.listener].clone()
    };
    let drain = clb_userspace::dataplane::ticks(DRAIN);
    assert!(sweep(flooded + drain / 2).moving > 0);
    assert_eq!(sweep(flooded + drain + 1).moving, 0);
}

/// Clients, backends, the program between them, and what it should do.
struct World {
    harness: Harness,
    listener: ListenerId,
    desired: DesiredListener,
    backends: [BackendId; BACKENDS],
    reference: Reference,
    flows: Vec<Flow>,
    now: u32,
}

struct Flow {
    client: SocketAddr,
    slot: usize,
    /// The backend that has its state, while it lives.
    home: Option<usize>,
}

/// Backends by their places in `World`.
#[derive(Default)]
struct Reference {
    slots: Vec<TrackedSlot>,
    pins: BTreeMap<usize, usize>,
    drained: BTreeSet<usize>,
    lost: BTreeSet<usize>,
}

impl World {
    fn new(mode: ForwardingMode, protocol: Protocol, is_ipv6: bool) -> Self {
        let prefix = if is_ipv6 { "fd00::" } else { "10.0.1." };
        let address = |host: usize| format!("{prefix}{}", host + 11).parse().unwrap();
        let backends = std::array::from_fn(|place| BackendId { address: address(place), port: 80 });
        let vip = if is_ipv6 { "2001:db8::10" } else { "203.0.113.10" }.parse().unwrap();
        let listener = ListenerId { vip, protocol, port: 80 };
        let weights = BTreeMap::from(backends.map(|backend| (backend, 10)));
        let desired = DesiredListener { drain: DRAIN, ..DesiredListener::new(mode, SLOTS, weights) };
        let hops: Vec<_> = (0..BACKENDS).map(|place| (address(place).to_string(), hop(place))).collect();
        let hops: Vec<_> = hops.iter().map(|(address, hop)| (address.as_str(), *hop)).collect();
        let harness = Harness::new(&BTreeMap::from([(listener, desired.clone())]), &hops, &[]);
        let flows = (0..FLOWS).map(|number| {
            let ip = if is_ipv6 { format!("[2001:db8:f::{number:x}]") } else { format!("198.51.100.{number}") };
            let client = format!("{ip}:{}", 40_000 + number * 7).parse().unwrap();
            let hash = FlowHash::from_seed(SEED).of(&Endpoint::of(protocol, client));
            Flow { client, slot: slot_of(hash, SLOTS) as usize, home: None }
        });
        let flows = flows.collect();
        let mut world = Self { harness, listener, desired, backends, reference: Reference::default(), flows, now: 0 };
        world.reference.slots = world.owners().into_iter().map(TrackedSlot::stable).collect();
        world.now = clb_userspace::dataplane::now().unwrap();
        world
    }

    fn live(&mut self, random: &mut Random, history: &str) {
        for step in 0..STEPS {
            let history = format!("{history}, step {step}");
            for flow in 0..FLOWS {
                match random.below(8) {
                    0 => self.flows[flow].home = None,
                    1 => self.open(flow, &history),
                    2..5 => self.go_on(flow, &history),
                    _ => {}
                }
            }
            if random.one_in(3) {
                self.pass_time(&history);
            }
            self.change(random);
        }
        self.end(history);
    }

    /// The owners of the slots, by place.
    fn owners(&self) -> Vec<u32> {
        let place = |owner| self.backends.iter().position(|backend| *backend == owner).unwrap() as u32;
        let owners: Vec<_> = slots::table(&self.desired.weights, SLOTS).into_iter().map(place).collect();
        if owners.is_empty() { vec![NOBODY; SLOTS as usize] } else { owners }
    }

    /// Other weights, other backends, or some that are lost or back.
    fn change(&mut self, random: &mut Random) {
        let mut weights: BTreeMap<_, _> = self.desired.weights.clone();
        for backend in self.backends {
            match random.below(6) {
                0 => drop(weights.remove(&backend)),
                1 => drop(weights.insert(backend, 0)),
                2 => drop(weights.insert(backend, random.below(20) as u8 + 1)),
                _ => {}
            }
        }
        let mut lost: BTreeSet<_> = weights.keys().filter(|_| random.one_in(5)).copied().collect();
        // If all fail, none counts as lost.
        if weights.iter().all(|(backend, &weight)| weight == 0 || lost.contains(backend)) {
            lost.clear();
        }
        for backend in &lost {
            weights.insert(*backend, 0);
        }
        self.desired.weights = weights;
        self.desired.lost = lost;
        self.harness.apply(&BTreeMap::from([(self.listener, self.desired.clone())]));

        let places = |is: &dyn Fn(&BackendId) -> bool| -> BTreeSet<usize> {
            (0..BACKENDS).filter(|&place| is(&self.backends[place])).collect()
        };
        let drained = places(&|backend| self.desired.weights.get(backend).is_none_or(|&weight| weight == 0));
        let lost = places(&|backend| self.desired.lost.contains(backend));
        for flow in &mut self.flows {
            flow.home = flow.home.filter(|home| !lost.contains(home));
        }
        let owners = self.owners();
        let slots = self.reference.slots.iter().zip(owners);
        let is_lost = |backend| lost.contains(&(backend as usize));
        self.reference.slots = slots.map(|(slot, owner)| slot.assign(owner, 0, is_lost)).collect();
        (self.reference.drained, self.reference.lost) = (drained, lost);
    }

    fn open(&mut self, flow: usize, history: &str) {
        if self.listener.protocol == Protocol::Udp {
            return self.go_on(flow, history);
        }
        let to = self.send(flow, true, history);
        if let Some(to) = to {
            assert!(!self.reference.drained.contains(&to), "{history}: flow {flow} opens at a drained backend");
        }
        self.flows[flow].home = to;
    }

    fn go_on(&mut self, flow: usize, history: &str) {
        let home = self.flows[flow].home;
        if home.is_none() && self.listener.protocol == Protocol::Tcp {
            return;
        }
        let to = self.send(flow, false, history);
        if home.is_some() {
            assert_eq!(to, home, "{history}: flow {flow} leaves its backend");
        }
        self.flows[flow].home = to.filter(|to| !self.reference.lost.contains(to));
    }

    /// Sends a packet of a flow. Returns the place of the backend that it went to, which is the one that the rules name.
    fn send(&mut self, flow: usize, syn: bool, history: &str) -> Option<usize> {
        let to = SocketAddr::new(self.listener.vip, self.listener.port).to_string();
        let mut segment = Segment::new(self.listener.protocol, &self.flows[flow].client.to_string(), &to);
        segment.syn = syn;
        let result = self.harness.run(&segment.bytes());
        let expected = self.reference.packet(flow, self.flows[flow].slot, syn);
        let sent = (result.action == Action::Transmit).then(|| usize::from(result.bytes[5]));
        assert_eq!(sent, expected, "{history}: flow {flow}, {:?}", self.reference.slots[self.flows[flow].slot]);
        sent
    }

    /// The drain time goes by, in which every flow that lives shows itself; and then the agent has looked often enough.
    fn pass_time(&mut self, history: &str) {
        for flow in 0..FLOWS {
            if self.flows[flow].home.is_some() {
                self.go_on(flow, history);
            }
        }
        self.now += clb_userspace::dataplane::ticks(DRAIN) + 3;
        for _ in 0..2 {
            self.harness.sweep(self.now, FOREVER);
        }
        let Reference { slots, pins, lost, .. } = &mut self.reference;
        let current = |flow: usize| slots[self.flows[flow].slot].current as usize;
        pins.retain(|&flow, backend| !lost.contains(backend) && *backend != current(flow));
        for slot in slots {
            *slot = TrackedSlot::settling(slot.current);
        }
    }

    /// All flows end.
    fn end(&mut self, history: &str) {
        self.pass_time(history);
        self.now += 1_000;
        for _ in 0..3 {
            self.harness.sweep(self.now, Patience { idle_timeout: Duration::from_secs(1), drain: DRAIN });
        }
        let counters = self.harness.counters();
        let listener = &counters.listeners[&self.listener];
        assert_eq!((listener.moving, listener.settling, counters.pins), (0, 0, 0), "{history}");
        assert!(!self.harness.has_leaving(), "{history}: a backend that was unbound keeps its place");
    }
}

impl Reference {
    /// The place of the backend that this packet goes to.
    fn packet(&mut self, flow: usize, slot: usize, syn: bool) -> Option<usize> {
        let slot = self.slots[slot];
        let named = |backend: u32| (backend != NOBODY).then_some(backend as usize);
        let drained = &self.drained;
        let Some(transition) = slot.transition(|backend| drained.contains(&(backend as usize))) else {
            return named(slot.current);
        };
        let pinned = self.pins.remove(&flow).filter(|backend| !self.lost.contains(backend));
        if let Some(backend) = pinned.filter(|_| !syn) {
            self.pins.insert(flow, backend);
            return Some(backend);
        }
        let way = if syn { transition.opening(true) } else { transition.unpinned() };
        if way.pins {
            self.pins.insert(flow, way.backend as usize);
        }
        named(way.backend)
    }
}

/// Its MAC address tells the backend.
fn hop(place: usize) -> NextHop {
    NextHop::new([2, 0, 0, 0, 0, place as u8], CLB_MAC, LOOPBACK, 1_500)
}

const BACKENDS: usize = 5;
const FLOWS: usize = 100;
const STEPS: usize = 30;
const SLOTS: u32 = 1_021;
const DRAIN: Duration = Duration::from_mins(5);
const FOREVER: Patience = Patience { idle_timeout: Duration::from_secs(u32::MAX as u64), drain: DRAIN };
