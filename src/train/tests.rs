//! Training with products in bf16 beside the same in f32: small networks that are taught a fixed answer to noise.

use super::fit::{Settings, fit};
use super::optimizer::{AdamW, Constants};
use super::parameters::Parameters;
use super::state;
use super::task::{Figures, Task};
use crate::Result;
use crate::diffusion::noise::Philox;
use crate::kernels::Products;
use crate::model::clip::{ClipTextConfig, ClipTextModel};
use crate::model::unet::{AdditionEmbedType, Conditioning, DownBlockType, PerBlock, UNet2DConditionModel};
use crate::model::unet::{UNetConfig, UpBlockType};
use candle_core::{Device, Tensor, Var};
use candle_nn::VarBuilder;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Text encoder and U-Net, with every kind of layer that training has.
struct Small;

impl Small {
    fn text() -> ClipTextConfig {
        ClipTextConfig {
            vocab_size: 12,
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            max_position_embeddings: 5,
            ..ClipTextConfig::default()
        }
    }

    fn unet() -> UNetConfig {
        UNetConfig {
            sample_size: 8,
            in_channels: 3,
            out_channels: 3,
            layers_per_block: 1,
            cross_attention_dim: 8,
            addition_embed_type: Some(AdditionEmbedType::Text),
            addition_embed_type_num_heads: 2,
            use_linear_projection: true,
            down_block_types: vec![DownBlockType::CrossAttention; 2],
            up_block_types: vec![UpBlockType::CrossAttention; 2],
            block_out_channels: vec![8, 16],
            attention_head_dim: PerBlock::Each(vec![1, 2]),
            norm_num_groups: 4,
            ..UNetConfig::default()
        }
    }

    /// One for each of the products, the same at first.
    fn parameters(products: Products) -> Result<Parameters> {
        let parameters = Parameters::new(1, &Device::Cpu).multiplied_in(products);
        Self.loss(&parameters.builder(), &[0], 0)?;
        Ok(parameters)
    }
}

fn normal(stream: u64, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    Ok(Tensor::from_vec(Philox::new(stream).normals(0, count), shape, &Device::Cpu)?)
}

impl Task for Small {
    fn loss(&self, vb: &VarBuilder<'_>, samples: &[usize], stream: u64) -> Result<(Tensor, Figures)> {
        let count = samples.len();
        let ids: Vec<u32> = samples.iter().flat_map(|&s| [10, s as u32 % 4, s as u32 % 3 + 4, 11, 11]).collect();
        let context = ClipTextModel::new(&Self::text(), &vb.pp("text_encoder"))?.forward(&Tensor::from_vec(
            ids,
            (count, 5),
            &Device::Cpu,
        )?)?;
        let unet = UNet2DConditionModel::new(&Self::unet(), &vb.pp("unet"))?;
        let times = Tensor::from_iter(samples.iter().map(|&s| 100.0 * s as f32 + 3.0), &Device::Cpu)?;
        let x = normal(stream, (count, 3, 8, 8))?;
        let y = unet.forward(&x, &times, &Conditioning::text(&context))?;
        let loss = (y - (x * 0.5)?)?.sqr()?.mean_all()?;
        let figures = Figures(vec![("loss", f64::from(loss.to_scalar::<f32>()?))]);
        Ok((loss, figures))
    }

    fn preview(&self, _: &VarBuilder<'_>, _: &Path) -> Result<()> {
        Ok(())
    }

    fn export(&self, _: &VarBuilder<'_>) -> Result<()> {
        Ok(())
    }
}

/// Numbers by name.
type Named = Vec<(String, Vec<f32>)>;

/// The loss and the gradient of each variable, by name.
fn gradients(parameters: &Parameters, stream: u64) -> Result<(f64, Named)> {
    let (loss, figures) = Small.loss(&parameters.builder(), &[0, 1, 2, 3], stream)?;
    let gradients = loss.backward()?;
    let of = |(name, var): (String, Var)| {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
        Ok((name, gradient.flatten_all()?.to_vec1()?))
    };
    Ok((figures.loss(), parameters.named().into_iter().map(of).collect::<Result<_>>()?))
}

