//! A listener's change is one switch: while packets come in on all CPUs, each is handled as before it or as after it, and
//! nothing of any other listener is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use clb_common::{
    Backend, Endpoint, EndpointEntry,
    ForwardingMode::{Dsr, Nat},
    Listener, NextHop,
    Protocol::Tcp,
    SlotBlock,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use zerocopy::IntoBytes as _;

use crate::{
    build::{CLB_MAC, Segment},
    harness::{Harness, LOOPBACK, Listeners, listener},
};

#[test]
fn every_packet_sees_one_generation_and_no_other_listener_is_written() {
    let hop = |number: u8| NextHop::new([2, 0, 0, 0, 0, number], CLB_MAC, LOOPBACK, 1_500);
    let next_hops = [("10.0.2.0", hop(0)), ("10.0.2.1", hop(1)), ("10.0.2.2", hop(2)), ("10.0.1.1", hop(9))];
    let mut harness = Harness::new(&generation(0), &next_hops, &[]);
    let file_system = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(&file_system).unwrap();
    let root = fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    let pinned = PathBuf::from(format!("/proc/self/fd/{}/program", root.as_raw_fd()));
    harness.xdp().pin(&pinned).unwrap();

    let maps = Maps::of(&mut harness);
    let untouched = maps.bytes(UNTOUCHED);
    let (begun, done, is_over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let seen: Vec<BTreeSet<usize>> = thread::scope(|scope| {
        let runners: Vec<_> = (0..cpus)
            .map(|cpu| {
                let (begun, done, is_over, pinned) = (&begun, &done, &is_over, &pinned);
                scope.spawn(move || {
                    let program = Xdp::from_pin(pinned, XdpAttachType::Interface);
                    run_until(&program.unwrap(), cpu, begun, done, is_over)
                })
            })
            .collect();
        for number in 1..=RELOADS {
            begun.store(number, Ordering::SeqCst);
            harness.apply(&generation(number));
            done.store(number, Ordering::SeqCst);
            assert_eq!(maps.bytes(UNTOUCHED), untouched, "reload {number} writes to a listener that does not change");
        }
        is_over.store(true, Ordering::SeqCst);
        runners.into_iter().map(|runner| runner.join().unwrap()).collect()
    });
    for generations in seen {
        assert!(generations.len() > RELOADS / 2, "packets saw only {} of {RELOADS} generations", generations.len());
    }
    assert_ne!(maps.bytes(CHANGED), untouched, "the bytes that are compared are those of a listener");
}

/// One listener has another backend in each, the other stays.
fn generation(number: usize) -> Listeners {
    let backend = backend(number);
    BTreeMap::from([
        listener(Tcp, CHANGED, Nat, &[(backend.as_str(), 1)]),
        listener(Tcp, UNTOUCHED, Dsr, &[("10.0.1.1:80", 1)]),
    ])
}

fn array<T: Pod>(map: MapData) -> Array<MapData, T> {
    Map::Array(map).try_into().unwrap()
}

fn backend(number: usize) -> String {
    format!("10.0.2.{}:{}", number % 3, 8_000 + number % 3)
}

/// Sends new connections, and returns the generations that they saw: each the last one that was done before, one that was
/// done meanwhile, or the one that was being made.
fn run_until(
    program: &Xdp,
    cpu: usize,
    begun: &AtomicUsize,
    done: &AtomicUsize,
    is_over: &AtomicBool,
) -> BTreeSet<usize> {
    let mut generations = BTreeSet::new();
    let mut port = 0_u16;
    while !is_over.load(Ordering::SeqCst) {
        port = port.wrapping_add(1);
        let client = format!("198.51.100.{cpu}:{port}");
        let packet = Segment::new(Tcp, &client, CHANGED);
        let mut left = vec![0; 256];
        let bytes = packet.bytes();
        let options = TestRunOptions { data_in: Some(&bytes), data_out: Some(&mut left), ..TestRunOptions::default() };
        let first = done.load(Ordering::SeqCst);
        let length = program.test_run(options).unwrap().data_size_out;
        let last = begun.load(Ordering::SeqCst);
        left.truncate(length as usize);
        let is_of = |&number: &usize| {
            let mac = [2, 0, 0, 0, 0, (number % 3) as u8];
            left == packet.clone().to(&backend(number)).hop_limit(63).on_link(mac, CLB_MAC).bytes()
        };
        let of = (first..=last).find(is_of);
        generations.insert(of.unwrap_or_else(|| panic!("of none of the generations {first} to {last}: {left:x?}")));
    }
    generations
}

/// The maps of one program.
struct Maps {
    indexes: Array<MapData, EndpointEntry>,
    listeners: Array<MapData, Listener>,
    slots: Array<MapData, SlotBlock>,
    backends: Array<MapData, Backend>,
}

impl Maps {
    fn of(harness: &mut Harness) -> Self {
        let ids = harness.xdp().info().unwrap().map_ids().unwrap().unwrap();
        let map = |name: &str| {
            let of_id = ids.iter().map(|&id| MapData::from_id(id).unwrap());
            // The kernel keeps 15 letters of a name.
            let map = of_id.into_iter().find(|map| map.info().unwrap().name_as_str() == name.get(..15).or(Some(name)));
            map.unwrap_or_else(|| panic!("the program has a map {name}"))
        };
        Self {
            indexes: array(map("LISTENER_INDEXES")),
            listeners: array(map("LISTENERS")),
            slots: array(map("SLOTS")),
            backends: array(map("BACKENDS")),
        }
    }

    /// All that packets for a VIP read, with where it stands.
    fn bytes(&self, vip: &str) -> Vec<u8> {
        let endpoint = Endpoint::of(Tcp, vip.parse().unwrap());
        let mut entries = self.indexes.iter().map(Result::unwrap);
        let entry = entries.find(|entry| entry.is_of(&endpoint)).unwrap();
        let listener = self.listeners.get(&entry.index, 0).unwrap();
        let mut bytes = [entry.as_bytes(), listener.as_bytes()].concat();
        let table = listener.current();
        let blocks = table.first_block..table.first_block + table.slots.div_ceil(clb_common::SLOTS_PER_BLOCK);
        let mut backends = BTreeSet::new();
        for block in blocks {
            let block = self.slots.get(&block, 0).unwrap();
            bytes.extend(block.as_bytes());
            backends.extend(block.0.iter().filter(|slot| slot.transition().is_none()).map(|slot| slot.backend()));
        }
        for backend in backends {
            bytes.extend(self.backends.get(&backend, 0).unwrap().as_bytes());
        }
        bytes
    }
}

const CHANGED: &str = "203.0.113.10:80";
const UNTOUCHED: &str = "203.0.113.10:443";
const RELOADS: usize = 1_000;
