//! The layout of the maps that outlive an agent.

use std::fs;

use aya_obj::Object;
use clb_common::LAYOUT_VERSION;
use clb_tests::ebpf_objects;

/// If this fails, an agent would misread the maps of the one before it: raise `LAYOUT_VERSION`, then take the new snapshot.
#[test]
fn maps_of_one_version_have_one_layout() {
    let object = fs::read(ebpf_objects().join("clb")).unwrap();
    let object = Object::parse(&object).unwrap();
    let kept = object.maps.iter().filter(|(name, _)| !name.starts_with(['.', 'A']) && *name != "PROGRAMS");
    let mut lines: Vec<String> = kept
        .map(|(name, map)| {
            format!("{name}: type {}, key {}, value {}", map.map_type(), map.key_size(), map.value_size())
        })
        .collect();
    lines.sort();
    insta::assert_snapshot!(format!("version {LAYOUT_VERSION}\n{}", lines.join("\n")));
}
