//! What training multiplies, against f64 of the same rounded numbers.

use super::*;
use crate::kernels::conv2d::rounded::{backward, forward};
use crate::kernels::packed::gradient::of_linear;
use crate::kernels::packed::linear::linear;

/// The rows of (n, m) as columns.
fn transposed(x: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| x.iter().skip(c).step_by(columns).copied()).collect()
}

#[test]
fn gradients_of_linear_layers_are_right_on_every_instruction_set() {
    for (rows, inputs, outputs) in
        [(1, 1, 1), (2, 3, 5), (31, 40, 16), (33, 77, 33), (100, 320, 64), (7, 64, 100), (4131, 17, 40)]
    {
        let (x, w, dy) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(rows * outputs, 3));
        let of_input = naive(&rounded(&dy), &transposed(&rounded(&w), inputs), outputs);
        let of_weights = naive(&transposed(&rounded(&dy), outputs), &transposed(&rounded(&x), inputs), rows);
        let reversed = Packed::reversed(&w, &[outputs, inputs]).unwrap();
        for isa in Isa::all() {
            let run = || {
                let dx = linear(isa, &reversed, &dy, Added::default()).unwrap();
                [dx, of_linear(isa, &x, &dy, (outputs, inputs))]
            };
            let [dx, dw] = run();
            let off = (apart(&dx, &of_input), apart(&dw, &of_weights));
            assert!(off.0 < 2e-6 && off.1 < 2e-6, "{isa:?} {rows} x {inputs} x {outputs}: {off:?}");
            let [alone_dx, alone_dw] = on_this_thread(run);
            assert!(same_bits(&dx, &alone_dx) && same_bits(&dw, &alone_dw), "{isa:?}: depends on threads");
        }
    }
}

/// Result, gradient of the input and gradient of the weights, position by position.
fn naive_convolution(s: &Sizes, [x, w, dy]: [&[f64]; 3]) -> [Vec<f64>; 3] {
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
    let row = w.len() / s.outputs;
    for (position, output) in (0..s.positions).flat_map(|p| (0..s.outputs).map(move |o| (p, o))) {
        let (at, d) = (position * s.outputs + output, dy[position * s.outputs + output]);
        s.for_each_part(position, |part, offset| {
            let Some(offset) = offset else { return };
            for i in 0..s.inputs {
                let weight = output * row + part + i;
                y[at] += x[offset + i] * w[weight];
                dx[offset + i] += d * w[weight];
                dw[weight] += d * x[offset + i];
            }
        });
    }
    [y, dx, dw]
}

/// Stride 1, where the gradient of the input is a convolution, and where a result lies in the padding alone; stride 2; tails
/// of positions, inputs and outputs; more positions than are summed at a time.
#[test]
fn gradients_of_convolutions_are_right_on_every_instruction_set() {
    let cases = [
        ((1, 1, 1, 1), (1, 1), 1, Padding::same(0)),
        ((2, 8, 8, 6), (5, 3), 1, Padding::same(1)),
        ((3, 7, 5, 4), (9, 3), 2, Padding::same(1)),
        ((2, 8, 6, 3), (4, 3), 2, Padding::after(1)),
        ((1, 13, 11, 2), (3, 5), 1, Padding::same(2)),
        ((2, 9, 4, 40), (33, 1), 1, Padding::same(0)),
        ((1, 4, 5, 3), (2, 3), 1, Padding { top: 0, bottom: 2, left: 2, right: 0 }),
        ((1, 4, 3, 3), (2, 3), 1, Padding::same(3)),
        ((2, 6, 5, 33), (34, 3), 1, Padding::after(1)),
        ((3, 37, 31, 2), (3, 3), 1, Padding::same(1)),
    ];
    for ((b, h, w, i), (o, k), stride, padding) in cases {
        let dims = [o, k, k, i];
        let shape = Shape::from((b, h, w, i));
        let sizes = Sizes::new(&shape, &Shape::from(dims.to_vec()), None, stride, padding).unwrap();
        let (x, weights) = (numbers(b * h * w * i, 1), numbers(o * k * k * i, 2));
        let (dy, bias) = (numbers(sizes.positions * o, 3), vec![0.0; o]);
        let all = [&x, &weights, &dy].map(|values| rounded(values));
        let expected = naive_convolution(&sizes, all.each_ref().map(|values| &values[..]));
        for isa in Isa::all() {
            let run = || {
                let y = forward(isa, &sizes, &x, &weights, &bias).unwrap();
                let (dx, dw) = backward(isa, &sizes, [&x, &weights, &dy], (true, true)).unwrap();
                [y, dx, dw]
            };
            let found = run();
            for ((found, expected), what) in found.iter().zip(&expected).zip(["result", "of input", "of weights"]) {
                let off = apart(found, expected);
                assert!(off < 2e-6, "{isa:?} {shape:?}, {dims:?} {stride} {padding:?}: {what} {off}");
            }
            let alone = on_this_thread(run);
            assert!(found.iter().zip(&alone).all(|(a, b)| same_bits(a, b)), "{isa:?}: depends on threads");
        }
    }
}
