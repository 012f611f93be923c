//! TEMPORARY (core branch replaces it)
#![allow(missing_docs)]
pub struct Philox { seed: u64 }
impl Philox {
    pub fn new(seed: u64) -> Self { Self { seed } }
    pub fn words(&self, offset: u32, n: usize) -> Vec<[u32; 4]> {
        (0..n as u32).map(|i| {
            let mut c = [offset, 0, i, 0];
            let mut k = [self.seed as u32, (self.seed >> 32) as u32];
            for _ in 0..10 {
                let (a, b) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
                c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
                k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
            }
            c
        }).collect()
    }
    pub fn normals(&self, offset: u32, n: usize) -> Vec<f32> {
        self.words(offset, n).iter().map(|g| {
            let u = f64::from(g[0]) * 2f64.powi(-32) + 2f64.powi(-33);
            let v = (f64::from(g[1]) * 2f64.powi(-32) + 2f64.powi(-33)) * std::f64::consts::TAU;
            ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
        }).collect()
    }
}
