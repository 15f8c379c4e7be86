//! Random valid files, and each of them broken in exactly one rule.
//!
//! A file is made of marked text: a mark is where a rule's caret must stand, so that the expected place is known without any
//! parser. A mutation replaces the text at marks and names the code and the mark of the problem that it makes. Every code of an
//! error that a single file can have gets the same number of mutations, and nothing else may be reported.

use std::collections::{BTreeMap, BTreeSet};

use clb_userspace::config::{Code, Loaded, Problems, Severity, load};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::Value;

/// Each makes one mutation of every kind.
const FILES: u32 = 40;

/// How a file is written.
#[derive(Clone, Debug)]
struct Style {
    is_flow: bool,
    quote: &'static str,
    comment: &'static str,
    line_end: &'static str,
    mark: &'static str,
    anchors: bool,
    id: String,
    is_ipv6: bool,
    zone: String,
    pairs: usize,
    weight: u8,
}

fn style() -> impl Strategy<Value = Style> {
    let ways = (
        any::<bool>(),
        prop::sample::select(vec!["", "'", "\""]),
        prop::sample::select(vec!["", "# note: {a}, [b] \"c", "# é — 负载均衡"]),
        prop::sample::select(vec!["\n", "\r\n"]),
        prop::sample::select(vec!["", "\u{feff}"]),
        any::<bool>(),
    );
    let values = ("[a-z]{1,6}(é|负|🦀)?[a-z]{1,3}", any::<bool>(), "z[a-z]{2,6}", 1..6_usize, 1..=100_u8);
    (ways, values).prop_map(|((is_flow, quote, comment, line_end, mark, anchors), values)| {
        let (id, is_ipv6, zone, pairs, weight) = values;
        Style { is_flow, quote, comment, line_end, mark, anchors, id, is_ipv6, zone, pairs, weight }
    })
}

/// Names of keys and their values. A key whose value is `-` is not written.
type Mapping = Vec<(&'static str, String)>;

/// A file before it is written: each mapping has a name, from which that of every value's mark is made.
#[derive(Clone)]
struct Draft {
    style: Style,
    mappings: Vec<(String, Mapping)>,
}

impl Draft {
    fn new(style: &Style) -> Self {
        let mut draft = Self { style: style.clone(), mappings: Vec::new() };
        let text = |text: &str| text.to_owned();
        let (id, zone) = (&style.id, style.zone.clone());
        draft.add("file", vec![("version", text("1"))]);
        let balancer = vec![("id", id.clone()), ("vpc", text("prod")), ("interfaces", text("[eth0]"))];
        draft.add("lb", [balancer, vec![("forwarding", text("nat")), ("slots", text("1021"))]].concat());
        for n in 0..=style.pairs {
            draft.add(
                &format!("cvm{n}"),
                vec![("id", format!("{id}-{n}")), ("vpc", text("prod")), ("zone", zone.clone())],
            );
        }
        for n in 0..=style.pairs {
            for (role, net, address) in [("primary", 1, "eni"), ("secondary", 2, "more")] {
                draft.add(
                    &format!("{address}{n}"),
                    vec![
                        ("id", format!("{address}-{id}-{n}")),
                        ("role", text(role)),
                        ("vpc", text("prod")),
                        ("zone", zone.clone()),
                        ("attached_to", format!("{id}-{n}")),
                        ("primary_ip", draft.ip(net, n)),
                    ],
                );
            }
        }
        // The last CVM and its ENIs are bound by none.
        for (n, protocol, mode) in [(0, "tcp", "nat"), (1, "udp", "dsr")] {
            let name = format!("listener{n}");
            draft.add(
                &name,
                vec![
                    ("name", format!("{id}-{protocol}")),
                    ("vip", draft.ip(9, 1)),
                    ("protocol", text(protocol)),
                    ("port", text("80")),
                    ("forwarding", text(mode)),
                    ("drain", text("30s")),
                    ("idle_timeout", text("60s")),
                ],
            );
            draft.add(
                &format!("check{n}"),
                vec![
                    ("type", text(protocol)),
                    ("interval", text("5s")),
                    ("timeout", text("2s")),
                    ("healthy", text("3")),
                ],
            );
            for pair in 0..style.pairs {
                let rest = vec![("port", text("80")), ("weight", style.weight.to_string())];
                draft.add(&format!("{n}cvm{pair}"), [vec![("cvm", format!("{id}-{pair}"))], rest.clone()].concat());
                draft.add(&format!("{n}eni{pair}"), [vec![("eni", draft.ip(2, pair))], rest].concat());
            }
        }
        draft
    }

    fn ip(&self, net: usize, host: usize) -> String {
        if self.style.is_ipv6 { format!("2001:db8:{net}::{host:x}") } else { format!("10.0.{net}.{host}") }
    }

    fn add(&mut self, name: &str, mapping: Mapping) {
        self.mappings.push((name.to_owned(), mapping));
    }

    fn set(&mut self, mapping: &str, key: &'static str, value: impl Into<String>) {
        let (_, keys) = self.mappings.iter_mut().find(|(name, _)| name == mapping).expect("a mapping of the draft");
        match keys.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value.into(),
            None => keys.push((key, value.into())),
        }
    }

    fn remove(&mut self, mapping: &str) {
        self.mappings.retain(|(name, _)| name != mapping);
    }

    fn write(&self) -> Written {
        let mut written = Written { text: self.style.mark.to_owned(), line: 1, column: 1, places: BTreeMap::new() };
        written.line(&self.style, "# made by a test");
        let mut section = String::new();
        for (name, mapping) in &self.mappings {
            let kind: String = name.trim_matches(|c: char| c.is_ascii_digit()).to_owned();
            let (header, indent, is_item) = match kind.as_str() {
                "file" => ("", 0, false),
                "lb" => ("load_balancer:", 2, false),
                "cvm" if !name.starts_with(|c: char| c.is_ascii_digit()) => ("cvms:", 2, true),
                "eni" | "more" | "enispare" if !name.starts_with(|c: char| c.is_ascii_digit()) => ("enis:", 2, true),
                "listener" => ("listeners:", 2, true),
                "check" => ("    health_check:", 6, false),
                _ => ("    backends:", 6, true),
            };
            if section != header && !header.is_empty() && !(header == "listeners:" && self.has_listeners_before(name)) {
                written.line(&self.style, header);
            }
            header.clone_into(&mut section);
            written.mapping(&self.style, name, mapping, indent, is_item);
        }
        written
    }

    fn has_listeners_before(&self, name: &str) -> bool {
        self.mappings.iter().take_while(|(other, _)| other != name).any(|(other, _)| other.starts_with("listener"))
    }
}

