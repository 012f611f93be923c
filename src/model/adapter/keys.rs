//! The end of a tensor's name in an adapter: what the tensor is to the layer that the rest of the name means.

/// What a tensor is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    /// The strength that an adapter was trained with, times its rank.
    Alpha,
    /// DoRA's lengths, as LyCORIS has them: of columns or of rows.
    DoraScale,
    /// DoRA's lengths, as PEFT has them: of rows.
    MagnitudeVector,
    /// LoRA: inputs to rank.
    Down,
    /// LoRA: rank to rank, over a kernel.
    Mid,
    /// LoRA: rank to outputs.
    Up,
    /// LoHa: of the two matrices that are multiplied element by element.
    Hada(Factor),
    /// LoKr: of the two matrices whose Kronecker product it is.
    Lokr(Factor),
    /// The whole change of the weight.
    Weight,
    /// The whole change of the bias.
    Bias,
}

/// Two matrices, and what they are products of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Factor {
    /// The first matrix.
    W1,
    /// Its left factor.
    W1A,
    /// Its right factor.
    W1B,
    /// What stands between them where kernels are decomposed (Tucker).
    T1,
    /// The second matrix.
    W2,
    W2A,
    W2B,
    T2,
}

/// kohya's names first, then those of diffusers, new and old, and of PEFT.
const ENDINGS: [(&str, Role); 35] = [
    (".alpha", Role::Alpha),
    (".dora_scale", Role::DoraScale),
    (".lora_magnitude_vector", Role::MagnitudeVector),
    (".lora_magnitude_vector.weight", Role::MagnitudeVector),
    (".lora_magnitude_vector.default.weight", Role::MagnitudeVector),
    (".lora_down.weight", Role::Down),
    (".lora.down.weight", Role::Down),
    ("_lora.down.weight", Role::Down),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_A.weight", Role::Down),
    (".lora_A.default.weight", Role::Down),
    (".lora_mid.weight", Role::Mid),
    (".lora_up.weight", Role::Up),
    (".lora.up.weight", Role::Up),
    ("_lora.up.weight", Role::Up),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_B.weight", Role::Up),
    (".lora_B.default.weight", Role::Up),
    (".hada_w1_a", Role::Hada(Factor::W1A)),
    (".hada_w1_b", Role::Hada(Factor::W1B)),
    (".hada_t1", Role::Hada(Factor::T1)),
    (".hada_w2_a", Role::Hada(Factor::W2A)),
    (".hada_w2_b", Role::Hada(Factor::W2B)),
    (".hada_t2", Role::Hada(Factor::T2)),
    (".lokr_w1", Role::Lokr(Factor::W1)),
    (".lokr_w1_a", Role::Lokr(Factor::W1A)),
    (".lokr_w1_b", Role::Lokr(Factor::W1B)),
    (".lokr_w2", Role::Lokr(Factor::W2)),
    (".lokr_w2_a", Role::Lokr(Factor::W2A)),
    (".lokr_w2_b", Role::Lokr(Factor::W2B)),
    (".lokr_t2", Role::Lokr(Factor::T2)),
    (".diff", Role::Weight),
    (".w_norm", Role::Weight),
    (".diff_b", Role::Bias),
    (".b_norm", Role::Bias),
];

/// What the name means: a layer, by whichever of its names, and the tensor's role.
pub(super) fn split(key: &str) -> Option<(&str, Role)> {
    ENDINGS.iter().find_map(|(ending, role)| Some((key.strip_suffix(ending)?, *role)))
}
