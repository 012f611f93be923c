//! `torch.randn` on the CPU in float32: MT19937 (Matsumoto and Nishimura 1998) and Box-Muller, in torch's order.

use std::f32::consts::TAU;

const WORDS: usize = 624;
const SHIFT: usize = 397;
/// Below this many values torch takes a scalar path in f64; from here on, blocks of this many in f32.
const BLOCK: usize = 16;

/// One torch CPU generator, as after `torch.manual_seed(seed)`.
#[derive(Debug, Clone)]
pub struct TorchCpu {
    words: Vec<u32>,
    next: usize,
    /// The scalar path makes normals in pairs and keeps the second for its next call.
    spare: Option<f64>,
}

impl TorchCpu {
    /// Only the low 32 bits of the seed count, as in torch.
    pub fn new(seed: u64) -> Self {
        let mut words = vec![seed as u32; WORDS];
        for i in 1..WORDS {
            let previous = words[i - 1] ^ (words[i - 1] >> 30);
            words[i] = previous.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { words, next: WORDS, spare: None }
    }

    /// The next `n` standard normal values: what `torch.randn(n, generator=self)` would give.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK { (0..n).map(|_| self.scalar_normal() as f32).collect() } else { self.block_normals(n) }
    }

    /// All uniforms first, then each block of 16 in place; a ragged end redraws the last 16 uniforms.
    fn block_normals(&mut self, n: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..n).map(|_| self.uniform24()).collect();
        values.chunks_exact_mut(BLOCK).for_each(box_muller);
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut values[n - BLOCK..];
            tail.fill_with(|| self.uniform24());
            box_muller(tail);
        }
        values
    }

    fn scalar_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.uniform53(), self.uniform53());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * u1).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    fn uniform24(&mut self) -> f32 {
        (self.word() & 0x00FF_FFFF) as f32 / 16_777_216.0
    }

    fn uniform53(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / 9_007_199_254_740_992.0
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut y = self.words[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let y = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % WORDS] & 0x7FFF_FFFF);
            let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.words[i] = self.words[(i + SHIFT) % WORDS] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// Sixteen uniforms in [0, 1) become sixteen normals: eight radii, eight angles, cosines before sines.
fn box_muller(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (u, v) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * (1.0 - *u).ln()).sqrt();
        let (sin, cos) = (TAU * *v).sin_cos();
        (*u, *v) = (radius * cos, radius * sin);
    }
}
