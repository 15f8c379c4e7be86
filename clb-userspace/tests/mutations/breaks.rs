//! What can be done to a valid topology so that it breaks one rule and no other.
//!
//! Every code that one file can show has a row, and a rule with several sides has several. A row does its damage and says
//! at which mark the loader must report it.

use crate::draft::{Draft, Mapping};
use crate::writing::Choices;

/// Breaks one rule; says where.
pub type Break = fn(&mut Draft) -> &'static str;

/// The code, the side of the rule, and what breaks it.
pub const BREAKS: [(&str, &str, Break); 61] = [
    ("syntax", "a list for a port", |d| value(d, "0cvm0.port", "[80]")),
    ("syntax", "text for a weight", |d| value(d, "0cvm0.weight", "heavy")),
    ("syntax", "a role that there is not", |d| value(d, "spare.role", "tertiary")),
    ("syntax", "a duration without a unit", |d| value(d, "listener0.drain", "30")),
    ("unknown-key", "of a backend", |d| key(d, "0cvm0.colour:")),
    ("unknown-key", "of an ENI", |d| key(d, "more0.colour:")),
    ("unknown-key", "of the load balancer", |d| key(d, "lb.colour:")),
    ("unknown-key", "of a health check", |d| key(d, "check1.colour:")),
    ("missing-key", "of a listener", |d| {
        d.unset("listener0", "port");
        "listener0.name:"
    }),
    ("missing-key", "of a CVM", |d| {
        d.unset("cvm0", "zone");
        "cvm0.id:"
    }),
    ("missing-key", "of a health check", |d| {
        d.unset("check0", "type");
        "check0.interval:"
    }),
    ("unsupported-version", "a later one", |d| value(d, "file.version", "2")),
    ("duplicate-id", "of listeners", |d| {
        let name = d.value("listener0", "name");
        value(d, "listener1.name", &name)
    }),
    ("duplicate-id", "of ENIs", |d| {
        let id = d.value("eni0", "id");
        value(d, "spare.id", &id)
    }),
    ("duplicate-address", "of two ENIs", |d| {
        let ip = d.ip(1, 0);
        value(d, "spare.primary_ip", &ip)
    }),
    ("unknown-cvm", "of a backend", |d| value(d, "0cvm0.cvm", "nobody")),
    ("unknown-cvm", "of an ENI that nobody binds", |d| value(d, "spare.attached_to", "nobody")),
    ("unknown-address", "of a backend", |d| {
        let ip = d.ip(7, 7);
        value(d, "0eni0.eni", &ip)
    }),
    ("backend-kind", "both", |d| {
        let ip = d.ip(2, 0);
        d.set("0cvm0", "eni", ip);
        d.remove("0eni0");
        "0cvm0.cvm:"
    }),
    ("backend-kind", "neither", |d| {
        d.unset("0cvm0", "cvm");
        "0cvm0.port:"
    }),
    ("cvm-without-primary-eni", "it is gone", |d| {
        d.remove("eni0");
        d.remove("1cvm0");
        "0cvm0.cvm"
    }),
    ("several-primary-enis", "two of a CVM", |d| {
        d.set("spare", "role", "primary");
        "spare.attached_to"
    }),
    ("primary-eni-detached", "attached to none", |d| {
        d.set("spare", "role", "primary");
        d.unset("spare", "attached_to");
        "spare.role"
    }),
    ("eni-not-attached", "bound", |d| {
        d.unset("more0", "attached_to");
        d.remove("1eni0");
        "0eni0.eni"
    }),
    ("zone-mismatch", "of an ENI that is bound", |d| value(d, "more0.zone", "elsewhere")),
    ("zone-mismatch", "of an ENI that nobody binds", |d| value(d, "spare.zone", "elsewhere")),
    ("vpc-mismatch", "of an ENI and its CVM", |d| value(d, "spare.vpc", "other")),
    ("primary-ip-bound-as-eni", "instead of its CVM", |d| {
        let ip = d.ip(1, 0);
        d.remove("0cvm0");
        value(d, "0eni0.eni", &ip)
    }),
    ("duplicate-backend", "once with another weight", |d| {
        let backend: Mapping = vec![("eni", d.ip(2, 0)), ("port", d.port())];
        d.add_backend(1, "again", backend);
        "again.eni"
    }),
    ("duplicate-backend", "wholly the same", |d| {
        let backend = ["cvm", "port", "weight"].map(|key| (key, d.value("0cvm0", key)));
        d.add_backend(0, "again", backend.into());
        "again.cvm"
    }),
    ("weight-range", "above", |d| value(d, "0cvm0.weight", "101")),
    ("weight-range", "below", |d| value(d, "1eni0.weight", "-1")),
    ("port-range", "above, of a backend", |d| value(d, "0cvm0.port", "65536")),
    ("port-range", "below, of a backend", |d| value(d, "0eni0.port", "0")),
    ("duplicate-listener", "of one protocol", |d| {
        d.set("listener1", "protocol", "tcp");
        d.set("check1", "type", "none");
        "listener1.port"
    }),
    ("vip-is-backend", "of a bound CVM", |d| {
        let ip = d.ip(1, 0);
        value(d, "listener0.vip", &ip)
    }),
    ("vip-is-backend", "of an ENI that nobody binds", |d| {
        let ip = d.value("spare", "primary_ip");
        value(d, "listener1.vip", &ip)
    }),
    ("unsupported-protocol", "of layer 7", |d| value(d, "listener0.protocol", "https")),
    ("dsr-port", "of a CVM", |d| {
        let port = d.other_port();
        value(d, "1cvm0.port", &port)
    }),
    ("dsr-port", "of an ENI", |d| {
        let port = d.other_port();
        value(d, "1eni0.port", &port)
    }),
    ("address-family", "of an ENI", |d| {
        let ip = d.foreign_ip();
        d.set("more0", "primary_ip", ip.clone());
        d.remove("1eni0");
        value(d, "0eni0.eni", &ip)
    }),
    ("nat-shared-backend", "at another VIP", |d| {
        d.set("listener0", "forwarding", "nat");
        for (key, value) in [("forwarding", "nat".into()), ("protocol", "tcp".into()), ("vip", d.ip(9, 2))] {
            d.set("listener1", key, value);
        }
        d.set("check1", "type", "tcp");
        d.retain(|name| !(name.starts_with("1cvm") || name.starts_with("1eni")) || name == "1cvm0");
        "1cvm0.cvm"
    }),
    ("tunnel-source", "too short", |d| value(d, "lb.tunnel_sources", "['10.0.0.0/7']")),
    ("source-address", "a VIP", |d| {
        let vip = d.ip(9, 1);
        value(d, "lb.source_addresses", &format!("['{vip}']"))
    }),
    ("source-address", "a private IP", |d| {
        let address = d.ip(2, 0);
        value(d, "lb.source_addresses", &format!("['{address}']"))
    }),
    ("no-source-address", "of the listener's family", |d| {
        d.retain(|name| !["listener2", "2cvm0", "listener3", "3cvm0"].contains(&name));
        d.set("listener0", "forwarding", "full_nat");
        d.unset("lb", "source_addresses");
        "listener0.vip"
    }),
    ("health-check-range", "healthy, above", |d| value(d, "check0.healthy", "11")),
    ("health-check-range", "healthy, below", |d| value(d, "check1.healthy", "1")),
    ("health-check-range", "interval, above", |d| value(d, "check0.interval", "301s")),
    ("health-check-range", "timeout, below", |d| value(d, "check0.timeout", "1s")),
    ("health-check-type", "of UDP for TCP", |d| value(d, "check0.type", "udp")),
    ("health-check-type", "of TCP for UDP", |d| value(d, "check1.type", "http")),
    ("drain-range", "above", |d| value(d, "listener0.drain", "3601s")),
    ("idle-timeout-range", "below", |d| value(d, "listener0.idle_timeout", "9s")),
    ("idle-timeout-range", "above", |d| value(d, "listener1.idle_timeout", "1981s")),
    ("slots-range", "no size of a table", |d| value(d, "lb.slots", "1000")),
    ("slots-range", "no size of a listener's table", |d| value(d, "listener0.slots", "1022")),
    ("all-weights-zero", "of a listener", |d| {
        for backend in d.backends(1) {
            d.set(&backend, "weight", "0");
        }
        "listener1.name"
    }),
    ("no-backends", "of a listener", |d| {
        for backend in d.backends(0) {
            d.remove(&backend);
        }
        "listener0.name"
    }),
    ("beyond-default-quota", "of listeners", |d| {
        for n in 100..150 {
            d.add_small_listener(n, &mut Choices::new(&[0]));
        }
        "file.listeners:"
    }),
    ("beyond-default-quota", "of backends in one", |d| {
        let port = d.port();
        let ips: Vec<_> = (0..101).map(|host| d.ip(7, host)).collect();
        d.set("more0", "secondary_ips", format!("['{}']", ips.join("', '")));
        for name in d.backends(0) {
            d.remove(&name);
        }
        for (n, ip) in ips.into_iter().enumerate() {
            d.add_backend(0, &format!("0eni{}", 1000 + n), vec![("eni", ip), ("port", port.clone())]);
        }
        "listener0.name"
    }),
];

/// Gives a mark's value another text.
fn value(draft: &mut Draft, mark: &'static str, value: &str) -> &'static str {
    let (mapping, key) = mark.split_once('.').expect("mapping and key");
    draft.set(mapping, key, value);
    mark
}

/// Adds a key.
fn key(draft: &mut Draft, mark: &'static str) -> &'static str {
    let (mapping, key) = mark.trim_end_matches(':').split_once('.').expect("mapping and key");
    draft.set(mapping, key, "red");
    mark
}
