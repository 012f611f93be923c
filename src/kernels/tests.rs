//! Every kernel against candle's own operations: values and all gradients, over random and awkward shapes.

use super::*;
use candle_core::{Device, Var};

fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    super::linear(x, &w.clone().into(), b)
}

fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, stride: usize, padding: Padding) -> Result<Tensor> {
    super::conv2d(x, &w.clone().into(), b, stride, padding)
}

fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    super::attention(q, k, v, heads, causal, Products::Full)
}

/// Deterministic values in about +-1.
fn var(shape: &[usize], seed: u64) -> Var {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| {
            let mut h = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD1B5_4A32_D192_ED03);
            h = (h ^ (h >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((h >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
        })
        .collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    let (a, b) = (a.flatten_all().unwrap(), b.flatten_all().unwrap());
    let scale = b.abs().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap().max(1e-3);
    (a - b).unwrap().abs().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap() / scale
}

/// Compares values and gradients of two functions of the same variables, under a fixed random weighting of the output.
fn agree(name: &str, vars: &[Var], ours: impl Fn(&[Var]) -> Result<Tensor>, theirs: impl Fn(&[Var]) -> Result<Tensor>) {
    let (a, b) = (ours(vars).unwrap(), theirs(vars).unwrap());
    assert_eq!(a.dims(), b.dims(), "{name}");
    assert!(largest_difference(&a, &b) < 2e-5, "{name}: values differ by {}", largest_difference(&a, &b));
    let weights = var(a.dims(), 99);
    let gradients = |y: &Tensor| (y * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
    let (ga, gb) = (gradients(&a), gradients(&b));
    for (i, v) in vars.iter().enumerate() {
        let (x, y) = (ga.get(v).expect("a gradient"), gb.get(v).expect("a gradient"));
        assert!(largest_difference(x, y) < 5e-5, "{name}: gradient {i} differs by {}", largest_difference(x, y));
    }
}

#[test]
fn linear_agrees() {
    for (rows, inputs, outputs) in [(1, 1, 1), (7, 13, 5), (64, 48, 96), (130, 3, 17)] {
        let vars = [var(&[2, rows, inputs], 1), var(&[outputs, inputs], 2), var(&[outputs], 3)];
        agree("linear", &vars, |v| linear(&v[0], &v[1], Some(&v[2])), |v| reference::linear(&v[0], &v[1], Some(&v[2])));
        agree(
            "linear without bias",
            &vars[..2],
            |v| linear(&v[0], &v[1], None),
            |v| reference::linear(&v[0], &v[1], None),
        );
    }
}

/// Values and gradients of layers with weights rounded as they are used, in units of the largest: within bf16's eight bits.
#[test]
fn rounded_weights_give_nearly_the_gradients_of_plain_ones() {
    let off = |vars: &[Var], run: &dyn Fn(&Weight) -> Tensor| {
        let gradients = |weight: &Weight| {
            let y = run(weight);
            let gradients = (&y * var(y.dims(), 99).as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
            let of_vars = vars.iter().map(|v| gradients.get(v).expect("a gradient").clone());
            [y].into_iter().chain(of_vars).collect::<Vec<_>>()
        };
        let w = vars[1].as_tensor().clone();
        let (found, expected) = (gradients(&Weight::Rounded(w.clone())), gradients(&Weight::Plain(w)));
        found.iter().zip(&expected).map(|(a, b)| largest_difference(a, b)).fold(0.0, f32::max)
    };
    for (rows, inputs, outputs) in [(1, 1, 1), (7, 13, 5), (64, 48, 96), (130, 3, 17)] {
        let vars = [var(&[2, rows, inputs], 1), var(&[outputs, inputs], 2), var(&[outputs], 3)];
        let off = off(&vars, &|w| super::linear(&vars[0], w, Some(&vars[2])).unwrap());
        assert!(off > 0.0 && off < 1e-2, "linear {rows} x {inputs} x {outputs}: {off}");
    }
    for ((h, w, i), (o, k), stride) in [((8, 8, 6), (5, 3), 1), ((7, 5, 40), (9, 3), 2), ((4, 4, 33), (65, 1), 1)] {
        let vars = [var(&[2, h, w, i], 1), var(&[o, k, k, i], 2), var(&[o], 3)];
        let padding = Padding::same(k / 2);
        let off = off(&vars, &|w| super::conv2d(&vars[0], w, Some(&vars[2]), stride, padding).unwrap());
        assert!(off > 0.0 && off < 1e-2, "convolution {h} x {w} x {i}, {o} {k} {stride}: {off}");
    }
}

/// Joined operations are for weights that do not change, so those that do go one by one, also where no gradient is wanted.
#[test]
fn blocks_of_rounded_weights_are_their_parts() {
    let p = block_parameters(6, 6).iter().map(|v| v.detach()).collect::<Vec<_>>();
    let x = var(&[2, 5, 4, 6], 1).detach();
    let rounded = Parameters { weights: p.iter().cloned().map(Weight::Rounded).collect(), tensors: p };
    let block = block(&rounded, 2, None, false);
    let half = |x: &Tensor, (norm, convolution): (Normalisation<'_>, Convolution<'_>)| {
        let h = group_norm(x, norm.weight, norm.bias, norm.groups, norm.eps, Activation::Silu).unwrap();
        super::conv2d(&h, convolution.weight, convolution.bias, 1, convolution.padding).unwrap()
    };
    let expected = (&x + half(&half(&x, block.first), block.second)).unwrap();
    assert!(bits(&residual_block(&x, block).unwrap()) == bits(&expected));
}

/// (2, 6) has as many values as three rows of four, so counting values alone would not notice.
#[test]
fn linear_refuses_another_width() {
    let message = linear(&var(&[2, 6], 1), &var(&[5, 4], 2), None).unwrap_err().to_string();
    assert!(message.contains("[2, 6]") && message.contains("[5, 4]"), "{message}");
}

#[test]
fn conv2d_agrees() {
    let cases = [
        ((1, 1, 1, 1), (1, 1), 1, Padding::same(0)),
        ((2, 8, 8, 6), (5, 3), 1, Padding::same(1)),
        ((3, 7, 5, 4), (9, 3), 2, Padding::same(1)),
        ((2, 8, 6, 3), (4, 3), 2, Padding::after(1)),
        ((1, 33, 31, 2), (3, 5), 1, Padding::same(2)),
        // By Winograd's algorithm: odd and even sizes, and any padding.
        ((2, 17, 19, 32), (64, 3), 1, Padding::same(1)),
        ((1, 20, 18, 16), (32, 3), 1, Padding::after(1)),
        ((2, 18, 18, 48), (32, 3), 1, Padding::same(0)),
        ((1, 16, 21, 16), (96, 3), 1, Padding { top: 2, bottom: 0, left: 0, right: 3 }),
    ];
    for ((b, h, w, i), (o, k), stride, padding) in cases {
        let vars = [var(&[b, h, w, i], 1), var(&[o, k, k, i], 2), var(&[o], 3)];
        agree(
            "conv2d",
            &vars,
            |v| conv2d(&v[0], &v[1], Some(&v[2]), stride, padding),
            |v| reference::conv2d(&v[0], &v[1], Some(&v[2]), stride, padding),
        );
    }
}

#[test]
fn norms_agree() {
    for (shape, groups) in [(vec![2, 4, 4, 6], 3), (vec![3, 1, 8], 8), (vec![1, 5, 3, 32], 1)] {
        let c = shape[shape.len() - 1];
        let vars = [var(&shape, 1), var(&[c], 2), var(&[c], 3)];
        for activation in [Activation::Identity, Activation::Silu] {
            agree(
                "group norm",
                &vars,
                |v| group_norm(&v[0], &v[1], &v[2], groups, 1e-5, activation),
                |v| reference::group_norm(&v[0], &v[1], &v[2], groups, 1e-5, activation),
            );
        }
        agree(
            "layer norm",
            &vars,
            |v| layer_norm(&v[0], &v[1], &v[2], 1e-5),
            |v| reference::layer_norm(&v[0], &v[1], &v[2], 1e-5),
        );
    }
}

#[test]
fn attention_agrees() {
    for (b, t, s, c, heads, causal) in
        [(2, 5, 5, 8, 2, true), (1, 64, 32, 24, 3, false), (2, 131, 7, 6, 1, false), (1, 70, 70, 4, 2, true)]
    {
        let vars = [var(&[b, t, c], 1), var(&[b, s, c], 2), var(&[b, s, c], 3)];
        agree(
            "attention",
            &vars,
            |v| attention(&v[0], &v[1], &v[2], heads, causal),
            |v| reference::attention(&v[0], &v[1], &v[2], heads, causal),
        );
    }
}

#[test]
fn activations_agree() {
    let x = [var(&[3, 5, 14], 1)];
    // Stretched, so that the tails are reached.
    agree("geglu", &x, |v| geglu(&(v[0].as_tensor() * 6.0)?), |v| reference::geglu(&(v[0].as_tensor() * 6.0)?));
    agree("silu", &x, |v| silu(&(v[0].as_tensor() * 30.0)?), |v| Ok((v[0].as_tensor() * 30.0)?.silu()?));
    let vars = [var(&[3, 5, 2, 4], 1), var(&[3, 4], 2)];
    agree("add per sample", &vars, |v| add_per_sample(&v[0], &v[1]), |v| reference::add_per_sample(&v[0], &v[1]));
}

/// Squares of 300 and products of forty are past the largest f16.
#[test]
fn sums_in_half_precision_do_not_overflow() {
    let half = |x: &Tensor| x.to_dtype(DType::F16).unwrap();
    let full = |x: Result<Tensor>| x.unwrap().to_dtype(DType::F32).unwrap();
    let (x, w, b) = ((var(&[1, 64, 32], 1).as_tensor() * 600.0).unwrap(), var(&[32], 2), var(&[32], 3));
    for (name, f) in [
        ("layer norm", &(|x: &Tensor, w: &Tensor, b: &Tensor| layer_norm(x, w, b, 1e-5)) as &dyn Fn(&_, &_, &_) -> _),
        ("group norm", &|x, w, b| group_norm(x, w, b, 4, 1e-5, Activation::Silu)),
    ] {
        let off = largest_difference(&full(f(&half(&x), &half(&w), &half(&b))), &full(f(&x, &w, &b)));
        assert!(off < 2e-3, "{name} is off by {off}");
    }
    let q = (var(&[1, 16, 64], 4).as_tensor().sign().unwrap() * 40.0).unwrap();
    let v = var(&[1, 16, 64], 5);
    let off = largest_difference(
        &full(attention(&half(&q), &half(&q), &half(&v), 1, true)),
        &full(attention(&q, &q, &v, 1, true)),
    );
    assert!(off < 2e-3, "attention is off by {off}");
}

#[test]
fn results_do_not_depend_on_threads() {
    let (x, w, b) = (var(&[3, 20, 20, 24], 1), var(&[40, 3, 3, 24], 2), var(&[40], 3));
    let run =
        || conv2d(&x, &w, Some(&b), 1, Padding::same(1)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(run(), on_this_thread(run));
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// `w` in half precision, and the same numbers in f32.
fn halved(w: &Tensor, dtype: DType) -> (Tensor, Tensor) {
    let half = w.to_dtype(dtype).unwrap();
    (half.clone(), half.to_dtype(DType::F32).unwrap())
}

/// Shapes around every limit at which a product changes its road: single rows and columns, few and many of both, blocks
/// that are whole and blocks that are not.
#[test]
fn weights_in_half_precision_give_the_bits_of_the_same_numbers_in_f32() {
    let rows = [1, 2, 3, 5, 16, 63, 64, 65, 77, 128, 255, 513];
    for (inputs, outputs) in
        [(1, 1), (2, 130), (3, 64), (320, 1), (17, 5), (40, 65), (320, 320), (1100, 300), (2100, 129), (1280, 1290)]
    {
        let w = var(&[outputs, inputs], 1);
        for dtype in [DType::F16, DType::BF16] {
            let (half, full) = halved(&w, dtype);
            for rows in rows {
                let (x, b) = (var(&[rows, inputs], 2), var(&[outputs], 3));
                let (found, expected) = (linear(&x, &half, Some(&b)).unwrap(), linear(&x, &full, Some(&b)).unwrap());
                assert!(bits(&found) == bits(&expected), "{rows} x {inputs} x {outputs} {dtype:?}");
                assert!(bits(&on_this_thread(|| linear(&x, &half, Some(&b))).unwrap()) == bits(&expected));
            }
        }
    }
}

#[test]
fn kernels_in_half_precision_give_the_bits_of_the_same_numbers_in_f32() {
    let cases = [
        ((1, 1, 1, 1), (1, 1), 1, Padding::same(0)),
        ((2, 8, 8, 130), (300, 3), 1, Padding::same(1)),
        ((2, 8, 8, 320), (130, 1), 1, Padding::same(0)),
        ((1, 21, 17, 12), (4, 3), 1, Padding::same(1)),
        ((3, 17, 16, 40), (65, 3), 2, Padding::after(1)),
        ((1, 24, 24, 260), (257, 3), 1, Padding::same(1)),
        ((2, 8, 8, 130), (40, 3), 1, Padding::same(1)),
        ((1, 12, 11, 130), (127, 3), 1, Padding::same(1)),
        ((1, 1, 1, 640), (700, 3), 1, Padding::same(1)),
        ((1, 1, 2, 320), (700, 3), 1, Padding::same(1)),
        ((1, 1, 17, 320), (700, 3), 1, Padding::same(1)),
        ((1, 3, 6, 320), (330, 3), 1, Padding::same(1)),
        ((2, 17, 16, 48), (64, 3), 1, Padding::same(1)),
    ];
    for ((b, h, w, i), (o, k), stride, padding) in cases {
        let (x, bias) = (var(&[b, h, w, i], 1), var(&[o], 3));
        for dtype in [DType::F16, DType::BF16] {
            let (half, full) = halved(&var(&[o, k, k, i], 2), dtype);
            let run = |w: &Tensor| bits(&conv2d(&x, w, Some(&bias), stride, padding).unwrap());
            assert!(run(&half) == run(&full), "{b} x {h} x {w} x {i}, {o} {k} {dtype:?}");
            assert!(on_this_thread(|| run(&half)) == run(&full));
        }
    }
}

#[test]
fn weights_in_half_precision_have_no_gradient_and_say_so() {
    let (x, w) = (var(&[3, 4], 1), var(&[5, 4], 2).to_dtype(DType::BF16).unwrap());
    let error = linear(&x, &w, None).unwrap().sum_all().unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("linear: gradients are computed for weights in F32, these are BF16"), "{error}");
    let (x, w) = (var(&[1, 4, 4, 2], 1), var(&[5, 3, 3, 2], 2).to_dtype(DType::F16).unwrap());
    let y = conv2d(&x, &w, None, 1, Padding::same(1)).unwrap();
    let error = y.sum_all().unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("conv2d: gradients are computed for weights in F32, these are F16"), "{error}");
}

/// A residual block's parameters as variables: two norms and two convolutions, and a shortcut where channels change.
fn block_parameters(inputs: usize, outputs: usize) -> Vec<Var> {
    let shapes: [&[usize]; 10] = [
        &[inputs],
        &[inputs],
        &[outputs, 3, 3, inputs],
        &[outputs],
        &[outputs],
        &[outputs],
        &[outputs, 3, 3, outputs],
        &[outputs],
        &[outputs, 1, 1, inputs],
        &[outputs],
    ];
    shapes.iter().enumerate().map(|(i, shape)| var(shape, 10 + i as u64)).collect()
}

/// Parameters, those of four dimensions also as weights.
struct Parameters {
    tensors: Vec<Tensor>,
    weights: Vec<Weight>,
}

impl Parameters {
    fn of(tensors: Vec<Tensor>) -> Self {
        Self { weights: tensors.iter().cloned().map(Weight::from).collect(), tensors }
    }

    /// With weights packed.
    fn packed(tensors: Vec<Tensor>) -> Self {
        let pack = |tensor: &Tensor| match tensor.rank() {
            4 => Weight::Packed(Packed::new(super::pack(tensor).unwrap(), tensor.dims()).unwrap()),
            _ => tensor.clone().into(),
        };
        Self { weights: tensors.iter().map(pack).collect(), tensors }
    }
}

fn block<'a>(p: &'a Parameters, groups: usize, e: Option<&'a Tensor>, shortcut: bool) -> Residual<'a> {
    let norm = |i: usize| Normalisation {
        weight: &p.tensors[i],
        bias: &p.tensors[i + 1],
        groups,
        eps: 1e-5,
        activation: Activation::Silu,
        moments: None,
    };
    let convolution = |i: usize, padding| {
        let (weight, bias) = (&p.weights[i], Some(&p.tensors[i + 1]));
        Convolution { weight, bias, stride: 1, padding: Padding::same(padding) }
    };
    Residual {
        first: (norm(0), convolution(2, 1)),
        per_sample: e,
        second: (norm(4), convolution(6, 1)),
        shortcut: shortcut.then(|| convolution(8, 0)),
    }
}

/// Variables want a gradient, so their operations run one by one. Pictures of one strip and of several, several samples in
/// a strip, chunks that end within a row, weights of all types.
#[test]
fn joined_operations_give_the_bits_of_single_ones() {
    let cases = [
        ((1, 1, 1), (4, 4), 2, false),
        ((2, 8, 8), (96, 160), 32, true),
        ((3, 17, 5), (6, 6), 3, false),
        ((2, 40, 33), (32, 32), 4, true),
        ((1, 100, 300), (72, 66), 2, false),
        ((3, 19, 23), (48, 64), 4, true),
        ((1, 101, 300), (96, 96), 4, false),
    ];
    for ((b, h, w), (inputs, outputs), groups, timed) in cases {
        let (x, e) = (var(&[b, h, w, inputs], 1), var(&[b, outputs], 2));
        let e = timed.then_some(e.as_tensor());
        let variables = block_parameters(inputs, outputs);
        let all = [DType::F16, DType::F32, DType::BF16];
        for &dtype in if h < 100 { &all[..] } else { &all[..1] } {
            let stored = |v: &Var| if v.rank() == 4 { v.to_dtype(dtype).unwrap() } else { v.as_tensor().clone() };
            let tracked: Vec<_> = variables.iter().map(stored).collect();
            let plain = Parameters::of(tracked.iter().map(Tensor::detach).collect());
            let tracked = Parameters::of(tracked);
            let shortcut = inputs != outputs;
            let one_by_one = residual_block(&x, block(&tracked, groups, e, shortcut)).unwrap();
            let x = x.detach();
            let e = e.map(Tensor::detach);
            let joined = || bits(&residual_block(&x, block(&plain, groups, e.as_ref(), shortcut)).unwrap());
            assert!(one_by_one.track_op());
            assert!(joined() == bits(&one_by_one), "{b} x {h} x {w} x {inputs} {dtype:?}");
            assert!(on_this_thread(joined) == bits(&one_by_one));
        }
    }
}

/// Tiles are shared among tasks by how many there are, of all samples together.
#[test]
fn a_convolution_gives_the_same_bits_alone_and_in_company() {
    for (h, w, i, o) in [(17, 19, 32, 64), (16, 16, 1280, 288), (33, 64, 48, 32), (5, 5, 32, 32)] {
        let (x, weights, b) = (var(&[5, h, w, i], 1).detach(), var(&[o, 3, 3, i], 2).detach(), var(&[o], 3).detach());
        let run = |x: &Tensor| conv2d(x, &weights, Some(&b), 1, Padding::same(1)).unwrap();
        let together = run(&x);
        assert!(bits(&on_this_thread(|| run(&x))) == bits(&together));
        for sample in 0..5 {
            let alone = run(&x.narrow(0, sample, 1).unwrap());
            assert!(bits(&alone) == bits(&together.narrow(0, sample, 1).unwrap()), "{h} x {w} x {i}, {o}, {sample}");
        }
    }
}

#[test]
fn a_normed_convolution_of_any_kind_gives_the_bits_of_single_operations() {
    for ((h, w), stride, padding) in
        [((9, 12), 2, Padding::after(1)), ((90, 260), 1, Padding::same(2)), ((3, 3), 1, Padding::same(0))]
    {
        let (x, p) = (var(&[2, h, w, 24], 1), block_parameters(24, 70));
        let run = |x: &Tensor, p: &Parameters, activation| {
            let (weight, bias) = (&p.tensors[0], &p.tensors[1]);
            let norm = Normalisation { weight, bias, groups: 4, eps: 1e-5, activation, moments: None };
            let convolution = Convolution { weight: &p.weights[2], bias: Some(&p.tensors[3]), stride, padding };
            bits(&norm_conv2d(x, norm, convolution).unwrap())
        };
        let tracked = Parameters::of(p.iter().map(|v| v.as_tensor().clone()).collect());
        let plain = Parameters::of(p.iter().map(|v| v.detach()).collect());
        for activation in [Activation::Silu, Activation::Identity] {
            let joined = run(&x.detach(), &plain, activation);
            assert!(joined == run(&x, &tracked, activation), "{h} x {w} {activation:?}");
        }
    }
}

/// The rows in the middle of a picture, with two more on either side: on all roads, and with parts of the sizes of
/// which moments are taken bit for bit.
#[test]
fn parts_of_a_picture_that_know_its_moments_are_parts_of_what_it_becomes() {
    let p = Parameters::of(block_parameters(16, 16).iter().map(|v| v.as_tensor().detach()).collect());
    let packed = Parameters::packed(p.tensors.clone());
    let x = var(&[1, 96, 64, 16], 5).as_tensor().detach();
    let mut moments = Moments::default();
    [0, 32, 64].into_iter().try_for_each(|first| moments.add(&x.narrow(1, first, 32)?)).unwrap();
    let moments = moments.of_groups(4, 16);
    for (p, most) in [(&p, 2e-5), (&packed, 2e-2)] {
        let norm = Normalisation {
            weight: &p.tensors[0],
            bias: &p.tensors[1],
            groups: 4,
            eps: 1e-5,
            activation: Activation::Silu,
            moments: None,
        };
        let known = Normalisation { moments: Some(&moments), ..norm };
        let convolution = Convolution { weight: &p.weights[2], bias: None, stride: 1, padding: Padding::same(1) };
        let part = |x: &Tensor, first: usize| x.narrow(1, first, 32).unwrap();
        let whole = norm_conv2d(&x, norm, convolution).unwrap();
        let seen = x.narrow(1, 30, 36).unwrap();
        let found = norm_conv2d(&seen, known, convolution).unwrap();
        assert!(bits(&part(&found, 2)) == bits(&part(&whole, 32)));
        let elsewhere = by_reference(|| norm_conv2d(&seen, known, convolution)).unwrap();
        assert!(largest_difference(&part(&elsewhere, 2), &part(&whole, 32)) < most);
        assert!(norm_conv2d(&Tensor::cat(&[&seen, &seen], 0).unwrap(), known, convolution).is_err());
    }
}

#[test]
fn an_enlarged_convolution_gives_the_bits_of_single_operations() {
    let sizes = [((4, 5), (8, 10)), ((3, 7), (5, 13)), ((20, 30), (40, 60)), ((2, 2), (2, 2))];
    let channels = [(20, 66), (32, 64)];
    for ((from, to), (inputs, outputs)) in sizes.into_iter().flat_map(|size| channels.map(|channels| (size, channels)))
    {
        let (x, w) = (var(&[2, from.0, from.1, inputs], 1), var(&[outputs, 3, 3, inputs], 2));
        let b = var(&[outputs], 3);
        let run = |x: &Tensor, w: &Tensor, b: &Tensor| {
            let weight = w.clone().into();
            let convolution = Convolution { weight: &weight, bias: Some(b), stride: 1, padding: Padding::same(1) };
            enlarged_conv2d(x, to, convolution).unwrap()
        };
        let one_by_one = run(&x, &w, &b);
        assert_eq!(one_by_one.dims(), [2, to.0, to.1, outputs]);
        assert!(bits(&run(&x.detach(), &w.detach(), &b.detach())) == bits(&one_by_one), "{from:?} {to:?}, {inputs}");
    }
}

#[test]
fn a_residual_block_whose_channels_do_not_fit_is_refused() {
    let (x, p) = (var(&[1, 4, 4, 6], 1).detach(), block_parameters(6, 8));
    let plain = Parameters::of(p.iter().map(|v| v.detach()).collect());
    let message = residual_block(&x, block(&plain, 2, None, false)).unwrap_err().to_string();
    assert!(message.contains("[1, 4, 4, 6]") && message.contains("[1, 4, 4, 8]"), "{message}");
}

/// Weights in bf16 themselves, so that only activations are rounded.
#[test]
fn joined_operations_with_packed_weights_are_near_those_with_plain_ones() {
    for ((b, h, w), (inputs, outputs), groups, timed) in
        [((1, 1, 1), (4, 4), 2, false), ((2, 8, 8), (96, 160), 32, true), ((2, 40, 33), (32, 32), 4, true)]
    {
        let (x, e) = (var(&[b, h, w, inputs], 1).detach(), var(&[b, outputs], 2).detach());
        let e = timed.then_some(&e);
        let stored = |v: &Var| {
            let rounded = |x: &Tensor| x.to_dtype(DType::BF16)?.to_dtype(DType::F32);
            if v.rank() == 4 { rounded(v).unwrap() } else { v.detach() }
        };
        let all: Vec<_> = block_parameters(inputs, outputs).iter().map(stored).collect();
        let (plain, packed) = (Parameters::of(all.clone()), Parameters::packed(all));
        let shortcut = inputs != outputs;
        let run = |p: &Parameters| residual_block(&x, block(p, groups, e, shortcut)).unwrap();
        let off = largest_difference(&run(&packed), &run(&plain));
        assert!(off < 1e-2, "residual block {b} x {h} x {w} x {inputs}: {off}");
        for activation in [Activation::Silu, Activation::Identity] {
            let run = |p: &Parameters| {
                let (weight, bias) = (&p.tensors[0], &p.tensors[1]);
                let norm = Normalisation { weight, bias, groups, eps: 1e-5, activation, moments: None };
                let (weight, bias) = (&p.weights[2], Some(&p.tensors[3]));
                let convolution = Convolution { weight, bias, stride: 2, padding: Padding::same(1) };
                let y = norm_conv2d(&x, norm, convolution).unwrap();
                add_conv2d(&y, &x, convolution).unwrap()
            };
            let off = largest_difference(&run(&packed), &run(&plain));
            assert!(off < 1e-2, "convolution with more {b} x {h} x {w} x {inputs} {activation:?}: {off}");
        }
    }
}

/// Between an enlarged convolution and the residual block after it lies bf16: with shortcut and without.
#[test]
fn a_residual_block_takes_bf16_and_is_near_one_that_takes_f32() {
    for (inputs, outputs) in [(32, 32), (64, 32)] {
        let x = var(&[2, 9, 7, inputs], 1).detach();
        let all: Vec<_> = block_parameters(inputs, outputs).iter().map(|v| v.detach()).collect();
        let enlarging = Weight::Packed(
            Packed::new(pack(&var(&[inputs, 3, 3, inputs], 5)).unwrap(), &[inputs, 3, 3, inputs]).unwrap(),
        );
        let convolution = Convolution { weight: &enlarging, bias: None, stride: 1, padding: Padding::same(1) };
        let p = Parameters::packed(all);
        let run = |x: &Tensor| residual_block(x, block(&p, 4, None, inputs != outputs)).unwrap();
        let rounded = enlarged_conv2d_for_block(&x, (18, 14), convolution).unwrap();
        let whole = enlarged_conv2d(&x, (18, 14), convolution).unwrap();
        assert_eq!((rounded.dtype(), whole.dtype()), (DType::BF16, DType::F32));
        assert!(
            bits(&rounded.to_dtype(DType::F32).unwrap())
                == bits(&whole.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap())
        );
        let off = largest_difference(&run(&rounded), &run(&whole));
        assert!(off > 0.0 && off < 1e-2, "{inputs} to {outputs}: {off}");
        let same = largest_difference(&run(&rounded), &run(&rounded.to_dtype(DType::F32).unwrap()));
        assert!(same == 0.0, "{inputs} to {outputs}: {same}");
    }
}

/// Where a gradient is wanted, and where our own kernels do not serve, packed weights are what they were packed from.
#[test]
fn packed_weights_are_unpacked_where_their_kernels_do_not_serve() {
    let (x, w, b) = (var(&[3, 40], 1), var(&[7, 40], 2).detach().to_dtype(DType::BF16).unwrap(), var(&[7], 3).detach());
    let packed = Weight::Packed(Packed::new(pack(&w).unwrap(), &[7, 40]).unwrap());
    let plain = Weight::from(w);
    let run = |w: &Weight| {
        let y = super::linear(&x, w, Some(&b)).unwrap();
        let gradient = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        (bits(&y), bits(gradient.get(&x).unwrap()))
    };
    assert!(run(&packed) == run(&plain));
    let forced = |w: &Weight| bits(&by_reference(|| super::linear(&x.detach(), w, Some(&b)).unwrap()));
    assert!(forced(&packed) == forced(&plain));

    let (x, w) = (var(&[1, 6, 5, 8], 1), var(&[4, 3, 3, 8], 2).detach().to_dtype(DType::BF16).unwrap());
    let packed = Weight::Packed(Packed::new(pack(&w).unwrap(), &[4, 3, 3, 8]).unwrap());
    let run = |w: &Weight| {
        let y = super::conv2d(&x, w, None, 1, Padding::same(1)).unwrap();
        let gradient = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        (bits(&y), bits(gradient.get(&x).unwrap()))
    };
    assert!(run(&packed) == run(&w.into()));
}

#[test]
fn an_attention_block_is_near_its_parts_for_packed_weights_and_the_same_for_plain_ones() {
    let matrix = |outputs, inputs, seed| (var(&[outputs, inputs], seed).as_tensor() * 0.3).unwrap().detach();
    let (scale, shift, bias) = (var(&[64], 4).detach(), var(&[64], 5).detach(), var(&[64], 6).detach());
    let packed = |w: &Tensor| Weight::Packed(Packed::new(pack(w).unwrap(), w.dims()).unwrap());
    for (queries, context) in [(5, None), (200, None), (70, Some(9)), (600, Some(77))] {
        let x = var(&[2, queries, 64], 1).detach();
        let context = context.map(|keys| var(&[2, keys, 40], 2).detach());
        let inputs = if context.is_some() { 40 } else { 64 };
        let all = [matrix(64, 64, 7), matrix(64, inputs, 8), matrix(64, inputs, 9), matrix(64, 64, 10)];
        let run = |weights: [Weight; 4]| {
            let [queries, keys, values, out] = &weights;
            let norm = (&scale, &shift, 1e-5);
            let block = AttentionBlock { norm, queries, keys, values, out: (out, &bias), heads: 4 };
            attention_block(&x, context.as_ref(), block).unwrap()
        };
        let h = layer_norm(&x, &scale, &shift, 1e-5).unwrap();
        let other = context.as_ref().unwrap_or(&h);
        let [q, k, v] = [(&h, &all[0]), (other, &all[1]), (other, &all[2])].map(|(x, w)| linear(x, w, None).unwrap());
        let attended = attention(&q, &k, &v, 4, false).unwrap();
        let expected = (&x + linear(&attended, &all[3], Some(&bias)).unwrap()).unwrap();
        assert!(bits(&run(all.clone().map(Weight::from))) == bits(&expected));
        let joined = || run(all.each_ref().map(packed));
        let off = largest_difference(&joined(), &expected);
        assert!(off < 2e-2, "{queries}: {off}");
        assert!(bits(&joined()) == bits(&on_this_thread(joined)));
    }
}

#[test]
fn a_feed_forward_network_is_near_its_parts_for_packed_weights_and_the_same_for_plain_ones() {
    let (norm, shift) = (var(&[64], 4).detach(), var(&[64], 5).detach());
    let (first, second) = (var(&[128, 64], 6).detach(), var(&[64, 64], 7).detach());
    let biases = (var(&[128], 8).detach(), var(&[64], 9).detach());
    let packed = |w: &Tensor| Weight::Packed(Packed::new(pack(w).unwrap(), w.dims()).unwrap());
    for rows in [3, 700] {
        let x = var(&[1, rows, 64], 1).detach();
        let run = |first: &Weight, second: &Weight| {
            let (first, second) = ((first, &biases.0), (second, &biases.1));
            feed_forward(&x, FeedForward { norm: (&norm, &shift, 1e-5), first, second }).unwrap()
        };
        let h = geglu(&linear(&layer_norm(&x, &norm, &shift, 1e-5).unwrap(), &first, Some(&biases.0)).unwrap());
        let expected = (&x + linear(&h.unwrap(), &second, Some(&biases.1)).unwrap()).unwrap();
        assert!(bits(&run(&first.clone().into(), &second.clone().into())) == bits(&expected));
        let off = largest_difference(&run(&packed(&first), &packed(&second)), &expected);
        assert!(off < 2e-2, "{rows}: {off}");
    }
}
