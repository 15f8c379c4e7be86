//! Whether backends answer: one check for each (listener, address, port), whatever the weight.
//!
//! A task for each check, and a bound on how many ask at once. A backend is healthy until it failed as often as its
//! listener says. What must stay true: a check that a reload did not change keeps its state.

mod http;
mod icmp;
mod tcp;
mod udp;
mod verdict;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tracing::{info, warn};

pub use self::verdict::{State, Verdict};
use crate::{
    config::{Config, HealthCheck, HealthCheckKind, Seconds},
    dataplane::ListenerId,
    slots::BackendId,
};

/// Why a check failed, in an operator's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    fn silence(patience: Duration) -> Self {
        Self(format!("no answer within {}", Seconds(patience)))
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self(match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".into(),
            io::ErrorKind::ConnectionReset => "connection reset".into(),
            _ => error.to_string(),
        })
    }
}

/// Asks a backend once.
pub async fn ask(backend: SocketAddr, check: &HealthCheck) -> Result<(), Cause> {
    let patience = check.timeout;
    let asked = async {
        match &check.kind {
            HealthCheckKind::Tcp => tcp::check(backend).await.map(drop),
            HealthCheckKind::Http(asked) => http::check(backend, asked).await,
            HealthCheckKind::Icmp => {
                let unique = RandomState::new().hash_one(backend);
                icmp::check(backend.ip(), (unique as u16, (unique >> 16) as u16)).await
            }
            HealthCheckKind::Udp(asked) => return udp::check(backend, asked, patience).await,
        }
    };
    // A UDP check judges silence itself, and takes no longer.
    timeout(patience + GRACE, asked).await.unwrap_or_else(|_| Err(Cause::silence(patience)))
}

const GRACE: Duration = Duration::from_millis(5);
/// So many checks ask at once: each is a socket.
const AT_ONCE: usize = 512;

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
}

impl Shared {
    fn states(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    /// Starts the checks of a configuration. Needs a running event loop.
    pub fn start(config: &Config) -> Self {
        let shared = Shared { states: Mutex::default(), changed: Notify::new(), room: Semaphore::new(AT_ONCE) };
        let mut health = Self { checks: HashMap::new(), shared: Arc::new(shared) };
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
}

async fn keep_asking(key: Key, check: HealthCheck, shared: Arc<Shared>) {
    let (listener, BackendId { address, port }) = key;
    let backend = SocketAddr::new(address, port);
    let share = (RandomState::new().hash_one(key) >> 40) as f64 / f64::from(1 << 24);
    let mut turns = interval_at(Instant::now() + check.interval.mul_f64(share), check.interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let Ok(permit) = shared.room.acquire().await else { return };
        let begin = Instant::now();
        let answer = ask(backend, &check).await;
        drop(permit);
        let now = Instant::now();
        let change = {
            let mut states = shared.states();
            let Some(state) = states.get_mut(&key) else { return };
            state.note(&answer, &check, now, now - begin).then(|| state.clone())
        };
        if let Some(State { verdict, cause, is_flapping, .. }) = change {
            let (vip, front) = (listener.vip, listener.port);
            match verdict {
                Verdict::Unhealthy => {
                    let cause = cause.unwrap_or_default();
                    warn!(%backend, %vip, port = front, is_flapping, "backend is unhealthy: {cause}");
                }
                Verdict::Healthy | Verdict::Unknown => info!(%backend, %vip, port = front, "backend is healthy"),
            }
            shared.changed.notify_one();
        }
    }
}
