//! Backends that get no new flows, as a person asked: until the same is asked back, whatever becomes of the configuration and of
//! the agent.
//!
//! A drain is of an address, with one port or with every one, in all listeners. A backend is drained while one of its drains is
//! there, so what is bound later is drained as well. What must stay true: a drain is noted in the data plane's map before it is
//! in force, and is in force when the answer goes.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::{
    Control,
    desired::{self, Standing},
    status::left,
};
use crate::{
    api::{DrainStatus, Drained, DrainedBackend, NoBackend},
    config::{Backend, Config, Listener, nearest},
    dataplane::{Counters, Dataplane},
    drain::Drain,
    slots::BackendId,
};

/// What a person has drained.
#[derive(Debug, Default)]
pub(super) struct Drains(BTreeSet<Drain>);

impl Drains {
    /// Those that the data plane remembers.
    pub fn of(dataplane: &Dataplane) -> anyhow::Result<Self> {
        dataplane.drains().map(Self)
    }

    /// What that means for a backend.
    pub fn standing(&self, BackendId { address, port }: BackendId) -> Standing {
        let of_its_port = Drain { address, port: Some(port) };
        let is_drained = [of_its_port, of_its_port.of_every_port()].iter().any(|drain| self.0.contains(drain));
        Standing { is_drained, is_unhealthy: false }
    }

    /// What has to be there for this to be drained.
    fn to_add(&self, asked: Drain) -> Option<Drain> {
        let is_there = self.0.contains(&asked) || self.0.contains(&asked.of_every_port());
        (!is_there).then_some(asked)
    }

    /// What has to go for this not to be drained.
    fn to_remove(&self, asked: Drain) -> BTreeSet<Drain> {
        let is_of_it =
            |drain: &Drain| drain.address == asked.address && (asked.port.is_none() || drain.port == asked.port);
        self.0.iter().copied().filter(is_of_it).collect()
    }

    /// One port of an address that is drained with every port cannot get flows by itself.
    fn can_go(&self, asked: Drain) -> Result<(), NoBackend> {
        let whole = asked.of_every_port();
        if asked == whole || !self.0.contains(&whole) {
            return Ok(());
        }
        let help = format!("`clb undrain {whole}`, then drain the ports that shall stay drained");
        Err(NoBackend(format!("{asked} is drained with every port of {whole}\nhelp: {help}")))
    }
}

impl Control {
    /// Has backends get no new flows.
    pub(super) async fn drain(&mut self, asked: Drain) -> anyhow::Result<Result<Drained, NoBackend>> {
        if let Err(error) = find(&self.config, asked) {
            return Ok(Err(error));
        }
        let added = self.drains.to_add(asked);
        if let Some(drain) = added {
            self.dataplane.add_drain(drain)?;
            self.drains.0.insert(drain);
            if let Err(error) = self.try_follow_standing().await {
                self.drains.0.remove(&drain);
                self.dataplane.remove_drain(drain)?;
                return Err(error);
            }
            info!("{asked} is drained: it gets no new flows until `clb undrain {asked}`");
        }
        let warnings = self.without_backends(asked);
        for warning in &warnings {
            warn!("{warning}");
        }
        Ok(Ok(Drained { warnings, ..self.drained(asked, added.is_some())? }))
    }

    /// Gives backends their share again.
    pub(super) async fn undrain(&mut self, asked: Drain) -> anyhow::Result<Result<Drained, NoBackend>> {
        let removed = self.drains.to_remove(asked);
        let is_known = if removed.is_empty() { find(&self.config, asked) } else { Ok(()) };
        if let Err(error) = is_known.and_then(|()| self.drains.can_go(asked)) {
            return Ok(Err(error));
        }
        for drain in &removed {
            self.dataplane.remove_drain(*drain)?;
            self.drains.0.remove(drain);
        }
        if !removed.is_empty() {
            self.try_follow_standing().await?;
            info!("{asked} is not drained any more");
        }
        Ok(Ok(self.drained(asked, !removed.is_empty())?))
    }

