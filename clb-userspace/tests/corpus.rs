//! Holds the promises of the fuzz target `fuzz/fuzz_targets/load.rs` against inputs of the kinds that trouble parsers.

use std::{fs, path::Path};

mod promises;

#[test]
fn the_corpus_keeps_the_promises() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/corpus");
    let files: Vec<_> = fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        println!("{}", file.display());
        promises::check(&fs::read(&file).expect("a readable file"));
    }
}
