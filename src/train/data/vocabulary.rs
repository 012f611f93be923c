//! A byte-pair vocabulary in CLIP's format, learnt from a data set's captions (Sennrich et al. 2016, "Neural Machine
//! Translation of Rare Words with Subword Units", algorithm 1; byte units and `</w>` as in CLIP's `simple_tokenizer.py`).

use super::captions::words;
use super::{Dataset, Dice};
use crate::{Error, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

/// Opens every tokenised text; the last id but one.
pub const START: &str = "<|startoftext|>";
/// Closes every tokenised text, and pads it; the last id.
pub const END: &str = "<|endoftext|>";
/// Marks a unit that ends a word.
const WORD_END: &str = "</w>";
/// Captions drawn from each record to weigh the words.
const DRAWS: usize = 8;

/// Units and how they are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Unit i has id i.
    pub units: Vec<String>,
    /// Pairs to merge, most urgent first.
    pub merges: Vec<(String, String)>,
}

/// How often each word occurs in captions drawn from the training records; the same for the same data set.
pub fn word_counts(data: &Dataset) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = data.words().into_iter().map(|word| (word, 1)).collect();
    let mut dice = Dice::new(0);
    for record in data.training() {
        for word in (0..DRAWS).flat_map(|_| words(&record.caption(&mut dice))) {
            *counts.entry(word).or_default() += 1;
        }
    }
    counts
}

/// Learns a vocabulary of at most `size` units (fewer if every word has become one unit) from words and their counts.
/// `size` must leave room for the 512 byte units and two special ones.
pub fn train(counts: &BTreeMap<String, u64>, size: usize) -> Result<Vocabulary> {
    let mut units = byte_units();
    let room = size
        .checked_sub(units.len() + 2)
        .ok_or_else(|| Error::Training(format!("a vocabulary needs at least {} units, not {size}", units.len() + 2)))?;
    let mut corpus = Corpus::new(counts);
    let mut known: HashSet<String> = units.iter().cloned().collect();
    let mut merges = Vec::new();
    while known.len() < 512 + room {
        let Some(pair) = corpus.commonest_pair() else { break };
        let merged = format!("{}{}", pair.0, pair.1);
        corpus.merge(&pair, &merged);
        merges.push(pair);
        if known.insert(merged.clone()) {
            units.push(merged);
        }
    }
    units.extend([START.to_owned(), END.to_owned()]);
    Ok(Vocabulary { units, merges })
}

