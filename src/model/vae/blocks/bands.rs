//! The blocks of encoder and decoder, of pictures in bands.

use super::{DownBlock, ResnetBlock, UpBlock};
use crate::Result;
use crate::kernels::Products;
use crate::model::layers::residual_block;
use crate::model::vae::bands::{Bands, Seen, Source, bands_of, moments};
use candle_core::{DType, Tensor};

impl ResnetBlock {
    /// Of `x`, which is let go on the way. Whole where input, output and what is between take no more than `most` numbers.
    fn forward_bands<'a>(&self, x: Source<'a>, most: usize) -> Result<Source<'a>> {
        let [height, width, inputs] = x.dims()?;
        if height * width * (inputs + 2 * self.norm2.channels()) > most {
            return Ok(Source::Kept(self.in_bands(x)?));
        }
        let whole = x.rows(&(0..height))?;
        drop(x);
        Ok(Source::Kept(Bands::of(&self.forward(&whole)?)?))
    }

    /// What is between the two convolutions is computed twice: for its moments, and to go on with.
    fn in_bands(&self, mut x: Source<'_>) -> Result<Bands> {
        let [height, ..] = x.dims()?;
        let of_input = self.norm1.moments(&x.moments()?);
        let norm1 = self.norm1.knowing(&of_input);
        let between = bands_of(height).map(|band| {
            let seen = Seen::new(&band, 1, height);
            seen.own(&self.rounded(&self.conv1.forward_normed(norm1, &x.rows(seen.rows())?)?)?)
        });
        let between = moments(between)?;
        let between = self.norm2.moments(&between);
        let (first, second) = ((norm1, &self.conv1), (self.norm2.knowing(&between), &self.conv2));
        let mut y = Bands::default();
        for band in bands_of(height) {
            let seen = Seen::new(&band, 2, height);
            let rows = residual_block(&x.rows(seen.rows())?, first, None, second, self.conv_shortcut.as_ref())?;
            y.push(seen.own(&rows)?);
            x.forget(band.end.saturating_sub(2))?;
        }
        Ok(y)
    }

    /// What is between the convolutions as it is there in a block that is computed at once.
    fn rounded(&self, between: &Tensor) -> Result<Tensor> {
        Ok(match self.conv1.products() {
            Products::Full => between.clone(),
            Products::Brain => between.to_dtype(DType::BF16)?.to_dtype(between.dtype())?,
        })
    }
}

impl DownBlock {
    /// Of `x`, as [`DownBlock::forward`]; pictures are worked on whole where that takes no more than `most` numbers.
    pub(in crate::model::vae) fn forward_bands<'a>(&self, x: Source<'a>, most: usize) -> Result<Source<'a>> {
        let mut x = self.resnets.iter().try_fold(x, |x, block| block.forward_bands(x, most))?;
        let Some(conv) = &self.downsample else { return Ok(x) };
        let [height, ..] = x.dims()?;
        let mut y = Bands::default();
        for band in bands_of(height / 2) {
            // A row more than the band's own, where there is one: the convolution adds one itself, which then counts for none.
            y.push(conv.forward(&x.rows(&(2 * band.start..height.min(2 * band.end + 1)))?)?);
            x.forget(2 * band.end)?;
        }
        Ok(Source::Kept(y))
    }
}

impl UpBlock {
    /// Of `x`, as [`UpBlock::forward`]; whole pictures are kept that take no more than `most` numbers.
    pub(in crate::model::vae) fn forward_bands<'a>(&'a self, x: Source<'a>, most: usize) -> Result<Source<'a>> {
        let x = self.resnets.iter().try_fold(x, |x, block| block.forward_bands(x, most))?;
        match &self.upsample {
            Some(conv) => x.enlarged(conv, most),
            None => Ok(x),
        }
    }
}
