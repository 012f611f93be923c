//! The sizes of networks, read off their tensors. Names are diffusers' and transformers' here.

use super::kind::{Clip, Family, TextKind};
use crate::model::checkpoint::weights::Weights;
use crate::model::clip::{ClipTextConfig, HiddenActivation, WITH_PROJECTION};
use crate::model::codec::CodecConfig;
use crate::model::controlnet::ControlNetConfig;
use crate::model::unet::{AdditionEmbedType, DownBlockType, PerBlock, UNetConfig, UpBlockType};
use crate::model::vae::VaeConfig;
use candle_core::{DType, Device};
use candle_nn::var_builder::SimpleBackend;

/// Channels of an attention head, in CLIP and in the U-Nets from version 2 on.
const HEAD: usize = 64;

/// Channels of each size's sinusoids in SDXL.
const SIZE_CHANNELS: usize = 256;

/// Dimension `dim` of the tensor `name`, or a sentence that says what it has instead.
fn size(weights: &Weights, name: &str, dim: usize) -> Result<usize, String> {
    let shape = weights.shape(name).ok_or_else(|| format!("the tensor called {name} in diffusers is missing"))?;
    let size = shape.get(dim).copied();
    size.ok_or_else(|| format!("the tensor called {name} in diffusers has the shape {shape:?}"))
}

/// How many of `name(0)`, `name(1)`, ... there are.
fn count(weights: &Weights, name: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|&i| weights.shape(&name(i)).is_some()).count()
}

/// Of a CLIP text encoder.
pub(super) fn text(weights: &Weights, kind: TextKind) -> Result<ClipTextConfig, String> {
    let bare = weights.shape("embeddings.token_embedding.weight").is_some();
    let prefix = if bare { "" } else { "text_model." };
    let of = |name: &str, dim| size(weights, &format!("{prefix}{name}.weight"), dim);
    let layers = count(weights, |i| format!("{prefix}encoder.layers.{i}.layer_norm1.weight"));
    let hidden_size = of("embeddings.token_embedding", 1)?;
    let projection = weights.shape("text_projection.weight").filter(|_| kind.reading.pooled);
    Ok(ClipTextConfig {
        vocab_size: of("embeddings.token_embedding", 0)?,
        hidden_size,
        intermediate_size: of("encoder.layers.0.mlp.fc1", 0)?,
        num_hidden_layers: layers.saturating_sub(kind.unused),
        num_attention_heads: (hidden_size / HEAD).max(1),
        max_position_embeddings: of("embeddings.position_embedding", 0)?,
        hidden_act: match kind.clip {
            Clip::OpenAi => HiddenActivation::QuickGelu,
            Clip::OpenClip => HiddenActivation::Gelu,
        },
        architectures: projection.as_ref().map(|_| vec![WITH_PROJECTION.to_owned()]),
        projection_dim: projection.and_then(|shape| shape.first().copied()).unwrap_or(hidden_size),
        ..ClipTextConfig::default()
    })
}

/// Of a U-Net.
pub(super) fn unet(weights: &Weights, family: Family) -> Result<UNetConfig, String> {
    let levels = count(weights, |i| format!("down_blocks.{i}.resnets.0.conv1.weight"));
    let channels = |i| size(weights, &format!("down_blocks.{i}.resnets.0.conv1.weight"), 0);
    let block_out_channels = (0..levels).map(channels).collect::<Result<Vec<_>, _>>()?;
    let attends: Vec<bool> =
        (0..levels).map(|i| weights.shape(&format!("down_blocks.{i}.attentions.0.norm.weight")).is_some()).collect();
    let down = |&attends: &bool| if attends { DownBlockType::CrossAttention } else { DownBlockType::Plain };
    let up = |&attends: &bool| if attends { UpBlockType::CrossAttention } else { UpBlockType::Plain };
    let middle = "mid_block.attentions.0";
    let depth = |place: &str| count(weights, |i| format!("{place}.transformer_blocks.{i}.norm1.weight")).max(1);
    let pooled_and_sizes =
        (family == Family::Xl).then(|| size(weights, "add_embedding.linear_1.weight", 1)).transpose()?;
    Ok(UNetConfig {
        sample_size: if family == Family::Xl { 128 } else { 64 },
        transformer_layers_per_block: PerBlock::Each(
            (0..levels).map(|i| depth(&format!("down_blocks.{i}.attentions.0"))).collect(),
        ),
        addition_embed_type: pooled_and_sizes.map(|_| AdditionEmbedType::TextTime),
        addition_time_embed_dim: pooled_and_sizes.map(|_| SIZE_CHANNELS),
        projection_class_embeddings_input_dim: pooled_and_sizes,
        time_cond_proj_dim: weights.shape("time_embedding.cond_proj.weight").and_then(|shape| shape.get(1).copied()),
        in_channels: size(weights, "conv_in.weight", 1)?,
        out_channels: size(weights, "conv_out.weight", 0)?,
        down_block_types: attends.iter().map(down).collect(),
        up_block_types: attends.iter().rev().map(up).collect(),
        layers_per_block: count(weights, |i| format!("down_blocks.0.resnets.{i}.conv1.weight")),
        cross_attention_dim: size(weights, &format!("{middle}.transformer_blocks.0.attn2.to_k.weight"), 1)?,
        attention_head_dim: match family {
            Family::V1 => PerBlock::All(8),
            Family::V2 | Family::Xl => PerBlock::Each(block_out_channels.iter().map(|c| (c / HEAD).max(1)).collect()),
        },
        use_linear_projection: weights.shape(&format!("{middle}.proj_in.weight")).is_some_and(|s| s.len() == 2),
        block_out_channels,
        ..UNetConfig::default()
    })
}

