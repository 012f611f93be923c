//! The names of tensors in single-file checkpoints, which are those of the program that trained Stable Diffusion (LDM),
//! and of OpenCLIP, to the names that this crate's networks ask for, which are those of diffusers and transformers.

use crate::model::checkpoint::weights::Part;

/// What a network calls a tensor of the file, or a part of one.
pub(super) type Target = (String, Part);

fn whole(name: String) -> Vec<Target> {
    vec![(name, Part::Whole)]
}

/// `name` without its first part, which must be a number, and that number.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// The first pair whose key is the beginning of `name`, up to a dot: its value in the key's place.
fn replaced(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(from, to)| {
        let rest = name.strip_prefix(from)?;
        rest.starts_with('.').then(|| format!("{to}{rest}"))
    })
}

/// A U-Net's tensor, `name` being what follows `model.diffusion_model.`, in a network of `layers` residual blocks per
/// level.
pub(in crate::model) fn unet(name: &str, layers: usize) -> Option<String> {
    let outside = [
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ];
    if let Some(name) = replaced(name, &outside) {
        return Some(name);
    }
    let (stage, rest) = name.split_once('.')?;
    let (index, rest) = numbered(rest)?;
    match stage {
        "input_blocks" => down(index.checked_sub(1)?, rest, layers),
        "middle_block" => match index {
            1 => Some(format!("mid_block.attentions.0.{rest}")),
            0 | 2 => Some(format!("mid_block.resnets.{}.{}", index / 2, residual(rest)?)),
            _ => None,
        },
        "output_blocks" => up(index, rest, layers),
        _ => None,
    }
}

/// A ControlNet's tensor, in a network of `layers` residual blocks per level: a U-Net's without its way up, and what leads
/// into it and out of it.
pub(super) fn controlnet(name: &str, layers: usize) -> Option<String> {
    if let Some(rest) = name.strip_prefix("input_hint_block.") {
        let (index, rest) = numbered(rest)?;
        return match index {
            0 => Some(format!("controlnet_cond_embedding.conv_in.{rest}")),
            14 => Some(format!("controlnet_cond_embedding.conv_out.{rest}")),
            // An activation lies between two convolutions.
            _ => Some(format!("controlnet_cond_embedding.blocks.{}.{rest}", (index / 2).checked_sub(1)?)),
        };
    }
    if let Some((index, rest)) = name.strip_prefix("zero_convs.").and_then(numbered) {
        return Some(format!("controlnet_down_blocks.{index}.{}", rest.strip_prefix("0.")?));
    }
    match name.strip_prefix("middle_block_out.0.") {
        Some(rest) => Some(format!("controlnet_mid_block.{rest}")),
        None => unet(name, layers),
    }
}

/// Block `index` after the first convolution: residual blocks, each perhaps with a transformer, then a stride of two.
fn down(index: usize, rest: &str, layers: usize) -> Option<String> {
    let (level, layer) = (index / (layers + 1), index % (layers + 1));
    let (place, rest) = numbered(rest)?;
    match (place, layer == layers) {
        (0, true) => Some(format!("down_blocks.{level}.downsamplers.0.conv.{}", rest.strip_prefix("op.")?)),
        (0, false) => Some(format!("down_blocks.{level}.resnets.{layer}.{}", residual(rest)?)),
        (1, false) => Some(format!("down_blocks.{level}.attentions.{layer}.{rest}")),
        _ => None,
    }
}

/// Block `index` on the way up: a residual block, perhaps a transformer, and at the end of a level a convolution.
fn up(index: usize, rest: &str, layers: usize) -> Option<String> {
    let (level, layer) = (index / (layers + 1), index % (layers + 1));
    let (place, rest) = numbered(rest)?;
    match (place, rest.strip_prefix("conv.")) {
        (0, _) => Some(format!("up_blocks.{level}.resnets.{layer}.{}", residual(rest)?)),
        (1 | 2, Some(rest)) => Some(format!("up_blocks.{level}.upsamplers.0.conv.{rest}")),
        (1, None) => Some(format!("up_blocks.{level}.attentions.{layer}.{rest}")),
        _ => None,
    }
}

