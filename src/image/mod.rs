//! Picture files to pixels and back: the only code that touches bytes a stranger sent.
//!
//! Reading ([`read`]): PNG, JPEG and WebP, told apart by content; size checked in the header before anything is
//! decoded; EXIF orientation applied; transparency laid on white; 16-bit and grey become 8-bit RGB; embedded colour
//! profiles are ignored; of an animation the first frame. Nothing of the file but its pixels goes any further.

mod area;
mod canny;
mod edges;
mod encoded;
mod feather;
mod grid;
mod label;
mod mask;
mod read;
mod tensor;
mod write;

pub use ::image::RgbImage;
pub use area::Area;
pub use canny::canny;
pub use edges::Edges;
pub use encoded::Encoded;
pub use grid::grid;
pub use label::labelled_grid;
pub use mask::{Greys, Mask};
pub use read::{MAX_INPUT_PIXELS, MAX_INPUT_SIDE, fit, read, resize, thumbnail};
pub use tensor::{batch_from_tensor, clipped, from_tensor, to_tensor};
pub(crate) use write::sync_folder_of;
pub use write::{Format, Text, encode, encode_apng, encode_png, read_png_text, write_file};
