//! The named variables of a model in training: created with seeded values when a layer first asks for them.

use crate::Result;
use crate::diffusion::noise::Philox;
use crate::kernels::Products;
use crate::model::layers::asks_for_rounded;
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A set of variables in f32, ordered by name.
///
/// Layers are built anew for every step from [`Parameters::builder`], so whatever they derive from a weight (a layout,
/// say) is part of the graph and of the gradient.
#[derive(Debug, Clone)]
pub struct Parameters {
    variables: Arc<Mutex<BTreeMap<String, Var>>>,
    seed: u64,
    device: Device,
    products: Products,
}

impl Parameters {
    /// An empty set; a variable's first values depend on `seed` and its name alone.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { variables: Arc::default(), seed, device: device.clone(), products: Products::Full }
    }

    /// The same variables, for layers that multiply in these products.
    pub fn multiplied_in(&self, products: Products) -> Self {
        Self { products, ..self.clone() }
    }

    /// Gives layers their variables, and creates those that are not there yet.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device.clone())
    }

    /// All variables, by name.
    pub fn named(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// How many numbers the variables hold.
    pub fn count(&self) -> usize {
        self.lock().values().map(|v| v.elem_count()).sum()
    }

    /// Overwrites the variables that `values` names; the others keep what they have.
    pub fn assign(&self, values: &HashMap<String, Tensor>) -> Result<()> {
        for (name, var) in self.lock().iter() {
            if let Some(value) = values.get(name) {
                var.set(&value.to_dtype(DType::F32)?)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn initial(&self, name: &str, shape: &Shape, init: Init) -> candle_core::Result<Tensor> {
        let stream = name.bytes().fold(self.seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let normals = |n| Philox::new(stream).normals(0, n);
        let uniform = |lo: f64, up: f64, n| -> Vec<f32> {
            let words = Philox::new(stream).words(0, n);
            words.iter().map(|w| (lo + (up - lo) * f64::from(w[0]) / 4_294_967_296.0) as f32).collect()
        };
        let n = shape.elem_count();
        let values = match init {
            Init::Const(value) => vec![value as f32; n],
            Init::Randn { mean, stdev } => normals(n).iter().map(|z| (mean + stdev * f64::from(*z)) as f32).collect(),
            Init::Uniform { lo, up } => uniform(lo, up, n),
            Init::Kaiming { .. } => candle_core::bail!("{name}: no layer of this crate starts this way"),
        };
        Tensor::from_vec(values, shape, &self.device)
    }
}

impl SimpleBackend for Parameters {
    fn get(&self, shape: Shape, name: &str, init: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let mut variables = self.lock();
        if let Some(var) = variables.get(name) {
            if var.shape() != &shape {
                candle_core::bail!("{name}: expected {shape:?}, found {:?}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        let var = Var::from_tensor(&self.initial(name, &shape, init)?)?;
        let tensor = var.as_tensor().clone();
        variables.insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("{name}: no such variable"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        asks_for_rounded(name) && self.products == Products::Brain || self.lock().contains_key(name)
    }
}
