//! A picture to PNG bytes with text beside it, and to a file that is whole or not there.

use crate::{Error, Result};
use ::image::RgbImage;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// One text chunk of a PNG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The keyword, such as `parameters`.
    pub keyword: &'static str,
    /// Any text without NUL.
    pub text: String,
}

/// Encodes a picture. Text goes into `tEXt` where Latin-1 can hold it (what most readers look at) and into `iTXt`
/// otherwise.
pub fn encode_png(picture: &RgbImage, texts: &[Text]) -> Result<Vec<u8>> {
    encode_apng(std::slice::from_ref(picture), 0, texts)
}

/// Encodes several pictures of one size as an animation that goes on for ever, each shown for so many milliseconds: an
/// APNG, which browsers show, whose first frame other programs show alone. One picture alone is a plain PNG.
pub fn encode_apng(frames: &[RgbImage], milliseconds: u16, texts: &[Text]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_png(&mut bytes, frames, milliseconds, texts)
        .map_err(|error| Error::Server(format!("a PNG could not be encoded: {error}")))?;
    Ok(bytes)
}

fn write_png(
    bytes: &mut Vec<u8>,
    frames: &[RgbImage],
    milliseconds: u16,
    texts: &[Text],
) -> Result<(), png::EncodingError> {
    let (width, height) = frames.first().map(RgbImage::dimensions).unwrap_or_default();
    let mut encoder = png::Encoder::new(bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if frames.len() > 1 {
        encoder.set_animated(frames.len() as u32, 0)?;
        encoder.set_frame_delay(milliseconds, 1000)?;
    }
    for Text { keyword, text } in texts {
        let (keyword, latin) = ((*keyword).to_owned(), text.chars().all(|c| u32::from(c) < 256));
        match latin {
            true => encoder.add_text_chunk(keyword, text.clone())?,
            false => encoder.add_itxt_chunk(keyword, text.clone())?,
        }
    }
    let mut writer = encoder.write_header()?;
    for frame in frames {
        writer.write_image_data(frame.as_raw())?;
    }
    writer.finish()
}

/// The text under `keyword` in a PNG file, from either kind of chunk.
pub fn read_png_text(bytes: &[u8], keyword: &str) -> Option<String> {
    let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().ok()?;
    let info = reader.info();
    let latin =
        info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword).map(|chunk| chunk.text.clone());
    latin.or_else(|| info.utf8_text.iter().find(|chunk| chunk.keyword == keyword)?.get_text().ok())
}

/// Writes `bytes` beside `path` under a temporary name, then renames: nothing half-written is ever seen under `path`.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    let renamed = written.and_then(|()| fs::rename(&temporary, path)).and_then(|()| sync_folder_of(path));
    renamed.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::Io { path: path.to_owned(), source }
    })
}

/// A rename is on the disk when its folder is. Only Unix lets folders be opened for that.
pub(crate) fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent().filter(|_| cfg!(unix)) {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// A kind of picture file that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Exact, and with its parameters.
    Png,
    /// Small, and nearly the picture.
    Jpeg,
    /// Exact.
    WebP,
}

/// JPEG's quality, of 100.
const JPEG_QUALITY: u8 = 92;

/// A picture as a file of another kind than ours, without its parameters.
pub fn encode(picture: &RgbImage, format: Format) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = picture.dimensions();
    let colour = ::image::ExtendedColorType::Rgb8;
    let encoded = match format {
        Format::Png => return encode_png(picture, &[]),
        Format::Jpeg => ::image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .encode(picture, width, height, colour),
        Format::WebP => {
            ::image::codecs::webp::WebPEncoder::new_lossless(&mut bytes).encode(picture, width, height, colour)
        }
    };
    encoded.map_err(|error| Error::Server(format!("a picture could not be encoded: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_script_survives() {
        let picture = RgbImage::from_pixel(3, 2, ::image::Rgb([1, 2, 3]));
        for text in ["red apple\nSteps: 20", "pomme rouge, déjà vu", "红苹果 🍎 👩‍👩‍👧 \u{202e}x", ""]
        {
            let texts =
                [Text { keyword: "parameters", text: text.into() }, Text { keyword: "limner", text: "{}".into() }];
            let bytes = encode_png(&picture, &texts).unwrap();
            assert_eq!(read_png_text(&bytes, "parameters").as_deref(), Some(text));
            assert_eq!(read_png_text(&bytes, "limner").as_deref(), Some("{}"));
            assert_eq!(super::super::read("image", &bytes).unwrap(), picture);
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("taken");
        fs::create_dir_all(target.join("by a folder")).unwrap();
        assert!(write_file(&target, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write_file(&folder.path().join("free"), b"x").unwrap();
        assert_eq!(fs::read(folder.path().join("free")).unwrap(), b"x");
    }
}
