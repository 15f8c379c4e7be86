//! Another configuration in place of the one in force: at SIGHUP, when the file changes, and as `clb apply` asks.
//!
//! All three are one way: a text is checked against the rules and against what is in force, and either all of it is taken
//! or nothing changes. A file that is applied becomes the agent's own; a text without a file does not, and the next reload
//! goes back to the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    Change, Control, Unresolved, apply, change,
    next_hops::{NextHops, addresses},
    status::since_1970,
    watch::Watch,
};
use crate::{
    api::{Applied, Proposal, Refusal, ReloadStatus, Terms, Text},
    complaint::Complaint,
    config::{self, Color, Config, Loaded, Problems},
};

/// What became of the agent's configuration since it began to serve.
pub(super) struct Reloads {
    /// Where the configuration in force came from.
    in_force: String,
    /// Of the text that the agent's own file had last, whether it was taken or not.
    own_digest: Option<u128>,
    taken: u64,
    refused: u64,
    last: Option<Last>,
}

struct Last {
    at: SystemTime,
    seconds: f64,
    refused_because: Option<String>,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Problems(Problems),
    #[error("{0}")]
    Because(Complaint),
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self::Because(Complaint::from(&error))
    }
}

/// A text that is to be the configuration.
struct Candidate {
    /// What problems call it.
    name: String,
    /// Where it comes from.
    origin: String,
    text: Vec<u8>,
}

/// What is done with the plan of a change.
#[derive(Clone, Copy)]
enum Planning {
    /// Nobody asks.
    Skip,
    /// It is told, and too large a one refused.
    Tell { max_moved: Option<f64> },
}

struct Taken {
    plan: Option<Change>,
    warnings: Problems,
    steps: usize,
    seconds: f64,
}

impl Control {
    /// Reads the file again. A bad file changes nothing and says why.
    pub(super) async fn reload(&mut self) {
        let candidate = self.read_own_file();
        self.take_own(candidate).await;
    }

    /// The same, if it has another text than before.
    pub(super) async fn reload_if_changed(&mut self) {
        let before = self.reloads.own_digest;
        let candidate = self.read_own_file();
        if candidate.is_err() || self.reloads.own_digest != before {
            info!("{} changed", self.options.file.display());
            self.take_own(candidate).await;
        }
    }

    /// Takes what `clb apply` sent, or says why not.
    pub(super) async fn apply(&mut self, proposal: Proposal) -> Result<Applied, Refusal> {
        let Proposal { text, terms: Terms { name, file, max_moved, color } } = proposal;
        let (candidate, file) = match text {
            Text::OwnFile => (self.read_own_file(), None),
            Text::Sent(text) => {
                let file = file.filter(|file| has_text(file, &text));
                let origin = file.as_ref().map_or_else(|| name.clone(), |file| file.display().to_string());
                (Ok(Candidate { name, origin, text }), file)
            }
        };
        let digest = candidate.as_ref().ok().map(|candidate| config::digest(&candidate.text));
        let taken = self.replace(candidate, Planning::Tell { max_moved }).await.map_err(|refused| {
            warn!("the configuration in force stays, another one is not applied: {refused}");
            refusal(&refused, color)
        })?;
        info!("{} applied: {}", self.reloads.in_force, done(&taken));
        let file_is_new = file.as_ref().is_some_and(|file| *file != self.own_file());
        if let Some(file) = file {
            self.own(file, digest);
        }
        Ok(Applied {
            plan: taken.plan.unwrap_or_default(),
            seconds: taken.seconds,
            configuration: self.reloads.in_force.clone(),
            file: self.own_file().display().to_string(),
            file_is_new,
            warnings: problems(&taken.warnings),
            rendered: taken.warnings.render(color),
        })
    }

    pub(super) fn reload_status(&self) -> ReloadStatus {
        let Reloads { in_force, own_digest: _, taken, refused, last } = &self.reloads;
        ReloadStatus {
            file: self.own_file().display().to_string(),
            in_force: in_force.clone(),
            taken: *taken,
            refused: *refused,
            last: last.as_ref().map_or(0.0, |last| since_1970(last.at)),
            last_seconds: last.as_ref().map_or(0.0, |last| last.seconds),
            last_refused_because: last.as_ref().and_then(|last| last.refused_because.clone()),
        }
    }