    /// Every drain, and of how many backends it is.
    pub(super) fn drain_status(&self) -> Vec<DrainStatus> {
        let mut backends: BTreeMap<Drain, usize> = self.drains.0.iter().map(|&drain| (drain, 0)).collect();
        for &Backend { address, port, .. } in self.config.listeners.iter().flat_map(|listener| &listener.backends) {
            for drain in [Drain { address, port: Some(port) }, Drain { address, port: None }] {
                backends.entry(drain).and_modify(|count| *count += 1);
            }
        }
        backends
            .into_iter()
            .map(|(Drain { address, port }, backends)| DrainStatus { address, port, backends })
            .collect()
    }

    fn drained(&mut self, asked: Drain, changed: bool) -> anyhow::Result<Drained> {
        // What is left there is to be known soon.
        self.sweeps.hurry();
        let counters = self.dataplane.counters()?;
        let backends: Vec<_> = of_config(&self.config, asked)
            .map(|(listener, backend)| drained_backend(listener, backend, &counters))
            .collect();
        let drained = self.drains.to_add(asked).is_none();
        Ok(Drained { asked, drained, changed, backends, warnings: Vec::new() })
    }

    /// The listeners of which a drain leaves no backend that is any good for new flows, each in a sentence.
    fn without_backends(&self, asked: Drain) -> Vec<String> {
        let affected = self
            .config
            .listeners
            .iter()
            .filter(|listener| listener.backends.iter().any(|backend| asked.covers(id(backend))));
        affected
            .filter_map(|listener| {
                let left = takers(listener, |backend| self.standing(desired::id(listener), backend));
                left.warning(&listener.name)
            })
            .collect()
    }
}

/// Who can take the new flows of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takers {
    Some,
    AllUnhealthy,
    None,
}

impl Takers {
    fn warning(self, listener: &str) -> Option<String> {
        match self {
            Self::Some => None,
            Self::AllUnhealthy => {
                Some(format!("listener {listener}: all backends that are left for new connections are unhealthy"))
            }
            Self::None => {
                Some(format!("listener {listener} has no backend left for new connections: they are dropped"))
            }
        }
    }
}

fn takers(listener: &Listener, standing: impl Fn(BackendId) -> Standing) -> Takers {
    let with_weight = listener.backends.iter().filter(|backend| backend.weight > 0);
    let standings = with_weight.map(|backend| standing(id(backend)));
    let takers: Vec<_> = standings.filter(|standing| !standing.is_drained).collect();
    if takers.is_empty() {
        Takers::None
    } else if takers.iter().all(|standing| standing.is_unhealthy) {
        Takers::AllUnhealthy
    } else {
        Takers::Some
    }
}

const fn id(backend: &Backend) -> BackendId {
    BackendId { address: backend.address, port: backend.port }
}

fn of_config(config: &Config, asked: Drain) -> impl Iterator<Item = (&Listener, &Backend)> {
    let bound =
        config.listeners.iter().flat_map(|listener| listener.backends.iter().map(move |backend| (listener, backend)));
    bound.filter(move |(_, backend)| asked.covers(id(backend)))
}

fn drained_backend(listener: &Listener, backend: &Backend, counters: &Counters) -> DrainedBackend {
    let counted = counters.listeners.get(&desired::id(listener)).cloned().unwrap_or_default();
    let of_backend = counted.backends.get(&id(backend)).copied().unwrap_or_default();
    DrainedBackend {
        listener: listener.name.clone(),
        protocol: listener.protocol.name().to_owned(),
        address: backend.address,
        port: backend.port,
        share: f64::from(of_backend.slots) / f64::from(counted.slots.max(1)),
        left: left(&of_backend),
    }
}

/// Whether there is such a backend; if not, which there are.
fn find(config: &Config, asked: Drain) -> Result<(), NoBackend> {
    if of_config(config, asked).next().is_some() {
        return Ok(());
    }
    let ports: BTreeSet<String> =
        of_config(config, asked.of_every_port()).map(|(_, backend)| backend.port.to_string()).collect();
    if !ports.is_empty() {
        let address = asked.address;
        return Err(NoBackend(format!("no backend is {asked}\nhelp: the ports of {address} are {}", some_of(&ports))));
    }
    let addresses: BTreeSet<_> =
        config.listeners.iter().flat_map(|listener| &listener.backends).map(|backend| backend.address).collect();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let help = match nearest(&asked.address.to_string(), addresses.iter().map(String::as_str)) {
        Some(near) => format!("do you mean {near}? `clb status` shows all backends"),
        None if addresses.is_empty() => "the configuration in force has no backends".to_owned(),
        None => format!("the backends are {}", some_of(&addresses)),
    };
    Err(NoBackend(format!("no backend is {asked}\nhelp: {help}")))
}

