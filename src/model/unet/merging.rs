//! Positions that a self-attention takes for one: token merging (Bolya and Hoffman, arXiv:2303.17604).
//!
//! Of every 2 x 2 positions one stays. Each of the others is most like one of those that stay; the pairs that are most alike are
//! merged: the attention sees their mean, and what comes of it goes to both.

use crate::Result;
use crate::kernels;
use crate::model::layers::{LayerNorm, Projections};
use candle_core::{D, DType, Tensor};

/// Which positions of a sample are seen together.
struct Matching {
    /// Those that are left as they are, then those that others are merged into.
    kept: Vec<u32>,
    /// Pairs: a position, and the place in `kept` of what it is merged into.
    merged: Vec<(u32, u32)>,
}

/// `x + out(attention(h))` with `h = norm(x)`, of which a share of the positions is merged. Shapes: `x` (B, H * W, C) with
/// `size` (H, W); returns the same.
pub(super) fn attention(
    x: &Tensor,
    norm: &LayerNorm,
    p: &Projections,
    size: (usize, usize),
    share: f64,
) -> Result<Tensor> {
    let h = norm.forward(x)?;
    let matchings = Matching::of(&h, size, share)?;
    let merged = (0..matchings.len()).map(|i| matchings[i].merge(&h.get(i)?)).collect::<Result<Vec<_>>>()?;
    let merged = Tensor::stack(&merged, 0)?;
    let (q, k, v) = (p.q.forward(&merged)?, p.k.forward(&merged)?, p.v.forward(&merged)?);
    let attended = p.out.forward(&kernels::attention(&q, &k, &v, p.heads, false, p.q.products())?)?;
    let whole = (0..matchings.len()).map(|i| matchings[i].part(&attended.get(i)?)).collect::<Result<Vec<_>>>()?;
    Ok((x + Tensor::stack(&whole, 0)?)?)
}

