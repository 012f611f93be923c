//! Between the two parts: the text encoder alone, by contrast of captions and pictures.
//!
//! The U-Net's loss teaches words slowly: every word is in few captions, and most of the loss says nothing about them.
//! As in CLIP (Radford et al., arXiv:2103.00020), from which Stable Diffusion's encoder comes, a text is first made to lie
//! near its picture and far from the others. The picture's side is a small network on the cached latents, which is thrown
//! away. (The judge of `limner evaluate` has towers and words of its own and is never used here.)

use super::data::{Dice, Record};
use super::export::write_json;
use super::parameters::Parameters;
use super::report::save_picture;
use super::state;
use super::task::{Figures, Task};
use crate::diffusion::noise::Philox;
use crate::kernels;
use crate::model::clip::{ClipTextConfig, ClipTextModel};
use crate::model::layers::Linear;
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};
use ::image::{Rgb, RgbImage};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::{Init, VarBuilder};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the encoder's variables are in a training state.
pub(super) const PREFIX: &str = "text_encoder";
/// Hidden units of the network on the picture's side.
const HIDDEN: usize = 512;
/// Noise in the normalised latents, so that the picture's side does not learn single pixels by heart.
const NOISE: f64 = 0.3;
/// CLIP's first temperature, 1/0.07, and its bound of 100, as logarithms.
const LOG_SCALE: (f64, f32) = (2.66, 4.6);
/// Added under roots that may be of zero.
const TINY: f64 = 1e-8;

/// Trains a [`ClipTextModel`] to find each caption's picture among a batch, and each picture's caption.
pub struct TextTask<'a> {
    /// The encoder's sizes.
    pub config: ClipTextConfig,
    /// The training pictures' latents, normalised per channel: (N, C, h, w).
    pub latents: Tensor,
    /// The training records, one per row of `latents`.
    pub records: Vec<&'a Record>,
    /// Captions to ids.
    pub tokenizer: &'a Tokenizer,
    /// The folder `text_encoder` is written to.
    pub folder: PathBuf,
}

