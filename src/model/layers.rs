//! The layers that the networks are made of, with the parameter names of PyTorch (`weight`, `bias`).
//!
//! Each is its parameters plus a call into [`crate::kernels`]. Activations are channels-last, see there. All are
//! differentiable; candle-nn's own `LayerNorm` and `softmax_last_dim` are avoided because they have no backward.

use crate::Result;
use crate::kernels::{
    self, Activation, AttentionBlock, Convolution, FeedForward, GroupMoments, Moments, Normalisation, Packed, Padding,
    Products, Residual, Weight,
};
use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};

/// Parameters start uniform in +-1/sqrt(fan_in), PyTorch's default for linear and convolution layers.
fn uniform(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// Parameters of this name are asked for in the layout of [`Packed`], and are there where products are to be in bf16.
const WEIGHT: &str = "weight";
const PACKED_WEIGHT: &str = "weight#packed";

/// There is a parameter of this name where [`WEIGHT`] is to be rounded to bf16 each time it is multiplied.
const ROUNDED_WEIGHT: &str = "weight#rounded";

/// Whether a parameter of this name says that another is to be rounded.
pub(crate) fn asks_for_rounded(name: &str) -> bool {
    name.ends_with(ROUNDED_WEIGHT)
}

/// What a parameter in the layout of [`Packed`] is called, if it is one.
pub(super) fn packed_name(name: &str) -> Option<&str> {
    name.strip_suffix("#packed")
}

/// The name under which the parameter `name` is asked for in the layout of [`Packed`].
pub(super) fn name_packed(name: &str) -> String {
    format!("{name}#packed")
}

/// The weight of a linear layer, (O, I), or of a convolution, (O, I, kh, kw) in files.
fn weight(dims: &[usize], init: Init, vb: &VarBuilder) -> Result<Weight> {
    let kernel = |dims: &[usize]| match *dims {
        [outputs, inputs, height, width] => vec![outputs, height, width, inputs],
        _ => dims.to_vec(),
    };
    if vb.contains_tensor(PACKED_WEIGHT) {
        return Ok(Weight::Packed(Packed::new(vb.get_with_hints(dims, PACKED_WEIGHT, init)?, &kernel(dims))?));
    }
    let weight = vb.get_with_hints(dims, WEIGHT, init)?;
    let weight = if dims.len() == 4 { weight.permute((0, 2, 3, 1))?.contiguous()? } else { weight };
    Ok(if vb.contains_tensor(ROUNDED_WEIGHT) { Weight::Rounded(weight) } else { Weight::Plain(weight) })
}

/// `x w^T + b` on the last dimension.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with bias; `weight` is (outputs, inputs).
    pub fn new(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let bias = Some(vb.get_with_hints(outputs, "bias", uniform(inputs))?);
        Ok(Self { bias, ..Self::without_bias(inputs, outputs, vb)? })
    }

    /// A layer without bias.
    pub fn without_bias(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { weight: weight(&[outputs, inputs], uniform(inputs), vb)?, bias: None })
    }

    /// Its first half times the GELU of the second: (.., inputs) -> (.., outputs / 2).
    pub fn forward_gated(&self, x: &Tensor) -> Result<Tensor> {
        kernels::geglu_linear(x, &self.weight, self.bias.as_ref())
    }

    /// How its products are computed.
    pub fn products(&self) -> Products {
        self.weight.products()
    }

    /// (.., inputs) -> (.., outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::linear(x, &self.weight, self.bias.as_ref())
    }
}