/// Of a ControlNet for a model like `base`, from which what no shape tells is taken.
pub(in crate::model::checkpoint) fn controlnet(
    weights: &Weights,
    base: &UNetConfig,
) -> Result<ControlNetConfig, String> {
    let embedding = "controlnet_cond_embedding";
    if weights.shape(&format!("{embedding}.conv_in.weight")).is_none() {
        return Err("no ControlNet: it has no network for the picture of conditions".into());
    }
    let levels = count(weights, |i| format!("down_blocks.{i}.resnets.0.conv1.weight"));
    let channels = |i| size(weights, &format!("down_blocks.{i}.resnets.0.conv1.weight"), 0);
    let attends = |i| weights.shape(&format!("down_blocks.{i}.attentions.0.norm.weight")).is_some();
    let down = |i| if attends(i) { DownBlockType::CrossAttention } else { DownBlockType::Plain };
    let up = |i| if attends(i) { UpBlockType::CrossAttention } else { UpBlockType::Plain };
    let key = |name: &str| name.ends_with("attn2.to_k.weight");
    let attentive_middle = weights.shape("mid_block.attentions.0.norm.weight").is_some();
    // Each level but the first begins with the second of two convolutions.
    let coarser = count(weights, |i| format!("{embedding}.blocks.{}.weight", 2 * i + 1));
    let inside = (0..coarser).map(|i| size(weights, &format!("{embedding}.blocks.{}.weight", 2 * i + 1), 0));
    let finest = size(weights, &format!("{embedding}.conv_in.weight"), 0);
    let unet = UNetConfig {
        in_channels: size(weights, "conv_in.weight", 1)?,
        down_block_types: (0..levels).map(down).collect(),
        up_block_types: (0..levels).rev().map(up).collect(),
        block_out_channels: (0..levels).map(channels).collect::<Result<_, _>>()?,
        layers_per_block: count(weights, |i| format!("down_blocks.0.resnets.{i}.conv1.weight")),
        cross_attention_dim: match weights.names().find(|name| key(name)) {
            Some(name) => size(weights, name, 1)?,
            None => base.cross_attention_dim,
        },
        ..base.clone()
    };
    let conditioning_embedding_out_channels = std::iter::once(finest).chain(inside).collect::<Result<_, _>>()?;
    Ok(ControlNetConfig { unet, attentive_middle, conditioning_embedding_out_channels, bgr: false })
}

/// Of Stable Diffusion's autoencoder.
pub(super) fn vae(weights: &Weights, family: Family) -> Result<CodecConfig, String> {
    let levels = count(weights, |i| format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"));
    let channels = |i| size(weights, &format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"), 0);
    CodecConfig::kl(VaeConfig {
        in_channels: size(weights, "encoder.conv_in.weight", 1)?,
        out_channels: size(weights, "decoder.conv_out.weight", 0)?,
        down_block_types: vec!["DownEncoderBlock2D".into(); levels],
        up_block_types: vec!["UpDecoderBlock2D".into(); levels],
        block_out_channels: (0..levels).map(channels).collect::<Result<_, _>>()?,
        layers_per_block: count(weights, |i| format!("encoder.down_blocks.0.resnets.{i}.conv1.weight")),
        latent_channels: size(weights, "decoder.conv_in.weight", 1)?,
        scaling_factor: if family == Family::Xl { 0.13025 } else { 0.18215 },
        use_quant_conv: weights.shape("quant_conv.weight").is_some(),
        use_post_quant_conv: weights.shape("post_quant_conv.weight").is_some(),
        ..VaeConfig::default()
    })
}

/// Whether a U-Net of version 2, whose file does not say what it predicts, looks as those do that predict v: a shift
/// of theirs is spread wider. The measure is ComfyUI's (`model_base` detection, 0.09).
pub(super) fn looks_like_velocity(unet: &Weights) -> bool {
    let name = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias";
    let deviation = || -> candle_core::Result<f32> {
        let values = unet.get_unchecked(name, DType::F32, &Device::Cpu)?.flatten_all()?;
        let centred = values.broadcast_sub(&values.mean_all()?)?;
        centred.sqr()?.mean_all()?.sqrt()?.to_scalar()
    };
    deviation().is_ok_and(|deviation| deviation > 0.09)
}
