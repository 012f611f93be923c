//! Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

/// Each round multiplies two of the four words by these ...
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// ... and moves the key on by these (the golden ratio and sqrt(3) - 1).
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// A stream of random numbers addressed by `(seed, offset, index)`: it has no state to keep.
///
/// Laid out as PyTorch on CUDA does for small tensors (A1111's `NV`, stable-diffusion.cpp's `cuda`): the key is the
/// 64-bit seed, the counter is `(offset, 0, index, 0)`, and each call of `randn` moves the offset on by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The stream of `seed`; all 64 bits count.
    pub fn new(seed: u64) -> Self {
        Self { key: halves(seed) }
    }

    /// `n` standard normal values of draw number `offset`. Box-Muller in f64, rounded once.
    pub fn normals(&self, offset: u32, n: usize) -> Vec<f32> {
        self.blocks(offset, n).map(|[g0, g1, ..]| box_muller(g0, g1)).collect()
    }

    /// `n` blocks of four raw words of draw number `offset`, uniform over all of u32.
    pub fn words(&self, offset: u32, n: usize) -> Vec<[u32; 4]> {
        self.blocks(offset, n).collect()
    }

    fn blocks(&self, offset: u32, n: usize) -> impl Iterator<Item = [u32; 4]> {
        let key = self.key;
        (0..n as u64).map(move |index| {
            let [low, high] = halves(index);
            philox([offset, 0, low, high], key)
        })
    }
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low0, high0] = halves(u64::from(counter[0]) * u64::from(MULTIPLIERS[0]));
        let [low1, high1] = halves(u64::from(counter[2]) * u64::from(MULTIPLIERS[1]));
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// The half-step keeps both uniforms off zero, so that the logarithm needs no guard.
fn box_muller(g0: u32, g1: u32) -> f32 {
    const STEP: f64 = 1.0 / 4_294_967_296.0;
    let u = f64::from(g0) * STEP + STEP / 2.0;
    let angle = (f64::from(g1) * STEP + STEP / 2.0) * std::f64::consts::TAU;
    ((-2.0 * u.ln()).sqrt() * angle.sin()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answer_of_the_zero_key_and_counter() {
        assert_eq!(Philox::new(0).words(0, 1), [[0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]]);
    }

    #[test]
    fn the_upper_half_of_the_seed_counts() {
        assert_ne!(Philox::new(1).words(0, 1), Philox::new(1 + (1 << 32)).words(0, 1));
    }
}