#[test]
fn every_parameter_gets_nearly_the_gradient_of_f32() -> Result<()> {
    let of = |products| gradients(&Small::parameters(products)?, 7);
    let ((loss, brain), (full_loss, full)) = (of(Products::Brain)?, of(Products::Full)?);
    assert!(loss != full_loss && (loss / full_loss - 1.0).abs() < 1e-2, "{loss} for {full_loss}");
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for ((name, found), (_, expected)) in brain.iter().zip(&full) {
        let cosine = dot(found, expected) / (dot(found, found) * dot(expected, expected)).sqrt();
        assert!(found.iter().all(|v| v.is_finite()), "{name}");
        // A bias of the keys moves all scores of a row alike, which the softmax does not see.
        assert!(name.ends_with("k_proj.bias") || cosine > 0.98, "{name}: the cosine is {cosine}");
    }
    Ok(())
}

#[test]
fn a_few_steps_lower_the_loss_as_in_f32() -> Result<()> {
    let taught = |products| -> Result<Vec<f64>> {
        let parameters = Small::parameters(products)?;
        let mut optimizer = AdamW::new(&parameters, Constants::default())?;
        let mut step = |i: u64| {
            let (loss, gradients) = gradients(&parameters, i % 4)?;
            optimizer.step(&gradients.into_iter().map(|(_, values)| values).collect::<Vec<_>>(), 3e-3)?;
            Ok(loss)
        };
        (0..24).map(&mut step).collect()
    };
    let (brain, full) = (taught(Products::Brain)?, taught(Products::Full)?);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&full[..4]), mean(&full[20..]));
    assert!(last < 0.7 * first, "f32 went from {first} to {last}");
    let off = mean(&brain[20..]) / last - 1.0;
    assert!(off.abs() < 0.05, "bf16 ended at {} instead of {last}", mean(&brain[20..]));
    Ok(())
}

fn settings(folder: &Path, steps: usize, products: Option<Products>) -> Settings {
    Settings {
        name: "small",
        steps,
        batch: 4,
        shards: 2,
        learning_rate: 1e-3,
        constants: Constants::default(),
        seed: 5,
        folder: folder.to_owned(),
        report_every: Duration::from_secs(3600),
        products,
    }
}

/// What was trained, and in what, as the state says.
fn run(folder: &Path, steps: usize, products: Option<Products>) -> Result<(Vec<Vec<f32>>, Products)> {
    let settings = settings(folder, steps, products);
    let parameters = Small::parameters(Products::Full)?;
    fit(&Small, &parameters, 16, &settings, &AtomicBool::new(false))?;
    let values = parameters.named().iter().map(|(_, var)| Ok(var.flatten_all()?.to_vec1()?)).collect::<Result<_>>()?;
    let saved = state::load(&folder.join("small.state.safetensors"))?.expect("a state");
    Ok((values, saved.progress.products))
}

#[test]
fn a_run_goes_on_as_it_began_unless_told_otherwise() -> Result<()> {
    for (first, then, expected) in [
        (Some(Products::Brain), None, Products::Brain),
        (Some(Products::Full), None, Products::Full),
        (Some(Products::Full), Some(Products::Brain), Products::Brain),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Some(run(folder.path(), 1, first)?.1), first);
        assert_eq!(run(folder.path(), 2, then)?.1, expected);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(run(folder.path(), 1, None)?.1, Products::fastest());
    Ok(())
}

#[test]
fn what_is_learned_does_not_depend_on_threads() -> Result<()> {
    let trained = |threads| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| run(folder.path(), 3, Some(Products::Brain)))
    };
    assert!(trained(1)? == trained(2)?);
    Ok(())
}
