//! What a new configuration changes, for a person and before it is done: a pure function of two configurations.
//!
//! Listeners are the same if VIP, protocol and port are, as for `plan`; shares come from the slot tables that a reload
//! would write. Forwarding modes that the data plane does not have yet are compared like the others.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::desired::{id, weights};
use crate::{
    config::{Backend, Config, Listener},
    dataplane::ListenerId,
    slots::{self, BackendId},
};

/// All that changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The part of `load_balancer` that a reload cannot change.
    pub needs_restart: Option<Cow<'static, str>>,
    /// By VIP, protocol and port; those that stay as they are left out.
    pub listeners: Vec<ListenerChange>,
}

/// What becomes of a listener or of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It was not there.
    Added,
    /// It will not be there.
    Removed,
    /// It stays, and something of it does not.
    Changed,
}

/// What changes of one listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerChange {
    /// Its name; the new one if it has two.
    pub name: String,
    /// The address that clients connect to.
    pub vip: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: Cow<'static, str>,
    /// The port that clients connect to.
    pub port: u16,
    /// What becomes of it.
    pub change: Kind,
    /// The share of its slots whose flows leave their backend, from 0 to 1.
    pub moved_share: f64,
    /// The least share that the new weights demand: what shrinking backends give up.
    pub least_moved_share: f64,
    /// Why all flows may move, if it is not for the weights.
    pub all_move_because: Option<Cow<'static, str>>,
    /// Its keys that change.
    pub settings: Vec<Setting>,
    /// By address and port; those that stay as they are left out.
    pub backends: Vec<BackendChange>,
}

/// What changes of one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendChange {
    /// Its private IP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The id of the CVM that it is on.
    pub cvm: String,
    /// What becomes of it.
    pub change: Kind,
    /// Its part of the slots before, from 0 to 1.
    pub share_before: f64,
    /// Its part of the slots afterwards.
    pub share_after: f64,
    /// Its keys that change.
    pub settings: Vec<Setting>,
}

/// A key with another value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// As in the file; that of a mapping inside with a dot.
    pub key: String,
    /// The value before.
    pub before: Value,
    /// The value afterwards.
    pub after: Value,
}

impl Change {
    /// What the new configuration changes.
    pub fn between(before: &Config, after: &Config) -> Self {
        let (old, new) = (by_id(before), by_id(after));
        let is_rehashed = before.hash_seed != after.hash_seed;
        let ids = old.keys().chain(new.keys().filter(|id| !old.contains_key(id)));
        let mut listeners: Vec<_> =
            ids.filter_map(|id| listener_change(old.get(id).copied(), new.get(id).copied(), is_rehashed)).collect();
        listeners
            .sort_by(|one, other| (one.vip, &one.protocol, one.port).cmp(&(other.vip, &other.protocol, other.port)));
        Self { needs_restart: needs_restart(before, after).map(Into::into), listeners }
    }

    /// The listeners of whose slots more than so many percent move, each in a sentence.
    pub fn beyond(&self, max_moved: Option<f64>) -> Vec<String> {
        let moved = |listener: &ListenerChange| {
            let percent = listener.moved_share * 100.0;
            (percent > max_moved?)
                .then(|| format!("listener {}: {percent:.2} % of the slots move, more than --max-moved", listener.name))
        };
        self.listeners.iter().filter_map(moved).collect()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.needs_restart.is_none() && self.listeners.is_empty()
    }
}

/// The part of the configuration that the loaded program has for good, if it is to be another.
pub fn needs_restart(before: &Config, after: &Config) -> Option<&'static str> {
    if before.interfaces != after.interfaces {
        Some("interfaces")
    } else if before.hash_seed != after.hash_seed {
        Some("id or hash_seed")
    } else if before.max_flows != after.max_flows {
        Some("max_flows")
    } else {
        None
    }
}

fn by_id(config: &Config) -> BTreeMap<ListenerId, &Listener> {
    config.listeners.iter().map(|listener| (id(listener), listener)).collect()
}

