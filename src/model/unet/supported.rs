//! The fields of diffusers' `unet/config.json` that choose between networks of which this crate builds one.

use serde_json::{Map, Value};

/// Fields with the values that this crate builds, as JSON writes them. A field that is not there has diffusers' default,
/// which is the first of its values.
const BUILT: [(&str, &[&str]); 27] = [
    ("_class_name", &[r#""UNet2DConditionModel""#]),
    ("act_fn", &[r#""silu""#, r#""swish""#]),
    ("addition_embed_type", &["null", r#""text""#, r#""text_time""#]),
    ("attention_type", &[r#""default""#]),
    ("center_input_sample", &["false"]),
    ("class_embed_type", &["null"]),
    ("class_embeddings_concat", &["false"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("cross_attention_norm", &["null"]),
    ("downsample_padding", &["1", "0"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &["null"]),
    ("encoder_hid_dim_type", &["null"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("mid_block_type", &[r#""UNetMidBlock2DCrossAttn""#]),
    ("num_attention_heads", &["null"]),
    ("num_class_embeds", &["null"]),
    ("only_cross_attention", &["false"]),
    ("resnet_out_scale_factor", &["1.0", "1"]),
    ("resnet_skip_time_act", &["false"]),
    ("resnet_time_scale_shift", &[r#""default""#]),
    ("reverse_transformer_layers_per_block", &["null"]),
    ("time_embedding_act_fn", &["null"]),
    ("time_embedding_dim", &["null"]),
    ("time_embedding_type", &[r#""positional""#]),
    ("timestep_post_act", &["null"]),
];

/// An error that names the first field with a value that is not built.
pub(super) fn check(fields: &Map<String, Value>) -> Result<(), String> {
    for (name, built) in BUILT {
        let Some(value) = fields.get(name).map(Value::to_string) else { continue };
        if !built.contains(&value.as_str()) {
            return Err(format!("{name} {value} is not supported, only {}", built.join(" or ")));
        }
    }
    Ok(())
}