/// The text so far, and where its marks are.
struct Written {
    text: String,
    line: u64,
    column: u64,
    /// The places of `mapping.key` (the value) and of `mapping.key:` (the key itself).
    places: BTreeMap<String, (u64, u64)>,
}

impl Written {
    fn put(&mut self, text: &str) {
        self.text += text;
        self.column += text.chars().count() as u64;
    }

    fn mark(&mut self, name: String) {
        self.places.insert(name, (self.line, self.column));
    }

    fn end(&mut self, style: &Style) {
        self.text += style.line_end;
        self.line += 1;
        self.column = 1;
    }

    fn line(&mut self, style: &Style, text: &str) {
        self.put(text);
        self.end(style);
        if !style.comment.is_empty() {
            self.put(style.comment);
            self.end(style);
        }
    }

    fn mapping(&mut self, style: &Style, name: &str, mapping: &Mapping, indent: usize, is_item: bool) {
        // A listener has lists inside, which this test writes in block style only.
        let is_flow = style.is_flow && is_item && !name.starts_with("listener");
        let written: Vec<_> = mapping.iter().filter(|(_, value)| value != "-").collect();
        for (at, (key, value)) in written.iter().enumerate() {
            let start = match (at, is_item, is_flow) {
                (0, true, true) => format!("{}- {{", " ".repeat(indent)),
                (0, true, false) => format!("{}- ", " ".repeat(indent)),
                (_, _, true) => ", ".to_owned(),
                _ => " ".repeat(indent + if is_item { 2 } else { 0 }),
            };
            self.put(&start);
            self.mark(format!("{name}.{key}:"));
            self.put(&format!("{key}: "));
            if style.anchors && *key == "zone" {
                self.put(&format!("&{name} "));
            }
            // What is wrong with one item stands at the item.
            let is_list_of_one = matches!(*key, "tunnel_sources" | "source_addresses");
            self.put(if is_list_of_one { "[" } else { "" });
            self.mark(format!("{name}.{key}"));
            self.put(if is_list_of_one { "\"" } else { "" });
            let is_text =
                matches!(*key, "id" | "vpc" | "cvm" | "eni" | "vip" | "name" | "drain" | "attached_to" | "protocol");
            let needs_quotes = is_text || (is_flow && value.contains("::"));
            let quote = if needs_quotes && style.quote.is_empty() && value.contains("::") { "'" } else { style.quote };
            let quote = if needs_quotes { quote } else { "" };
            self.put(&format!("{quote}{value}{quote}"));
            self.put(if is_list_of_one { "\"]" } else { "" });
            if is_flow && at + 1 < written.len() {
                continue;
            }
            if is_flow {
                self.put("}");
            }
            if !style.comment.is_empty() {
                self.put(&format!(" {}", style.comment));
            }
            self.end(style);
        }
    }
}

