//! The program against the reference model: the same configuration, the same packets, the same output, packet by packet,
//! and the same counters at the end.
//!
//! `CLB_PACKETS` says how many packets (default: a million), `CLB_SEED` where the random numbers begin. A difference is
//! shown with the seed that brings it back.

use std::{
    collections::BTreeMap,
    env,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use clb_common::{
    Event,
    ForwardingMode::{self, Dsr, FullNat, Gue, Ipip, Nat},
    NextHop,
    Protocol::{Tcp, Udp},
};
use clb_userspace::{
    control::DesiredListener,
    dataplane::{Counters, ListenerId, Settings},
    slots::BackendId,
};

use crate::{
    build::{CLB_MAC, CLIENT_MAC},
    generate::{Generator, Made, Random},
    harness::{Action, Harness, LOOPBACK, Listeners, Result},
    inspect,
    model::{Counted, Model, Setting, Tunnel, Verdict},
};

#[test]
fn the_program_does_what_the_model_says() {
    let packets = number("CLB_PACKETS").unwrap_or(1_000_000);
    let seed = number("CLB_SEED").unwrap_or(1);
    let rounds = packets.div_ceil(PACKETS_PER_ROUND);
    let next = AtomicU64::new(0);
    let verdicts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= rounds {
                        break;
                    }
                    let kinds = compare(seed.wrapping_add(round), PACKETS_PER_ROUND.min(packets));
                    verdicts.fetch_or(kinds, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(verdicts.into_inner(), 0b1_1111, "packets of all kinds were compared");
}

/// Many configurations, and each long enough to fill flows and notes.
const PACKETS_PER_ROUND: u64 = 25_000;

pub fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Compares so many packets under the configuration of this seed. Returns which verdicts there were, each a bit.
fn compare(seed: u64, packets: u64) -> u64 {
    let mut random = Random::new(seed.wrapping_mul(0x1_0001));
    let configuration = configuration(&mut random);
    let mut harness = configuration.harness();
    let mut model = Model::new(configuration.setting());
    let listeners: Vec<(ListenerId, ForwardingMode, Vec<BackendId>)> = configuration
        .listeners
        .iter()
        .map(|(&id, desired)| (id, desired.mode, desired.weights.keys().copied().collect()))
        .collect();
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let (clients, strangers) = (addresses(&CLIENTS), addresses(&STRANGERS));
    let own = [configuration.pool.clone(), addresses(&["172.16.3.4", "100::7:8"])].concat();
    let mut generator = Generator {
        random,
        listeners: &listeners,
        clients: &clients,
        strangers: &strangers,
        own: &own,
        waiting: Vec::new(),
    };
    let [mut told, mut not_told, mut kinds] = [0; 3];
    for number in 0..packets {
        let (packet, made) = generator.packet(&model);
        let result = harness.run(&packet);
        let expected = catch_unwind(AssertUnwindSafe(|| model.process(&packet, &result.bytes)));
        let Ok(expected) = expected else {
            panic!("CLB_SEED={seed}, packet {number}: {} became {}", hex(&packet), hex(&result.bytes));
        };
        let agree = agree(&expected, &packet, &result);
        let mut of_counters = String::new();
        if number % 512 == 0 || number + 1 == packets {
            of_counters = differences(&model.counted, &harness.counters());
        }
        assert!(
            agree && of_counters.is_empty(),
            "CLB_SEED={seed} CLB_PACKETS={packets}, packet {number}: {of_counters}\n{}\nexpected {}\nbut was  {:?} {}",
            hex(&packet),
            shown(&expected),
            result.action,
            hex(&result.bytes)
        );
        match (&expected, result.action) {
            (Verdict::TooBig(Some(_)), Action::Drop) => not_told += 1,
            (Verdict::TooBig(Some(_)), _) => told += 1,
            _ => {}
        }
        kinds |= match expected {
            Verdict::Pass => 1,
            Verdict::Sent { .. } => 2,
            Verdict::Answered(_) => 4,
            Verdict::Dropped(_) => 8,
            Verdict::TooBig(_) => 16,
        };
        let is_ours = matches!(result.action, Action::Transmit | Action::Redirect);
        if is_ours && made == Made::Honest {
            let wrong = inspect::wrong_checksums(&result.bytes);
            assert!(
                wrong.is_empty(),
                "CLB_SEED={seed}, packet {number}: {wrong:?}\n{}\nbecame\n{}",
                hex(&packet),
                hex(&result.bytes)
            );
        }
    }
    let counters = harness.counters();
    let sum = counters.passed + counters.answered + counters.dropped() + counters.sent();
    assert_eq!(sum, packets, "CLB_SEED={seed}: passed + answered + dropped + sent is what came in");
    let events: Vec<(Event, u64)> = vec![(Event::TooBigSent, told), (Event::TooBigSuppressed, not_told)];
    assert_eq!(counters.events, events, "CLB_SEED={seed}");
    kinds
}

fn agree(expected: &Verdict, packet: &[u8], result: &Result) -> bool {
    let is = |action, bytes: &[u8]| result.action == action && result.bytes == bytes;
    match expected {
        Verdict::Pass => is(Action::Pass, packet),
        Verdict::Sent { interface: LOOPBACK, bytes } | Verdict::Answered(bytes) => is(Action::Transmit, bytes),
        Verdict::Sent { bytes, .. } => is(Action::Redirect, bytes),
        // It may be one too many in its second.
        Verdict::TooBig(Some(answer)) => is(Action::Transmit, answer) || result.action == Action::Drop,
        Verdict::Dropped(_) | Verdict::TooBig(None) => result.action == Action::Drop,
    }
}

/// Where the program counted otherwise.
fn differences(expected: &Counted, counters: &Counters) -> String {
    let mut was = Counted {
        passed: counters.passed,
        answered: counters.answered,
        dropped: counters.dropped.iter().map(|&(reason, packets)| (reason as u32, packets)).collect(),
        ..Counted::default()
    };
    for (&id, listener) in &counters.listeners {
        was.arrived.insert(id, listener.arrived);
        was.backends.extend(listener.backends.iter().map(|(&backend, counted)| ((id, backend), counted.traffic)));
    }
    if was == *expected {
        return String::new();
    }
    let mut text =
        format!("passed {} {}, answered {} {}", expected.passed, was.passed, expected.answered, was.answered);
    for &(reason, packets) in &counters.dropped {
        if expected.dropped[&(reason as u32)] != packets {
            text.push_str(&format!("\n{}: {} {packets}", reason.name(), expected.dropped[&(reason as u32)]));
        }
    }
    for (id, traffic) in &expected.arrived {
        if was.arrived[id] != *traffic {
            text.push_str(&format!("\narrived at {id}: {traffic:?} {:?}", was.arrived[id]));
        }
    }
    for (id, traffic) in &expected.backends {
        if was.backends[id] != *traffic {
            text.push_str(&format!("\nsent for {id:?}: {traffic:?} {:?}", was.backends[id]));
        }
    }
    text
}

fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Sent { interface, bytes } => format!("sent by {interface} {}", hex(bytes)),
        Verdict::Answered(bytes) | Verdict::TooBig(Some(bytes)) => format!("answered {}", hex(bytes)),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A configuration, and the network around it.
struct Configuration {
    listeners: Listeners,
    next_hops: Vec<(String, NextHop)>,
    routes: Vec<(String, u8, NextHop)>,
    pool: Vec<IpAddr>,
}

/// Listeners of every mode, family and protocol, whose backends and next hops change with the seed.
fn configuration(random: &mut Random) -> Configuration {
    let mut listeners = Listeners::new();
    for protocol in [Tcp, Udp] {
        for (vip, own, other) in [(V4_VIP, "10.0.1", "fd00:1:2::"), (V6_VIP, "fd00:1:2::", "10.0.1")] {
            for (port, mode, families) in [
                (80, Dsr, &[own] as &[&str]),
                (81, Ipip, &[own]),
                (82, Gue, &[own]),
                (83, Nat, &[own]),
                (84, FullNat, &[own]),
                (85, Ipip, &[own, other]),
                (86, Gue, &[other]),
                (90, Dsr, &[]),
            ] {
                let mut weights = BTreeMap::new();
                for (family, number) in families.iter().flat_map(|family| (1..=4).map(move |number| (family, number))) {
                    let separator = if family.contains(':') { "" } else { "." };
                    let address: IpAddr = format!("{family}{separator}{number}").parse().unwrap();
                    let port = if matches!(mode, Nat | FullNat) { port + 8_000 } else { port };
                    weights.insert(BackendId { address, port }, random.below(4) as u8);
                }
                let id = ListenerId { vip: vip.parse().unwrap(), protocol, port };
                listeners.insert(id, DesiredListener::new(mode, 1_021, weights));
            }
        }
    }
    let mut next_hops = Vec::new();
    for number in 1..=4 {
        for family in ["10.0.1.", "fd00:1:2::"] {
            next_hops.push((format!("{family}{number}"), hop(random, number)));
        }
    }
    let host = NextHop::HOST;
    let routes = [
        ("198.51.100.0", 24, NextHop::new(CLIENT_MAC, CLB_MAC, LOOPBACK, 1_500)),
        ("198.51.100.77", 32, NextHop::UNRESOLVED),
        ("198.51.100.2", 32, host),
        ("192.0.2.0", 24, hop(random, 20)),
        ("192.0.2.128", 25, hop(random, 21)),
        ("2001:db8:ffff::", 64, NextHop::new(CLIENT_MAC, CLB_MAC, LOOPBACK, 1_500)),
        ("2001:db8:ffff::2", 128, host),
        ("2001:db8:fffe::", 64, hop(random, 22)),
        ("2001:db8:fffe:0:8000::", 65, hop(random, 23)),
    ];
    let routes = routes.map(|(prefix, length, hop)| (prefix.to_owned(), length, hop)).to_vec();
    let pools: [&[&str]; 3] = [&POOL, &POOL, &POOL[..1]];
    let pool = random.of(&pools).iter().map(|address| address.parse().unwrap()).collect();
    Configuration { listeners, next_hops, routes, pool }
}

/// On this interface or another one, in a VLAN or none, behind a link of any size, or not known.
fn hop(random: &mut Random, number: u8) -> NextHop {
    let mtu = *random.of(&[1_500, 1_500, 1_500, 9_000, 1_400, 600]);
    let interface = *random.of(&[LOOPBACK, LOOPBACK, 77]);
    let resolved = NextHop::new([2, 0, 0, 0, 1, number], CLB_MAC, interface, mtu);
    match random.below(8) {
        0 => NextHop::UNRESOLVED,
        1 | 2 => resolved.in_vlan(1 + random.below(4_094) as u16),
        _ => resolved,
    }
}

impl Configuration {
    fn harness(&self) -> Harness {
        let next_hops: Vec<(&str, NextHop)> = self.next_hops.iter().map(|(at, hop)| (at.as_str(), *hop)).collect();
        let routes: Vec<(&str, u8, NextHop)> =
            self.routes.iter().map(|(prefix, length, hop)| (prefix.as_str(), *length, *hop)).collect();
        let mut harness = Harness::new(&self.listeners, &next_hops, &routes);
        harness.set_sources(&self.pool);
        harness
    }

    fn setting(&self) -> Setting<'_> {
        let Settings { tunnel_v4, tunnel_v6, gue_port, .. } = Settings::default();
        Setting {
            listeners: &self.listeners,
            hash_seed: crate::harness::SEED,
            next_hops: self.next_hops.iter().map(|(address, hop)| (address.parse().unwrap(), *hop)).collect(),
            routes: self.routes.iter().map(|(prefix, length, hop)| (prefix.parse().unwrap(), *length, *hop)).collect(),
            tunnel: Tunnel {
                v4: (tunnel_v4.address(), tunnel_v4.length()),
                v6: (tunnel_v6.address(), tunnel_v6.length()),
                gue_port,
            },
            pool: self.pool.clone(),
            ingress: LOOPBACK,
        }
    }
}

const V4_VIP: &str = "203.0.113.10";
const V6_VIP: &str = "2001:db8:1::10";
const POOL: [&str; 4] = ["10.9.0.1", "10.9.0.2", "fd00:9::1", "fd00:9::2"];
const CLIENTS: [&str; 12] = [
    "198.51.100.10",
    "198.51.100.11",
    "198.51.100.77",
    "198.51.100.2",
    "192.0.2.5",
    "192.0.2.200",
    "100.64.0.1",
    "2001:db8:ffff::10",
    "2001:db8:ffff::2",
    "2001:db8:fffe::5",
    "2001:db8:fffe:0:8000::5",
    "2001:db8:fffd::1",
];
const STRANGERS: [&str; 6] =
    ["203.0.113.11", "203.0.113.99", "10.0.1.250", "2001:db8:1::11", "::ffff:203.0.113.10", "fd00:1:2::99"];
