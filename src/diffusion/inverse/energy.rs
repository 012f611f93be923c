//! Pictures of low energy: any number that can be differentiated by the picture steers it.

use super::operator::{quotient, square_norm};
use super::towards::{Pull, View};
use crate::Result;
use crate::diffusion::jacobian::{Linearised, gradient};
use candle_core::{Device, Tensor, Var};

/// What is wanted of a picture.
pub trait Energy {
    /// The lower, the more it is wanted: (B, 3, H, W) in [-1, 1] to (B,). Made of operations that candle can differentiate.
    fn energy(&self, pictures: &Tensor) -> Result<Tensor>;
}

impl<E: Energy + ?Sized> Energy for &E {
    fn energy(&self, pictures: &Tensor) -> Result<Tensor> {
        (**self).energy(pictures)
    }
}

/// An energy as a pull, with `w(x) = exp(-scale E(D(x)))`: the expected clean picture stands for the clean picture (Bansal
/// et al., arXiv:2302.07121, forward guidance). Where the energy is `-log p(c | picture)` of a classifier, this is
/// classifier guidance (Dhariwal and Nichol, arXiv:2105.05233, section 4) by a classifier that never saw noise.
///
/// Where noise is strong, a network's Jacobian is mostly the network's error, and is multiplied by sigma squared: no pull is
/// longer than the gradient by the clean picture, which is the longest that data of unit variance have use for.
pub struct Steered<'a, E> {
    energy: E,
    scale: f64,
    view: Option<View<'a>>,
}

impl<'a, E: Energy> Steered<'a, E> {
    /// `view` shows the pictures in what the model draws; nothing, where they are the same.
    pub fn new(energy: E, scale: f64, view: Option<View<'a>>) -> Self {
        Self { energy, scale, view }
    }
}

impl<E: Energy> Pull for Steered<'_, E> {
    fn pull(&self, at: &Linearised, sigma: f64) -> Result<Tensor> {
        let denoised = Var::from_tensor(&at.denoised())?;
        let energy = match self.view {
            None => self.energy.energy(&denoised)?,
            Some(view) => self.energy.energy(&view(&denoised)?)?,
        };
        let wish = gradient(&denoised, &energy)?;
        let pull = at.vjp(&wish)?;
        let most = quotient(&square_norm(&wish)?, &square_norm(&pull)?)?.sqrt()?;
        Ok((pull.broadcast_mul(&most.clamp(0.0, sigma * sigma)?)? * -self.scale)?)
    }
}

/// The colours of a picture, wherever they are in it: half the square of the sliced Wasserstein distance (Rabin et al. 2011)
/// between the two clouds of pixels, summed over the pixels. With unit errors, this is how unlikely it would be to measure
/// the one palette of the other's picture; a scale of 1 takes the whole way there in a step from pure noise.
#[derive(Debug, Clone)]
pub struct Colours {
    /// (K, 3), rows of length 1.
    directions: Tensor,
    /// (1, K, N): along each direction, where the pixels of the wanted picture lie, in order.
    wanted: Tensor,
}

/// Directions in which colours are compared: the vertices of an icosahedron, one of each opposite pair. Over these the mean
/// of `(u . v)^2` is `|v|^2 / 3` exactly, and that of the fourth power is right as well.
fn directions() -> Vec<[f64; 3]> {
    let golden = (1.0 + 5f64.sqrt()) / 2.0;
    let length = golden.hypot(1.0);
    let (short, long) = (1.0 / length, golden / length);
    [short, -short].into_iter().flat_map(|a| [[0.0, a, long], [a, long, 0.0], [long, 0.0, a]]).collect()
}

impl Colours {
    /// Those of `picture`, (1, 3, H, W) in [-1, 1]; pictures have to have as many pixels.
    pub fn of(picture: &Tensor) -> Result<Self> {
        let all = directions();
        let directions = Tensor::from_vec(all.concat(), (all.len(), 3), &Device::Cpu)?;
        let directions = directions.to_dtype(picture.dtype())?.to_device(picture.device())?;
        let wanted = sorted(&directions, picture)?.detach();
        Ok(Self { directions, wanted })
    }
}

impl Energy for Colours {
    fn energy(&self, pictures: &Tensor) -> Result<Tensor> {
        let apart = sorted(&self.directions, pictures)?.broadcast_sub(&self.wanted)?;
        // Over directions, a mean of three times the square is the square of a whole colour's distance.
        Ok((apart.sqr()?.sum((1, 2))? * (1.5 / self.directions.dim(0)? as f64))?)
    }
}

/// Each picture's pixels along each direction, in order: (B, 3, H, W) to (B, K, H W). The order counts as a constant, which
/// is what it is almost everywhere.
fn sorted(directions: &Tensor, pictures: &Tensor) -> Result<Tensor> {
    let along = directions.broadcast_matmul(&pictures.flatten_from(2)?)?.contiguous()?;
    let order = along.detach().arg_sort_last_dim(true)?;
    Ok(along.gather(&order, 2)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::noise::Philox;
    use candle_core::DType;

    fn numbers(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let numbers = Tensor::from_vec(Philox::new(seed).normals(0, count), shape, &Device::Cpu).unwrap();
        numbers.to_dtype(DType::F64).unwrap()
    }

    fn energies(colours: &Colours, pictures: &Tensor) -> Vec<f64> {
        colours.energy(pictures).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_same_colours_elsewhere_are_the_same_colours() {
        let picture = numbers(1, (1, 3, 4, 6));
        let colours = Colours::of(&picture).unwrap();
        let turned = picture.transpose(2, 3).unwrap().reshape((1, 3, 4, 6)).unwrap();
        assert!(energies(&colours, &turned)[0] < 1e-20);
        let other = numbers(2, (1, 3, 4, 6));
        let both = Tensor::cat(&[&other, &turned], 0).unwrap();
        let [alone, together] = [energies(&colours, &other)[0], energies(&colours, &both)[0]];
        assert!(alone > 1.0 && alone == together, "{alone} {together}");
    }

    /// A palette that is moved by v is half of |v|^2 away, for every pixel.
    #[test]
    fn a_shifted_palette_is_as_far_as_it_was_shifted() {
        let picture = numbers(3, (1, 3, 5, 5));
        let shift = Tensor::new(&[0.3f64, -0.2, 0.5], &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        let found = energies(&Colours::of(&picture).unwrap(), &picture.broadcast_add(&shift).unwrap())[0];
        let expected = 25.0 * 0.5 * (0.09 + 0.04 + 0.25);
        assert!((found - expected).abs() < 1e-10, "{found} {expected}");
    }

    #[test]
    fn the_gradient_is_that_of_the_energy() {
        let (colours, at) = (Colours::of(&numbers(4, (1, 3, 3, 4))).unwrap(), numbers(5, (1, 3, 3, 4)));
        let (var, along) = (Var::from_tensor(&at).unwrap(), numbers(6, (1, 3, 3, 4)));
        let gradients = colours.energy(&var).unwrap().sum_all().unwrap().backward().unwrap();
        let slope = (gradients.get(&var).unwrap() * &along).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        let moved = |by: f64| energies(&colours, &(&at + (&along * by).unwrap()).unwrap())[0];
        let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
        assert!((slope - expected).abs() < 1e-6 * expected.abs(), "{slope} {expected}");
    }
}