/// Breaks one rule; says where.
type Break = fn(&mut Draft) -> &'static str;

/// One mutation for every code; several ways where a rule has several sides.
const BREAKS: [(&str, Break); 33] = [
    ("syntax", |d| {
        d.set("0cvm0", "port", "[80]");
        "0cvm0.port"
    }),
    ("unknown-key", |d| {
        d.set("0cvm0", "colour", "red");
        "0cvm0.colour:"
    }),
    ("missing-key", |d| {
        d.set("listener0", "port", "-");
        "listener0.name:"
    }),
    ("unsupported-version", |d| {
        d.set("file", "version", "2");
        "file.version"
    }),
    ("duplicate-id", |d| {
        let id = d.value("listener0", "name");
        d.set("listener1", "name", id);
        "listener1.name"
    }),
    ("duplicate-address", |d| {
        let ip = d.ip(1, 0);
        d.spare("more", "primary_ip", ip);
        "spare.primary_ip"
    }),
    ("unknown-cvm", |d| {
        d.set("0cvm0", "cvm", "nobody");
        "0cvm0.cvm"
    }),
    ("unknown-address", |d| {
        let ip = d.ip(7, 7);
        d.set("0eni0", "eni", ip);
        "0eni0.eni"
    }),
    ("backend-kind", |d| {
        let ip = d.ip(2, 0);
        d.set("0cvm0", "eni", ip);
        d.remove("0eni0");
        "0cvm0.cvm:"
    }),
    ("cvm-without-primary-eni", |d| {
        d.remove("eni0");
        d.remove("1cvm0");
        "0cvm0.cvm"
    }),
    ("several-primary-enis", |d| {
        d.spare("more", "role", "primary".into());
        "spare.attached_to"
    }),
    ("primary-eni-detached", |d| {
        d.spare("eni", "attached_to", "-".into());
        "spare.role"
    }),
    ("eni-not-attached", |d| {
        d.set("more0", "attached_to", "-");
        d.remove("1eni0");
        "0eni0.eni"
    }),
    ("zone-mismatch", |d| {
        d.set("more0", "zone", "elsewhere");
        "more0.zone"
    }),
    ("vpc-mismatch", |d| {
        d.spare("more", "vpc", "other".into());
        "spare.vpc"
    }),
    ("primary-ip-bound-as-eni", |d| {
        let ip = d.ip(1, 0);
        d.set("0eni0", "eni", ip);
        d.remove("0cvm0");
        "0eni0.eni"
    }),
    ("duplicate-backend", |d| {
        let (ip, port) = (d.ip(2, 0), "80");
        d.add("1eni99", vec![("eni", ip), ("port", port.into())]);
        "1eni99.eni"
    }),
    ("weight-range", |d| {
        d.set("0cvm0", "weight", "101");
        "0cvm0.weight"
    }),
    ("port-range", |d| {
        d.set("0cvm0", "port", "65536");
        "0cvm0.port"
    }),
    ("duplicate-listener", |d| {
        d.set("listener1", "protocol", "tcp");
        d.set("check1", "type", "none");
        "listener1.port"
    }),
    ("vip-is-backend", |d| {
        let ip = d.ip(1, 0);
        d.set("listener0", "vip", ip);
        "listener0.vip"
    }),
    ("unsupported-protocol", |d| {
        d.set("listener0", "protocol", "https");
        "listener0.protocol"
    }),
    ("dsr-port", |d| {
        d.set("1cvm0", "port", "81");
        "1cvm0.port"
    }),
    ("address-family", |d| {
        d.other_family();
        "0eni0.eni"
    }),
    ("nat-shared-backend", |d| {
        d.set("listener1", "forwarding", "nat");
        d.shared();
        "1cvm0.cvm"
    }),
    ("tunnel-source", |d| {
        d.set("lb", "tunnel_sources", "10.0.0.0/7");
        "lb.tunnel_sources"
    }),
    ("source-address", |d| {
        let vip = d.ip(9, 1);
        d.set("lb", "source_addresses", vip);
        "lb.source_addresses"
    }),
    ("no-source-address", |d| {
        d.set("listener0", "forwarding", "full_nat");
        "listener0.vip"
    }),
    ("health-check-range", |d| {
        d.set("check0", "healthy", "11");
        "check0.healthy"
    }),
    ("health-check-type", |d| {
        d.set("check0", "type", "udp");
        "check0.type"
    }),
    ("drain-range", |d| {
        d.set("listener0", "drain", "3601s");
        "listener0.drain"
    }),
    ("idle-timeout-range", |d| {
        d.set("listener0", "idle_timeout", "9s");
        "listener0.idle_timeout"
    }),
    ("slots-range", |d| {
        d.set("lb", "slots", "1000");
        "lb.slots"
    }),
];