/// A 2-D convolution; `weight` is (outputs, inputs, k, k) in files and (outputs, k, k, inputs) here.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Weight,
    bias: Option<Tensor>,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// A `kernel` x `kernel` convolution with bias.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: Padding,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let bias = Some(vb.get_with_hints(outputs, "bias", uniform(inputs * kernel * kernel))?);
        Ok(Self { bias, ..Self::without_bias(inputs, outputs, kernel, stride, padding, vb)? })
    }

    /// The same without bias.
    pub fn without_bias(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: Padding,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let init = uniform(inputs * kernel * kernel);
        Ok(Self { weight: weight(&[outputs, inputs, kernel, kernel], init, vb)?, bias: None, stride, padding })
    }

    /// How its products are computed.
    pub fn products(&self) -> Products {
        self.weight.products()
    }

    /// A 3x3 convolution that keeps the size.
    pub fn same3x3(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Self::new(inputs, outputs, 3, 1, Padding::same(1), vb)
    }

    /// A 1x1 convolution.
    pub fn pointwise(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Self::new(inputs, outputs, 1, 1, Padding::same(0), vb)
    }

    /// (B, H, W, inputs) -> (B, H', W', outputs).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::conv2d(x, &self.weight, self.bias.as_ref(), self.stride, self.padding)
    }

    /// Of silu(norm(x)), which need not exist whole.
    pub fn forward_normed<'a>(&'a self, norm: impl Into<Normalisation<'a>>, x: &Tensor) -> Result<Tensor> {
        kernels::norm_conv2d(x, norm.into(), self.parameters())
    }

    /// Of norm(x), in the same way.
    pub fn forward_only_normed(&self, norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
        let norm = Normalisation { activation: Activation::Identity, ..norm.into() };
        kernels::norm_conv2d(x, norm, self.parameters())
    }

    /// Of x, added to y.
    pub fn forward_onto(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
        kernels::add_conv2d(y, x, self.parameters())
    }

    /// Of x enlarged to `height` x `width` by repeating the nearest position before; that need not exist either.
    pub fn forward_enlarged(&self, x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        kernels::enlarged_conv2d(x, (height, width), self.parameters())
    }

    /// The same for a [`residual_block`] that follows, which takes less memory where weights are packed.
    pub fn forward_enlarged_for_block(&self, x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
        kernels::enlarged_conv2d_for_block(x, size, self.parameters())
    }

    fn parameters(&self) -> Convolution<'_> {
        Convolution { weight: &self.weight, bias: self.bias.as_ref(), stride: self.stride, padding: self.padding }
    }
}

/// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + e)))`, with a vector per sample for e, (B, C), where there is
/// one, and `x` itself where there is no shortcut: what all these networks are mostly made of. (B, H, W, inputs) -> (B, H,
/// W, outputs).
pub fn residual_block<'a, N: Into<Normalisation<'a>>>(
    x: &Tensor,
    (norm1, conv1): (N, &'a Conv2d),
    e: Option<&'a Tensor>,
    (norm2, conv2): (N, &'a Conv2d),
    shortcut: Option<&'a Conv2d>,
) -> Result<Tensor> {
    let block = Residual {
        first: (norm1.into(), conv1.parameters()),
        per_sample: e,
        second: (norm2.into(), conv2.parameters()),
        shortcut: shortcut.map(Conv2d::parameters),
    };
    kernels::residual_block(x, block)
}

/// Group normalisation with scale and shift per channel.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl<'a> From<&'a GroupNorm> for Normalisation<'a> {
    fn from(norm: &'a GroupNorm) -> Self {
        let GroupNorm { weight, bias, groups, eps } = norm;
        Self { weight, bias, groups: *groups, eps: *eps, activation: Activation::Silu, moments: None }
    }
}

impl GroupNorm {
    /// `groups` must divide `channels`.
    pub fn new(groups: usize, channels: usize, eps: f64, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
        Ok(Self { weight, bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?, groups, eps })
    }

    /// Whether its parameters are variables, which want gradients.
    pub fn is_trained(&self) -> bool {
        self.weight.track_op()
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.weight.elem_count()
    }

    /// Those of its groups, of a picture with these moments.
    pub fn moments(&self, of_channels: &Moments) -> GroupMoments {
        of_channels.of_groups(self.groups, self.channels())
    }

    /// The same for a part of a picture, of which the whole has these moments.
    pub fn knowing<'a>(&'a self, moments: &'a GroupMoments) -> Normalisation<'a> {
        Normalisation { moments: Some(moments), ..self.into() }
    }

    /// The type of its parameters, which is that of the activations around it.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// (B, .., C) -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::group_norm(x, &self.weight, &self.bias, self.groups, self.eps, Activation::Identity)
    }

    /// The same followed by SiLU, in one pass.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        kernels::group_norm(x, &self.weight, &self.bias, self.groups, self.eps, Activation::Silu)
    }
}

