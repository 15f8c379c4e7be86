//! Whether backends answer: one check for each (listener, address, port), whatever the weight.
//!
//! A task for each check, and a bound on how many ask at once. A backend is healthy until it failed as often as its
//! listener says. What must stay true: a check that a reload did not change keeps its state; the agent's own trouble
//! counts against no backend; once started, checks need no privileges.

mod http;
mod icmp;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tracing::{info, warn};

use self::icmp::Echoes;
pub use self::verdict::{State, Verdict};
use crate::{
    config::{Config, HealthCheck, HealthCheckKind, Seconds, UdpCheck},
    dataplane::ListenerId,
    slots::BackendId,
};

/// Why a check brought no good answer, in an operator's words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// The backend's doing.
    Backend(String),
    /// The agent's: the backend was not asked.
    Own(String),
}

fn bad(cause: impl Into<String>) -> Failure {
    Failure::Backend(cause.into())
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // `EACCES` is not among the agent's: over IPv6 a router's refusal comes as that.
        const OWN: [Errno; 6] =
            [Errno::EPERM, Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL];
        match error.kind() {
            io::ErrorKind::ConnectionRefused => bad("connection refused"),
            io::ErrorKind::ConnectionReset => bad("connection reset"),
            _ if error.raw_os_error().is_some_and(|code| OWN.contains(&Errno::from_raw(code))) => {
                Self::Own(error.to_string())
            }
            _ => bad(error.to_string()),
        }
    }
}

/// Asks a backend once.
async fn ask(backend: SocketAddr, check: &HealthCheck, echoes: &Echoes) -> Result<(), Failure> {
    let asked = async {
        match &check.kind {
            HealthCheckKind::Tcp => tcp::check(backend).await.map(drop),
            HealthCheckKind::Http(asked) => http::check(backend, asked).await,
            HealthCheckKind::Icmp => echoes.check(backend.ip()).await,
            HealthCheckKind::Udp(asked) => udp::check(backend, asked).await,
        }
    };
    match (timeout(check.timeout, asked).await, &check.kind) {
        (Ok(answer), _) => answer,
        (Err(_), HealthCheckKind::Udp(UdpCheck { expect: None, .. })) => Ok(()),
        (Err(_), _) => Err(bad(format!("no answer within {}", Seconds(check.timeout)))),
    }
}

/// So many checks ask at once, each by a socket: 10,000 backends that all hang, with a timeout of 2 s and an interval of 5 s.
/// It is half of the descriptors that this process may have, if that is less.
const AT_ONCE: u64 = 4_096;

/// Raises the bound on descriptors as far as it goes without privileges; how many checks it has room for.
fn room() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1_024, 1_024));
    let wanted = (2 * AT_ONCE).clamp(soft, hard.max(soft));
    let descriptors = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_or(soft, |()| wanted);
    (descriptors / 2).clamp(1, AT_ONCE) as usize
}

type Key = (ListenerId, BackendId);

