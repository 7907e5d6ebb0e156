//! The fuzz targets on their kept corpus and on simple changes of it, without a fuzzer. `make fuzz` searches for more.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code)]
mod targets;

use std::fs;
use std::path::Path;

/// Changes of each input: cuts, and bytes that become others.
const CHANGES: usize = 24;

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The same changes every time: where and what follow from the input and the number of the change.
fn changed(input: &[u8], number: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let draw = blake3::hash(&[input, &number.to_le_bytes()].concat());
    let draw = draw.as_bytes();
    let at = u32::from_le_bytes([draw[0], draw[1], draw[2], draw[3]]) as usize % bytes.len().max(1);
    match number % 3 {
        0 => bytes.truncate(at),
        1 => bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte = draw[4]),
        _ => bytes
            .splice(at..at, draw[4..8].iter().copied())
            .for_each(drop),
    }
    bytes
}

#[test]
fn every_target_takes_its_corpus_and_what_lies_near() {
    for (name, target) in targets::TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        target(&[]);
        for input in inputs {
            target(&input);
            (0..CHANGES).for_each(|number| target(&changed(&input, number)));
        }
    }
}

#[test]
fn every_target_has_its_entry_for_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in targets::TARGETS {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
        let entry = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            entry.contains(&format!("llama3_core_fuzz::{name}(data)")),
            "{name}"
        );
    }
}
