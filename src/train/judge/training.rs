//! Training the judge on the real training pictures of a data set.

use super::{Judge, Towers, augment};
use crate::train::data::{Dataset, Dice, Record, Split};
use crate::train::optimizer::{AdamW, Constants, cosine_rate};
use crate::{Error, Result};
use candle_core::{Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use std::collections::BTreeMap;

/// How long and how fast to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Steps of `batch` pictures each.
    pub steps: usize,
    /// Pictures per step.
    pub batch: usize,
    /// The highest learning rate, reached after a tenth of the steps; it then falls along a cosine.
    pub learning_rate: f64,
    /// Seed of the parameters, batches, texts and distortions: not the generator's.
    pub seed: u64,
}

impl Default for Settings {
    /// About five minutes on one core with 64 x 64 pictures.
    fn default() -> Self {
        Self { steps: 1000, batch: 96, learning_rate: 2e-3, seed: 0x1d6e }
    }
}

/// How often a concept is read as its plain name rather than in other words.
const PLAIN: f64 = 0.7;
/// The style's part of the loss.
const STYLE_WEIGHT: f64 = 0.25;
/// Softmax sharpness is bounded as in CLIP, so that a few easy pictures cannot make it explode.
const LARGEST_LOG_SCALE: f32 = 4.6;
const WEIGHT_DECAY: f64 = 0.05;

/// Trains a judge on the training split of `data`, whose pictures are `pixels` ([`Dataset::load_pixels`]).
/// `on_step(step, loss)` may stop it with an error.
pub fn train(
    data: &Dataset,
    pixels: &[u8],
    settings: &Settings,
    on_step: &mut dyn FnMut(usize, f32) -> Result<()>,
) -> Result<Judge> {
    let lesson = Lesson::new(data, pixels)?;
    let judge = Judge::new(data.words().into_iter().collect(), data.size, settings.seed)?;
    let constants = Constants { weight_decay: WEIGHT_DECAY, ..Constants::default() };
    let mut optimiser = AdamW::new(&judge.parameters, constants)?;
    let variables = optimiser.variables();
    for step in 0..settings.steps {
        let mut dice = Dice::stream(settings.seed, step as u64);
        let loss = lesson.loss(&judge, settings.batch, &mut dice)?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            return Err(Error::NonFinite(format!(
                "the judge's loss is {value} at step {step}: lower its learning rate"
            )));
        }
        let rate = cosine_rate(settings.learning_rate, step, settings.steps / 10, settings.steps);
        optimiser.step(&gradients(&loss, &variables)?, rate)?;
        on_step(step, value)?;
    }
    Ok(judge)
}

/// The loss's gradient by each variable; zeros where it does not depend on one.
fn gradients(loss: &Tensor, variables: &[Var]) -> Result<Vec<Vec<f32>>> {
    let store = loss.backward()?;
    let gradient = |var: &Var| match store.get(var) {
        Some(g) => Ok(g.flatten_all()?.to_vec1()?),
        None => Ok(vec![0.0; var.elem_count()]),
    };
    variables.iter().map(gradient).collect()
}

/// What the judge is taught: the training pictures, each with the number of its concept and of its style.
pub(super) struct Lesson<'a> {
    data: &'a Dataset,
    pixels: &'a [u8],
    pictures: Vec<(usize, u32, Option<u32>)>,
    /// Records of each concept, to draw its texts from.
    concepts: Vec<Vec<&'a Record>>,
    styles: Vec<&'a str>,
}

impl<'a> Lesson<'a> {
    pub(super) fn new(data: &'a Dataset, pixels: &'a [u8]) -> Result<Self> {
        if pixels.len() != data.records.len() * data.picture_bytes() {
            return Err(Error::Training("the pixels are not those of the data set".to_owned()));
        }
        let mut by_concept: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
        for record in data.training() {
            by_concept.entry(&record.concept).or_default().push(record);
        }
        let mut styles: Vec<&str> = data.training().filter_map(|r| r.style.as_deref()).collect();
        styles.sort_unstable();
        styles.dedup();
        let numbers: BTreeMap<&str, u32> = by_concept.keys().copied().zip(0..).collect();
        let entry = |i: usize| {
            let record = &data.records[i];
            let style = styles.iter().zip(0..).find(|(s, _)| Some(**s) == record.style.as_deref());
            (i, numbers[record.concept.as_str()], style.map(|(_, n)| n))
        };
        let pictures = data.indices(Split::Train).into_iter().map(entry).collect();
        Ok(Self { data, pixels, pictures, concepts: by_concept.into_values().collect(), styles })
    }

    /// The loss on a random batch: the picture-to-text half of CLIP's loss, but with *every* concept as an alternative
    /// rather than those of the batch alone (a bag of words costs next to nothing), and the same for the styles.
    pub(super) fn loss(&self, judge: &Judge, batch: usize, dice: &mut Dice) -> Result<Tensor> {
        let towers = judge.towers()?;
        let (mut values, mut concepts, mut styles) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..batch {
            let &(index, concept, style) =
                dice.pick(&self.pictures).ok_or_else(|| Error::Training("nothing to train the judge on".to_owned()))?;
            let bytes = self.data.picture_bytes();
            values.extend(augment::varied(&self.pixels[index * bytes..][..bytes], self.data.size, dice));
            concepts.push(concept);
            styles.push(style);
        }
        let pictures = towers.picture.forward(&judge.batch(values)?)?;
        let names: Vec<String> = self.concepts.iter().map(|records| text(records, dice)).collect();
        let loss = choice(judge, &towers, &pictures, &names, concepts)?;
        // A set without styles (or a picture without one) is taught concepts only.
        match styles.into_iter().collect::<Option<Vec<u32>>>() {
            Some(styles) if self.styles.len() > 1 => {
                let style = choice(judge, &towers, &pictures, &self.styles, styles)?;
                Ok((loss + (style * STYLE_WEIGHT)?)?)
            }
            _ => Ok(loss),
        }
    }
}

/// A concept's name, or now and then other words for it.
fn text(records: &[&Record], dice: &mut Dice) -> String {
    match dice.pick(records) {
        Some(record) if dice.chance(PLAIN) => record.concept.clone(),
        Some(record) => record.wish(dice),
        None => String::new(),
    }
}

/// Cross-entropy of choosing each picture's own text among `texts`.
fn choice<S: AsRef<str>>(
    judge: &Judge,
    towers: &Towers,
    pictures: &Tensor,
    texts: &[S],
    own: Vec<u32>,
) -> Result<Tensor> {
    let scale = towers.log_scale.clamp(0f32, LARGEST_LOG_SCALE)?.exp()?;
    let logits = pictures.matmul(&judge.read(towers, texts)?.t()?)?.broadcast_mul(&scale)?;
    let own = Tensor::from_vec(own, pictures.dim(0)?, &Device::Cpu)?;
    Ok(cross_entropy(&logits, &own)?)
}
