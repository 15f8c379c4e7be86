//! Random valid topologies, before they are written as text.
//!
//! A draft is a flat list of named mappings, so that a mutation can say `more0.zone`. What the listeners 0 and 1 bind is
//! there for the mutations to break, as is one CVM that nobody binds (`spare`); what else a topology has is random and
//! hangs on none of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::writing::{Choices, Tree, Way, Written};

/// Names of keys and their values.
pub type Mapping = Vec<(&'static str, String)>;

/// What a mapping of the file describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    File,
    Balancer,
    Cvm,
    Eni,
    Listener,
    /// The listener's before it.
    Check,
    /// The listener's before it.
    Backend,
}

/// What is random about a file.
#[derive(Clone, Debug)]
pub struct Topology {
    id: String,
    zone: String,
    is_ipv6: bool,
    /// How many CVMs the listeners 0 and 1 bind, each with a primary and a secondary ENI.
    pairs: usize,
    more_listeners: usize,
    port: u16,
    choices: Vec<u8>,
    way: Way,
}

/// Any topology, and any way to write it.
pub fn topology() -> impl Strategy<Value = Topology> {
    let values =
        ("x[a-z]{0,5}(é|负|🦀)?[a-z]{1,3}", "z[a-z]{2,6}", any::<bool>(), 1..4_usize, 0..3_usize, 1..=65535_u16);
    (values, prop::collection::vec(any::<u8>(), 31), Way::any()).prop_map(|(values, choices, way)| {
        let (id, zone, is_ipv6, pairs, more_listeners, port) = values;
        Topology { id, zone, is_ipv6, pairs, more_listeners, port, choices, way }
    })
}

/// A file before it is written.
#[derive(Clone)]
pub struct Draft {
    topology: Topology,
    mappings: Vec<(Part, String, Mapping)>,
}

impl Draft {
    pub fn new(topology: &Topology) -> Self {
        let mut draft = Self { topology: topology.clone(), mappings: Vec::new() };
        let mut choices = Choices::new(&topology.choices);
        let Topology { id, pairs, more_listeners, .. } = topology;
        draft.add(Part::File, "file", vec![("version", "1".into())]);
        let mut balancer = vec![("id", id.clone()), ("vpc", "prod".into()), ("interfaces", "[eth0]".into())];
        balancer.extend([("forwarding", choices.text(&["nat", "full_nat"])), ("slots", "1021".into())]);
        if choices.pick(2) == 0 {
            balancer.push(("hash_seed", "7".into()));
        }
        if choices.pick(2) == 0 {
            balancer.push(("tunnel_sources", "['172.16.0.0/16']".into()));
        }
        balancer.push(("source_addresses", format!("['{}']", draft.ip(12, 1))));
        draft.add(Part::Balancer, "lb", balancer);
        // Behind those that are bound: one that nobody binds, and one for the further listeners.
        let other = pairs + 1;
        (0..=other).for_each(|n| draft.add_cvm(n));
        (0..=other).for_each(|n| draft.add_enis(n, &mut choices));
        let mode = choices.text(&["nat", "full_nat"]);
        draft.add_listener(0, "tcp", &mode, &mut choices);
        let mode = choices.text(&["dsr", "ipip", "gue"]);
        draft.add_listener(1, "udp", &mode, &mut choices);
        for n in 2..2 + more_listeners {
            draft.add_small_listener(n, &mut choices);
        }
        draft
    }

    fn add_cvm(&mut self, n: usize) {
        let Topology { id, zone, .. } = &self.topology;
        let mapping = vec![("id", format!("{id}-{n}")), ("vpc", "prod".into()), ("zone", zone.clone())];
        self.add(Part::Cvm, &format!("cvm{n}"), mapping);
    }

