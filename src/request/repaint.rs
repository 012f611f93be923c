//! How a part of a picture is repainted.

use super::GenerateRequest;
use crate::image::Edges;
use serde::{Deserialize, Serialize};

/// How the new part of a picture is fitted into the old one. In a receipt these are fields of their own, named as in a
/// request and left out where they are as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repaint {
    /// Pixels over which new fades into old, inside the mask's white part.
    #[serde(skip_serializing_if = "is_default")]
    pub mask_feather: u32,
    /// Whether the picture keeps its own size, and only the surroundings of the mask's white part are drawn.
    #[serde(skip_serializing_if = "is_default")]
    pub only_masked: bool,
    /// How many pixels around the white part are drawn with it then.
    #[serde(skip_serializing_if = "is_usual_padding")]
    pub only_masked_padding: u32,
    /// Borders that were added to the picture, white in the mask.
    #[serde(skip_serializing_if = "is_default")]
    pub extend: Edges,
}

impl Repaint {
    /// The largest feather.
    pub const MAX_FEATHER: u32 = 64;
    /// The largest padding.
    pub const MAX_PADDING: u32 = 256;
    /// The padding where a request names none.
    pub const PADDING: u32 = 32;

    /// The pixels that are drawn for a picture of `size`.
    pub fn drawn(&self, size: (usize, usize)) -> (usize, usize) {
        if self.only_masked {
            return size;
        }
        let (width, height) = self.extend.around((size.0 as u32, size.1 as u32));
        (width as usize, height as usize)
    }

    /// A request with these fields and no other.
    pub fn request(&self) -> GenerateRequest {
        GenerateRequest {
            mask_feather: Some(self.mask_feather.to_string()),
            only_masked: Some(self.only_masked.to_string()),
            only_masked_padding: Some(self.only_masked_padding.to_string()),
            extend: Some(self.extend.to_string()),
            ..GenerateRequest::default()
        }
    }
}

impl Default for Repaint {
    fn default() -> Self {
        Self { mask_feather: 0, only_masked: false, only_masked_padding: Self::PADDING, extend: Edges::default() }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_usual_padding(value: &u32) -> bool {
    *value == Repaint::PADDING
}
