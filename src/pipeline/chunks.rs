//! A prompt of any length as chunks that a text encoder can read, and what a weight does to a token.

use super::vocabulary::Vocabulary;
use crate::Result;
use crate::model::tokenizer::Tokenizer;
use crate::prompt::{Span, Wording};
use candle_core::{DType, Device, Tensor};

/// What is read at a time.
pub(super) struct Chunk {
    /// Start, words, end, padding: as many as the text encoder has positions.
    pub(super) ids: Vec<u32>,
    /// One for each id: 1 but for words.
    weights: Vec<f32>,
    /// How many of them are words.
    pub(super) words: usize,
}

impl Chunk {
    /// Where the end token is.
    pub(super) fn end(&self) -> usize {
        self.words + 1
    }
}

/// The chunks of a wording, at least one. Each passage begins a new one, and is spread over as many as it needs.
pub(super) fn chunks(vocabulary: &Vocabulary<'_>, wording: &Wording) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    for passage in &wording.0 {
        chunks.extend(spread(vocabulary, passage)?);
    }
    // Nothing follows a BREAK at the end.
    if chunks.len() > 1 && chunks.last().is_some_and(|chunk| chunk.words == 0) {
        chunks.pop();
    }
    Ok(chunks)
}

/// At least one chunk. What belongs together is not parted, unless it is longer than a chunk.
fn spread(vocabulary: &Vocabulary<'_>, passage: &[Span]) -> Result<Vec<Chunk>> {
    let (tokenizer, room) = (vocabulary.tokenizer, vocabulary.tokenizer.room());
    let (mut chunks, mut words) = (Vec::new(), Vec::new());
    for span in passage {
        for group in vocabulary.groups(&span.text)? {
            if words.len() + group.len() > room && group.len() <= room {
                chunks.push(Chunk::new(tokenizer, &std::mem::take(&mut words)));
            }
            words.extend(group.into_iter().map(|id| (id, span.weight as f32)));
            while words.len() > room {
                chunks.push(Chunk::new(tokenizer, &words[..room]));
                words.drain(..room);
            }
        }
    }
    if chunks.is_empty() || !words.is_empty() {
        chunks.push(Chunk::new(tokenizer, &words));
    }
    Ok(chunks)
}

impl Chunk {
    fn new(tokenizer: &Tokenizer, words: &[(u32, f32)]) -> Self {
        let ids: Vec<u32> = words.iter().map(|(id, _)| *id).collect();
        let mut weights = vec![1.0; tokenizer.max_length()];
        weights[1..].iter_mut().zip(words).for_each(|(weight, (_, given))| *weight = *given);
        Self { ids: tokenizer.framed(&ids), weights, words: words.len() }
    }

    /// The text encoder's states, (1, T, C), each times its weight; then all of them are scaled so that their mean is
    /// what it was (AUTOMATIC1111's `EmphasisOriginal`, in `modules/sd_emphasis.py`). Without weights they are the same
    /// bits.
    pub(super) fn weighted(&self, states: Tensor) -> Result<Tensor> {
        if self.weights.iter().all(|weight| *weight == 1.0) {
            return Ok(states);
        }
        let weights = Tensor::from_slice(&self.weights, (1, self.weights.len(), 1), states.device())?;
        let weighted = states.broadcast_mul(&weights.to_dtype(states.dtype())?)?;
        // While the means of all tokens have one sign, the scale is the inverse of some average of the weights. Where
        // they cancel out it could be anything, and is held to what an average can be.
        let (least, most) = self.weights.iter().fold((1f32, 1f32), |(low, high), w| (low.min(*w), high.max(*w)));
        let scale = (mean(&states)? / mean(&weighted)?).max(f64::from(most).recip()).min(f64::from(least).recip());
        Ok((weighted * scale)?)
    }
}

fn mean(states: &Tensor) -> Result<f64> {
    Ok(states.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.mean_all()?.to_scalar()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::vocabulary::Added;
    use crate::prompt::Prompt;
    use std::path::Path;

    fn read(text: &str) -> Vec<Chunk> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        let tokenizer = Tokenizer::from_folder(&folder, 6).unwrap();
        let none = Added::default();
        chunks(&Vocabulary::new(&tokenizer, &none, 0), &Prompt::parse(text).parts()[0].at(0, 1)).unwrap()
    }

    /// One channel.
    fn weighted(text: &str, states: [f64; 6]) -> Vec<f64> {
        let states = Tensor::from_slice(&states, (1, 6, 1), &Device::Cpu).unwrap();
        let weighted = read(text).remove(0).weighted(states).unwrap();
        weighted.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_passage_fills_as_many_chunks_as_it_needs() {
        let words = |text| read(text).iter().map(|chunk| chunk.words).collect::<Vec<_>>();
        for (text, expected) in [
            ("", &[0][..]),
            ("a a a a", &[4]),
            ("a a (a a:1.2) a", &[4, 1]),
            ("a BREAK a a a a a", &[1, 4, 1]),
            ("a a a a BREAK", &[4]),
            ("BREAK a", &[0, 1]),
            ("a BREAK BREAK a", &[1, 0, 1]),
            ("BREAK", &[0]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
        let long = read("a (the:2) a (a a:1.5)");
        let weights: Vec<_> = long.iter().map(|chunk| chunk.weights.as_slice()).collect();
        assert_eq!(weights, [[1.0, 1.0, 2.0, 1.0, 1.5, 1.0], [1.0, 1.5, 1.0, 1.0, 1.0, 1.0]]);
        assert!(long.iter().all(|chunk| chunk.ids.len() == 6 && chunk.ids[0] == long[0].ids[0]));
    }

    #[test]
    fn a_weight_multiplies_a_state_and_the_mean_stays() {
        let states = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(weighted("a a (a:1.0)", states), states);
        // 1 + 2 * 2 + 3 + 4 + 5 + 6 is 23, and was 21.
        let expected = [1.0, 4.0, 3.0, 4.0, 5.0, 6.0].map(|state| state * 21.0 / 23.0);
        assert!(weighted("(a:2) a", states).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn means_that_cancel_out_do_not_blow_up() {
        for states in [[1.0, -0.5, 0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0, 0.0, 0.0], [0.0; 6]] {
            let found = weighted("(a:2) a", states);
            assert!(found.iter().all(|state| (0.0..=2.0).contains(&state.abs())), "{states:?}: {found:?}");
        }
    }
}
