//! The agent's one loop: every event of the outside comes here, one at a time, and nothing else changes the data plane.
//!
//! What must stay true: a bad file changes nothing; nothing is attached before everything that can be checked is checked;
//! and what the data plane holds is always what `plan` says for the configuration in force.

mod change;
pub mod decap;
mod desired;
mod drains;
mod explain;
mod next_hops;
mod plan;
mod privileges;
mod reload;
mod status;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch as latest},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

pub use self::{
    change::{BackendChange, Change, Kind, ListenerChange, Setting},
    desired::as_configured,
    explain::without_agent as explain_without_agent,
    plan::{DesiredListener, Step, plan},
    privileges::check as check_privileges,
    reload::check_file,
};
use self::{
    desired::Standing,
    drains::Drains,
    next_hops::{NextHops, addresses, leaving},
    reload::Reloads,
    watch::Watch,
};
use crate::{
    api::{self, DataPath, Request},
    config::{Config, Listener},
    dataplane::{self, AttachMode, Dataplane, DropLog, Home, ListenerId, Patience, Reported, Reports, Settings, Swept},
    health::{Health, Verdict},
    network::{Interface, LinkState, Network, Reach},
    slots::BackendId,
};

/// How the agent is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file, to read it again.
    pub file: PathBuf,
    /// Of its text, as it was read.
    pub digest: u128,
    /// How to attach.
    pub xdp_mode: AttachMode,
    /// What to do at the start if a backend cannot be reached.
    pub unresolved: Unresolved,
    /// Whether dropped packets are logged.
    pub drop_log: DropLog,
    /// The BPF file system that maps and links are kept in.
    pub bpf_fs: PathBuf,
    /// Where commands ask.
    pub socket: PathBuf,
    /// Where monitoring asks, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// What to do when the configuration file changes.
    pub on_change: OnChange,
}

/// What to do when the configuration file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// Nothing, until SIGHUP or `clb apply`.
    Wait,
    /// Read it again.
    Reload,
}

/// What to do at the start if the next hop of a backend is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// Start, and drop its packets until it is known.
    Allow,
    /// Do not start.
    Refuse,
}

/// Everything that can happen to the agent.
enum Event {
    Reload,
    FileChanged(anyhow::Result<()>),
    Terminate { signal: &'static str },
    NetworkChanged,
    NetworkLost(anyhow::Error),
    HealthChanged,
    Reported(Reported),
    SweepDue,
    Swept(anyhow::Result<Swept>),
    Request(Request),
}

/// Runs the agent until a signal ends it.
pub async fn run(options: Options, config: Config) -> anyhow::Result<()> {
    privileges::check()?;
    let (sender, requests) = mpsc::channel(REQUESTS);
    // Also the lock: two agents cannot answer on one socket.
    let _server = api::bind(&options.socket, sender.clone())?;
    let (data_path, seen_by_monitoring) = latest::channel(DataPath::Starting);
    if let Some(address) = options.metrics {
        let address = api::bind_metrics(address, sender, seen_by_monitoring).await?;
        info!("metrics are at http://{address}/metrics, and the health of the data path at http://{address}/healthz");
    }
    let mut signals = Signals::listen()?;
    let mut control = tokio::select! {
        started = Control::start(options, config, data_path) => started?,
        signal = signals.termination() => {
            info!("{signal}: ending before anything was attached");
            return Ok(());
        }
    };
    privileges::drop_others()?;
    control.serve(signals, requests).await
}

/// The agent's state.
struct Control {
    options: Options,
    config: Config,
    network: Network,
    next_hops: NextHops,
    health: Health,
    drains: Drains,
    dataplane: Dataplane,
    reports: Reports,
    sweeps: Sweeps,
    reloads: Reloads,
    watch: Option<Watch>,
    data_path: latest::Sender<DataPath>,
    started: SystemTime,
}

impl Control {
    /// Checks everything, loads, and attaches, or takes over what another agent left. On failure all is as before.
    async fn start(options: Options, config: Config, data_path: latest::Sender<DataPath>) -> anyhow::Result<Self> {
        let watch = match options.on_change {
            OnChange::Wait => None,
            OnChange::Reload => Some(Watch::new(&options.file)?),
        };
        let reloads = Reloads::none(&options.file, options.digest);
        let home = Home::of(&options.bpf_fs, &config.id)?;
        let kept: BTreeSet<u32> = home.links()?.iter().map(|link| link.interface).collect();
        let desired = as_configured(&config)?;
        let mut network = Network::connect().await.context("read the host's network")?;
        for name in &config.interfaces {
            let interface = check_interface(&network, name, NAMED_BY)?;
            if !kept.contains(&interface.index) {
                check_has_no_program(interface, NAMED_BY)?;
            }
        }
        network.keep_resolved(addresses(&config));
        NextHops::wait_for(&mut network, &addresses(&config), options.unresolved).await?;

        let mut dataplane = Dataplane::open(settings(options.drop_log, &config), &desired, home)?;
        let drains = Drains::of(&dataplane)?;
        let reports = dataplane.reports()?;
        let health = Health::start(&config, &dataplane.lost().collect());
        let interfaces = config.interfaces.iter().filter_map(|name| network.interface(name));
        dataplane.take_over(&interfaces.map(|of| (of.index, of.name.clone())).collect()).await?;
        let known = |listener, backend| standing(&health, &drains, listener, backend);
        let desired = desired::desired(&config, &known)?;
        let next_hops = NextHops::of(&addresses(&config), &network);
        apply(options.drop_log, &config, &desired, &next_hops, &mut dataplane).await?;
        next_hops.log_changes_since(&NextHops::default());
        let mut control = Self {
            options,
            network,
            next_hops,
            health,
            config,
            drains,
            dataplane,
            reports,
            sweeps: Sweeps::new(),
            reloads,
            watch,
            data_path,
            started: SystemTime::now(),
        };
        control.follow_network().await?;
        control.attach()?;
        control.dataplane.keep();
        control.tell_data_path();
        Ok(control)
    }

