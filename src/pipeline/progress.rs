//! What is heard of a picture while it is being drawn.

use super::canvas::Canvas;
use crate::Result;
use crate::image::{self, RgbImage};
use crate::model::checkpoint::Model;
use candle_core::Tensor;

/// What is heard of after each step, and while the first has to wait.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Which picture, from 0.
    pub picture: usize,
    /// How many pictures.
    pub pictures: usize,
    /// Steps of this picture that are done.
    pub step: usize,
    /// Steps of each picture.
    pub steps: usize,
    /// The noise level that this step came from.
    pub sigma: f64,
    /// What the picture would be, for those who ask.
    pub estimate: Option<Estimate<'a>>,
}

/// The clean picture as the network sees it now, not decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct Estimate<'a> {
    pub(super) model: &'a Model,
    /// (1, C, h, w).
    pub(super) latents: &'a Tensor,
    /// What the picture goes into, when it is a part of another.
    pub(super) canvas: Option<&'a Canvas<'a>>,
}

impl Estimate<'_> {
    /// Its latents, (1, C, h, w), scaled as the network sees them. Of the last step they are those that are decoded.
    pub fn latents(&self) -> &Tensor {
        self.latents
    }

    fn picture(&self) -> Result<RgbImage> {
        let picture = image::from_tensor(&self.model.preview(self.latents)?)?;
        match self.canvas {
            Some(canvas) => canvas.finish(picture),
            None => Ok(picture),
        }
    }
}

impl Progress<'_> {
    /// Of work that has to wait for memory before its first step. It is heard of again and again, so that whoever does not
    /// want it any more can say so.
    pub(super) fn waiting() -> Self {
        Self { picture: 0, pictures: 0, step: 0, steps: 0, sigma: 0.0, estimate: None }
    }

    /// Whether nothing was done yet, and nothing can be for the moment.
    pub fn is_waiting(&self) -> bool {
        self.steps == 0
    }

    /// Steps done and steps in all, over all pictures.
    pub fn overall(&self) -> (usize, usize) {
        (self.picture * self.steps + self.step, self.pictures * self.steps)
    }

    /// The picture as it stands: decoded now, so that only those who ask pay for it. None where nobody draws (in tests).
    pub fn preview(&self) -> Result<Option<RgbImage>> {
        self.estimate.map(|estimate| estimate.picture()).transpose()
    }
}