fn residual(name: &str) -> Option<String> {
    let table = [
        ("in_layers.0", "norm1"),
        ("in_layers.2", "conv1"),
        ("emb_layers.1", "time_emb_proj"),
        ("out_layers.0", "norm2"),
        ("out_layers.3", "conv2"),
        ("skip_connection", "conv_shortcut"),
    ];
    replaced(name, &table)
}

/// An autoencoder's tensor, `name` being what follows `first_stage_model.`, in a network of `levels` resolutions.
pub(super) fn vae(name: &str, levels: usize) -> Option<String> {
    let outside = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")];
    if let Some(name) = replaced(name, &outside) {
        return Some(name);
    }
    let (side, rest) = name.split_once('.')?;
    if !matches!(side, "encoder" | "decoder") {
        return None;
    }
    let ends = [
        ("conv_in", "conv_in"),
        ("conv_out", "conv_out"),
        ("norm_out", "conv_norm_out"),
        ("mid.block_1", "mid_block.resnets.0"),
        ("mid.block_2", "mid_block.resnets.1"),
    ];
    let attention = [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];
    let inside = if let Some(rest) = rest.strip_prefix("mid.attn_1.") {
        format!("mid_block.attentions.0.{}", replaced(rest, &attention)?)
    } else if let Some(rest) = rest.strip_prefix("down.") {
        let (level, rest) = numbered(rest)?;
        format!("down_blocks.{level}.{}", vae_level(rest)?)
    } else if let Some(rest) = rest.strip_prefix("up.") {
        let (level, rest) = numbered(rest)?;
        format!("up_blocks.{}.{}", (levels - 1).checked_sub(level)?, vae_level(rest)?)
    } else {
        replaced(rest, &ends)?
    };
    Some(format!("{side}.{}", inside.replace(".nin_shortcut.", ".conv_shortcut.")))
}

fn vae_level(name: &str) -> Option<String> {
    let table =
        [("block", "resnets"), ("downsample.conv", "downsamplers.0.conv"), ("upsample.conv", "upsamplers.0.conv")];
    replaced(name, &table)
}