    async fn serve(&mut self, mut signals: Signals, mut requests: mpsc::Receiver<Request>) -> anyhow::Result<()> {
        info!("serving {} as {}", listeners(&self.config), self.config.id);
        loop {
            let event = tokio::select! {
                event = signals.next() => event,
                changed = self.network.changed() => match changed {
                    Ok(()) => Event::NetworkChanged,
                    Err(error) => Event::NetworkLost(error),
                },
                () = self.health.changed() => Event::HealthChanged,
                reported = self.reports.next() => Event::Reported(reported?),
                event = self.sweeps.next() => event,
                changed = file_changed(&mut self.watch) => Event::FileChanged(changed),
                Some(request) = requests.recv() => Event::Request(request),
            };
            match event {
                Event::Reload => self.reload().await,
                Event::FileChanged(Ok(())) => self.reload_if_changed().await,
                Event::FileChanged(Err(error)) => {
                    warn!("changes of {} are not seen any more: {error:#}", self.options.file.display());
                    self.watch = None;
                }
                Event::NetworkChanged => self.follow_network_or_say().await,
                Event::NetworkLost(error) => self.reconnect(&error).await,
                Event::HealthChanged => {
                    self.follow_standing().await;
                    self.sweeps.hurry();
                }
                Event::Reported(reported) => self.take_reports(reported),
                Event::SweepDue => self.sweep(),
                Event::Swept(swept) => self.finish_sweep(swept).await,
                // The asker may have gone meanwhile.
                Event::Request(Request::Status(answer)) => drop(answer.send(self.status())),
                Event::Request(Request::Config(answer)) => drop(answer.send(Ok(self.config.clone()))),
                Event::Request(Request::Explain(question, answer)) => {
                    drop(answer.send(explain::explain(&self.config, &self.next_hops, &self.dataplane, question)));
                }
                Event::Request(Request::Apply(proposal, answer)) => drop(answer.send(self.apply(proposal).await)),
                Event::Request(Request::Drain(asked, answer)) => drop(answer.send(self.drain(asked).await)),
                Event::Request(Request::Undrain(asked, answer)) => drop(answer.send(self.undrain(asked).await)),
                Event::Terminate { signal } => {
                    info!(
                        "{signal}: ending; forwarding goes on as it is until `clb run` takes it over or `clb detach` ends it"
                    );
                    return Ok(());
                }
            }
        }
    }

    fn take_reports(&mut self, Reported { unresolved_clients, path_mtus }: Reported) {
        for client in unresolved_clients {
            self.network.ask(client);
        }
        for (backend, mtu) in path_mtus {
            self.network.note_path_mtu(backend, mtu);
        }
    }

    /// Looks for what is over: flows, pins, and changes of slots' owners.
    fn sweep(&mut self) {
        let patience = |listener: &Listener| {
            let Listener { idle_timeout, drain, .. } = *listener;
            (desired::id(listener), Patience { idle_timeout, drain })
        };
        let patience: BTreeMap<ListenerId, Patience> = self.config.listeners.iter().map(patience).collect();
        let sweep =
            dataplane::now().and_then(|now| self.dataplane.sweep(now, |listener| patience.get(&listener).copied()));
        match sweep {
            Ok(sweep) => self.sweeps.begin(sweep),
            Err(error) => {
                warn!("{NOT_SWEPT}: {error:#}");
                self.sweeps.put_off();
            }
        }
    }

