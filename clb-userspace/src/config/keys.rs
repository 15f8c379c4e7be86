//! The table of keys: the name of each, what it can be, its default, and what it means.
//!
//! The reader knows keys and ranges from here, and so do the JSON Schema and `docs/configuration.md`. A test holds the
//! defaults that stand here in words against those that a file gets.

use std::{ops::RangeInclusive, time::Duration};

use self::{
    Absence::{Is, Required, Said},
    Value::{Address, Addresses, List, Mapping, Number, OneOf, OneOfNumbers, Prefixes, Statuses, Text, Texts, Time},
};

/// A mapping of the file.
#[derive(Debug)]
pub struct Section {
    /// The keys, in the order of the documentation.
    pub keys: &'static [Key],
    /// Their names alone.
    pub names: &'static [&'static str],
}

/// A key of a mapping.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value can be.
    pub value: Value,
    /// Whether it may be left out, and what holds then.
    pub default: Absence,
    /// What it means.
    pub meaning: &'static str,
}

/// What a value can be.
#[derive(Debug)]
pub enum Value {
    /// Text that is not empty.
    Text,
    /// At least one such text.
    Texts,
    /// An IPv4 or IPv6 address.
    Address,
    /// Any number of addresses.
    Addresses,
    /// Any number of prefixes.
    Prefixes,
    /// A whole number.
    Number(RangeInclusive<u64>),
    /// One of these numbers.
    OneOfNumbers(&'static [u32]),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An HTTP status, or the first and the last of several.
    Statuses,
    /// A time with its unit.
    Time(RangeInclusive<Duration>),
    /// A mapping.
    Mapping(&'static Section),
    /// Any number of mappings.
    List(&'static Section),
}

/// What holds for a key that is not there.
#[derive(Debug, PartialEq, Eq)]
pub enum Absence {
    /// It must be there.
    Required,
    /// This value.
    Is(&'static str),
    /// As these words say.
    Said(&'static str),
}

/// The sizes that a slot table can have.
pub const SLOT_TABLE_SIZES: [u32; 6] = [1021, 4093, 16381, 65537, 131_071, 655_373];

pub(super) const PORTS: RangeInclusive<u64> = 1..=65535;
pub(super) const FLOWS: RangeInclusive<u64> = 1..=1 << 24;
pub(super) const WEIGHTS: RangeInclusive<u64> = 0..=100;
pub(super) const THRESHOLDS: RangeInclusive<u64> = 2..=10;
pub(super) const DRAINS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
pub(super) const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_mins(33);
pub(super) const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_mins(5);
pub(super) const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_mins(1);

const FORWARDING: Value = OneOf(&["dsr", "ipip", "gue", "nat", "full_nat"]);

macro_rules! section {
    ($doc:literal $section:ident: $($name:literal $value:expr, $default:expr, $meaning:literal;)*) => {
        #[doc = $doc]
        pub static $section: Section = Section {
            keys: &[$(Key { name: $name, value: $value, default: $default, meaning: $meaning }),*],
            names: &[$($name),*],
        };
    };
}

section! { "The whole file." FILE:
    "version" Number(1..=1), Required, "The version of the file's form.";
    "load_balancer" Mapping(&LOAD_BALANCER), Required, "What holds for all listeners.";
    "cvms" List(&CVM), Said("none"), "The virtual machines that backends are on.";
    "enis" List(&ENI), Said("none"), "Their network interfaces.";
    "listeners" List(&LISTENER), Said("none"), "What is balanced.";
}

section! { "What holds for all listeners." LOAD_BALANCER:
    "id" Text, Required, "The load balancer's id.";
    "vpc" Text, Required, "The VPC of all that is bound.";
    "interfaces" Texts, Required, "Where the XDP program is attached. Never guessed.";
    "forwarding" FORWARDING, Said("required unless every listener has it"), "How packets reach the backends.";
    "hash_seed" Number(0..=u64::MAX), Said("derived from the id"), "Keys the flow hash; equal on every node.";
    "slots" OneOfNumbers(&SLOT_TABLE_SIZES), Is("65537"),
        "The size of every slot table, at least 10 times the backends of a listener. A change may move every flow.";
    "tunnel_sources" Prefixes, Said("`172.16.0.0/16` and `100::/64`"),
        "Where the outer headers of `ipip` and `gue` come from, at most one prefix for each family: the address varies with \
         the flow. Route them to this host, and path MTU discovery works through the tunnels.";
    "gue_port" Number(PORTS), Is("6080"), "The UDP port that backends receive `gue` on.";
    "source_addresses" Addresses, Said("none, and no listener is in `full_nat`"),
        "The addresses that backends see in `full_nat`, at most 64 of each family, routed to this host and used by nothing \
         else: no VIP and no private IP of an ENI. Each serves 64,512 flows to one address and port.";
    "max_flows" Number(FLOWS), Is("262144"), "How many flows `full_nat` can remember at a time.";
}

section! { "A virtual machine." CVM:
    "id" Text, Required, "Its id, unique among CVMs.";
    "vpc" Text, Required, "The VPC that it is in.";
    "zone" Text, Required, "The zone that it is in.";
}

section! { "A network interface with its addresses." ENI:
    "id" Text, Required, "Its id, unique among ENIs.";
    "role" OneOf(&["primary", "secondary"]), Required,
        "`primary`: a CVM is born with it, and it stays. `secondary`: attached later.";
    "vpc" Text, Required, "The VPC that it is in: that of its CVM.";
    "zone" Text, Required, "The zone that it is in: that of its CVM.";
    "attached_to" Text, Said("not attached, and cannot be bound"), "The id of its CVM.";
    "primary_ip" Address, Required, "Its primary private IP.";
    "secondary_ips" Addresses, Said("none"), "Its other private IPs.";
}

section! { "A VIP, a protocol and a port, and who serves them." LISTENER:
    "name" Text, Required, "Its name, unique among listeners.";
    "vip" Address, Required, "The address that clients connect to; no private IP of an ENI.";
    "protocol" OneOf(&["tcp", "udp"]), Required, "The protocol.";
    "port" Number(PORTS), Required, "The port that clients connect to.";
    "forwarding" FORWARDING, Said("the load balancer's"), "How packets reach the backends.";
    "slots" OneOfNumbers(&SLOT_TABLE_SIZES), Said("the load balancer's"), "The size of its slot table.";
    "affinity" OneOf(&["connection", "client_ip"]), Is("connection"),
        "`connection`: a flow stays at its backend. `client_ip`: all flows of a client do.";
    "drain" Time(DRAINS), Said("`300s` for TCP, `30s` for UDP"),
        "How long old connections keep a backend that lost its slots.";
    "idle_timeout" Time(IDLE_TIMEOUTS), Said("`900s` for TCP, `300s` for UDP"),
        "A remembered flow without packets ends.";
    "on_unhealthy" OneOf(&["move", "keep"]), Is("move"),
        "What the connections of a backend do that fails its checks: go to another one at once, or stay as in a drain.";
    "health_check" Mapping(&HEALTH_CHECK), Said("no checks"), "How backends are checked.";
    "backends" List(&BACKEND), Said("none, which is a warning"), "Who serves it.";
}

section! { "How backends are checked." HEALTH_CHECK:
    "type" OneOf(&["tcp", "http", "udp", "icmp", "none"]), Required,
        "`tcp` or `http` for TCP listeners, `udp` or `icmp` for UDP listeners, `none` for no checks.";
    "interval" Time(INTERVALS), Is("5s"), "From one check to the next.";
    "timeout" Time(TIMEOUTS), Is("2s"), "How long an answer may take; below the interval.";
    "healthy" Number(THRESHOLDS), Is("3"), "So many good answers in a row make a backend healthy.";
    "unhealthy" Number(THRESHOLDS), Is("3"), "So many failures in a row make it unhealthy.";
    "method" OneOf(&["GET", "HEAD"]), Is("GET"), "`http`: the request's method.";
    "path" Text, Is("/"), "`http`: what is asked for, with the query if there is one.";
    "host" Text, Said("the backend's address and port"), "`http`: the `Host` header.";
    "status" Statuses, Is("200-399"), "`http`: the good statuses, `200` or `200-399`. Redirections are not followed.";
    "send" Text, Is("clb"),
        "`udp`: the datagram, at most 512 bytes, with the escapes `\\n`, `\\r`, `\\t`, `\\0`, `\\\\` and `\\xHH`. In quotes, let \
         them be single ones.";
    "expect" Text, Said("any answer is good, and so is silence"),
        "`udp`: what the answer contains, written as `send`. Silence and other answers are then failures.";
}

section! { "A backend: exactly one of `cvm` and `eni`." BACKEND:
    "cvm" Text, Said("bound by `eni`"), "The id of a CVM: the primary private IP of its primary ENI is bound.";
    "eni" Address, Said("bound by `cvm`"), "Any other private IP of an ENI.";
    "port" Number(PORTS), Said("the listener's"), "Its port; in `dsr`, `ipip` and `gue` always the listener's.";
    "weight" Number(WEIGHTS), Is("10"), "Its share of new connections; 0: no new ones.";
}