/// An OpenCLIP text encoder's tensor, `name` being what follows `cond_stage_model.model.`: three for one where queries,
/// keys and values are stored together, none for what is not used.
pub(super) fn open_clip(name: &str) -> Vec<Target> {
    let outside =
        [("token_embedding", "text_model.embeddings.token_embedding"), ("ln_final", "text_model.final_layer_norm")];
    match name {
        "positional_embedding" => return whole("text_model.embeddings.position_embedding.weight".into()),
        "text_projection" => return vec![("text_projection.weight".into(), Part::Transposed)],
        _ => {}
    }
    if let Some(name) = replaced(name, &outside) {
        return whole(name);
    }
    let Some((layer, rest)) = name.strip_prefix("transformer.resblocks.").and_then(numbered) else {
        return Vec::new();
    };
    let layer = format!("text_model.encoder.layers.{layer}");
    if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
        let projection = |third, letter: char| (format!("{layer}.self_attn.{letter}_proj.{kind}"), Part::Third(third));
        return vec![projection(0, 'q'), projection(1, 'k'), projection(2, 'v')];
    }
    let inside = [
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
        ("attn.out_proj", "self_attn.out_proj"),
    ];
    replaced(rest, &inside).map_or_else(Vec::new, |rest| whole(format!("{layer}.{rest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_stable_diffusion_1_are_those_of_diffusers() {
        for (ldm, diffusers) in [
            ("time_embed.2.bias", "time_embedding.linear_2.bias"),
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.1.0.in_layers.0.weight", "down_blocks.0.resnets.0.norm1.weight"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("input_blocks.4.0.skip_connection.bias", "down_blocks.1.resnets.0.conv_shortcut.bias"),
            ("input_blocks.8.1.proj_in.weight", "down_blocks.2.attentions.1.proj_in.weight"),
            ("input_blocks.11.0.emb_layers.1.weight", "down_blocks.3.resnets.1.time_emb_proj.weight"),
            ("middle_block.0.out_layers.3.weight", "mid_block.resnets.0.conv2.weight"),
            ("middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
            ("middle_block.2.out_layers.0.weight", "mid_block.resnets.1.norm2.weight"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            (
                "output_blocks.5.1.transformer_blocks.0.attn2.to_k.weight",
                "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k.weight",
            ),
            ("output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
            ("output_blocks.11.0.in_layers.2.bias", "up_blocks.3.resnets.2.conv1.bias"),
            ("out.0.weight", "conv_norm_out.weight"),
            ("out.2.bias", "conv_out.bias"),
        ] {
            assert_eq!(unet(ldm, 2).as_deref(), Some(diffusers), "{ldm}");
        }
        for other in ["", "input_blocks", "input_blocks.x.0.op.weight", "input_blocks.1.7.a", "outer.0.weight"] {
            assert_eq!(unet(other, 2), None, "{other}");
        }
    }

    #[test]
    fn names_of_the_autoencoder_are_those_of_diffusers() {
        for (ldm, diffusers) in [
            ("quant_conv.weight", "quant_conv.weight"),
            ("encoder.conv_in.bias", "encoder.conv_in.bias"),
            ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
            ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"),
            ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
            ("decoder.mid.attn_1.norm.bias", "decoder.mid_block.attentions.0.group_norm.bias"),
            ("decoder.mid.block_2.conv1.weight", "decoder.mid_block.resnets.1.conv1.weight"),
            ("decoder.up.0.block.2.norm1.weight", "decoder.up_blocks.3.resnets.2.norm1.weight"),
            ("decoder.up.3.upsample.conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.weight"),
            ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        ] {
            assert_eq!(vae(ldm, 4).as_deref(), Some(diffusers), "{ldm}");
        }
        for other in ["loss.logvar", "decoder.up.4.block.0.norm1.weight", "decoder", "model_ema.decay"] {
            assert_eq!(vae(other, 4), None, "{other}");
        }
    }

    #[test]
    fn names_of_the_first_controlnets_are_those_of_diffusers() {
        for (ldm, diffusers) in [
            ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"),
            ("input_hint_block.2.bias", "controlnet_cond_embedding.blocks.0.bias"),
            ("input_hint_block.12.weight", "controlnet_cond_embedding.blocks.5.weight"),
            ("input_hint_block.14.bias", "controlnet_cond_embedding.conv_out.bias"),
            ("zero_convs.11.0.weight", "controlnet_down_blocks.11.weight"),
            ("middle_block_out.0.bias", "controlnet_mid_block.bias"),
            ("middle_block.2.in_layers.2.weight", "mid_block.resnets.1.conv1.weight"),
            ("input_blocks.0.0.bias", "conv_in.bias"),
            ("time_embed.0.weight", "time_embedding.linear_1.weight"),
        ] {
            assert_eq!(controlnet(ldm, 2).as_deref(), Some(diffusers), "{ldm}");
        }
        for other in ["input_hint_block.weight", "zero_convs.1.weight", "middle_block_out", "input_hint_block.1.bias"] {
            assert_eq!(controlnet(other, 2), None, "{other}");
        }
    }

    #[test]
    fn names_of_open_clip_are_those_of_transformers() {
        let one = |name: &str| match open_clip(name).as_slice() {
            [(name, Part::Whole)] => name.clone(),
            other => panic!("{name} became {other:?}"),
        };
        for (open, transformers) in [
            ("token_embedding.weight", "embeddings.token_embedding.weight"),
            ("positional_embedding", "embeddings.position_embedding.weight"),
            ("ln_final.bias", "final_layer_norm.bias"),
            ("transformer.resblocks.11.ln_1.weight", "encoder.layers.11.layer_norm1.weight"),
            ("transformer.resblocks.0.mlp.c_proj.bias", "encoder.layers.0.mlp.fc2.bias"),
            ("transformer.resblocks.0.attn.out_proj.bias", "encoder.layers.0.self_attn.out_proj.bias"),
        ] {
            assert_eq!(one(open), format!("text_model.{transformers}"));
        }
        let thirds = open_clip("transformer.resblocks.3.attn.in_proj_bias");
        let names: Vec<_> = thirds.iter().map(|(name, part)| (name.rsplit('.').nth(1), *part)).collect();
        let expected = [("q_proj", 0), ("k_proj", 1), ("v_proj", 2)].map(|(name, i)| (Some(name), Part::Third(i)));
        assert_eq!(names, expected);
        assert_eq!(open_clip("text_projection")[0].1, Part::Transposed);
        assert!(open_clip("logit_scale").is_empty() && open_clip("attn_mask").is_empty());
    }
}
