//! Ranks and what is made of them.

use crate::Result;
use crate::train::data::{Dataset, Record};
use crate::train::judge::Judge;
use candle_core::Tensor;
use serde::Serialize;
use std::collections::BTreeSet;

/// A share with its Wilson 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The share, in [0, 1].
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The 97.5 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Interval {
    /// `hits` of `n` (Wilson 1927): sensible at 0 and 1 too, where the textbook interval has no width. Of nothing, all
    /// is possible.
    pub fn wilson(hits: usize, n: usize) -> Self {
        if n == 0 {
            return Self { value: 0.0, low: 0.0, high: 1.0 };
        }
        let (p, n) = (hits as f64 / n as f64, n as f64);
        let centre = p + Z * Z / (2.0 * n);
        let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let whole = 1.0 + Z * Z / n;
        Self { value: p, low: ((centre - reach) / whole).max(0.0), high: ((centre + reach) / whole).min(1.0) }
    }
}

/// How well pictures were recognised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Pictures judged.
    pub pictures: usize,
    /// The prompt's concept came first.
    pub recall_at_1: Interval,
    /// It was among the first five.
    pub recall_at_5: Interval,
    /// The median of its places, 1 being the best.
    pub median_rank: usize,
    /// The style was recognised, where prompts name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<Interval>,
}

/// All concepts and styles of a data set, as the judge sees them.
pub(super) struct Gallery {
    concepts: Names,
    styles: Names,
}

impl Gallery {
    pub(super) fn new(data: &Dataset, judge: &Judge) -> Result<Self> {
        let concepts = data.records.iter().map(|r| r.concept.as_str());
        let styles = data.records.iter().filter_map(|r| r.style.as_deref());
        Ok(Self { concepts: Names::new(concepts, judge)?, styles: Names::new(styles, judge)? })
    }

    /// The number of concepts: chance is one in so many.
    pub(super) fn len(&self) -> usize {
        self.concepts.names.len()
    }

    /// Judges one picture per record.
    pub(super) fn score(&self, judge: &Judge, pixels: &[u8], records: &[&Record]) -> Result<Score> {
        let pictures = judge.embed_pictures(pixels)?;
        let concepts: Vec<&str> = records.iter().map(|r| r.concept.as_str()).collect();
        let mut ranks = self.concepts.ranks(&pictures, &concepts)?;
        ranks.sort_unstable();
        let among = |k: usize| Interval::wilson(ranks.iter().filter(|&&rank| rank <= k).count(), ranks.len());
        Ok(Score {
            pictures: ranks.len(),
            recall_at_1: among(1),
            recall_at_5: among(5),
            median_rank: ranks.get(ranks.len() / 2).copied().unwrap_or_default(),
            style: self.style(&pictures, records)?,
        })
    }

    fn style(&self, pictures: &Tensor, records: &[&Record]) -> Result<Option<Interval>> {
        let Some(styles) = records.iter().map(|r| r.style.as_deref()).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let ranks = self.styles.ranks(pictures, &styles)?;
        Ok(Some(Interval::wilson(ranks.iter().filter(|&&rank| rank == 1).count(), ranks.len())))
    }
}

/// Different texts in alphabetical order with their embeddings (texts, D); none for no texts.
struct Names {
    names: Vec<String>,
    embeddings: Option<Tensor>,
}

impl Names {
    fn new<'a>(texts: impl Iterator<Item = &'a str>, judge: &Judge) -> Result<Self> {
        let names: Vec<String> = texts.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect();
        let embeddings = if names.is_empty() { None } else { Some(judge.embed_texts(&names)?) };
        Ok(Self { names, embeddings })
    }

    /// The place of each picture's own text among all, from 1. Equals share the worse place, so that a judge that says
    /// the same of everything recognises nothing.
    fn ranks(&self, pictures: &Tensor, own: &[&str]) -> Result<Vec<usize>> {
        let Some(embeddings) = &self.embeddings else { return Ok(Vec::new()) };
        let scores = pictures.matmul(&embeddings.t()?)?.to_vec2::<f32>()?;
        let place = |(row, own): (&Vec<f32>, &&str)| {
            let own = self.names.iter().position(|name| name == own);
            own.map_or(self.names.len(), |own| row.iter().filter(|&&score| score >= row[own]).count())
        };
        Ok(scores.iter().zip(own).map(place).collect())
    }
}
