//! The names that a U-Net's layers have in the program that trained Stable Diffusion: adapters of SDXL have them.

use crate::model::checkpoint::ldm_unet;
use std::collections::HashMap;

/// The first parts of names: diffusers' to those of LDM, of which some have two.
#[derive(Debug)]
pub(super) struct LdmNames(HashMap<String, Vec<String>>);

/// Parts of a residual block, of a change of resolution, and a transformer as it is.
const INSIDE: [&str; 9] = [
    "",
    ".in_layers.0",
    ".in_layers.2",
    ".emb_layers.1",
    ".out_layers.0",
    ".out_layers.3",
    ".skip_connection",
    ".op",
    ".conv",
];

const OUTSIDE: [&str; 7] =
    ["time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2", "input_blocks.0.0", "out.0", "out.2"];

/// Stands for the rest of a name.
const REST: &str = "*";

impl LdmNames {
    /// Of the network with these parameters. Which name of LDM's leads to which of diffusers' is asked of the reader of
    /// single files, so that the two cannot differ.
    pub(super) fn new<'a>(parameters: impl Iterator<Item = &'a str>) -> Self {
        let (layers, levels) = depth(parameters);
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        for ldm in places(levels * (layers + 1)) {
            let Some(name) = ldm_unet(&format!("{ldm}.{REST}"), layers) else { continue };
            if let Some(name) = name.strip_suffix(&format!(".{REST}")) {
                names.entry(name.to_owned()).or_default().push(ldm);
            }
        }
        Self(names)
    }

    /// All that LDM calls the layer `name`.
    pub(super) fn of(&self, name: &str) -> Vec<String> {
        let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
        let found = ends.filter_map(|end| self.0.get(&name[..end]).map(|places| (places, &name[end..])));
        found.flat_map(|(places, rest)| places.iter().map(move |place| format!("{place}{rest}"))).collect()
    }
}

/// All beginnings of names in a network of so many blocks a side.
fn places(blocks: usize) -> impl Iterator<Item = String> {
    let sides = ["input_blocks", "output_blocks"].into_iter();
    let blocks = sides.flat_map(move |side| (0..=blocks).map(move |block| format!("{side}.{block}")));
    let blocks = blocks.chain(["middle_block".to_owned()]);
    let layers = blocks.flat_map(|block| (0..3).map(move |layer| format!("{block}.{layer}")));
    let inside = layers.flat_map(|layer| INSIDE.map(|inside| format!("{layer}{inside}")));
    OUTSIDE.map(str::to_owned).into_iter().chain(inside)
}

/// Residual blocks of the first level, and levels.
fn depth<'a>(parameters: impl Iterator<Item = &'a str>) -> (usize, usize) {
    let (mut layers, mut levels) = (0, 0);
    for name in parameters {
        let mut parts = name.split('.');
        let mut number = |before: &str| (parts.next() == Some(before)).then(|| parts.next()?.parse::<usize>().ok())?;
        let Some(level) = number("down_blocks") else { continue };
        levels = levels.max(level + 1);
        if let Some(layer) = number("resnets").filter(|_| level == 0) {
            layers = layers.max(layer + 1);
        }
    }
    (layers, levels)
}
