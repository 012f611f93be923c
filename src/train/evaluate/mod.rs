//! How well a model draws what it is asked, by three questions that need no other model's weights:
//!
//! * Does the judge find the prompt's concept among all concepts, first or among the first five? Beside it stand the
//!   same figure for real pictures (the ceiling) and for generated pictures with exchanged prompts (the floor).
//! * Is the style the one that was asked for?
//! * Are generated pictures copies? Their distance to the nearest training picture stands beside that of real pictures
//!   which were not trained on.
//!
//! Asked for prompts seen in training and for (concept, style) pairs held out of it.

mod nearest;
mod report;
mod score;

pub use report::{Group, Nearest, Report};
pub use score::{Interval, Score};

use super::data::{Dataset, Dice, Record, Split};
use super::judge::Judge;
use crate::{Error, Result};
use image::RgbImage;
use score::Gallery;

/// What is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Prompts of each group, at most; fewer if the group has fewer.
    pub prompts: usize,
    /// Chooses the prompts, and is the first picture's seed.
    pub seed: u64,
}

/// Draws one picture: the prompt and the seed.
pub type Painter<'a> = dyn FnMut(&str, u64) -> Result<RgbImage> + 'a;

/// Evaluates the model behind `painter`, or, without one, only the judge on real pictures. `pixels` are those of
/// `data`. Pictures must come in the judge's size.
pub fn evaluate(
    data: &Dataset,
    pixels: &[u8],
    judge: &Judge,
    settings: &Settings,
    mut painter: Option<&mut Painter<'_>>,
) -> Result<Report> {
    if data.size != judge.size() {
        let message = format!("the judge is for pictures of {} pixels, the data has {}", judge.size(), data.size);
        return Err(Error::Training(message));
    }
    let gallery = Gallery::new(data, judge)?;
    let training = nearest::Thumbnails::of(data, pixels, &data.indices(Split::Train));
    let mut group = |split| -> Result<(Option<Group>, Option<f64>)> {
        let chosen = choose(data, split, settings);
        if chosen.is_empty() {
            return Ok((None, None));
        }
        let records: Vec<&Record> = chosen.iter().map(|&i| &data.records[i]).collect();
        let real = gallery.score(judge, &gather(data, pixels, &chosen), &records)?;
        let Some(painter) = painter.as_deref_mut() else {
            return Ok((Some(Group { real, generated: None, shuffled: None }), None));
        };
        let drawn = draw(&records, judge.size(), settings.seed, painter)?;
        let generated = Some(gallery.score(judge, &drawn, &records)?);
        let shuffled = Some(gallery.score(judge, &drawn, &exchanged(&records))?);
        let copies = training.median_distance(&nearest::Thumbnails::new(&drawn, data.size));
        Ok((Some(Group { real, generated, shuffled }), copies))
    };
    let (seen, seen_distance) = group(Split::Train)?;
    let (pairs, pair_distance) = group(Split::HeldOutPair)?;
    let unseen: Vec<usize> = [Split::HeldOutPair, Split::HeldOut].iter().flat_map(|&s| data.indices(s)).collect();
    let real = training.median_distance(&nearest::Thumbnails::of(data, pixels, &unseen));
    let nearest =
        Nearest { generated_seen: seen_distance, generated_held_out_pairs: pair_distance, real_held_out: real };
    Ok(Report { concepts: gallery.len(), seen, held_out_pairs: pairs, nearest_training_picture: nearest })
}

/// A fixed random choice of a split's records.
pub fn choose(data: &Dataset, split: Split, settings: &Settings) -> Vec<usize> {
    let mut indices = data.indices(split);
    Dice::new(settings.seed).shuffle(&mut indices);
    indices.truncate(settings.prompts);
    indices
}

/// The pixels of the chosen records, one after the other.
fn gather(data: &Dataset, pixels: &[u8], indices: &[usize]) -> Vec<u8> {
    let bytes = data.picture_bytes();
    indices.iter().flat_map(|&i| &pixels[i * bytes..][..bytes]).copied().collect()
}

/// The pixels of one generated picture for each record's prompt.
fn draw(records: &[&Record], size: usize, seed: u64, painter: &mut Painter<'_>) -> Result<Vec<u8>> {
    let mut pixels = Vec::new();
    for (record, seed) in records.iter().zip(seed..) {
        let picture = painter(&record.prompt(), seed)?;
        if picture.dimensions() != (size as u32, size as u32) {
            let (w, h) = picture.dimensions();
            let message = format!("the model draws {w}x{h} pixels, but the judge and the data are for {size}x{size}");
            return Err(Error::Training(message));
        }
        pixels.extend(picture.into_raw());
    }
    Ok(pixels)
}

/// Every record at another's place, as far from its own as possible.
fn exchanged<'a>(records: &[&'a Record]) -> Vec<&'a Record> {
    let (front, back) = records.split_at(records.len() / 2);
    [back, front].concat()
}

#[cfg(test)]
mod tests;
