//! The rules for listeners and for their backends together.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clb_common::Protocol;

use super::{
    super::{
        keys::SLOT_TABLE_SIZES,
        model::{Backend, Forwarding, Listener},
        problem::{self, Code, Place, Problem},
        written::{self, Field, File},
    },
    bindings::{Bound, bind},
    health_checks,
    topology::{Found, Topology, unique},
};

const DEFAULT_SLOTS: u32 = 65537;
const DEFAULT_WEIGHT: u8 = 10;
/// With fewer slots to a backend, shares are no longer close to weights.
const SLOTS_PER_BACKEND: usize = 10;
/// The cloud's default quotas.
const LISTENER_QUOTA: usize = 50;
const BACKEND_QUOTA: usize = 100;

/// Checks all listeners; those that are whole come back as meant, in their order.
pub fn check(file: &File<'_>, topology: &Topology<'_>, problems: &mut problem::Collected) -> Vec<Listener> {
    unique(file.listeners.items.iter().map(|listener| listener.name), "listener", problems);
    if let Some(key) = file.listeners_key
        && file.listeners.items.len() > LISTENER_QUOTA
    {
        let count = file.listeners.items.len();
        problems.push(beyond_quota(key, format!("{count} listeners; the default quota is {LISTENER_QUOTA}")));
    }
    let mut checker = Checker {
        file,
        topology,
        problems,
        endpoints: HashMap::new(),
        nat_backends: HashMap::new(),
        reported: Reported::default(),
    };
    let mut listeners: Vec<Listener> = file
        .listeners
        .items
        .iter()
        .enumerate()
        .filter_map(|(index, listener)| checker.listener(index, listener))
        .collect();
    listeners.sort_by_key(|listener| (listener.vip, listener.protocol as u8, listener.port));
    listeners
}

struct Checker<'c, 'f> {
    file: &'f File<'f>,
    topology: &'c Topology<'f>,
    problems: &'c mut problem::Collected,
    /// Where the listener of each endpoint has its port.
    endpoints: HashMap<(IpAddr, Protocol, u16), Place>,
    /// Which listener has each backend in `nat`, and where.
    nat_backends: HashMap<(IpAddr, Protocol, u16), (usize, Place)>,
    reported: Reported,
}

/// What is wrong for several listeners and is reported once.
#[derive(Default)]
struct Reported {
    forwarding: bool,
    slots: bool,
}

/// What the backends of a listener have in common.
struct Front<'f> {
    index: usize,
    listener: &'f written::Listener<'f>,
    forwarding: Option<Forwarding>,
    /// Another listener has its VIP, protocol and port.
    is_duplicate: bool,
}