    async fn finish_sweep(&mut self, swept: anyhow::Result<Swept>) {
        let finished = match swept {
            Ok(swept) => self.dataplane.finish_sweep(swept).await,
            Err(error) => Err(error),
        };
        if let Err(error) = finished {
            warn!("{NOT_SWEPT}: {error:#}");
        }
    }

    /// What the data plane shall hold for a configuration.
    fn desired(&self, config: &Config) -> anyhow::Result<BTreeMap<ListenerId, DesiredListener>> {
        desired::desired(config, &|listener, backend| self.standing(listener, backend))
    }

    /// What is known of a backend.
    fn standing(&self, listener: ListenerId, backend: BackendId) -> Standing {
        standing(&self.health, &self.drains, listener, backend)
    }

    /// Gives flows to backends by what is known of them now, and returns how many listeners that changed.
    async fn try_follow_standing(&mut self) -> anyhow::Result<usize> {
        let desired = self.desired(&self.config)?;
        let Self { options, config, next_hops, dataplane, .. } = self;
        apply(options.drop_log, config, &desired, next_hops, dataplane).await
    }

    /// The same where nobody waits for it.
    async fn follow_standing(&mut self) {
        match self.try_follow_standing().await {
            Ok(0) => {}
            Ok(changed) => info!("new flows go elsewhere: {changed} listeners changed"),
            Err(error) => warn!("flows go where they went: {error:#}"),
        }
    }

    /// Every address that packets may have to reach.
    fn wanted(&self) -> BTreeSet<(IpAddr, Reach)> {
        addresses(&self.config).union(&leaving(&self.dataplane)).copied().collect()
    }

    /// Forwarding goes on with the next hops that are known, however long this takes.
    async fn reconnect(&mut self, error: &anyhow::Error) {
        warn!("the host's network cannot be followed, trying again: {error:#}");
        tokio::time::sleep(RECONNECT).await;
        match Network::connect().await {
            Ok(mut network) => {
                network.keep_resolved(self.wanted());
                self.network = network;
                self.follow_network_or_say().await;
            }
            Err(error) => warn!("read the host's network: {error:#}"),
        }
    }

    async fn follow_network_or_say(&mut self) {
        self.follow_interfaces();
        if let Err(error) = self.follow_network().await {
            warn!("next hops are not up to date: {error:#}");
        }
    }

    /// Makes next hops and routes what the network says.
    async fn follow_network(&mut self) -> anyhow::Result<()> {
        let next_hops = NextHops::of(&self.wanted(), &self.network);
        let resolve = |mode, address| next_hops.resolve(mode, address);
        self.dataplane.update_next_hops(&resolve, self.network.client_routes()).await?;
        self.replace_next_hops(next_hops);
        Ok(())
    }

    fn replace_next_hops(&mut self, next_hops: NextHops) {
        next_hops.log_changes_since(&self.next_hops);
        self.next_hops = next_hops;
    }

    /// An interface that went away took the program with it; one that came back gets it again.
    fn follow_interfaces(&mut self) {
        for name in &self.config.interfaces {
            let attached = self.dataplane.attachments().iter().find(|attachment| attachment.interface == *name);
            let (attached, now) = (attached.map(|at| at.index), self.network.interface(name).map(|at| at.index));
            if attached == now {
                continue;
            }
            if attached.is_some() {
                warn!("{name} is gone: no packet comes in by it any more");
                self.dataplane.forget(name);
            }
            if let Some(index) = now {
                match self.dataplane.attach(name, index, self.options.xdp_mode) {
                    Ok(attachment) => info!("{name} is back, attached in {} mode", attachment.mode),
                    Err(error) => warn!("{name} is back, but without clb: {error:#}"),
                }
            }
        }
        self.tell_data_path();
    }

    fn attach(&mut self) -> anyhow::Result<()> {
        for name in &self.config.interfaces {
            let interface = self.network.interface(name).ok_or_else(|| no_interface(name, NAMED_BY))?;
            if let Some(at) = self.dataplane.attachments().iter().find(|at| at.interface == *name) {
                info!("took over {name} in {} mode: forwarding went on", at.mode);
                continue;
            }
            let attachment = self.dataplane.attach(name, interface.index, self.options.xdp_mode)?;
            info!("attached to {name} in {} mode: {}", attachment.mode, attachment.reason);
        }
        Ok(())
    }
}

/// Waits for ever if the file is not watched.
async fn file_changed(watch: &mut Option<Watch>) -> anyhow::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => future::pending().await,
    }
}