    async fn take_own(&mut self, candidate: Result<Candidate, Refused>) {
        let file = self.options.file.display().to_string();
        match self.replace(candidate, Planning::Skip).await {
            Ok(taken) => {
                if !taken.warnings.is_empty() {
                    warn!("{} warnings\n{}", taken.warnings.len(), taken.warnings.render(Color::Never));
                }
                info!("{file} read again: {}", done(&taken));
            }
            Err(Refused::Problems(problems)) => {
                warn!("the configuration in force stays: {problems}\n{}", problems.render(Color::Never));
            }
            Err(Refused::Because(complaint)) => {
                warn!("the configuration in force stays, {file} is not taken: {complaint}");
            }
        }
    }

    /// The file that SIGHUP reads.
    fn own_file(&self) -> PathBuf {
        absolute(&self.options.file)
    }

    /// Makes this the file that SIGHUP reads.
    fn own(&mut self, file: PathBuf, digest: Option<u128>) {
        if let Some(watch) = &mut self.watch {
            match Watch::new(&file) {
                Ok(of_file) => *watch = of_file,
                Err(error) => warn!("changes of {} are not seen: {error:#}", file.display()),
            }
        }
        self.options.file = file;
        self.reloads.own_digest = digest;
    }

    fn read_own_file(&mut self) -> Result<Candidate, Refused> {
        let file = &self.options.file;
        self.reloads.own_digest = None;
        check_file(file)?;
        let text = config::read_text(file).with_context(|| {
            let help = "put a file there, or have the agent take another one with `clb apply FILE`";
            format!("cannot read {}\nhelp: {help}", file.display())
        })?;
        self.reloads.own_digest = Some(config::digest(&text));
        Ok(Candidate { name: file.display().to_string(), origin: absolute(file).display().to_string(), text })
    }

    /// The one way to another configuration.
    async fn replace(&mut self, candidate: Result<Candidate, Refused>, planning: Planning) -> Result<Taken, Refused> {
        let started = Instant::now();
        let taken = match candidate {
            Ok(candidate) => self.try_replace(started, candidate, planning).await,
            Err(refused) => Err(refused),
        };
        let (counter, seconds) = match &taken {
            Ok(taken) => (&mut self.reloads.taken, taken.seconds),
            Err(_) => (&mut self.reloads.refused, started.elapsed().as_secs_f64()),
        };
        *counter += 1;
        let refused_because = taken.as_ref().err().map(ToString::to_string);
        self.reloads.last = Some(Last { at: SystemTime::now(), seconds, refused_because });
        taken
    }

    async fn try_replace(
        &mut self,
        started: Instant,
        candidate: Candidate,
        planning: Planning,
    ) -> Result<Taken, Refused> {
        let (before, origin) = (Arc::new(self.config.clone()), candidate.origin.clone());
        // A large file takes seconds, in which others get their answers.
        let in_force = Arc::clone(&before);
        let checked = spawn_blocking(move || check(&in_force, &candidate)).await;
        let Loaded { config, warnings } = checked.context("check the configuration")??;
        let wanted = self.desired(&config)?;
        let plan = planning.begin(before, &config).await?;
        // New backends get no slots before their neighbours had time to answer; one that is long gone holds up nothing.
        let (old, new) = (self.wanted(), addresses(&config));
        let all: BTreeSet<_> = old.union(&new).copied().collect();
        self.network.keep_resolved(all.clone());
        for address in moved(&self.config, &config) {
            self.network.resolve_again(address);
        }
        let added = new.difference(&old).copied().collect();
        NextHops::wait_for(&mut self.network, &added, Unresolved::Allow).await?;
        let next_hops = NextHops::of(&all, &self.network);
        let steps = apply(self.options.drop_log, &config, &wanted, &next_hops, &mut self.dataplane).await?;
        let seconds = started.elapsed().as_secs_f64();
        self.config = config;
        self.reloads.in_force = origin;
        self.replace_next_hops(next_hops);
        self.health.follow(&self.config);
        self.network.keep_resolved(self.wanted());
        self.follow_network_or_say().await;
        // A check that became another one knows nothing yet.
        self.follow_standing().await;
        let plan = match plan {
            Some(plan) => Some(plan.await.context(PLAN)?),
            None => None,
        };
        Ok(Taken { plan, warnings, steps, seconds })
    }
}

