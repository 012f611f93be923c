//! The transformer inside a U-Net block: self-attention, cross-attention to the text, gated feed-forward
//! (Rombach et al. 2021, section 3.3), as diffusers' `Transformer2DModel`.

use super::blocks::Conditions;
use super::merging;
use crate::Result;
use crate::kernels;
use crate::model::layers::{Conv2d, GroupNorm, LayerNorm, Linear, Projections, attention_block, feed_forward};
use candle_core::Tensor;
use candle_nn::VarBuilder;

/// Sizes of one [`Transformer`].
#[derive(Debug, Clone, Copy)]
pub(super) struct TransformerSizes {
    pub(super) channels: usize,
    pub(super) heads: usize,
    pub(super) depth: usize,
    pub(super) context: usize,
    pub(super) groups: usize,
    pub(super) linear_projection: bool,
    /// Whether it is of the finest level that attends, whose positions can be merged.
    pub(super) finest: bool,
}

/// x + project_out(blocks(project_in(norm(x)))).
#[derive(Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<Block>,
    proj_out: Projection,
    finest: bool,
}

impl Transformer {
    pub(super) fn new(s: TransformerSizes, vb: &VarBuilder) -> Result<Self> {
        let blocks = vb.pp("transformer_blocks");
        Ok(Self {
            norm: GroupNorm::new(s.groups, s.channels, 1e-6, &vb.pp("norm"))?,
            proj_in: Projection::new(s, &vb.pp("proj_in"))?,
            blocks: (0..s.depth).map(|i| Block::new(s, &blocks.pp(i))).collect::<Result<_>>()?,
            proj_out: Projection::new(s, &vb.pp("proj_out"))?,
            finest: s.finest,
        })
    }

    /// x (B, H, W, C) to (B, H, W, C).
    pub(super) fn forward(&self, x: &Tensor, given: Conditions<'_>) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let tokens = self.proj_in.forward_normed(&self.norm, x)?.reshape((b, h * w, c))?;
        let given = Conditions { merge: if self.finest { given.merge } else { 0.0 }, ..given };
        let tokens = self.blocks.iter().try_fold(tokens, |t, block| block.forward(&t, (h, w), given))?;
        self.proj_out.forward_onto(x, &tokens.reshape((b, h, w, c))?)
    }
}

/// The same product, stored as a matrix or as a 1x1 convolution.
#[derive(Debug)]
enum Projection {
    Linear(Linear),
    Pointwise(Conv2d),
}

impl Projection {
    fn new(s: TransformerSizes, vb: &VarBuilder) -> Result<Self> {
        Ok(if s.linear_projection {
            Self::Linear(Linear::new(s.channels, s.channels, vb)?)
        } else {
            Self::Pointwise(Conv2d::pointwise(s.channels, s.channels, vb)?)
        })
    }

    /// Of norm(x).
    fn forward_normed(&self, norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear(layer) => layer.forward(&norm.forward(x)?),
            Self::Pointwise(layer) => layer.forward_only_normed(norm, x),
        }
    }

    /// Of x, added to y.
    fn forward_onto(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear(layer) => kernels::add(y, &layer.forward(x)?),
            Self::Pointwise(layer) => layer.forward_onto(y, x),
        }
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl Block {
    fn new(s: TransformerSizes, vb: &VarBuilder) -> Result<Self> {
        let norm = |name: &str| LayerNorm::new(s.channels, 1e-5, &vb.pp(name));
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::new(s, s.channels, &vb.pp("attn1"))?,
            norm2: norm("norm2")?,
            attn2: Attention::new(s, s.context, &vb.pp("attn2"))?,
            norm3: norm("norm3")?,
            ff_in: Linear::new(s.channels, 8 * s.channels, &vb.pp("ff.net.0.proj"))?,
            ff_out: Linear::new(4 * s.channels, s.channels, &vb.pp("ff.net.2"))?,
        })
    }

    /// x (B, H * W, C) of `size` (H, W) to the same.
    fn forward(&self, x: &Tensor, size: (usize, usize), given: Conditions<'_>) -> Result<Tensor> {
        let x = match given.merge {
            0.0 => attention_block(x, &self.norm1, &self.attn1.projections, None)?,
            share => merging::attention(x, &self.norm1, &self.attn1.projections, size, share)?,
        };
        let x = self.attn2.forward_beside(&x, &self.norm2, given)?;
        feed_forward(&x, &self.norm3, &self.ff_in, &self.ff_out)
    }
}

/// Multi-head attention; queries, keys and values without bias.
#[derive(Debug)]
struct Attention {
    projections: Projections,
    /// In the whole network.
    name: String,
}

impl Attention {
    fn new(s: TransformerSizes, context: usize, vb: &VarBuilder) -> Result<Self> {
        let projections = Projections {
            q: Linear::without_bias(s.channels, s.channels, &vb.pp("to_q"))?,
            k: Linear::without_bias(context, s.channels, &vb.pp("to_k"))?,
            v: Linear::without_bias(context, s.channels, &vb.pp("to_v"))?,
            out: Linear::new(s.channels, s.channels, &vb.pp("to_out.0"))?,
            heads: s.heads,
        };
        Ok(Self { projections, name: vb.prefix() })
    }

    /// To the text, and to a picture beside it where there is one: the same queries, added up.
    fn forward_beside(&self, x: &Tensor, norm: &LayerNorm, given: Conditions<'_>) -> Result<Tensor> {
        let Projections { q, k, v, out, heads } = &self.projections;
        let beside = given.image.and_then(|image| Some((image.layers.get(&self.name)?, image.scale)));
        let Some(((image_k, image_v), scale)) = beside else {
            return attention_block(x, norm, &self.projections, Some(given.context));
        };
        let (queries, products) = (q.forward(&norm.forward(x)?)?, q.products());
        let (k, v) = (k.forward(given.context)?, v.forward(given.context)?);
        let of_text = kernels::attention(&queries, &k, &v, *heads, false, products)?;
        let of_image = kernels::attention(&queries, image_k, image_v, *heads, false, products)?;
        kernels::add(x, &out.forward(&(of_text + (of_image * scale)?)?)?)
    }
}
