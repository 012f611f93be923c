//! The generators against torch 2.9.1 and A1111's Philox (`golden_rng.json`).

use super::assert_close;
use limner::diffusion::noise::{Philox, TorchCpu};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    torch_cpu: Vec<TorchCase>,
    philox: Vec<PhiloxCase>,
}

#[derive(Deserialize)]
struct TorchCase {
    seed: u64,
    n: usize,
    #[serde(default)]
    values: Vec<f64>,
    #[serde(default)]
    then_randn3: Vec<f64>,
    #[serde(default)]
    first8: Vec<f64>,
    #[serde(default)]
    last8: Vec<f64>,
    sum64: Option<f64>,
    sumsq64: Option<f64>,
}

#[derive(Deserialize)]
struct PhiloxCase {
    seed: u64,
    offset: u32,
    u32: [Vec<u32>; 4],
    a1111_nv_randn: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../fixtures/golden_rng.json")).unwrap()
}

fn wide(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

#[test]
fn torch_cpu_normals_around_the_block_size_and_after() {
    for case in golden().torch_cpu.iter().filter(|case| !case.values.is_empty()) {
        let mut generator = TorchCpu::new(case.seed);
        assert_close(&wide(generator.normals(case.n)), &case.values, 1e-6);
        assert_close(&wide(generator.normals(3)), &case.then_randn3, 1e-6);
    }
}

#[test]
fn a_latent_of_torch_cpu_normals() {
    let golden = golden();
    let case = golden.torch_cpu.iter().find(|case| case.n == 16384).unwrap();
    let values = wide(TorchCpu::new(case.seed).normals(case.n));
    assert_close(&values[..8], &case.first8, 1e-6);
    assert_close(&values[case.n - 8..], &case.last8, 1e-6);
    assert_close(&[values.iter().sum()], &[case.sum64.unwrap()], 1e-3);
    assert_close(&[values.iter().map(|x| x * x).sum()], &[case.sumsq64.unwrap()], 1e-2);
}

#[test]
fn philox_words_exactly_and_its_normals() {
    for case in golden().philox {
        let philox = Philox::new(case.seed);
        let n = case.u32[0].len();
        for (i, block) in philox.words(case.offset, n).into_iter().enumerate() {
            assert_eq!(block, [0, 1, 2, 3].map(|g: usize| case.u32[g][i]), "seed {} block {i}", case.seed);
        }
        assert_close(&wide(philox.normals(case.offset, n)), &case.a1111_nv_randn, 1e-6);
    }
}