impl<'f> Checker<'_, 'f> {
    fn listener(&mut self, index: usize, listener: &'f written::Listener<'f>) -> Option<Listener> {
        self.vip_is_no_backend(listener.vip);
        let is_duplicate = self.is_duplicate(listener);
        let forwarding = self.forwarding(listener);
        let slots = self.slots(listener);
        let health_check = health_checks::check(listener, self.problems);
        let backends = self.backends(&Front { index, listener, forwarding, is_duplicate });
        let protocol = listener.protocol.value()?;
        let (drain, idle_timeout) = match protocol {
            Protocol::Tcp => (300, 900),
            Protocol::Udp => (30, 300),
        };
        Some(Listener {
            name: listener.name.value()?.into(),
            vip: listener.vip.value()?,
            protocol,
            port: listener.port.value()?,
            forwarding: forwarding?,
            slots: slots?,
            affinity: listener.affinity.or_default()?,
            drain: listener.drain.or(Duration::from_secs(drain))?,
            idle_timeout: listener.idle_timeout.or(Duration::from_secs(idle_timeout))?,
            on_unhealthy: listener.on_unhealthy.or_default()?,
            health_check: health_check.ok()?,
            backends: backends?,
        })
    }

    fn vip_is_no_backend(&mut self, vip: Field<IpAddr>) {
        let Some(vip) = vip.given() else { return };
        if let Found::Is(owner) = self.topology.owner(vip.value) {
            let message = format!("the VIP {} is a private IP of an ENI", vip.value);
            let help = "give the listener an address of its own, which no ENI has";
            self.problems.push(
                Problem::new(Code::VipIsBackend, vip.place, message, help)
                    .label(owner.address.place, "the private IP of an ENI"),
            );
        }
    }

    fn is_duplicate(&mut self, listener: &written::Listener<'_>) -> bool {
        let (Some(vip), Some(protocol), Some(port)) =
            (listener.vip.value(), listener.protocol.value(), listener.port.given())
        else {
            return false;
        };
        let first = *self.endpoints.entry((vip, protocol, port.value)).or_insert(port.place);
        if first == port.place {
            return false;
        }
        let message = format!("two listeners for {} {}", protocol_name(protocol), SocketAddr::new(vip, port.value));
        let help = "give it another port or VIP, or move its backends to the first listener";
        self.problems.push(
            Problem::new(Code::DuplicateListener, port.place, message, help).label(first, "first listened on here"),
        );
        true
    }

    /// The listener's mode, or the load balancer's.
    fn forwarding(&mut self, listener: &written::Listener<'_>) -> Option<Forwarding> {
        match (listener.forwarding, self.file.load_balancer.forwarding) {
            (Field::Given(own), _) => Some(own.value),
            (Field::Absent, Field::Given(default)) => Some(default.value),
            (Field::Absent, Field::Absent) => {
                if !mem::replace(&mut self.reported.forwarding, true) {
                    let message = "`load_balancer` needs the key `forwarding`, because not every listener has it";
                    let help = "add `forwarding:` with `dsr`, `ipip`, `gue`, `nat` or `full_nat`";
                    let place = self.file.load_balancer.place;
                    self.problems.push(
                        Problem::new(Code::MissingKey, place, message, help)
                            .label(listener.place, "this listener has no `forwarding`"),
                    );
                }
                None
            }
            (Field::Wrong, _) | (Field::Absent, Field::Wrong) => None,
        }
    }

    /// The size of the listener's slot table.
    fn slots(&mut self, listener: &written::Listener<'_>) -> Option<u32> {
        let shared = self.file.load_balancer.slots;
        let is_shared = matches!(listener.slots, Field::Absent);
        let slots = if is_shared { shared.or(DEFAULT_SLOTS)? } else { listener.slots.value()? };
        let backends = listener.backends.items.len();
        let needed = backends.saturating_mul(SLOTS_PER_BACKEND);
        if needed <= slots as usize {
            return Some(slots);
        }
        if is_shared && shared.given().is_some() && mem::replace(&mut self.reported.slots, true) {
            return None;
        }
        let name = listener.name.given().map_or(listener.place, |name| name.place);
        let governing = if is_shared { shared.given() } else { listener.slots.given() };
        let message = format!("{slots} slots are too few for a listener with {backends} backends");
        let help = match SLOT_TABLE_SIZES.into_iter().find(|&size| size as usize >= needed) {
            Some(size) => format!("write `slots: {size}`: a listener needs {SLOTS_PER_BACKEND} slots for each backend"),
            None => format!("no slot table is large enough for {backends} backends: split the listener"),
        };
        let place = governing.map_or(name, |slots| slots.place);
        let problem = Problem::new(Code::SlotsRange, place, message, help);
        let label = format!("this listener has {backends} backends");
        self.problems.push(if place == name { problem } else { problem.label(name, label) });
        None
    }

    /// The backends as meant; `None` if one of them is not whole.
    fn backends(&mut self, front: &Front<'f>) -> Option<Vec<Backend>> {
        let written = &front.listener.backends;
        self.warnings(front.listener);
        let mut places = HashMap::with_capacity(written.items.len());
        let mut backends = Vec::with_capacity(written.items.len());
        for backend in &written.items {
            if self.problems.is_full() {
                break;
            }
            backends.extend(self.backend(front, backend, &mut places));
        }
        backends.sort_by_key(|backend| (backend.address, backend.port));
        (written.is_complete && backends.len() == written.items.len()).then_some(backends)
    }

    fn backend(
        &mut self,
        front: &Front<'f>,
        backend: &written::Backend<'f>,
        places: &mut HashMap<(IpAddr, u16), Place>,
    ) -> Option<Backend> {
        let listener = front.listener;
        self.kept_port(front, backend);
        let bound = bind(backend.target.given()?, &self.file.load_balancer, self.topology, self.problems)?;
        self.same_family(front, &bound);
        let port = backend.port.or_else(|| listener.port.value())?;
        match places.entry((bound.address, port)) {
            Entry::Vacant(vacant) => {
                vacant.insert(bound.place);
                self.not_shared(front, &bound, port);
            }
            Entry::Occupied(first) => {
                let message = format!("{} is bound twice in one listener", SocketAddr::new(bound.address, port));
                let help = "remove one of the two; a larger `weight` gives a backend a larger share";
                self.problems.push(
                    Problem::new(Code::DuplicateBackend, bound.place, message, help)
                        .label(*first.get(), "first bound here"),
                );
            }
        }
        Some(Backend {
            address: bound.address,
            port,
            weight: backend.weight.or(DEFAULT_WEIGHT)?,
            kind: bound.kind,
            cvm: bound.cvm?.into(),
            eni: bound.eni?.into(),
        })
    }

    fn kept_port(&mut self, front: &Front<'_>, backend: &written::Backend<'_>) {
        let (Some(forwarding), Some(own), Some(listeners)) =
            (front.forwarding, backend.port.given(), front.listener.port.given())
        else {
            return;
        };
        if forwarding.keeps_the_port() && own.value != listeners.value {
            let name = forwarding.name();
            let message = format!("the backend's port {} is not the listener's in `{name}`", own.value);
            let help = format!(
                "leave `port` out, or write `port: {}`: `{name}` does not rewrite the port; `nat` does",
                listeners.value
            );
            let label = format!("the listener's port is {}", listeners.value);
            self.problems.push(Problem::new(Code::DsrPort, own.place, message, help).label(listeners.place, label));
        }
    }

    fn same_family(&mut self, front: &Front<'_>, bound: &Bound<'_>) {
        let (Some(forwarding), Some(vip)) = (front.forwarding, front.listener.vip.given()) else { return };
        if forwarding.can_reach(vip.value, bound.address) {
            return;
        }
        let (of_vip, of_backend) = (family(vip.value), family(bound.address));
        let name = forwarding.name();
        let message = format!("`{name}` cannot send packets for an {of_vip} VIP to {}", bound.address);
        let help = format!("bind an {of_vip} address; `ipip` and `gue` can carry {of_vip} in {of_backend}");
        let label = format!("the VIP is {of_vip}, the backend {of_backend}");
        self.problems.push(Problem::new(Code::AddressFamily, bound.place, message, help).label(vip.place, label));
    }

    /// In `nat` a reply must tell which listener it belongs to.
    fn not_shared(&mut self, front: &Front<'_>, bound: &Bound<'_>, port: u16) {
        let Some(protocol) = front.listener.protocol.value() else { return };
        if front.forwarding != Some(Forwarding::Nat) || front.is_duplicate {
            return;
        }
        let key = (bound.address, protocol, port);
        let (first, place) = *self.nat_backends.entry(key).or_insert((front.index, bound.place));
        if first != front.index {
            let endpoint = SocketAddr::new(bound.address, port);
            let of = protocol_name(protocol);
            let message = format!("{of} {endpoint} is a backend of two listeners in `nat`");
            let help = "use another port or address of the backend: its replies must belong to one listener; or use \
                        `full_nat`, `dsr`, `ipip` or `gue`";
            self.problems.push(
                Problem::new(Code::NatSharedBackend, bound.place, message, help).label(place, "first bound here"),
            );
        }
    }

    fn warnings(&mut self, listener: &written::Listener<'_>) {
        let Some(name) = listener.name.given() else { return };
        let backends = &listener.backends;
        let count = backends.items.len();
        if count == 0 && backends.is_complete {
            let message = format!("the listener `{}` has no backends: its packets are dropped", name.value);
            self.problems.push(Problem::new(Code::NoBackends, name.place, message, "add `backends:`"));
        }
        if count > 0 && backends.is_complete && backends.items.iter().all(|backend| backend.weight.value() == Some(0)) {
            let message = format!("no backend of the listener `{}` takes new connections", name.value);
            let help = "give at least one backend a `weight` above 0";
            self.problems.push(Problem::new(Code::AllWeightsZero, name.place, message, help));
        }
        if count > BACKEND_QUOTA {
            let message = format!("{count} backends in one listener; the default quota is {BACKEND_QUOTA}");
            self.problems.push(beyond_quota(name.place, message));
        }
    }
}

fn beyond_quota(place: Place, message: String) -> Problem {
    Problem::new(Code::BeyondDefaultQuota, place, message, "ask the cloud for a larger quota before you rely on it")
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}
