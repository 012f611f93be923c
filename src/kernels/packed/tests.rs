//! Products in bf16 against plain ones in f64 of the same rounded numbers, on every instruction set that is here.

mod gradients;

use super::attention::{Sizes as Heads, attention};
use super::conv2d::Convolution;
use super::feed::Feed;
use super::isa::Isa;
use super::linear::{Added, geglu, linear};
use super::tile::Block;
use super::*;
use crate::kernels::conv2d::Sizes;
use crate::kernels::math::normal;
use crate::kernels::{Padding, on_this_thread};

/// Numbers in about +-1, the same at every run.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let number = |i: usize| {
        let mut h = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD1B5_4A32_D192_ED03);
        h = (h ^ (h >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (h >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
    };
    (0..count).map(number).collect()
}

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(bf16::from_f32(*v).to_f32())).collect()
}

fn packed(values: &[f32], dims: &[usize]) -> Packed {
    let tensor = Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
    Packed::new(pack(&tensor).unwrap(), dims).unwrap()
}

/// The largest difference, in units of the largest expected number.
fn apart(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3f64, |top, v| top.max(v.abs()));
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max) / scale
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// `x w^T`, of rounded numbers.
fn naive(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    x.chunks(inputs).flat_map(|row| w.chunks(inputs).map(|w| dot(row, w)).collect::<Vec<f64>>()).collect()
}