fn listener_change(before: Option<&Listener>, after: Option<&Listener>, is_rehashed: bool) -> Option<ListenerChange> {
    let listener = after.or(before)?;
    // Most listeners of a reload: their tables need not be made.
    if before == after && !is_rehashed {
        return None;
    }
    let change = kind(before, after);
    let shares = Shares::of(before, after);
    let settings = settings(before, after, &["backends"]);
    let backends = backend_changes(before, after, &shares);
    let all_move_because = match (before, after) {
        (Some(_), Some(_)) if is_rehashed => Some("the seed of the flow hash changes"),
        (Some(before), Some(after)) if before.slots != after.slots => Some("the number of slots changes"),
        (Some(_), None) => Some("the listener goes"),
        _ => None,
    };
    let is_unchanged = change == Kind::Changed && settings.is_empty() && backends.is_empty();
    if is_unchanged && all_move_because.is_none() {
        return None;
    }
    // Where nobody owned a slot there is no flow to move.
    let all = if shares.before.is_empty() { 0.0 } else { 1.0 };
    Some(ListenerChange {
        name: listener.name.clone(),
        vip: listener.vip,
        protocol: listener.protocol.name().into(),
        port: listener.port,
        change,
        moved_share: if all_move_because.is_some() { all } else { shares.moved },
        least_moved_share: shares.least_moved(),
        all_move_because: all_move_because.map(Into::into),
        settings,
        backends,
    })
}

fn backend_changes(before: Option<&Listener>, after: Option<&Listener>, shares: &Shares) -> Vec<BackendChange> {
    let of = |listener: Option<&'_ Listener>| -> BTreeMap<BackendId, Backend> {
        let backends = listener.into_iter().flat_map(|listener| &listener.backends);
        backends.map(|backend| (BackendId { address: backend.address, port: backend.port }, backend.clone())).collect()
    };
    let (old, new) = (of(before), of(after));
    let ids: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let change = |id: &BackendId| {
        let (before, after) = (old.get(id), new.get(id));
        let settings = settings(before, after, &[]);
        let change = kind(before, after);
        (change != Kind::Changed || !settings.is_empty()).then(|| BackendChange {
            address: id.address,
            port: id.port,
            cvm: after.or(before).map(|backend| backend.cvm.clone()).unwrap_or_default(),
            change,
            share_before: shares.before.get(id).copied().unwrap_or_default(),
            share_after: shares.after.get(id).copied().unwrap_or_default(),
            settings,
        })
    };
    ids.into_iter().filter_map(change).collect()
}

fn kind<T>(before: Option<T>, after: Option<T>) -> Kind {
    match (before, after) {
        (None, _) => Kind::Added,
        (_, None) => Kind::Removed,
        _ => Kind::Changed,
    }
}

/// The keys that differ, for what is there before and afterwards.
fn settings<T: Serialize>(before: Option<&T>, after: Option<&T>, except: &[&str]) -> Vec<Setting> {
    let json = |value: &T| serde_json::to_value(value).expect("a part of a configuration has text for keys");
    let mut found = Vec::new();
    if let (Some(before), Some(after)) = (before, after) {
        differences("", &json(before), &json(after), &mut found);
    }
    found.retain(|setting| !except.contains(&setting.key.as_str()));
    found
}

fn differences(prefix: &str, before: &Value, after: &Value, found: &mut Vec<Setting>) {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        if before != after {
            found.push(Setting { key: prefix.into(), before: before.clone(), after: after.clone() });
        }
        return;
    };
    for (key, after) in new {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        differences(&name, old.get(key).unwrap_or(&Value::Null), after, found);
    }
}

/// What the slot tables of a listener say.
struct Shares {
    before: BTreeMap<BackendId, f64>,
    after: BTreeMap<BackendId, f64>,
    /// Of slots that have an owner before, the part with another one afterwards.
    moved: f64,
}

impl Shares {
    fn of(before: Option<&Listener>, after: Option<&Listener>) -> Self {
        let table = |listener: Option<&Listener>| {
            listener.map_or_else(Vec::new, |listener| slots::table(&weights(listener), listener.slots))
        };
        let old = table(before);
        let is_same = before.zip(after).is_some_and(|(b, a)| b.slots == a.slots && weights(b) == weights(a));
        let new = if is_same { old.clone() } else { table(after) };
        let moved = old.iter().enumerate().filter(|&(slot, owner)| new.get(slot) != Some(owner)).count();
        Self { before: owned(&old), after: owned(&new), moved: part(moved, old.len()) }
    }

    /// What the backends that shrink give up.
    fn least_moved(&self) -> f64 {
        let given_up = |(id, before): (_, &f64)| (before - self.after.get(id).unwrap_or(&0.0)).max(0.0);
        self.before.iter().map(given_up).sum()
    }
}

fn owned(table: &[BackendId]) -> BTreeMap<BackendId, f64> {
    let mut slots = BTreeMap::new();
    for &owner in table {
        *slots.entry(owner).or_insert(0_usize) += 1;
    }
    slots.into_iter().map(|(id, slots)| (id, part(slots, table.len()))).collect()
}

fn part(slots: usize, of: usize) -> f64 {
    f64::from(slots as u32) / f64::from(of.max(1) as u32)
}
