//! Which pictures are kept from training: a fixed choice by name, so that it never moves between runs or versions.

use super::{Record, Split};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Concepts held out in every style, per thousand of those with long names.
const WHOLE: u64 = 50;
/// Only names of this many words are held out whole: what a newcomer types first ("pizza") must not be missing.
const LONG_NAME: usize = 3;
/// Concepts held out in exactly one style, per thousand.
const PAIRS: u64 = 100;
/// Pictures of a folder held out, per thousand.
const SOME: u64 = 20;
/// A folder smaller than this is used for training as a whole.
const SMALLEST_FOLDER: usize = 200;

/// Marks the held-out records of a set with styles. A tenth of the concepts drawn in all `styles` lose one style each,
/// the styles taking turns over the sorted names (a Latin square); a twentieth of those with long names is held out whole.
pub(super) fn hold_out_pairs(records: &mut [Record], styles: &[&str]) {
    let mut drawn: BTreeMap<String, usize> = BTreeMap::new();
    for record in records.iter() {
        *drawn.entry(record.concept.clone()).or_default() += 1;
    }
    let chosen = drawn.iter().filter(|&(name, &n)| n == styles.len() && (WHOLE..WHOLE + PAIRS).contains(&lot(name)));
    let turn: BTreeMap<String, &str> =
        chosen.enumerate().map(|(i, (name, _))| (name.clone(), styles[i % styles.len()])).collect();
    for record in records {
        let is_pair = record.style.is_some() && turn.get(&record.concept).copied() == record.style.as_deref();
        record.split = match (is_whole(&record.concept), is_pair) {
            (true, _) => Split::HeldOut,
            (_, true) => Split::HeldOutPair,
            _ => Split::Train,
        };
    }
}

/// Holds out a fiftieth of a folder of captioned pictures, unless it is so small that each picture is needed.
pub(super) fn hold_out_some(records: &mut [Record]) {
    if records.len() >= SMALLEST_FOLDER {
        for record in records.iter_mut().filter(|r| lot(&r.file) < SOME) {
            record.split = Split::HeldOut;
        }
    }
}

fn is_whole(concept: &str) -> bool {
    lot(concept) < WHOLE && concept.split(' ').count() >= LONG_NAME
}

/// A number below 1000 that depends on the name alone.
fn lot(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0u64, |n, &byte| n << 8 | u64::from(byte)) % 1000
}