/// The checks of all backends.
#[derive(Debug)]
pub struct Health {
    checks: HashMap<Key, Running>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Running {
    check: HealthCheck,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Shared {
    states: Mutex<BTreeMap<Key, State>>,
    changed: Notify,
    room: Semaphore,
    echoes: Echoes,
    to_healthy: AtomicU64,
    to_unhealthy: AtomicU64,
    not_asked: AtomicU64,
    /// The agent's own problems that are in the log already.
    logged: Mutex<HashSet<String>>,
}

/// What happened since the start, also to backends that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Backends that became healthy after they had been unhealthy.
    pub to_healthy: u64,
    /// Backends that became unhealthy.
    pub to_unhealthy: u64,
    /// Checks that the agent could not make.
    pub not_asked: u64,
}

impl Shared {
    fn new(room: usize) -> Self {
        Self {
            states: Mutex::default(),
            changed: Notify::new(),
            room: Semaphore::new(room),
            echoes: Echoes::open(),
            to_healthy: AtomicU64::new(0),
            to_unhealthy: AtomicU64::new(0),
            not_asked: AtomicU64::new(0),
            logged: Mutex::default(),
        }
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<Key, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    /// Starts the checks of a configuration. Needs a running event loop, and `CAP_NET_RAW` for those by ICMP, which later
    /// calls do not need. Raises the soft bound on descriptors.
    ///
    /// Those backends that were unhealthy before stay so until they answer.
    pub fn start(config: &Config, unhealthy: &BTreeSet<Key>) -> Self {
        let mut health = Self { checks: HashMap::new(), shared: Arc::new(Shared::new(room())) };
        health.shared.states().extend(unhealthy.iter().map(|&key| (key, State::unhealthy_before())));
        health.follow(config);
        health
    }

    /// Follows a reload: stops checks that are gone, starts new ones, and leaves the others as they are.
    pub fn follow(&mut self, config: &Config) {
        let mut wanted = HashMap::new();
        for listener in &config.listeners {
            let Some(check) = &listener.health_check else { continue };
            let id = ListenerId { vip: listener.vip, protocol: listener.protocol, port: listener.port };
            for backend in &listener.backends {
                wanted.insert((id, BackendId { address: backend.address, port: backend.port }), check);
            }
        }
        self.checks.retain(|key, running| wanted.get(key) == Some(&&running.check));
        self.shared.states().retain(|key, _| wanted.contains_key(key));
        for (key, check) in wanted {
            if !self.checks.contains_key(&key) {
                self.shared.states().entry(key).or_default();
                let task = tokio::spawn(keep_asking(key, check.clone(), Arc::clone(&self.shared)));
                self.checks.insert(key, Running { check: check.clone(), task });
            }
        }
    }

    /// Waits until a verdict changed since the last call; any number of changes wake it once.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// What is known of a backend; `Unknown` counts as healthy.
    pub fn verdict(&self, listener: ListenerId, backend: BackendId) -> Verdict {
        self.shared.states().get(&(listener, backend)).map_or(Verdict::Unknown, |state| state.verdict)
    }

    /// All that is known of a backend; `None`: it is not checked.
    pub fn state(&self, listener: ListenerId, backend: BackendId) -> Option<State> {
        self.shared.states().get(&(listener, backend)).cloned()
    }

    /// What happened since the start.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { to_healthy, to_unhealthy, not_asked, .. } = &*self.shared;
        Counts { to_healthy: read(to_healthy), to_unhealthy: read(to_unhealthy), not_asked: read(not_asked) }
    }
}

async fn keep_asking(key: Key, check: HealthCheck, shared: Arc<Shared>) {
    let backend = SocketAddr::new(key.1.address, key.1.port);
    // Spreads the checks over the interval.
    let share = (RandomState::new().hash_one(key) >> 40) as f64 / f64::from(1 << 24);
    let mut turns = interval_at(Instant::now() + check.interval.mul_f64(share), check.interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let Ok(permit) = shared.room.acquire().await else { return };
        let begin = Instant::now();
        let answer = ask(backend, &check, &shared.echoes).await;
        drop(permit);
        if !shared.note(key, &check, &answer, begin) {
            return;
        }
    }
}

impl Shared {
    /// Takes an answer; `false` if nobody wants to know any longer.
    fn note(&self, key: Key, check: &HealthCheck, answer: &Result<(), Failure>, begin: Instant) -> bool {
        let (ListenerId { vip, port, .. }, backend) = (key.0, SocketAddr::new(key.1.address, key.1.port));
        if let Err(Failure::Own(problem)) = answer {
            self.not_asked.fetch_add(1, Ordering::Relaxed);
            if self.logged.lock().unwrap_or_else(PoisonError::into_inner).insert(problem.clone()) {
                warn!(%backend, %vip, port, "could not check a backend, whose verdict stays: {problem} (logged once)");
            }
        }
        let now = Instant::now();
        let state = {
            let mut states = self.states();
            let Some(state) = states.get_mut(&key) else { return false };
            if !state.note(answer, check, now, now - begin) {
                return true;
            }
            state.clone()
        };
        if state.verdict == Verdict::Unhealthy {
            self.to_unhealthy.fetch_add(1, Ordering::Relaxed);
            let (cause, is_flapping) = (state.cause.unwrap_or_default(), state.is_flapping);
            warn!(%backend, %vip, port, is_flapping, "backend is unhealthy: {cause}");
        } else {
            self.to_healthy.fetch_add(1, Ordering::Relaxed);
            info!(%backend, %vip, port, "backend is healthy");
        }
        self.changed.notify_one();
        true
    }
}