/// Writes the four files of a tokenizer folder that `transformers.CLIPTokenizer` and [`crate::model`] read.
/// `max_length` counts the start and end units.
pub fn write_tokenizer(folder: &Path, vocabulary: &Vocabulary, max_length: usize) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let ids: BTreeMap<&str, usize> = vocabulary.units.iter().enumerate().map(|(id, u)| (u.as_str(), id)).collect();
    let merges: String = vocabulary.merges.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
    let special = json!({ "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END });
    let mut config = special.clone();
    config["tokenizer_class"] = json!("CLIPTokenizer");
    config["do_lower_case"] = json!(true);
    config["errors"] = json!("replace");
    config["model_max_length"] = json!(max_length);
    let files = [
        ("vocab.json", json!(ids).to_string()),
        ("merges.txt", format!("#version: 0.2\n{merges}")),
        ("tokenizer_config.json", format!("{config:#}\n")),
        ("special_tokens_map.json", format!("{special:#}\n")),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(Error::io(&path))?;
    }
    Ok(())
}

/// Byte b as the printable character that stands for it (GPT-2's `bytes_to_unicode`), in CLIP's order: the printable
/// bytes themselves, then the others as U+0100 and up.
fn byte_characters() -> Vec<(u8, char)> {
    let is_printable = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let printable = (0..=255u8).filter(is_printable).map(|b| (b, char::from(b)));
    let others = (0..=255u8).filter(|b| !is_printable(b)).zip('\u{100}'..);
    printable.chain(others).collect()
}

/// The 256 byte units, then the same at a word's end.
fn byte_units() -> Vec<String> {
    let characters = byte_characters();
    let inside = characters.iter().map(|(_, c)| c.to_string());
    inside.chain(characters.iter().map(|(_, c)| format!("{c}{WORD_END}"))).collect()
}

/// A word as its byte units.
fn spell(word: &str, characters: &HashMap<u8, char>) -> Vec<String> {
    let mut units: Vec<String> = word.bytes().filter_map(|b| characters.get(&b)).map(char::to_string).collect();
    if let Some(last) = units.last_mut() {
        last.push_str(WORD_END);
    }
    units
}

type Pair = (String, String);

/// The words as they are spelt so far, with the counts of neighbours kept up to date.
struct Corpus {
    words: Vec<(Vec<String>, u64)>,
    counts: HashMap<Pair, u64>,
    places: HashMap<Pair, BTreeSet<usize>>,
}

impl Corpus {
    fn new(counts: &BTreeMap<String, u64>) -> Self {
        let characters: HashMap<u8, char> = byte_characters().into_iter().collect();
        let words = counts.iter().map(|(word, &n)| (spell(word, &characters), n)).collect::<Vec<_>>();
        let mut corpus = Self { words, counts: HashMap::new(), places: HashMap::new() };
        for index in 0..corpus.words.len() {
            corpus.count(index);
        }
        corpus
    }

    /// The pair that occurs most often; of equals the first in the alphabet, so that the result never varies.
    fn commonest_pair(&self) -> Option<Pair> {
        let best = self.counts.iter().max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)));
        best.map(|(pair, _)| pair.clone())
    }

    fn merge(&mut self, pair: &Pair, merged: &str) {
        for index in self.places.get(pair).cloned().unwrap_or_default() {
            self.forget(index);
            let units = &mut self.words[index].0;
            let mut i = 0;
            while i + 1 < units.len() {
                if units[i] == pair.0 && units[i + 1] == pair.1 {
                    merged.clone_into(&mut units[i]);
                    units.remove(i + 1);
                }
                i += 1;
            }
            self.count(index);
        }
    }

    fn count(&mut self, index: usize) {
        let (units, n) = &self.words[index];
        for pair in units.windows(2).map(|p| (p[0].clone(), p[1].clone())) {
            *self.counts.entry(pair.clone()).or_default() += n;
            self.places.entry(pair).or_default().insert(index);
        }
    }

    fn forget(&mut self, index: usize) {
        let (units, n) = &self.words[index];
        for pair in units.windows(2).map(|p| (p[0].clone(), p[1].clone())) {
            if let Some(places) = self.places.get_mut(&pair) {
                places.remove(&index);
            }
            if let Some(count) = self.counts.get_mut(&pair) {
                *count -= n;
                if *count == 0 {
                    self.counts.remove(&pair);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(words: &[(&str, u64)]) -> BTreeMap<String, u64> {
        words.iter().map(|(w, n)| ((*w).to_owned(), *n)).collect()
    }

    #[test]
    fn byte_units_are_in_clips_order() {
        // from open_clip.tokenizer import bytes_to_unicode; v = list(bytes_to_unicode().values()); v[0], v[93], v[94], v[187], v[188], v[255]
        let units = byte_units();
        assert_eq!(units.len(), 512);
        let at = |i: usize| units[i].as_str();
        assert_eq!((at(0), at(93), at(94), at(187), at(188), at(255)), ("!", "~", "¡", "ÿ", "Ā", "Ń"));
        assert_eq!((at(256), at(511)), ("!</w>", "Ń</w>"));
    }

    #[test]
    fn the_commonest_pair_is_merged_first() -> Result<()> {
        // low 5, lower 2, newest 6, widest 3: the example of Sennrich et al.: (e, s), (es, t</w>), (l, o), ...
        let vocabulary = train(&counts(&[("low", 5), ("lower", 2), ("newest", 6), ("widest", 3)]), 512 + 2 + 4)?;
        let merges: Vec<String> = vocabulary.merges.iter().map(|(a, b)| format!("{a}+{b}")).collect();
        assert_eq!(merges, ["e+s", "es+t</w>", "l+o", "e+w"]);
        assert_eq!(vocabulary.units.len(), 518);
        assert_eq!(vocabulary.units[516..], [START, END]);
        Ok(())
    }

    #[test]
    fn training_stops_when_every_word_is_one_unit() -> Result<()> {
        let vocabulary = train(&counts(&[("aa", 3), ("cat", 2), ("é", 1)]), 4096)?;
        let last: Vec<&str> = vocabulary.units[512..].iter().map(String::as_str).collect();
        assert!(last.contains(&"cat</w>") && last.contains(&"aa</w>"), "{last:?}");
        assert_eq!(vocabulary.units.len(), 512 + 2 + vocabulary.merges.len());
        Ok(())
    }

    #[test]
    fn a_vocabulary_too_small_for_all_bytes_is_refused() {
        assert!(matches!(train(&counts(&[("a", 1)]), 513), Err(Error::Training(_))));
    }
}
