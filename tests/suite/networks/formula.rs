//! Parameters that follow from their names: the twin of `formula` in tests/fixtures/networks/make.py, so that networks
//! in two languages can be compared without a weight file.

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The values of the tensor `name`, exact in every language.
pub(crate) fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    let scaled = |uniform: f64| match shape.len() {
        _ if name.starts_with("input.") => uniform,
        1 if name.contains("norm") && name.ends_with("weight") => 1.0 + 0.3 * uniform,
        1 => 0.3 * uniform,
        _ => uniform * 1.7 / fan_in.sqrt(),
    };
    let count = shape.iter().product::<usize>() as u32;
    (0..count).map(|i| scaled(uniform(i, seed)) as f32).collect()
}

/// In [-1, 1).
fn uniform(index: u32, seed: u32) -> f64 {
    let mut x = index.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503));
    for _ in 0..2 {
        x = (x ^ (x >> 16)).wrapping_mul(0x045d_9f3b);
    }
    f64::from(x ^ (x >> 16)) / 2_147_483_648.0 - 1.0
}

/// An input tensor: values in [-1, 1).
pub(crate) fn input(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values(name, shape), shape, &Device::Cpu).unwrap()
}

/// Gives every parameter that a network asks for, as a variable, and remembers it.
#[derive(Clone, Default)]
pub(crate) struct Formula {
    variables: Arc<Mutex<BTreeMap<String, Var>>>,
    prefix: &'static str,
}

impl Formula {
    /// A checkpoint whose keys all begin with `prefix`, which does not count for the values.
    pub(crate) fn with_prefix(prefix: &'static str) -> Self {
        Self { prefix, ..Self::default() }
    }

    pub(crate) fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    pub(crate) fn named(&self) -> Vec<(String, Var)> {
        self.variables.lock().unwrap().clone().into_iter().collect()
    }
}

impl SimpleBackend for Formula {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let bare = name.strip_prefix(self.prefix).expect("a key without the checkpoint's prefix");
        let var = Var::from_vec(values(bare, shape.dims()), shape, device)?;
        self.variables.lock().unwrap().insert(name.to_owned(), var.clone());
        var.as_tensor().to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: no shape to follow")
    }

    /// Everything, but nothing in the layout of kernels, which has names of its own.
    fn contains_tensor(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && !name.contains('#')
    }
}