impl TextTask<'_> {
    /// Creates the variables of both sides.
    pub(super) fn create(&self, parameters: &Parameters) -> Result<()> {
        self.logits(&parameters.builder(), &[String::new()], &self.latents.narrow(0, 0, 1)?).map(drop)
    }

    /// Logits (texts, pictures) of one batch: the cosines of texts and pictures, times the softmax's sharpness.
    fn logits(&self, vb: &VarBuilder<'_>, captions: &[String], latents: &Tensor) -> Result<Tensor> {
        let (width, values) = (self.config.hidden_size, latents.elem_count() / captions.len());
        let text = ClipTextModel::new(&self.config, &vb.pp(PREFIX))?;
        let states = text.forward(&ids(self.tokenizer, captions)?)?;
        // Behind a text every position is an end token that has seen all of it: the last one is as good as the first.
        let end = states.narrow(1, states.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?;
        let texts = unit(&Linear::new(width, width, &vb.pp("contrast.text"))?.forward(&end)?)?;
        let hidden = Linear::new(values, HIDDEN, &vb.pp("contrast.hidden"))?;
        let hidden = kernels::silu(&hidden.forward(&latents.flatten_from(1)?)?)?;
        let pictures = unit(&Linear::new(HIDDEN, width, &vb.pp("contrast.picture"))?.forward(&hidden)?)?;
        let log_scale = vb.get_with_hints(1, "contrast.log_scale", Init::Const(LOG_SCALE.0))?;
        Ok(texts.matmul(&pictures.t()?)?.broadcast_mul(&log_scale.clamp(0f32, LOG_SCALE.1)?.exp()?)?)
    }

    fn rows(&self, samples: &[usize]) -> Result<Tensor> {
        let rows: Vec<u32> = samples.iter().map(|&s| s as u32).collect();
        Ok(self.latents.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}

impl Task for TextTask<'_> {
    fn loss(&self, vb: &VarBuilder<'_>, samples: &[usize], stream: u64) -> Result<(Tensor, Figures)> {
        let mut dice = Dice::new(stream);
        let captions: Vec<String> = samples.iter().map(|&s| self.records[s].caption(&mut dice)).collect();
        let latents = self.rows(samples)?;
        let noise = Philox::new(stream).normals(0, latents.elem_count());
        let noise = Tensor::from_vec(noise, latents.shape(), &Device::Cpu)?;
        let logits = self.logits(vb, &captions, &(latents + (noise * NOISE)?)?)?;
        let own = Tensor::arange(0u32, samples.len() as u32, &Device::Cpu)?;
        let columns = logits.t()?.contiguous()?;
        let loss = ((cross_entropy(&logits, &own)? + cross_entropy(&columns, &own)?)? * 0.5)?;
        let found = logits.argmax(D::Minus1)?.eq(&own)?.to_dtype(DType::F32)?.mean_all()?;
        let scalar = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.to_scalar::<f32>()?)) };
        let figures = Figures(vec![("loss", scalar(&loss)?), ("found", scalar(&found)?)]);
        Ok((loss, figures))
    }

    /// The logits of 48 plain prompts (down) and their pictures (across), black to white: a bright diagonal is what it
    /// should be.
    fn preview(&self, vb: &VarBuilder<'_>, path: &Path) -> Result<()> {
        let count = self.records.len().min(48);
        let chosen: Vec<usize> = (0..count).map(|i| i * self.records.len() / count).collect();
        let prompts: Vec<String> = chosen.iter().map(|&i| self.records[i].prompt()).collect();
        let logits = self.logits(vb, &prompts, &self.rows(&chosen)?)?.to_vec2::<f32>()?;
        let (low, high) =
            logits.iter().flatten().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        let grey = |x: u32, y: u32| {
            let share = (logits[y as usize / 6][x as usize / 6] - low) / (high - low).max(f32::EPSILON);
            Rgb([(255.0 * share) as u8; 3])
        };
        save_picture(&RgbImage::from_fn(6 * count as u32, 6 * count as u32, grey), path)
    }

    fn export(&self, vb: &VarBuilder<'_>) -> Result<()> {
        export(&self.config, vb, &self.folder)
    }
}

/// Captions to token ids, (B, T). A caption is read up to the text encoder's length.
pub(super) fn ids(tokenizer: &Tokenizer, captions: &[String]) -> Result<Tensor> {
    let mut ids = Vec::with_capacity(captions.len() * tokenizer.max_length());
    for caption in captions {
        ids.extend(tokenizer.framed(&tokenizer.ids(caption)?));
    }
    Ok(Tensor::from_vec(ids, (captions.len(), tokenizer.max_length()), &Device::Cpu)?)
}

/// Writes `text_encoder/` in `folder`, as transformers loads it.
pub(super) fn export(config: &ClipTextConfig, vb: &VarBuilder<'_>, folder: &Path) -> Result<()> {
    let folder = folder.join("text_encoder");
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let recorder = Parameters::new(0, &Device::Cpu);
    ClipTextModel::new(config, &recorder.builder())?;
    write_weights(&recorder, &vb.pp(PREFIX), &folder.join("model.safetensors"))?;
    write_json(&folder.join("config.json"), &with_constants(config)?)
}

/// Writes the variables that `recorder` has in f16, with the values that `vb` has for them.
pub(super) fn write_weights(recorder: &Parameters, vb: &VarBuilder<'_>, path: &Path) -> Result<()> {
    let half = |(name, _): (String, candle_core::Var)| -> Result<(String, Tensor)> {
        let value = vb.get_unchecked(&name)?.to_dtype(DType::F16)?;
        Ok((name, value))
    };
    let tensors: HashMap<String, Tensor> = recorder.named().into_iter().map(half).collect::<Result<_>>()?;
    state::write(path, &tensors, Some(HashMap::from([("format".to_owned(), "pt".to_owned())])))
}

