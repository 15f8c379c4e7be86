//! What building a slot table costs, and how that grows with slots and backends. Needs no privileges.

use std::{
    collections::BTreeMap,
    hint::black_box,
    net::IpAddr,
    time::{Duration, Instant},
};

use clb_userspace::slots::{BackendId, owners};

fn main() {
    println!("{:>8} {:>9} {:>11} {:>11}", "slots", "backends", "minimum", "median");
    for slots in [1_021, 4_093, 16_381, 65_537] {
        for backends in [2, 10, 100, 1_000] {
            let weights: BTreeMap<BackendId, u8> = (0..backends)
                .map(|number: u32| {
                    let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
                    (BackendId { address, port: 80 }, (number % 100) as u8 + 1)
                })
                .collect();
            let mut times: Vec<Duration> = (0..ROUNDS)
                .map(|_| {
                    let start = Instant::now();
                    black_box(owners(black_box(&weights), slots));
                    start.elapsed()
                })
                .collect();
            times.sort_unstable();
            println!("{slots:>8} {backends:>9} {:>11.2?} {:>11.2?}", times[0], times[ROUNDS / 2]);
        }
    }
}

const ROUNDS: usize = 21;