    fn add_enis(&mut self, n: usize, choices: &mut Choices) {
        let Topology { id, zone, .. } = self.topology.clone();
        for (role, net, name) in [("primary", 1, "eni"), ("secondary", 2, "more")] {
            let mut mapping = vec![
                ("id", format!("{name}-{id}-{n}")),
                ("role", role.into()),
                ("vpc", "prod".into()),
                ("zone", zone.clone()),
                ("attached_to", format!("{id}-{n}")),
                ("primary_ip", self.ip(net, n)),
            ];
            if choices.pick(3) == 0 {
                mapping.push(("secondary_ips", format!("['{}', '{}']", self.ip(net + 2, n), self.ip(net + 4, n))));
            }
            let is_spare = (n, role) == (self.topology.pairs, "secondary");
            let name = if is_spare { "spare".into() } else { format!("{name}{n}") };
            self.add(Part::Eni, &name, mapping);
        }
        if choices.pick(4) == 0 {
            let mapping = vec![
                ("id", format!("loose-{id}-{n}")),
                ("role", "secondary".into()),
                ("vpc", "elsewhere".into()),
                ("zone", "elsewhere".into()),
                ("primary_ip", self.ip(8, n)),
            ];
            self.add(Part::Eni, &format!("loose{n}"), mapping);
        }
    }

    fn add_listener(&mut self, n: usize, protocol: &str, mode: &str, choices: &mut Choices) {
        let mut mapping = vec![
            ("name", format!("{}-{protocol}", self.topology.id)),
            ("vip", self.ip(9, 1)),
            ("protocol", protocol.into()),
            ("port", self.port()),
            ("forwarding", mode.into()),
            ("drain", choices.text(&["0s", "30s", "1h"])),
            ("idle_timeout", choices.text(&["10s", "15m", "1980s"])),
        ];
        if choices.pick(2) == 0 {
            mapping.push(("affinity", choices.text(&["connection", "client_ip"])));
            mapping.push(("on_unhealthy", choices.text(&["move", "keep"])));
        }
        self.add(Part::Listener, &format!("listener{n}"), mapping);
        let mut check = vec![("type", protocol.into())];
        check.extend([("interval", choices.text(&["5s", "300s"])), ("timeout", choices.text(&["2s", "3s"]))]);
        check.push(("healthy", choices.text(&["2", "3", "10"])));
        self.add(Part::Check, &format!("check{n}"), check);
        for pair in 0..self.topology.pairs {
            let cvm = format!("{}-{pair}", self.topology.id);
            let eni = self.ip(2, pair);
            for (kind, bound) in [("cvm", cvm), ("eni", eni)] {
                // The first have a weight in any case: they are those that mutations leave behind.
                let least = usize::from(pair == 0);
                let weight = (least + choices.pick(101 - least)).to_string();
                let mapping = vec![(kind, bound), ("port", self.port()), ("weight", weight)];
                self.add(Part::Backend, &format!("{n}{kind}{pair}"), mapping);
            }
        }
    }

    /// A listener that no mutation touches, at a VIP of its own.
    pub fn add_small_listener(&mut self, n: usize, choices: &mut Choices) {
        let Topology { id, pairs, .. } = self.topology.clone();
        let mapping = vec![
            ("name", format!("{id}-{n}")),
            ("vip", self.ip(10, n)),
            ("protocol", choices.text(&["tcp", "udp"])),
            ("port", "53".into()),
            ("forwarding", choices.text(&["dsr", "ipip", "gue", "full_nat"])),
        ];
        self.add(Part::Listener, &format!("listener{n}"), mapping);
        self.add(Part::Backend, &format!("{n}cvm0"), vec![("cvm", format!("{id}-{}", pairs + 1))]);
    }

    pub fn ip(&self, net: usize, host: usize) -> String {
        if self.topology.is_ipv6 { format!("2001:db8:{net}::{host:x}") } else { format!("10.0.{net}.{host}") }
    }

    /// An address of the family that the file does not have.
    pub fn foreign_ip(&self) -> String {
        let is_ipv6 = !self.topology.is_ipv6;
        Self { topology: Topology { is_ipv6, ..self.topology.clone() }, mappings: Vec::new() }.ip(2, 200)
    }

    /// That of the listeners 0 and 1 and of their backends.
    pub fn port(&self) -> String {
        self.topology.port.to_string()
    }

