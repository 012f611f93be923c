//! How fast the kernels are at Stable Diffusion 1.5's sizes (512 x 512), in f32 and with products in bf16.
//!
//!     cargo bench --bench kernels [-- FILTER]
//!
//! Elements are additions and multiplications, so that `Gelem/s` is GFLOP/s. The first of each kind is a large square
//! product: the most that the machine gives this program. A group norm is measured by the bytes that it reads and writes.

use candle_core::{Device, Tensor};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use limner::kernels::{self, Activation, Packed, Padding, Products, Weight};
use std::hint::black_box;
use std::time::Duration;

const KINDS: [Products; 2] = [Products::Full, Products::Brain];

/// Numbers in about +-1.
fn numbers(shape: &[usize]) -> Tensor {
    let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many numbers as the shape has")
}

/// (O, I) or (O, kh, kw, I).
fn weight(shape: &[usize], products: Products) -> Weight {
    let plain = numbers(shape);
    match products {
        Products::Full => plain.into(),
        Products::Brain => {
            let panels = kernels::pack(&plain).expect("weights that can be packed");
            Weight::Packed(Packed::new(panels, shape).expect("panels of this shape"))
        }
    }
}

fn kind(products: Products) -> &'static str {
    match products {
        Products::Full => "f32",
        Products::Brain => "bf16",
    }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Measures `work`, which takes so much, once for each kind of product.
fn each(group: &mut Group<'_>, name: &str, amount: Throughput, work: impl Fn(Products) -> Box<dyn Fn() -> Tensor>) {
    group.throughput(amount);
    for products in KINDS {
        let run = work(products);
        group.bench_function(format!("{name}/{}", kind(products)), |bencher| bencher.iter(|| black_box(run())));
    }
}

fn flops(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

fn linear(group: &mut Group<'_>, name: &str, [rows, inputs, outputs]: [usize; 3]) {
    let name = format!("{name} {rows}x{inputs}x{outputs}");
    each(group, &name, flops(2 * rows * inputs * outputs), |products| {
        let (x, w, b) = (numbers(&[rows, inputs]), weight(&[outputs, inputs], products), numbers(&[outputs]));
        Box::new(move || done(kernels::linear(&x, &w, Some(&b))))
    });
}

fn gated(group: &mut Group<'_>, [rows, inputs, outputs]: [usize; 3]) {
    let name = format!("geglu_linear {rows}x{inputs}x{outputs}");
    each(group, &name, flops(4 * rows * inputs * outputs), |products| {
        let (x, w, b) = (numbers(&[rows, inputs]), weight(&[2 * outputs, inputs], products), numbers(&[2 * outputs]));
        Box::new(move || done(kernels::geglu_linear(&x, &w, Some(&b))))
    });
}

fn convolution(group: &mut Group<'_>, side: usize, [inputs, outputs]: [usize; 2]) {
    let name = format!("conv2d 3x3 {side}x{side} {inputs}-{outputs}");
    each(group, &name, flops(18 * side * side * inputs * outputs), |products| {
        let (x, b) = (numbers(&[1, side, side, inputs]), numbers(&[outputs]));
        let w = weight(&[outputs, 3, 3, inputs], products);
        Box::new(move || done(kernels::conv2d(&x, &w, Some(&b), 1, Padding::same(1))))
    });
}

fn attention(group: &mut Group<'_>, [queries, keys]: [usize; 2], [heads, head]: [usize; 2]) {
    let name = format!("attention {queries}x{keys} {heads} heads of {head}");
    each(group, &name, flops(4 * queries * keys * heads * head), |products| {
        let [q, k] = [queries, keys].map(|count| numbers(&[1, count, heads * head]));
        Box::new(move || done(kernels::attention(&q, &k, &k, heads, false, products)))
    });
}

fn group_norm(group: &mut Group<'_>, side: usize, channels: usize) {
    let (x, w) = (numbers(&[1, side, side, channels]), numbers(&[channels]));
    group.throughput(Throughput::Bytes(8 * x.elem_count() as u64));
    group.bench_function(format!("group_norm + SiLU {side}x{side} {channels}/f32"), |bencher| {
        bencher.iter(|| black_box(done(kernels::group_norm(&x, &w, &w, 32, 1e-5, Activation::Silu))));
    });
}

fn done(result: limner::Result<Tensor>) -> Tensor {
    result.expect("sizes that fit each other")
}

fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels");
    linear(&mut group, "square product", [2048; 3]);
    linear(&mut group, "linear", [4096, 320, 320]);
    linear(&mut group, "linear", [1024, 640, 640]);
    gated(&mut group, [4096, 320, 1280]);
    convolution(&mut group, 64, [320, 320]);
    convolution(&mut group, 512, [128, 128]);
    attention(&mut group, [4096, 4096], [8, 40]);
    attention(&mut group, [4096, 77], [8, 40]);
    group_norm(&mut group, 64, 320);
    group.finish();
}

/// About three seconds for each.
fn short() -> Criterion {
    let (warm_up, measured) = (Duration::from_secs(1), Duration::from_secs(2));
    Criterion::default().sample_size(10).warm_up_time(warm_up).measurement_time(measured)
}

criterion_group! { name = benches; config = short(); targets = all }
criterion_main!(benches);