/// What transformers' configuration needs besides the sizes.
fn with_constants(config: &ClipTextConfig) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(config).map_err(|e| Error::Training(e.to_string()))?;
    value["architectures"] = serde_json::json!(["CLIPTextModel"]);
    value["model_type"] = serde_json::json!("clip_text_model");
    value["projection_dim"] = serde_json::json!(config.hidden_size);
    value["bos_token_id"] = serde_json::json!(config.vocab_size - 2);
    value["eos_token_id"] = serde_json::json!(config.vocab_size - 1);
    value["pad_token_id"] = serde_json::json!(config.vocab_size - 1);
    Ok(value)
}

/// Scales every row to length 1.
fn unit(x: &Tensor) -> Result<Tensor> {
    let length = (x.sqr()?.sum_keepdim(D::Minus1)? + TINY)?.sqrt()?;
    Ok(x.broadcast_div(&length)?)
}

#[cfg(test)]
mod tests {
    use super::super::data::Split;
    use super::super::data::vocabulary::{train, write_tokenizer};
    use super::super::optimizer::{AdamW, Constants};
    use super::*;
    use crate::model::clip::HiddenActivation;

    const WORDS: [&str; 4] = ["apple", "boat", "cat", "door"];
    const LENGTH: usize = 6;

    fn record(word: &&str) -> Record {
        Record {
            file: String::new(),
            concept: (*word).to_owned(),
            style: None,
            keywords: Vec::new(),
            group: None,
            captions: vec![(*word).to_owned()],
            split: Split::Train,
        }
    }

    fn tokenizer() -> Result<Tokenizer> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let counts = WORDS.iter().map(|word| ((*word).to_owned(), 9)).collect();
        write_tokenizer(folder.path(), &train(&counts, 600)?, LENGTH)?;
        Tokenizer::from_folder(folder.path(), LENGTH)
    }

    fn with_task<T>(act: impl FnOnce(TextTask<'_>) -> Result<T>) -> Result<T> {
        let (tokenizer, records) = (tokenizer()?, WORDS.iter().map(record).collect::<Vec<_>>());
        let config = ClipTextConfig {
            vocab_size: tokenizer.vocabulary_size(),
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: LENGTH,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            ..ClipTextConfig::default()
        };
        let latents = Tensor::from_vec(Philox::new(1).normals(0, 4 * 8), (4, 2, 2, 2), &Device::Cpu)?;
        let folder = PathBuf::new();
        act(TextTask { config, latents, records: records.iter().collect(), tokenizer: &tokenizer, folder })
    }

    #[test]
    fn every_parameter_gets_a_gradient() -> Result<()> {
        with_task(|task| {
            let parameters = Parameters::new(1, &Device::Cpu);
            task.create(&parameters)?;
            let gradients = task.loss(&parameters.builder(), &[0, 1, 2, 3], 5)?.0.backward()?;
            for (name, var) in parameters.named() {
                let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
                let values: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
                let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                // A bias of the keys moves all scores of a row alike, which the softmax does not see.
                let free = name.ends_with("k_proj.bias");
                assert!(values.iter().all(|v| v.is_finite()) && (free || largest > 1e-7), "{name}: {largest}");
            }
            Ok(())
        })
    }

    #[test]
    fn words_find_their_pictures() -> Result<()> {
        with_task(|task| {
            let parameters = Parameters::new(1, &Device::Cpu);
            task.create(&parameters)?;
            let mut optimizer = AdamW::new(&parameters, Constants::default())?;
            let found =
                |stream| -> Result<f64> { Ok(task.loss(&parameters.builder(), &[0, 1, 2, 3], stream)?.1.0[1].1) };
            for step in 0..60 {
                let gradients = task.loss(&parameters.builder(), &[0, 1, 2, 3], step)?.0.backward()?;
                let gradient =
                    |var| gradients.get(var).map_or_else(|| panic!("a gradient is missing"), Tensor::flatten_all);
                let variables = optimizer.variables();
                let flat = variables.iter().map(|var| Ok(gradient(var)?.to_vec1()?));
                let flat = flat.collect::<Result<Vec<Vec<f32>>>>()?;
                optimizer.step(&flat, 1e-2)?;
            }
            // Four pairs: chance finds one of them.
            let share = (100..110).map(found).sum::<Result<f64>>()? / 10.0;
            assert!(share > 0.9, "{share} of the pictures were found");
            Ok(())
        })
    }
}
