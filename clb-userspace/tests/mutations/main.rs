//! Random valid files, which the loader must accept, and each of them broken in exactly one rule, which it must report as that
//! and nothing else, exactly there.
//!
//! `draft` makes a topology, `breaks` damages it, `writing` makes text of it and knows the places without any parser. A run
//! makes more than 10,000 mutations. It is another run each time; a failure says how to have it again:
//! `CLB_SEED=… cargo test -p clb-userspace --test mutations`.

use std::{
    array,
    collections::BTreeSet,
    env,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use clb_userspace::config::{Code, Loaded, Problems, load};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use serde_json::Value;

use self::breaks::BREAKS;

mod breaks;
mod draft;
mod writing;

/// How many mutations a run makes at the least.
const MUTATIONS: u64 = 10_000;
const THREADS: u32 = 2;

#[test]
fn every_code_that_one_file_can_show_is_broken() {
    // They compare two files: `changes.rs`.
    let of_changes = [Code::EniMovedZone, Code::PrimaryEniMoved];
    let of_a_file = Code::ALL.iter().filter(|code| !of_changes.contains(code));
    let broken: BTreeSet<_> = BREAKS.iter().map(|(code, ..)| *code).collect();
    assert_eq!(broken, of_a_file.map(|code| code.name()).collect());
}

#[test]
fn one_broken_rule_is_reported_alone_and_where_it_stands() {
    let seed = match env::var("CLB_SEED") {
        Ok(seed) => seed.parse().expect("CLB_SEED is a number"),
        Err(_) => RandomState::new().hash_one("seed"),
    };
    let counts = Counts::default();
    let files = (MUTATIONS as u32).div_ceil(BREAKS.len() as u32).div_ceil(THREADS);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let counts = &counts;
            scope.spawn(move || check_files(seed.wrapping_add(u64::from(number)), files, counts));
        }
    });
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let reported = counts.reported.each_ref().map(of);
    println!(
        "{} files accepted, {} mutations reported, {} aliases, CLB_SEED={seed}",
        of(&counts.accepted),
        reported.iter().sum::<u64>(),
        of(&counts.aliases)
    );
    assert_eq!(of(&counts.accepted), u64::from(files * THREADS));
    assert!(reported.iter().sum::<u64>() >= MUTATIONS);
    assert!(reported.iter().all(|&count| count == of(&counts.accepted)), "each break in each file: {reported:?}");
    assert!(of(&counts.aliases) >= MUTATIONS, "aliases are used");
}

/// What was done.
struct Counts {
    accepted: AtomicU64,
    /// For each of the breaks.
    reported: [AtomicU64; BREAKS.len()],
    aliases: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            reported: array::from_fn(|_| AtomicU64::new(0)),
            aliases: AtomicU64::new(0),
        }
    }
}

fn check_files(seed: u64, files: u32, counts: &Counts) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(files) };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &array::from_fn::<_, 32, _>(|at| seed.to_le_bytes()[at % 8]));
    let checked = TestRunner::new_with_rng(config, random).run(&draft::topology(), |topology| {
        let draft = draft::Draft::new(&topology);
        let text = draft.write().text;
        let accepted = load("clb.yaml", text.as_bytes());
        let is_clean = accepted.as_ref().is_ok_and(|loaded| loaded.warnings.is_empty());
        prop_assert!(is_clean, "{:?}\n{}", accepted.map(|loaded| loaded.warnings), text);
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        for ((code, side, break_rule), reported) in BREAKS.iter().zip(&counts.reported) {
            let mut draft = draft.clone();
            let mark = break_rule(&mut draft);
            let written = draft.write();
            let (line, column) = written.places[mark];
            let problems = problems(&written.text);
            let expected = vec![((*code).to_owned(), line, column)];
            prop_assert_eq!(found(&problems), expected, "{}: {:?}\n{}", side, problems, written.text);
            reported.fetch_add(1, Ordering::Relaxed);
            counts.aliases.fetch_add(written.aliases, Ordering::Relaxed);
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("CLB_SEED={seed} has it again\n{error}"));
}

fn problems(text: &str) -> Problems {
    match load("clb.yaml", text.as_bytes()) {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(problems) => problems,
    }
}

/// Code, line and column of each.
fn found(problems: &Problems) -> Vec<(String, u64, u64)> {
    let number = |problem: &Value, key: &str| problem[key].as_u64().expect("a number");
    let found = |problem: &Value| {
        let code = problem["code"].as_str().expect("a code").to_owned();
        (code, number(problem, "line"), number(problem, "column"))
    };
    problems.to_json().as_array().expect("an array").iter().map(found).collect()
}
