//! A large picture in bands of rows, so that only what is being worked on, and one picture at a time, is in memory.
//!
//! Convolutions see the rows around a band, and group norms are told the moments of the whole picture, so that the bands
//! are those of the picture decoded whole: there are no seams to be hidden.

use crate::Result;
use crate::kernels::Moments;
use crate::model::layers::Conv2d;
use candle_core::Tensor;
use std::collections::VecDeque;
use std::ops::Range;

/// Rows of a band. Two to four more are computed around it, and thrown away.
const ROWS: usize = 64;

/// The rows of a picture (1, H, W, C), from above to below.
#[derive(Debug, Default)]
pub(super) struct Bands {
    bands: VecDeque<Tensor>,
    /// Rows above those that are there.
    gone: usize,
}

impl Bands {
    /// Those of `x`, (1, H, W, C), which they are copied from.
    pub(super) fn of(x: &Tensor) -> Result<Self> {
        let mut bands = Self::default();
        for rows in bands_of(x.dim(1)?) {
            bands.push(x.narrow(1, rows.start, rows.len())?.force_contiguous()?);
        }
        Ok(bands)
    }

    /// Puts a band below the others.
    pub(super) fn push(&mut self, band: Tensor) {
        self.bands.push_back(band);
    }

    /// Rows, width and channels.
    fn dims(&self) -> Result<[usize; 3]> {
        let heights = self.bands.iter().map(|band| band.dim(1)).sum::<candle_core::Result<usize>>()?;
        let (_, _, width, channels) = self.bands.back().map_or(Ok((1, 0, 0, 0)), Tensor::dims4)?;
        Ok([self.gone + heights, width, channels])
    }

    /// These rows, none of which may have been let go.
    fn rows(&self, rows: &Range<usize>) -> Result<Tensor> {
        let mut start = self.gone;
        let mut parts = Vec::new();
        for band in &self.bands {
            let end = start + band.dim(1)?;
            let part = rows.start.max(start)..rows.end.min(end);
            if !part.is_empty() {
                parts.push(band.narrow(1, part.start - start, part.len())?);
            }
            start = end;
        }
        Ok(Tensor::cat(&parts, 1)?)
    }

    /// Lets bands go that lie above row `before`.
    fn forget(&mut self, before: usize) -> Result<()> {
        while let Some(first) = self.bands.front() {
            let height = first.dim(1)?;
            if self.gone + height > before {
                break;
            }
            self.gone += height;
            self.bands.pop_front();
        }
        Ok(())
    }

    /// The whole picture.
    pub(super) fn whole(self) -> Result<Tensor> {
        Ok(Tensor::cat(&Vec::from(self.bands), 1)?)
    }
}

/// A picture of which rows can be had.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// They are there.
    Kept(Bands),
    /// They are made each time: those of a picture that is enlarged and goes through a convolution.
    Enlarged(Box<Self>, &'a Conv2d),
}

impl<'a> Source<'a> {
    /// This picture enlarged and gone through `conv`; kept where that takes no more than `most` numbers.
    pub(super) fn enlarged(self, conv: &'a Conv2d, most: usize) -> Result<Self> {
        let mut enlarged = Self::Enlarged(Box::new(self), conv);
        let [height, width, channels] = enlarged.dims()?;
        if height * width * channels > most {
            return Ok(enlarged);
        }
        let mut kept = Bands::default();
        for rows in bands_of(height) {
            kept.push(enlarged.rows(&rows)?);
            enlarged.forget(rows.end)?;
        }
        Ok(Self::Kept(kept))
    }

    /// Height, width and channels.
    pub(super) fn dims(&self) -> Result<[usize; 3]> {
        match self {
            Self::Kept(bands) => bands.dims(),
            Self::Enlarged(source, _) => {
                let [height, width, channels] = source.dims()?;
                Ok([2 * height, 2 * width, channels])
            }
        }
    }

    /// These rows, none of which may have been let go, (1, rows, W, C).
    pub(super) fn rows(&self, rows: &Range<usize>) -> Result<Tensor> {
        match self {
            Self::Kept(bands) => bands.rows(rows),
            Self::Enlarged(source, conv) => {
                let [height, width, _] = source.dims()?;
                let seen = rows.start.saturating_sub(1) / 2..(rows.end + 1).div_ceil(2).min(height);
                let x = source.rows(&seen)?;
                // Rounded as the whole picture is there, so that the numbers are the same.
                let y = conv.forward_enlarged_for_block(&x, (2 * seen.len(), 2 * width))?.to_dtype(x.dtype())?;
                Ok(y.narrow(1, rows.start - 2 * seen.start, rows.len())?)
            }
        }
    }

    /// Lets go what only rows above `before` take; those are not asked for again.
    pub(super) fn forget(&mut self, before: usize) -> Result<()> {
        match self {
            Self::Kept(bands) => bands.forget(before),
            Self::Enlarged(source, _) => source.forget(before.saturating_sub(1) / 2),
        }
    }

    /// Those of the whole picture.
    pub(super) fn moments(&self) -> Result<Moments> {
        moments(bands_of(self.dims()?[0]).map(|rows| self.rows(&rows)))
    }
}

/// Those of the picture that has these bands.
pub(super) fn moments(bands: impl Iterator<Item = Result<Tensor>>) -> Result<Moments> {
    let mut moments = Moments::default();
    for band in bands {
        moments.add(&band?)?;
    }
    Ok(moments)
}

/// The bands of a picture of so many rows.
pub(super) fn bands_of(height: usize) -> impl Iterator<Item = Range<usize>> {
    (0..height).step_by(ROWS).map(move |first| first..height.min(first + ROWS))
}

/// A band and the rows around it that convolutions look at.
pub(super) struct Seen {
    rows: Range<usize>,
    /// Where the band begins among them.
    first: usize,
    length: usize,
}

impl Seen {
    /// `band` with `around` rows on either side, where there are as many.
    pub(super) fn new(band: &Range<usize>, around: usize, height: usize) -> Self {
        let rows = band.start.saturating_sub(around)..height.min(band.end + around);
        Self { first: band.start - rows.start, length: band.len(), rows }
    }

    /// All of them.
    pub(super) fn rows(&self) -> &Range<usize> {
        &self.rows
    }

    /// The band alone, of what was made of all: the rows around it saw the end of the picture where it goes on.
    pub(super) fn own(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.narrow(1, self.first, self.length)?)
    }
}
