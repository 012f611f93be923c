//! A small seeded generator for choices (captions, batches, splits); noise has its own in `diffusion`.

/// SplitMix64 (Steele, Lea & Flood 2014): the same seed gives the same draws everywhere, and its whole state is one
/// number, so that a resumed training run goes on with the same captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dice(u64);

impl Dice {
    /// Dice that start at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice for one of many independent streams: `(seed, stream)` is mixed, so that neighbours share nothing.
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed);
        Self(dice.word() ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    /// The state, which [`Dice::new`] takes back.
    pub fn state(self) -> u64 {
        self.0
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..n; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.word()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// One of `items`, or `None` if there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// A random order in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // def f(s): z=(s:=s+0x9e3779b97f4a7c15 & M); ... the reference sequence of Vigna's splitmix64.c for seed 1234567
    #[test]
    fn words_are_those_of_the_reference() {
        let mut dice = Dice::new(1_234_567);
        let words: Vec<u64> = (0..3).map(|_| dice.word()).collect();
        assert_eq!(words, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<usize> = (0..50).collect();
        Dice::new(3).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