#[test]
fn weights_of_all_types_are_packed_and_unpacked() {
    for dims in [&[1usize, 1][..], &[5, 7], &[16, 32], &[33, 70], &[3, 3, 3, 5], &[40, 3, 3, 33], &[17, 1, 1, 64]] {
        let values = numbers(dims.iter().product(), 1);
        let tensor = Tensor::from_slice(&values, dims, &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let stored = tensor.to_dtype(dtype).unwrap();
            let found = Packed::new(pack(&stored).unwrap(), dims).unwrap().unpack().unwrap();
            let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<bf16>().unwrap();
            let expected = stored.to_dtype(DType::F32).unwrap().to_dtype(DType::BF16).unwrap();
            assert!(bits(&found) == bits(&expected), "{dims:?} {dtype:?}");
        }
    }
    let panels = pack(&Tensor::zeros((5, 7), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert!(Packed::new(panels.clone(), &[5, 40]).is_err() && Packed::new(panels, &[40, 7]).is_err());
}

#[test]
fn linear_layers_are_right_on_every_instruction_set() {
    for (rows, inputs, outputs) in
        [(1, 1, 1), (2, 3, 5), (31, 40, 16), (33, 77, 33), (100, 320, 64), (7, 64, 1000), (1030, 32, 40), (3, 1000, 31)]
    {
        let (x, w, bias) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
        let mut expected = naive(&rounded(&x), &rounded(&w), inputs);
        let beside = numbers(rows * outputs, 4);
        for (i, v) in expected.iter_mut().enumerate() {
            *v += f64::from(bias[i % outputs]) + f64::from(beside[i]);
        }
        let w = packed(&w, &[outputs, inputs]);
        for isa in Isa::all() {
            let added = Added { bias: Some(&bias), rows: Some(&beside), ..Added::default() };
            let run = || linear(isa, &w, &x, added).unwrap();
            let found = run();
            assert!(apart(&found, &expected) < 2e-6, "{isa:?} {rows} x {inputs} x {outputs}");
            assert!(same_bits(&found, &on_this_thread(run)), "{isa:?}: depends on threads");
            // A row is what it is among others.
            let last = linear(isa, &w, &x[(rows - 1) * inputs..], Added::default()).unwrap();
            let all = linear(isa, &w, &x, Added::default()).unwrap();
            assert!(same_bits(&last, &all[(rows - 1) * outputs..]), "{isa:?}: depends on other rows");
        }
    }
}

#[test]
fn gated_layers_are_right_on_every_instruction_set() {
    for (rows, inputs, inner) in [(1, 5, 16), (40, 33, 48), (600, 64, 64)] {
        let (x, w, bias) = (numbers(rows * inputs, 1), numbers(2 * inner * inputs, 2), numbers(2 * inner, 3));
        let sums = naive(&rounded(&x), &rounded(&w), inputs);
        let gated = |sums: &[f64]| -> Vec<f64> {
            let at = |i: usize| sums[i] + f64::from(bias[i]);
            (0..inner).map(|i| at(i) * at(inner + i) * f64::from(normal(at(inner + i) as f32).0)).collect()
        };
        let expected: Vec<f64> = sums.chunks(2 * inner).flat_map(gated).collect();
        let first = packed(&w, &[2 * inner, inputs]);
        for isa in Isa::all() {
            let found = geglu(isa, &first, &x, Some(&bias)).unwrap();
            assert!(apart(&found, &expected) < 2e-5, "{isa:?} {rows} x {inputs} x {inner}");
        }
        // Joined with what follows it, where that is served.
        let (v, after) = (numbers(inputs * inner, 4), numbers(inputs, 5));
        let second = packed(&v, &[inputs, inner]);
        assert_eq!(Feed::serves([&first, &second], rows), rows == 600);
        if rows == 600 {
            let h: Vec<f32> = expected.iter().map(|v| *v as f32).collect();
            let mut expected = naive(&rounded(&h), &rounded(&v), inner);
            for (i, y) in expected.iter_mut().enumerate() {
                *y += f64::from(x[i]) + f64::from(after[i % inputs]);
            }
            for isa in Isa::all() {
                let feed = Feed { weights: [&first, &second], biases: [&bias, &after] };
                let run = || feed.run(isa, &x, |x, y| y.copy_from_slice(x)).unwrap();
                let found = run();
                // What lies between may be rounded the other way where it lies halfway.
                assert!(apart(&found, &expected) < 2e-3, "{isa:?}");
                assert!(same_bits(&found, &on_this_thread(run)), "{isa:?}: depends on threads");
            }
        }
    }
}

#[test]
fn convolutions_are_right_on_every_instruction_set() {
    let cases = [
        ((1, 1, 1, 1), None, (1, 1), 1, Padding::same(0)),
        ((2, 8, 8, 6), None, (5, 3), 1, Padding::same(1)),
        ((3, 7, 5, 4), None, (9, 3), 2, Padding::same(1)),
        ((2, 8, 6, 3), None, (4, 3), 2, Padding::after(1)),
        ((1, 33, 31, 2), None, (3, 5), 1, Padding::same(2)),
        ((2, 40, 37, 32), None, (40, 3), 1, Padding::same(1)),
        ((2, 5, 6, 33), Some((10, 12)), (34, 3), 1, Padding::same(1)),
        ((2, 3, 4, 8), Some((5, 7)), (4, 3), 1, Padding::same(1)),
        ((2, 9, 4, 40), None, (33, 1), 1, Padding::same(0)),
        ((1, 4, 5, 3), None, (2, 3), 1, Padding { top: 0, bottom: 2, left: 2, right: 0 }),
    ];
    for ((b, h, w, i), enlarged, (o, k), stride, padding) in cases {
        let (x, weights) = (numbers(b * h * w * i, 1), numbers(o * k * k * i, 2));
        let dims = [o, k, k, i];
        let shape = Shape::from((b, h, w, i));
        let sizes = Sizes::new(&shape, &Shape::from(dims.to_vec()), enlarged, stride, padding).unwrap();
        // Unfolded, by what has tests of its own.
        let mut rows = vec![0.0f32; sizes.positions * k * k * i];
        sizes.unfold(&x, 0, 0, &mut rows);
        let (bias, e) = (numbers(o, 3), numbers(b * o, 4));
        let mut expected = naive(&rounded(&rows), &rounded(&weights), k * k * i);
        for (at, v) in expected.iter_mut().enumerate() {
            let sample = at / o / (sizes.positions / b);
            *v += f64::from(bias[at % o]) + f64::from(e[sample * o + at % o]);
        }
        let weights = packed(&weights, &dims);
        for isa in Isa::all() {
            let convolution = Convolution { sizes, weights: &weights, affine: None };
            let added = Added { bias: Some(&bias), per_sample: Some(&e), ..Added::default() };
            let run = || convolution.run(isa, &x, added, None).unwrap();
            let found = run();
            assert!(apart(&found, &expected) < 2e-6, "{isa:?} {b} x {h} x {w} x {i}, {o} {k} {stride} {padding:?}");
            assert!(same_bits(&found, &on_this_thread(run)), "{isa:?}: depends on threads");
            let onto = convolution.run(isa, &x, added, Some(found.clone())).unwrap();
            let twice: Vec<f32> = found.iter().map(|v| v + v).collect();
            assert!(same_bits(&onto, &twice), "{isa:?}: added to what is there");
        }
    }
}

/// Enlarged twice, with weights of which sums are none that would be rounded; and with others.
#[test]
fn convolutions_by_quarters_are_right_on_every_instruction_set() {
    for ((b, h, w, i), o, grid) in [((2, 16, 16, 40), 33, 8.0), ((1, 19, 33, 32), 64, 8.0), ((1, 16, 16, 40), 33, 1e6)]
    {
        let (x, bias) = (numbers(b * h * w * i, 1), numbers(o, 3));
        let weights: Vec<_> = numbers(o * 9 * i, 2).into_iter().map(|v| (v * grid).round() / grid).collect();
        let (shape, dims) = (Shape::from((b, h, w, i)), [o, 3, 3, i]);
        let enlarged = Some((2 * h, 2 * w));
        let sizes = Sizes::new(&shape, &Shape::from(dims.to_vec()), enlarged, 1, Padding::same(1)).unwrap();
        let mut rows = vec![0.0f32; sizes.positions * 9 * i];
        sizes.unfold(&x, 0, 0, &mut rows);
        let mut expected = naive(&rounded(&rows), &rounded(&weights), 9 * i);
        expected.iter_mut().enumerate().for_each(|(at, v)| *v += f64::from(bias[at % o]));
        let weights = packed(&weights, &dims);
        for isa in Isa::all() {
            let added = Added { bias: Some(&bias), ..Added::default() };
            let convolution = Convolution { sizes, weights: &weights, affine: None };
            let run = || convolution.run(isa, &x, added, None).unwrap();
            let found = run();
            let most = if grid == 8.0 { 2e-6 } else { 5e-3 };
            assert!(apart(&found, &expected) < most, "{isa:?}: {}", apart(&found, &expected));
            assert!(same_bits(&found, &on_this_thread(run)), "{isa:?}: depends on threads");
        }
    }
}

/// In f64, of rounded keys and values, and queries that are rounded when they have been scaled.
fn naive_attention(s: Heads, [q, k, v]: [&[f32]; 3]) -> Vec<f64> {
    let q: Vec<f32> = q.iter().map(|v| v * s.scale()).collect();
    let (q, k, v) = (rounded(&q), rounded(k), rounded(v));
    let mut y = vec![0.0; q.len()];
    let row = |x: &[f64], sample: usize, of: usize, at: usize, head: usize| -> Vec<f64> {
        x[(sample * of + at) * s.channels + head * s.head..][..s.head].to_vec()
    };
    for sample in 0..q.len() / (s.queries * s.channels) {
        for (query, head) in (0..s.queries).flat_map(|query| (0..s.channels / s.head).map(move |head| (query, head))) {
            let seen = if s.causal { (query + 1).min(s.keys) } else { s.keys };
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let own = row(&q, sample, s.queries, query, head);
            let scores: Vec<f64> = (0..seen).map(|key| dot(&own, &row(&k, sample, s.keys, key, head)).exp2()).collect();
            let all: f64 = scores.iter().sum();
            let out = &mut y[(sample * s.queries + query) * s.channels + head * s.head..][..s.head];
            for (key, score) in scores.iter().enumerate() {
                let values = row(&v, sample, s.keys, key, head);
                out.iter_mut().zip(values).for_each(|(y, v)| *y += score / all * v);
            }
        }
    }
    y
}

#[test]
fn attention_is_right_on_every_instruction_set() {
    for (batch, queries, keys, heads, head, causal) in [
        (1, 1, 1, 1, 1, false),
        (2, 5, 5, 2, 4, true),
        (1, 33, 31, 3, 40, false),
        (2, 70, 77, 2, 64, false),
        (1, 150, 150, 2, 40, true),
        (1, 40, 1100, 1, 80, false),
        (1, 3, 520, 2, 160, false),
    ] {
        // So short that powers of scores are taken as they are, and so long that the largest is taken off.
        for length in [2.0, 8.0] {
            attention_is_right((batch, queries, keys, heads, head, causal), length);
        }
    }
}

fn attention_is_right(
    (batch, queries, keys, heads, head, causal): (usize, usize, usize, usize, usize, bool),
    length: f32,
) {
    let s = Heads { queries, keys, channels: heads * head, head, causal };
    let stretched = |count, seed| numbers(count, seed).iter().map(|v| v * length).collect::<Vec<f32>>();
    let q = stretched(batch * queries * s.channels, 1);
    let (k, v) = (stretched(batch * keys * s.channels, 2), numbers(batch * keys * s.channels, 3));
    let expected = naive_attention(s, [&q, &k, &v]);
    for isa in Isa::all() {
        let run = || attention(isa, s, [&q, &k, &v]);
        let found = run();
        // The weights are rounded as well.
        assert!(apart(&found, &expected) < 5e-3, "{isa:?} {s:?}: {}", apart(&found, &expected));
        assert!(same_bits(&found, &on_this_thread(run)), "{isa:?}: depends on threads");
    }
}

/// Numbers that are none are not passed over.
#[test]
fn an_attention_says_where_it_is_not_finite() {
    let s = Heads { queries: 3, keys: 40, channels: 8, head: 8, causal: false };
    let (good, mut bad) = (numbers(40 * 8, 1), numbers(40 * 8, 2));
    bad[8] = f32::NAN;
    for isa in Isa::all() {
        let nan = |x: &[f32]| x.iter().map(|v| v.is_nan()).collect::<Vec<_>>();
        assert!(nan(&attention(isa, s, [&good[..24], &bad, &good])).iter().all(|nan| *nan), "{isa:?}: keys");
        let of_query = nan(&attention(isa, s, [&bad[..24], &good, &good]));
        assert_eq!(of_query, (0..24).map(|i| (8..16).contains(&i)).collect::<Vec<_>>(), "{isa:?}: queries");
    }
}

#[test]
fn activations_for_bf16_are_near() {
    use crate::kernels::math::{gelu_for_bf16, silu_for_bf16};
    for i in -2000..2000 {
        let x = i as f32 * 0.05;
        let (wide, scale) = (f64::from(x), f64::from(x).abs().max(1e-2));
        let silu = (f64::from(silu_for_bf16(x)) - wide / (1.0 + (-wide).exp())).abs();
        let gelu = (f64::from(gelu_for_bf16(x)) - wide * f64::from(normal(x).0)).abs();
        assert!(silu < 1e-5 * scale && gelu < 1e-5 * scale, "{x}: {silu} {gelu}");
    }
}

/// Whole vectors and what is left over, against the formulas in f64, and NaN stays NaN.
#[test]
fn what_goes_into_a_product_is_near_what_it_should_be() {
    let (x, scales, shifts) = (numbers(77, 1), numbers(77, 2), numbers(77, 3));
    let x: Vec<f32> = x.iter().map(|v| v * 30.0).collect();
    let wide = |v: &[u16]| v.iter().map(|v| f64::from(round::widen(*v))).collect::<Vec<_>>();
    let near = |found: f64, expected: f64| (found - expected).abs() <= expected.abs() * 4.2e-3 + 1e-6;
    let mut found = vec![0; 77];
    activation::round(&x, &mut found);
    assert!(found.iter().zip(&x).all(|(found, x)| *found == round::bits(*x)));
    for silu in [false, true] {
        activation::scale(&x, &scales, &shifts, silu, &mut found);
        for (i, found) in wide(&found).into_iter().enumerate() {
            let affine = f64::from(x[i] * scales[i] + shifts[i]);
            let expected = if silu { affine / (1.0 + (-affine).exp()) } else { affine };
            assert!(near(found, expected), "{silu} {affine}: {found} {expected}");
        }
    }
    let mut block = Block::zero();
    block.0.iter_mut().flatten().zip(numbers(1024, 4)).for_each(|(to, v)| *to = 8.0 * v);
    block.0[3][20] = f32::NAN;
    let biases = [numbers(16, 5), numbers(16, 6)];
    let halves = [0, 1].map(|half: usize| biases[half].first_chunk().unwrap());
    let mut gated = vec![0; 30 * 40];
    activation::gate(&block, 30, halves, (&mut gated, 40));
    for (row, (sums, gated)) in block.0.iter().zip(wide(&gated).chunks(40)).enumerate() {
        for j in 0..16 {
            let [value, gate] = [0, 1].map(|half| sums[16 * half + j] + biases[half][j]);
            let expected = f64::from(value) * f64::from(gate) * f64::from(normal(gate).0);
            let same = if expected.is_nan() { gated[j].is_nan() } else { near(gated[j], expected) };
            assert!(same, "row {row}, {value} {gate}: {} {expected}", gated[j]);
        }
    }
    let mut one = [0; 16];
    activation::scale(&[f32::NAN; 16], &[1.0; 16], &[0.0; 16], true, &mut one);
    assert!(one.iter().all(|v| round::widen(*v).is_nan()));
}

#[test]
fn powers_of_two_are_near() {
    use crate::kernels::math::exp2;
    for i in -1270..1270 {
        let x = i as f32 * 0.1;
        let expected = f64::from(x).exp2();
        let found = f64::from(exp2(x));
        assert!((found / expected - 1.0).abs() < 4e-6 || x < -126.0 && found == 0.0, "{x}: {found} {expected}");
    }
    assert_eq!((exp2(f32::NEG_INFINITY), exp2(0.0)), (0.0, 1.0));
}
