//! `clb bindable` and `clb plan`: what may be bound, and what a new file would move.

use std::fs;

use clb_tests::repository;

use crate::transcript::assert_transcript;

#[test]
fn transcripts_of_bindable() {
    for (name, words) in [
        ("bindable", "bindable good.yaml"),
        ("bindable-all", "bindable --all good.yaml"),
        ("bindable-as-eni-json", "bindable --as eni --format json good.yaml"),
        ("bindable-listener", "bindable --listener web good.yaml"),
        ("bindable-unknown-listener", "bindable --listener wbe good.yaml"),
        ("bindable-error", "bindable several-primary-enis.yaml"),
        ("bindable-missing", "bindable no-such.yaml"),
    ] {
        assert_transcript(name, &repository().join("clb-userspace/tests/config"), words, b"");
    }
}

#[test]
fn transcripts_of_plan() {
    let folder = tempfile::tempdir().unwrap();
    let old = fs::read_to_string(repository().join("clb-userspace/tests/config/good.yaml")).unwrap();
    for (name, text) in [
        ("old.yaml", old.clone()),
        ("weights.yaml", old.replacen("weight: 10", "weight: 30", 1)),
        ("renamed.yaml", old.replacen("name: web", "name: shop", 1)),
        ("another-port.yaml", old.replacen("port: 80\n", "port: 8443\n", 1)),
        ("another-id.yaml", old.replacen("id: lb-web", "id: lb-shop", 1)),
        ("moved-eni.yaml", old.replacen("attached_to: ins-web2", "attached_to: ins-web1", 1)),
        ("bad.yaml", old.replacen("weight: 10", "weight: 101", 1)),
    ] {
        assert!(text != old || name == "old.yaml", "{name} is no change");
        fs::write(folder.path().join(name), text).unwrap();
    }
    for (name, words) in [
        ("plan-nothing", "plan old.yaml old.yaml"),
        ("plan-weights", "plan old.yaml weights.yaml"),
        ("plan-weights-json", "plan old.yaml weights.yaml --format json"),
        ("plan-weights-beyond-the-most", "plan old.yaml weights.yaml --max-moved 5"),
        ("plan-renamed", "plan old.yaml renamed.yaml"),
        ("plan-another-port", "plan old.yaml another-port.yaml"),
        ("plan-another-id", "plan old.yaml another-id.yaml"),
        ("plan-moved-eni", "plan old.yaml moved-eni.yaml"),
        ("plan-to-bad", "plan old.yaml bad.yaml"),
        ("plan-from-bad", "plan bad.yaml old.yaml"),
        ("plan-missing", "plan no-such.yaml old.yaml"),
        ("plan-share-out-of-range", "plan old.yaml weights.yaml --max-moved 101"),
        ("plan-negative-share", "plan old.yaml weights.yaml --max-moved -1"),
    ] {
        assert_transcript(name, folder.path(), words, b"");
    }
}