/// The first of them, and how many others there are.
fn some_of<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    let shown = names[..names.len().min(MOST_SHOWN)].join(", ");
    match names.len().saturating_sub(MOST_SHOWN) {
        0 => shown,
        others => format!("{shown} and {others} others"),
    }
}

const MOST_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn drain(text: &str) -> Drain {
        text.parse().unwrap()
    }

    fn drains(texts: &[&str]) -> BTreeSet<Drain> {
        texts.iter().map(|text| drain(text)).collect()
    }

    fn config() -> Config {
        load("demo", include_bytes!("../../../config/full.yaml")).unwrap().config
    }

    #[test]
    fn what_is_noted_for_what_is_asked() {
        for (noted, asked, added, removed) in [
            (&[][..], "10.0.1.11", Some("10.0.1.11"), &[][..]),
            (&[], "10.0.1.11:80", Some("10.0.1.11:80"), &[]),
            (&["10.0.1.11"], "10.0.1.11", None, &["10.0.1.11"]),
            (&["10.0.1.11"], "10.0.1.11:80", None, &[]),
            (&["10.0.1.11:80"], "10.0.1.11", Some("10.0.1.11"), &["10.0.1.11:80"]),
            (&["10.0.1.11:80", "10.0.1.11:81"], "10.0.1.11:80", None, &["10.0.1.11:80"]),
            (&["10.0.1.11", "10.0.1.11:80", "10.0.1.12"], "10.0.1.11", None, &["10.0.1.11", "10.0.1.11:80"]),
        ] {
            let drains_there = Drains(drains(noted));
            assert_eq!(drains_there.to_add(drain(asked)), added.map(drain), "drain {asked} after {noted:?}");
            assert_eq!(drains_there.to_remove(drain(asked)), drains(removed), "undrain {asked} after {noted:?}");
        }
    }

    #[test]
    fn who_is_left_for_new_flows() {
        let listener = config().listeners.into_iter().find(|listener| listener.backends.len() > 1).unwrap();
        let first = id(&listener.backends[0]);
        let of = |of_first, of_others| takers(&listener, |backend| if backend == first { of_first } else { of_others });
        let well = Standing::default();
        let drained = Standing { is_drained: true, is_unhealthy: false };
        let unhealthy = Standing { is_drained: false, is_unhealthy: true };
        for (name, of_first, of_others, expected) in [
            ("all", well, well, Takers::Some),
            ("one is drained", drained, well, Takers::Some),
            ("all are drained", drained, drained, Takers::None),
            ("the others are unhealthy", drained, unhealthy, Takers::AllUnhealthy),
            ("one is unhealthy", unhealthy, well, Takers::Some),
            (
                "those that are drained need not be healthy",
                Standing { is_unhealthy: true, ..drained },
                well,
                Takers::Some,
            ),
        ] {
            assert_eq!(of(of_first, of_others), expected, "{name}");
        }
    }

    #[test]
    fn a_backend_that_is_not_there_is_told_with_those_that_are() {
        let config = config();
        let Backend { address, port, .. } = config.listeners[0].backends[0].clone();
        let known = Drain { address, port: None };
        assert_eq!(find(&config, known), Ok(()));
        assert_eq!(find(&config, Drain { port: Some(port), ..known }), Ok(()));
        for (asked, said) in [
            (
                Drain { port: Some(1), ..known },
                format!("no backend is {address}:1\nhelp: the ports of {address} are {port}"),
            ),
            (drain("192.0.2.200"), "no backend is 192.0.2.200\nhelp: the backends are ".to_owned()),
            (drain(&format!("{address}9")), "\nhelp: do you mean ".to_owned()),
        ] {
            let NoBackend(text) = find(&config, asked).unwrap_err();
            assert!(text.contains(&said), "{asked}: {text}");
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (1..=10).map(|number: u8| number.to_string()).collect();
        assert_eq!(some_of(&names), "1, 2, 3, 4, 5, 6, 7, 8 and 2 others");
        assert_eq!(some_of(&names[..2]), "1, 2");
    }
}
