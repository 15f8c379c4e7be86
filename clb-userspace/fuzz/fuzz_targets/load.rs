//! Feeds any bytes to the loader; `tests/corpus.rs` holds the corpus against the same promises in every test run.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/promises/mod.rs"]
mod promises;

fuzz_target!(|bytes: &[u8]| promises::check(bytes));
