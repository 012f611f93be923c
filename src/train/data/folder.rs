//! A person's own pictures: `name.png` (or `.jpg`, `.webp`) beside `name.txt` with one caption per line.

use super::store::Draft;
use super::{Record, Source, Split, split};
use crate::{Error, Result};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgba};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// File endings taken for pictures; what a file really holds is read from its first bytes.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// The longest side that is decoded: a guard against decompression bombs.
const LONGEST_SIDE: u32 = 16_384;

/// Builds the data set at `out` from the folder `source`: every picture cropped to its central square and scaled to
/// `size` x `size`. A picture without captions or one that cannot be read is refused by name, and nothing is written.
/// `on_picture(total)` is called once at the start and then after each picture. Returns the number of pictures.
pub fn build(
    source: &Path,
    out: &Path,
    size: usize,
    force: bool,
    on_picture: &(dyn Fn(usize) + Sync),
) -> Result<usize> {
    let pictures = list(source)?;
    let draft = Draft::new(out, size, force)?;
    on_picture(pictures.len());
    let store = |(stem, path): (&String, &PathBuf)| {
        let record = record(stem, path, &draft, size)?;
        on_picture(pictures.len());
        Ok(record)
    };
    let mut records = pictures.par_iter().map(store).collect::<Result<Vec<_>>>()?;
    split::hold_out_some(&mut records);
    let name = source.display().to_string();
    draft.publish(vec![Source { name, version: String::new(), licence: String::new() }], records)?;
    Ok(pictures.len())
}

/// The pictures of a folder by the name they share with their captions.
fn list(source: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut pictures = BTreeMap::new();
    for entry in std::fs::read_dir(source).map_err(Error::io(source))? {
        let path = entry.map_err(Error::io(source))?.path();
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if !ENDINGS.contains(&ending.as_str()) {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(other) = pictures.insert(stem, path.clone()) {
            return Err(refuse(&path, &format!("shares its captions with {}", other.display())));
        }
    }
    if pictures.is_empty() {
        return Err(refuse(source, "holds no pictures (png, jpg or webp)"));
    }
    Ok(pictures)
}

fn record(stem: &str, path: &Path, draft: &Draft, size: usize) -> Result<Record> {
    let captions = captions(path)?;
    let picture = read(path).map_err(|e| refuse(path, &e.to_string()))?;
    let file = draft.add(stem, &square(&picture, size as u32))?;
    let concept = captions[0].clone();
    Ok(Record { file, concept, style: None, keywords: vec![], group: None, captions, split: Split::Train })
}

/// The captions beside a picture, at least one.
fn captions(picture: &Path) -> Result<Vec<String>> {
    let path = picture.with_extension("txt");
    let text = std::fs::read_to_string(&path)
        .map_err(|e| refuse(picture, &format!("its captions cannot be read from {}: {e}", path.display())))?;
    let captions: Vec<String> =
        text.lines().map(|line| line.trim().to_lowercase()).filter(|line| !line.is_empty()).collect();
    if captions.is_empty() {
        return Err(refuse(&path, "holds no caption"));
    }
    Ok(captions)
}

/// Decodes a PNG, JPEG or WebP, upright, its size checked before its pixels are read.
fn read(path: &Path) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::open(path)?.with_guessed_format()?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) {
        let hint = image::error::ImageFormatHint::Unknown;
        return Err(image::ImageError::Unsupported(hint.into()));
    }
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LONGEST_SIDE), Some(LONGEST_SIDE));
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// The central square on white at `size` x `size`, as RGB bytes.
fn square(picture: &DynamicImage, size: u32) -> Vec<u8> {
    let side = picture.width().min(picture.height());
    let (x, y) = ((picture.width() - side) / 2, (picture.height() - side) / 2);
    let mut rgba = picture.crop_imm(x, y, side, side).into_rgba8();
    for Rgba([r, g, b, a]) in rgba.pixels_mut() {
        let on_white = |c: u8| ((u32::from(c) * u32::from(*a) + 255 * (255 - u32::from(*a)) + 127) / 255) as u8;
        (*r, *g, *b) = (on_white(*r), on_white(*g), on_white(*b));
    }
    let opaque = DynamicImage::ImageRgba8(rgba).into_rgb8();
    image::imageops::resize(&opaque, size, size, FilterType::CatmullRom).into_raw()
}

fn refuse(path: &Path, what: &str) -> Error {
    Error::Training(format!("{}: {what}", path.display()))
}
