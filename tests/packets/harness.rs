//! The real program with the real maps, as the agent loads them, run on packets through `BPF_PROG_TEST_RUN`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use clb_common::{ForwardingMode, NextHop, Protocol};
use clb_userspace::{
    control::{DesiredListener, plan},
    dataplane::{Counters, Dataplane, ListenerId, Patience, Settings},
    network::Prefix,
    slots::BackendId,
};

/// What the program did with a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Result {
    pub action: Action,
    pub bytes: Vec<u8>,
}

/// The XDP codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Aborted,
    Drop,
    Pass,
    Transmit,
    Redirect,
}

pub type Listeners = BTreeMap<ListenerId, DesiredListener>;

/// A loaded program that is attached to nothing.
pub struct Harness {
    runtime: tokio::runtime::Runtime,
    dataplane: Dataplane,
    next_hops: BTreeMap<IpAddr, NextHop>,
}

impl Harness {
    /// Loads the program for these listeners. A backend without an entry in `next_hops` is unresolved.
    pub fn new(listeners: &Listeners, next_hops: &[(&str, NextHop)], routes: &[(&str, u8, NextHop)]) -> Self {
        Self::with_settings(Settings { hash_seed: SEED, ..Settings::default() }, listeners, next_hops, routes)
    }

    /// The same with other settings.
    pub fn with_settings(
        settings: Settings,
        listeners: &Listeners,
        next_hops: &[(&str, NextHop)],
        routes: &[(&str, u8, NextHop)],
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dataplane =
            Dataplane::load(settings, listeners).expect("these tests load an XDP program: run them as root");
        let mut harness = Self { runtime, dataplane, next_hops: BTreeMap::new() };
        harness.next_hops = parsed(next_hops);
        harness.apply(listeners);
        harness.update_next_hops(next_hops, routes);
        harness
    }

    /// Makes these the next hops and the routes to clients.
    pub fn update_next_hops(&mut self, next_hops: &[(&str, NextHop)], routes: &[(&str, u8, NextHop)]) {
        self.next_hops = parsed(next_hops);
        let routes = routes
            .iter()
            .map(|(address, length, hop)| (Prefix::new(address.parse().unwrap(), *length), *hop))
            .collect();
        let Self { runtime, dataplane, next_hops } = self;
        runtime.block_on(dataplane.update_next_hops(&|_, address| hop(next_hops, address), routes)).unwrap();
    }

    /// Makes the maps hold these listeners instead.
    pub fn apply(&mut self, listeners: &Listeners) {
        let Self { runtime, dataplane, next_hops } = self;
        let steps = plan(listeners, &dataplane.actual());
        runtime.block_on(dataplane.apply(steps, &|_, address| hop(next_hops, address))).unwrap();
    }

    /// Has the agent look for what is over, as if this tick had come.
    pub fn sweep(&mut self, now: u32, patience: Patience) {
        let Self { runtime, dataplane, .. } = self;
        runtime.block_on(async {
            let swept = dataplane.sweep(now, |_| Some(patience)).unwrap().await.unwrap().unwrap();
            dataplane.finish_sweep(swept).await.unwrap();
        });
    }

    /// Whether a backend that is bound no more has a place yet.
    pub fn has_leaving(&self) -> bool {
        self.dataplane.leaving().next().is_some()
    }

    /// Makes these the source addresses of `full_nat`.
    pub fn set_sources(&mut self, sources: &[IpAddr]) {
        self.dataplane.set_sources(sources).unwrap();
    }

    /// Runs the program on one packet, as if it had come in by the loopback interface.
    pub fn run(&mut self, packet: &[u8]) -> Result {
        self.run_as(packet, TestRunOptions::default())
    }

    /// Runs it on a packet with so many bytes of metadata before it: they take what room there is for headers.
    pub fn run_behind(&mut self, metadata: u32, packet: &[u8]) -> Result {
        let data = [vec![0; metadata as usize].as_slice(), packet].concat();
        // `struct xdp_md`: begin and end of the packet, begin of the metadata, interface, queue, interface to leave by.
        let context = [metadata, data.len() as u32, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
        let mut context_out = context.clone();
        let options =
            TestRunOptions { ctx_in: Some(&context), ctx_out: Some(&mut context_out), ..TestRunOptions::default() };
        self.run_as(&data, options)
    }

    fn run_as(&mut self, packet: &[u8], options: TestRunOptions<'_>) -> Result {
        let mut bytes = vec![0; packet.len() + 256];
        let options = TestRunOptions { data_in: Some(packet), data_out: Some(&mut bytes), ..options };
        let done = self.dataplane.xdp().unwrap().test_run(options).unwrap();
        let action = match done.return_value {
            0 => Action::Aborted,
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Transmit,
            4 => Action::Redirect,
            other => panic!("{other} is no XDP code"),
        };
        let length = done.data_size_out as usize;
        bytes.truncate(length);
        Result { action, bytes }
    }

    /// The program itself.
    pub fn xdp(&mut self) -> &mut Xdp {
        self.dataplane.xdp().unwrap()
    }

    pub fn counters(&self) -> Counters {
        self.dataplane.counters().unwrap()
    }
}

fn parsed(next_hops: &[(&str, NextHop)]) -> BTreeMap<IpAddr, NextHop> {
    next_hops.iter().map(|(address, next_hop)| (address.parse().unwrap(), *next_hop)).collect()
}

fn hop(next_hops: &BTreeMap<IpAddr, NextHop>, address: IpAddr) -> NextHop {
    next_hops.get(&address).copied().unwrap_or(NextHop::UNRESOLVED)
}

/// A listener with these backends and weights.
pub fn listener(
    protocol: Protocol,
    vip: &str,
    mode: ForwardingMode,
    backends: &[(&str, u8)],
) -> (ListenerId, DesiredListener) {
    let vip: SocketAddr = vip.parse().unwrap();
    let weights = backends.iter().map(|(endpoint, weight)| {
        let endpoint: SocketAddr = endpoint.parse().unwrap();
        (BackendId { address: endpoint.ip(), port: endpoint.port() }, *weight)
    });
    let id = ListenerId { vip: vip.ip(), protocol, port: vip.port() };
    (id, DesiredListener::new(mode, 1_021, weights.collect()))
}

pub const SEED: u64 = 7;
/// The interface that test packets come in by.
pub const LOOPBACK: u32 = 1;