fn standing(health: &Health, drains: &Drains, listener: ListenerId, backend: BackendId) -> Standing {
    let is_unhealthy = health.verdict(listener, backend) == Verdict::Unhealthy;
    Standing { is_unhealthy, ..drains.standing(backend) }
}

/// What the program is loaded with.
fn settings(drop_log: DropLog, config: &Config) -> Settings {
    Settings {
        hash_seed: config.hash_seed,
        drop_log,
        tunnel_v4: config.tunnel_sources.v4,
        tunnel_v6: config.tunnel_sources.v6,
        gue_port: config.gue_port,
        max_flows: config.max_flows,
    }
}

/// The walks over the flows, one at a time.
struct Sweeps {
    due: Instant,
    under_way: Option<(Instant, JoinHandle<anyhow::Result<Swept>>)>,
}

impl Sweeps {
    fn new() -> Self {
        Self { due: Instant::now() + SWEEP_EVERY, under_way: None }
    }

    /// Begins the next one as soon as it can.
    fn hurry(&mut self) {
        self.due = Instant::now();
    }

    fn put_off(&mut self) {
        self.due = Instant::now() + SWEEP_EVERY;
    }

    fn begin(&mut self, sweep: JoinHandle<anyhow::Result<Swept>>) {
        self.under_way = Some((Instant::now(), sweep));
    }

    /// Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Event {
        let Some((began, sweep)) = &mut self.under_way else {
            sleep_until(self.due).await;
            return Event::SweepDue;
        };
        let swept = sweep.await.context("walk over the flows").flatten();
        self.due = Instant::now() + SWEEP_EVERY.max(began.elapsed() * SWEEP_REST);
        self.under_way = None;
        Event::Swept(swept)
    }
}

/// Makes the data plane what a configuration says, and returns how many steps that took.
async fn apply(
    drop_log: DropLog,
    config: &Config,
    desired: &BTreeMap<ListenerId, DesiredListener>,
    next_hops: &NextHops,
    dataplane: &mut Dataplane,
) -> anyhow::Result<usize> {
    let steps = plan(desired, &dataplane.actual());
    let number = steps.len();
    dataplane.prepare(settings(drop_log, config), &steps).await?;
    dataplane.set_sources(&config.source_addresses)?;
    dataplane.apply(steps, &|mode, address| next_hops.resolve(mode, address)).await?;
    Ok(number)
}

/// The signals that the agent listens to.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen to signals");
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.hangup.recv() => Event::Reload,
            _ = self.interrupt.recv() => Event::Terminate { signal: "SIGINT" },
            _ = self.terminate.recv() => Event::Terminate { signal: "SIGTERM" },
        }
    }

    /// The first signal that ends the agent. A SIGHUP waits for `next`: until the agent serves there is nothing to reload.
    async fn termination(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// `named_by` is where the interface was named.
fn check_interface<'a>(network: &'a Network, name: &str, named_by: &str) -> anyhow::Result<&'a Interface> {
    let interface = network.interface(name).ok_or_else(|| no_interface(name, named_by))?;
    if interface.state != LinkState::Up {
        warn!("{name} {}: no packet comes in until it is up", interface.state);
    }
    Ok(interface)
}

fn check_has_no_program(Interface { name, xdp, .. }: &Interface, named_by: &str) -> anyhow::Result<()> {
    if let Some(xdp) = xdp {
        let owner = dataplane::program_name(xdp.id).unwrap_or_else(|| "unnamed".to_owned());
        bail!(
            "{name} already has an XDP program: {owner}, id {}; clb never replaces one\n\
             help: stop what attached it (`ip link show {name}` shows it), or name another interface in {named_by}",
            xdp.id
        );
    }
    Ok(())
}

fn no_interface(name: &str, named_by: &str) -> anyhow::Error {
    anyhow!(
        "there is no interface {name}\n\
         help: `ip link` lists those of this host; name one of them in {named_by}"
    )
}

fn listeners(config: &Config) -> String {
    match config.listeners.len() {
        1 => "1 listener".to_owned(),
        number => format!("{number} listeners"),
    }
}

const NAMED_BY: &str = "`load_balancer.interfaces`";
/// Requests that may wait for the loop.
const REQUESTS: usize = 64;
/// From the end of one walk over the flows to the next, at least.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// And so many times as long as it took: a second for a quarter of a million flows.
const SWEEP_REST: u32 = 9;
const RECONNECT: Duration = Duration::from_secs(1);
const NOT_SWEPT: &str = "flows that are over may still be remembered";
const FOLLOW: &str = "follow the host's network";