/// Layer normalisation over the last dimension.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Scale and shift of `channels` values.
    pub fn new(channels: usize, eps: f64, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
        Ok(Self { weight, bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?, eps })
    }

    /// (.., C) -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// The projections of a multi-head attention: queries, keys and values without bias, and what is made of the result.
#[derive(Debug, Clone)]
pub struct Projections {
    /// Of queries.
    pub q: Linear,
    /// Of keys.
    pub k: Linear,
    /// Of values.
    pub v: Linear,
    /// Of the result; with a bias.
    pub out: Linear,
    /// How many heads.
    pub heads: usize,
}

/// `x + out(attention(q(h), k(context), v(context)))` with `h = norm(x)`, which is also the context where there is none.
pub fn attention_block(x: &Tensor, norm: &LayerNorm, p: &Projections, context: Option<&Tensor>) -> Result<Tensor> {
    let parts = AttentionBlock {
        norm: (&norm.weight, &norm.bias, norm.eps),
        queries: &p.q.weight,
        keys: &p.k.weight,
        values: &p.v.weight,
        out: (&p.out.weight, p.out.bias.as_ref().ok_or_else(|| fault("an attention's output needs a bias"))?),
        heads: p.heads,
    };
    kernels::attention_block(x, context, parts)
}

fn fault(message: &str) -> candle_core::Error {
    candle_core::Error::Msg(message.to_owned())
}

/// `x + second(gated(first(norm(x))))`, where `first` gives values and gates: the feed-forward part of a transformer block.
pub fn feed_forward(x: &Tensor, norm: &LayerNorm, first: &Linear, second: &Linear) -> Result<Tensor> {
    let (Some(first_bias), Some(second_bias)) = (&first.bias, &second.bias) else {
        return kernels::add(x, &second.forward(&first.forward_gated(&norm.forward(x)?)?)?);
    };
    let parts = FeedForward {
        norm: (&norm.weight, &norm.bias, norm.eps),
        first: (&first.weight, first_bias),
        second: (&second.weight, second_bias),
    };
    kernels::feed_forward(x, parts)
}

/// A table of vectors looked up by index; `weight` is (rows, channels).
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: Tensor,
    /// Of the vectors that it gives, whatever those of the table are kept in.
    dtype: DType,
}

impl Embedding {
    /// A table that starts normal with deviation 0.02, as CLIP's does.
    pub fn new(rows: usize, channels: usize, vb: &VarBuilder) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self { weight: vb.get_with_hints((rows, channels), "weight", init)?, dtype: vb.dtype() })
    }

    /// u32 indices (B, T) -> (B, T, C).
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        Ok(self.weight.index_select(&ids.flatten_all()?, 0)?.to_dtype(self.dtype)?.reshape((b, t, ()))?)
    }

    /// The whole table, as it is kept.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The first vectors of the table, (count, C).
    pub fn first(&self, count: usize) -> Result<Tensor> {
        Ok(self.weight.narrow(0, 0, count)?.to_dtype(self.dtype)?)
    }
}

/// (B, C, H, W) -> (B, H, W, C), contiguous.
pub fn to_channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?)
}

/// (B, H, W, C) -> (B, C, H, W), contiguous.
pub fn to_channels_first(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((0, 3, 1, 2))?.contiguous()?)
}