/// Whether the position is the one of its 2 x 2 that stays. Which of the four differs from place to place, so that no pattern
/// comes of it; near borders it is one that is there.
fn stays((y, x): (usize, usize), (height, width): (usize, usize)) -> bool {
    // The finaliser of SplitMix64.
    let mut bits = ((y / 2 * width + x / 2) as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let down = usize::from(bits & 1 == 1 && y / 2 * 2 + 1 < height);
    let across = usize::from(bits & 2 == 2 && x / 2 * 2 + 1 < width);
    (y % 2, x % 2) == (down, across)
}

impl Matching {
    /// For each sample of `h`, (B, H * W, C).
    fn of(h: &Tensor, size: (usize, usize), share: f64) -> Result<Vec<Self>> {
        let (height, width) = size;
        let all = (0..height).flat_map(|y| (0..width).map(move |x| (y, x))).zip(0u32..);
        let (staying, others): (Vec<_>, Vec<_>) = all.partition(|(place, _)| stays(*place, size));
        let numbers = |of: Vec<((usize, usize), u32)>| of.into_iter().map(|(_, i)| i).collect::<Vec<_>>();
        let (staying, others) = (numbers(staying), numbers(others));
        let count = ((share * (height * width) as f64) as usize).min(others.len());
        (0..h.dim(0)?).map(|i| Self::new(&h.get(i)?, &staying, &others, count)).collect()
    }

    /// Of one sample, (H * W, C): the `count` others that are most like one of those that stay are merged into it.
    fn new(h: &Tensor, staying: &[u32], others: &[u32], count: usize) -> Result<Self> {
        let rows = |of: &[u32]| -> Result<Tensor> {
            let rows = h.index_select(&Tensor::new(of, h.device())?, 0)?;
            Ok(rows.broadcast_div(&(rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()? + 1e-12)?)?)
        };
        if others.is_empty() {
            return Ok(Self { kept: staying.to_vec(), merged: Vec::new() });
        }
        let likeness = kernels::linear(&rows(others)?, &rows(staying)?.into(), None)?;
        let nearest = likeness.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let likeness = likeness.max(D::Minus1)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let mut order: Vec<usize> = (0..others.len()).collect();
        order.sort_by(|a, b| likeness[*b].total_cmp(&likeness[*a]).then(a.cmp(b)));
        let (merged, left) = order.split_at(count);
        let kept: Vec<u32> = left.iter().map(|i| others[*i]).chain(staying.iter().copied()).collect();
        let merged = merged.iter().map(|i| (others[*i], left.len() as u32 + nearest[*i])).collect();
        Ok(Self { kept, merged })
    }

    /// The positions that the attention sees, of (H * W, C).
    fn merge(&self, h: &Tensor) -> Result<Tensor> {
        let kept = h.index_select(&Tensor::new(&self.kept[..], h.device())?, 0)?;
        if self.merged.is_empty() {
            return Ok(kept);
        }
        let (from, into): (Vec<u32>, Vec<u32>) = self.merged.iter().copied().unzip();
        let mut counts = vec![1.0f32; self.kept.len()];
        into.iter().for_each(|into| counts[*into as usize] += 1.0);
        let counts = Tensor::from_vec(counts, (self.kept.len(), 1), h.device())?.to_dtype(h.dtype())?;
        let rows = h.index_select(&Tensor::new(&from[..], h.device())?, 0)?;
        Ok(kept.index_add(&Tensor::new(&into[..], h.device())?, &rows, 0)?.broadcast_div(&counts)?)
    }

    /// What the attention gave, (kept, C), to all positions.
    fn part(&self, attended: &Tensor) -> Result<Tensor> {
        let mut places = vec![0u32; self.kept.len() + self.merged.len()];
        self.kept.iter().zip(0..).for_each(|(position, place)| places[*position as usize] = place);
        self.merged.iter().for_each(|(position, place)| places[*position as usize] = *place);
        Ok(attended.index_select(&Tensor::new(&places[..], attended.device())?, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_of_every_four_stays_at_any_size() {
        for (height, width) in [(1, 1), (2, 2), (5, 3), (64, 64), (7, 8)] {
            for (top, left) in (0..height).step_by(2).flat_map(|y| (0..width).step_by(2).map(move |x| (y, x))) {
                let places = (top..height.min(top + 2)).flat_map(|y| (left..width.min(left + 2)).map(move |x| (y, x)));
                assert_eq!(places.filter(|place| stays(*place, (height, width))).count(), 1, "{height} x {width}");
            }
        }
    }

    /// Positions of two kinds: within a kind all are merged into one that stays, and come back as they were.
    #[test]
    fn positions_that_are_alike_are_merged_and_come_back() {
        let (size, channels) = ((4, 4), 3);
        let row = |i: usize| if i % 4 < 2 { [1.0f32, 0.0, 2.0] } else { [0.0, 3.0, 0.0] };
        let values: Vec<f32> = (0..16).flat_map(row).collect();
        let h = Tensor::from_vec(values, (1, 16, channels), &Device::Cpu).unwrap();
        let matchings = Matching::of(&h, size, 0.75).unwrap();
        assert_eq!((matchings[0].kept.len(), matchings[0].merged.len()), (4, 12));
        let merged = matchings[0].merge(&h.get(0).unwrap()).unwrap();
        let back = matchings[0].part(&merged).unwrap();
        let off = (back - h.get(0).unwrap()).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-6, "{off}");
    }

    #[test]
    fn the_mean_is_of_all_that_are_merged() {
        let h = Tensor::new(&[[1.0f32], [2.0], [6.0], [4.0]], &Device::Cpu).unwrap();
        let matching = Matching { kept: vec![3, 0], merged: vec![(1, 1), (2, 1)] };
        assert_eq!(matching.merge(&h).unwrap().to_vec2::<f32>().unwrap(), [[4.0], [3.0]]);
        let whole = matching.part(&Tensor::new(&[[7.0f32], [8.0]], &Device::Cpu).unwrap()).unwrap();
        assert_eq!(whole.to_vec2::<f32>().unwrap(), [[8.0], [8.0], [8.0], [7.0]]);
    }
}