impl Draft {
    fn value(&self, mapping: &str, key: &str) -> String {
        let keys = self.mappings.iter().find(|(name, _)| name == mapping).map(|(_, keys)| keys);
        let value = keys.and_then(|keys| keys.iter().find(|(name, _)| *name == key));
        value.map(|(_, value)| value.clone()).expect("a value of the draft")
    }

    /// Names the unbound ENI of this kind `spare` and changes one key.
    fn spare(&mut self, kind: &str, key: &'static str, value: String) {
        let last = format!("{kind}{}", self.style.pairs);
        self.set(&last, key, value);
        let spare = self.mappings.iter_mut().find(|(name, _)| *name == last).expect("the unbound ENI");
        "enispare".clone_into(&mut spare.0);
    }

    /// Gives an ENI an address of the other family, bound by one listener only.
    fn other_family(&mut self) {
        self.style.is_ipv6 = !self.style.is_ipv6;
        let ip = self.ip(2, 200);
        self.style.is_ipv6 = !self.style.is_ipv6;
        self.set("more0", "primary_ip", ip.clone());
        self.set("0eni0", "eni", ip);
        self.remove("1eni0");
    }

    /// Makes the second listener like the first, at another VIP, with one backend, which the first has too.
    fn shared(&mut self) {
        let vip = self.ip(9, 2);
        self.set("listener1", "forwarding", "nat");
        self.set("listener1", "protocol", "tcp");
        self.set("listener1", "vip", vip);
        self.set("check1", "type", "tcp");
        self.mappings.retain(|(name, _)| !(name.starts_with("1cvm") || name.starts_with("1eni")) || name == "1cvm0");
    }
}

fn problems(text: &str) -> Problems {
    match load("clb.yaml", text.as_bytes()) {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(problems) => problems,
    }
}

fn found(problems: &Problems) -> Vec<(String, u64, u64)> {
    let problems = problems.to_json();
    let number = |problem: &Value, key: &str| problem[key].as_u64().expect("a number");
    let found = |problem: &Value| {
        let code = problem["code"].as_str().expect("a code").to_owned();
        (code, number(problem, "line"), number(problem, "column"))
    };
    problems.as_array().expect("an array").iter().map(found).collect()
}

#[test]
fn every_code_of_an_error_in_one_file_is_broken() {
    let of_changes = [Code::EniMovedZone, Code::PrimaryEniMoved];
    let errors = Code::ALL.iter().filter(|code| code.severity() == Severity::Error && !of_changes.contains(code));
    let broken: BTreeSet<_> = BREAKS.iter().map(|(code, _)| *code).collect();
    assert_eq!(broken, errors.map(|code| code.name()).collect());
}

#[test]
fn one_broken_rule_is_reported_alone_and_where_it_stands() {
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(FILES) });
    let checked = runner.run(&style(), |style| {
        let draft = Draft::new(&style);
        let text = draft.write().text;
        let good = problems(&text);
        prop_assert!(good.is_empty(), "{good:?}\n{text}");
        for (code, break_rule) in BREAKS {
            let mut draft = draft.clone();
            let mark = break_rule(&mut draft).replace("spare.", "enispare.");
            let written = draft.write();
            let (line, column) = written.places[&mark];
            let expected = vec![(code.to_owned(), line, column)];
            let problems = problems(&written.text);
            prop_assert_eq!(found(&problems), expected, "{:?}\n{}", problems, written.text);
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}