    /// Another valid port.
    pub fn other_port(&self) -> String {
        (self.topology.port ^ 2).max(1).to_string()
    }

    fn add(&mut self, part: Part, name: &str, mapping: Mapping) {
        self.mappings.push((part, name.to_owned(), mapping));
    }

    /// Adds a backend to a listener.
    pub fn add_backend(&mut self, listener: usize, name: &str, mapping: Mapping) {
        let listener = format!("listener{listener}");
        let at = self.mappings.iter().position(|(_, name, _)| *name == listener).expect("a listener of the draft");
        let check = usize::from(self.mappings.get(at + 1).is_some_and(|(part, ..)| *part == Part::Check));
        let backends = self.mappings[at + 1 + check..].iter().take_while(|(part, ..)| *part == Part::Backend).count();
        self.mappings.insert(at + 1 + check + backends, (Part::Backend, name.to_owned(), mapping));
    }

    pub fn set(&mut self, mapping: &str, key: &'static str, value: impl Into<String>) {
        let keys = self.keys(mapping);
        match keys.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value.into(),
            None => keys.push((key, value.into())),
        }
    }

    pub fn unset(&mut self, mapping: &str, key: &str) {
        self.keys(mapping).retain(|(name, _)| *name != key);
    }

    pub fn value(&mut self, mapping: &str, key: &str) -> String {
        let value = self.keys(mapping).iter().find(|(name, _)| *name == key);
        value.map(|(_, value)| value.clone()).expect("a value of the draft")
    }

    fn keys(&mut self, mapping: &str) -> &mut Mapping {
        let found = self.mappings.iter_mut().find(|(_, name, _)| name == mapping);
        found.map(|(_, _, keys)| keys).expect("a mapping of the draft")
    }

    pub fn remove(&mut self, mapping: &str) {
        self.retain(|name| name != mapping);
    }

    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.mappings.retain(|(_, name, _)| is_kept(name));
    }

    /// The backends of a listener.
    pub fn backends(&self, listener: usize) -> Vec<String> {
        let of =
            |name: &&String| name.starts_with(&format!("{listener}cvm")) || name.starts_with(&format!("{listener}eni"));
        let backends = self.mappings.iter().filter(|(part, ..)| *part == Part::Backend);
        backends.map(|(_, name, _)| name).filter(of).cloned().collect()
    }

    pub fn write(&self) -> Written {
        self.topology.way.write(&self.tree())
    }

    fn tree(&self) -> Tree {
        let mut lists: BTreeMap<&str, Vec<Tree>> = BTreeMap::new();
        let mut file = Vec::new();
        let mut balancer = Tree::List(Vec::new());
        for (part, name, mapping) in &self.mappings {
            let tree = Tree::mapping(name, mapping);
            match part {
                Part::File => file = mapping.iter().map(|(key, value)| (*key, Tree::Scalar(value.clone()))).collect(),
                Part::Balancer => balancer = tree,
                Part::Cvm => lists.entry("cvms").or_default().push(tree),
                Part::Eni => lists.entry("enis").or_default().push(tree),
                Part::Listener => lists.entry("listeners").or_default().push(tree),
                Part::Check | Part::Backend => {
                    let listener = lists.get_mut("listeners").and_then(|listeners| listeners.last_mut());
                    let Some(Tree::Mapping { entries, .. }) = listener else { unreachable!("a listener comes first") };
                    if *part == Part::Check {
                        entries.push(("health_check", tree));
                    } else if let Some((_, Tree::List(backends))) =
                        entries.iter_mut().find(|(key, _)| *key == "backends")
                    {
                        backends.push(tree);
                    } else {
                        entries.push(("backends", Tree::List(vec![tree])));
                    }
                }
            }
        }
        file.push(("load_balancer", balancer));
        for key in ["cvms", "enis", "listeners"] {
            file.push((key, Tree::List(lists.remove(key).unwrap_or_default())));
        }
        Tree::Mapping { name: "file".into(), entries: file }
    }
}