impl Planning {
    /// Begins to make the plan, which may take as long as the change itself. Ends it only where it decides.
    async fn begin(self, before: Arc<Config>, after: &Config) -> Result<Option<JoinHandle<Change>>, Refused> {
        let Self::Tell { max_moved } = self else { return Ok(None) };
        let after = after.clone();
        let mut plan = spawn_blocking(move || Change::between(&before, &after));
        if max_moved.is_some() {
            let made = (&mut plan).await.context(PLAN)?;
            let too_much = made.beyond(max_moved);
            if !too_much.is_empty() {
                let help = "help: change the weights in smaller steps, or allow more";
                return Err(anyhow!("{}\n{help}", too_much.join(", ")).into());
            }
            plan = spawn_blocking(move || made);
        }
        Ok(Some(plan))
    }
}

impl Reloads {
    /// None yet, for an agent that began with this file.
    pub fn none(file: &Path, digest: u128) -> Self {
        let in_force = absolute(file).display().to_string();
        Self { in_force, own_digest: Some(digest), taken: 0, refused: 0, last: None }
    }
}

/// All that can be said without touching anything.
fn check(before: &Config, Candidate { name, text, .. }: &Candidate) -> Result<Loaded, Refused> {
    let loaded = config::load_change(before, name, text).map_err(Refused::Problems)?;
    match change::needs_restart(before, &loaded.config) {
        None => Ok(loaded),
        Some(changed) => Err(anyhow!(
            "load_balancer.{changed} changed, which a reload cannot do\nhelp: start clb again with the new file"
        )
        .into()),
    }
}

/// The addresses that are on another CVM than before.
fn moved(before: &Config, after: &Config) -> BTreeSet<IpAddr> {
    let hosts = |config: &Config| -> BTreeMap<IpAddr, String> {
        let backends = config.listeners.iter().flat_map(|listener| &listener.backends);
        backends.map(|backend| (backend.address, backend.cvm.clone())).collect()
    };
    let before = hosts(before);
    let is_elsewhere = |(address, cvm): &(IpAddr, String)| before.get(address).is_some_and(|before| before != cvm);
    hosts(after).into_iter().filter(is_elsewhere).map(|(address, _)| address).collect()
}

fn done(Taken { steps, seconds, .. }: &Taken) -> String {
    let listeners = if *steps == 1 { "listener" } else { "listeners" };
    format!("{steps} {listeners} changed in {:.0} ms", seconds * 1_000.0)
}

fn refusal(refused: &Refused, color: Color) -> Refusal {
    match refused {
        Refused::Problems(found) => {
            Refusal { error: refused.to_string(), problems: problems(found), rendered: found.render(color) }
        }
        Refused::Because(complaint) => {
            Refusal { error: complaint.to_string(), problems: Vec::new(), rendered: String::new() }
        }
    }
}

fn problems(problems: &Problems) -> Vec<Value> {
    match problems.to_json() {
        Value::Array(list) => list,
        other => vec![other],
    }
}

/// Whether the agent sees this text at this path: it may have been sent from where other files are.
fn has_text(file: &Path, text: &[u8]) -> bool {
    check_file(file).is_ok()
        && fs::metadata(file).is_ok_and(|metadata| metadata.len() == text.len() as u64)
        && config::read_text(file).is_ok_and(|seen| seen == text)
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// Reading a pipe again would wait for whoever writes into it, and with it everything else.
pub fn check_file(file: &Path) -> anyhow::Result<()> {
    if file.as_os_str() == "-" || file.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        bail!("{} cannot be read again at SIGHUP\nhelp: give `--config` the path of a regular file", file.display());
    }
    Ok(())
}

const PLAN: &str = "make the plan of the change";
