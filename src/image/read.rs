//! Bytes to an RGB picture, within bounds.

use crate::error::FieldError;
use ::image::imageops::FilterType;
use ::image::{
    DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage,
};
use std::io::Cursor;

/// The longest side of a picture that is read.
pub const MAX_INPUT_SIDE: u32 = 16_384;
/// The most pixels of a picture that is read: more than any current phone's standard photograph, and at 4 bytes each
/// a bound on memory.
pub const MAX_INPUT_PIXELS: u64 = 32_000_000;
/// The most that one side may be longer than the other.
const MAX_ASPECT: u32 = 32;
/// The most memory a decoder may ask for: 16 bits per channel at [`MAX_INPUT_PIXELS`].
const MAX_DECODER_BYTES: u64 = 8 * MAX_INPUT_PIXELS;

/// Decodes `bytes` to an upright picture on white. `field` is named in errors (codes: `not_an_image`, `too_large`,
/// `bad_aspect`, `damaged`).
pub fn read(field: &str, bytes: &[u8]) -> Result<RgbImage, FieldError> {
    Ok(on_white(&decode(field, bytes)?.into_rgba8()))
}

/// Decodes `bytes` to an upright grey picture on black, for masks: what is transparent counts as black.
pub(super) fn read_grey_on_black(field: &str, bytes: &[u8]) -> Result<GrayImage, FieldError> {
    let rgba = decode(field, bytes)?.into_rgba8();
    Ok(GrayImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        // Rec. 601 luma in thousandths, as most programs show a picture in grey.
        let luma = 299 * r + 587 * g + 114 * b;
        ::image::Luma([((luma * a + 127_500) / 255_000) as u8])
    }))
}

/// Scales a picture to cover width x height and crops what sticks out, evenly on both sides. A picture of that size
/// already comes back as it is, bit for bit.
pub fn fit(picture: RgbImage, width: u32, height: u32) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture;
    }
    DynamicImage::from(picture).resize_to_fill(width, height, FilterType::CatmullRom).into_rgb8()
}

/// Scales a picture to width x height, whatever its shape. A picture of that size comes back as it is, bit for bit.
pub fn resize(picture: RgbImage, width: u32, height: u32) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture;
    }
    ::image::imageops::resize(&picture, width, height, FilterType::CatmullRom)
}

/// A small copy: the longer side is at most `longest`, the shape is kept. A picture that is small enough stays as it is.
pub fn thumbnail(picture: &RgbImage, longest: u32) -> RgbImage {
    if picture.width().max(picture.height()) <= longest {
        return picture.clone();
    }
    DynamicImage::from(picture.clone()).resize(longest, longest, FilterType::Triangle).into_rgb8()
}

fn decode(field: &str, bytes: &[u8]) -> Result<DynamicImage, FieldError> {
    let format = sniff(field, bytes)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| damaged(field, format, &error))?;
    check_size(field, decoder.dimensions())?;
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(FieldError::new(field, "damaged", "is a JPEG file that ends too early"));
    }
    let orientation = decoder.orientation().map_err(|error| damaged(field, format, &error))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| damaged(field, format, &error))?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// The format by its first bytes; names and declared types are not looked at.
fn sniff(field: &str, bytes: &[u8]) -> Result<ImageFormat, FieldError> {
    let format = ::image::guess_format(bytes).ok();
    match format {
        Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        other => {
            let found = other.map_or_else(|| "of an unknown kind".to_owned(), |f| format!("{f:?}").to_uppercase());
            let message = format!("must be a PNG, JPEG or WebP picture; these {} bytes are {found}", bytes.len());
            Err(FieldError::new(field, "not_an_image", message))
        }
    }
}

fn check_size(field: &str, (width, height): (u32, u32)) -> Result<(), FieldError> {
    let refuse = |code, message| Err(FieldError::new(field, code, message));
    let (short, long) = (width.min(height), width.max(height));
    if short == 0 {
        return refuse("damaged", format!("says that it is {width} x {height} pixels"));
    }
    if long > MAX_INPUT_SIDE || u64::from(width) * u64::from(height) > MAX_INPUT_PIXELS {
        let most = MAX_INPUT_PIXELS / 1_000_000;
        let message =
            format!("is {width} x {height} pixels; at most {MAX_INPUT_SIDE} a side and {most} million in all");
        return refuse("too_large", message);
    }
    if long / short > MAX_ASPECT {
        let message = format!("is {width} x {height} pixels; one side may be at most {MAX_ASPECT} times the other");
        return refuse("bad_aspect", message);
    }
    Ok(())
}

fn damaged(field: &str, format: ImageFormat, error: &ImageError) -> FieldError {
    let kind = format!("{format:?}").to_uppercase();
    tracing::debug!(field, %error, "a picture could not be decoded");
    match error {
        ImageError::Limits(_) => {
            FieldError::new(field, "too_large", format!("is a {kind} file that needs too much memory"))
        }
        _ => FieldError::new(field, "damaged", format!("is a {kind} file that is damaged or cut short")),
    }
}

/// Whether a JPEG file has its end marker. Its decoder fills what is missing with grey instead of failing.
///
/// Segments before the scan are stepped over, because a thumbnail in them has an end marker of its own; inside a scan
/// a byte FF is always followed by 00 or a restart marker.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        match bytes.get(at..at + 4) {
            Some([0xff, 0xda, ..]) => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, _, high, low]) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        }
    }
}

fn on_white(picture: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, a] = picture.get_pixel(x, y).0.map(u32::from);
        let over = |c: u32| ((c * a + 255 * (255 - a) + 127) / 255) as u8;
        ::image::Rgb([over(r), over(g), over(b)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgba;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            ::image::Rgb([(x * 37 % 256) as u8, (y * 53 % 256) as u8, (x * y % 256) as u8])
        })
    }

    fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn code(bytes: &[u8]) -> &'static str {
        read("image", bytes).unwrap_err().code
    }

    #[test]
    fn lossless_files_come_back_bit_for_bit_and_untouched_at_their_size() {
        let picture = gradient(33, 21);
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let found = read("image", &encode(&picture.clone().into(), format)).unwrap();
            assert_eq!(found, picture);
            assert_eq!(fit(found, 33, 21), picture);
        }
        assert_eq!(fit(gradient(1, 1), 64, 32).dimensions(), (64, 32));
    }

    #[test]
    fn transparency_is_laid_on_white() {
        let mut picture = RgbaImage::from_pixel(2, 1, Rgba([200, 0, 0, 0]));
        picture.put_pixel(1, 0, Rgba([0, 0, 0, 128]));
        let found = read("image", &encode(&picture.into(), ImageFormat::Png)).unwrap();
        assert_eq!(found.into_raw(), [255, 255, 255, 127, 127, 127]);
    }

    #[test]
    fn other_formats_are_refused_by_content() {
        assert_eq!(code(b"GIF89a\x01\x00\x01\x00\x00\x00\x00"), "not_an_image");
        assert_eq!(code(b"<html>hello</html>"), "not_an_image");
        assert_eq!(code(b""), "not_an_image");
    }

    /// Sixty bytes that claim 2^31 - 1 pixels a side must be refused by the header alone.
    #[test]
    fn huge_headers_are_refused_before_decoding() {
        let mut bytes = encode(&gradient(4, 4).into(), ImageFormat::Png);
        for (width, height) in [(0x7fff_ffffu32, 0x7fff_ffffu32), (50_000, 50_000), (6000, 6000), (20_000, 1000)] {
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            bytes[20..24].copy_from_slice(&height.to_be_bytes());
            let mut crc = flate2::Crc::new();
            crc.update(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
            assert!(["too_large", "damaged"].contains(&code(&bytes)), "{width} x {height}");
        }
        assert_eq!(code(&encode(&gradient(2, 200).into(), ImageFormat::Png)), "bad_aspect");
    }

    /// A cut file is refused, or (where only trailing bytes are missing) read in full: never in part.
    #[test]
    fn cut_files_give_no_partial_picture() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let bytes = encode(&gradient(40, 30).into(), format);
            let whole = read("image", &bytes).unwrap();
            for cut in (0..bytes.len()).step_by((bytes.len() / 100).max(1)) {
                if let Ok(found) = read("image", &bytes[..cut]) {
                    assert!(found == whole, "{format:?} cut at {cut} of {}", bytes.len());
                }
            }
        }
    }

    #[test]
    fn flipped_bits_never_panic() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let bytes = encode(&gradient(24, 24).into(), format);
            for at in 0..bytes.len() {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << (at % 8);
                let _ = read("image", &bytes);
            }
        }
    }

    /// An EXIF block with orientation 6 (turn clockwise), put behind the JPEG's start marker by hand.
    #[test]
    fn exif_orientation_is_applied() {
        let jpeg = encode(&gradient(16, 8).into(), ImageFormat::Jpeg);
        let tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut bytes = jpeg[..2].to_vec();
        bytes.extend([0xff, 0xe1, 0, (tiff.len() + 8) as u8]);
        bytes.extend(b"Exif\0\0");
        bytes.extend(tiff);
        bytes.extend(&jpeg[2..]);
        assert_eq!(read("image", &jpeg).unwrap().dimensions(), (16, 8));
        assert_eq!(read("image", &bytes).unwrap().dimensions(), (8, 16));
    }

    #[test]
    fn deep_and_grey_files_become_8_bit_rgb() {
        let deep = ::image::ImageBuffer::from_pixel(1, 1, ::image::Rgb([65_535u16, 32_896, 0]));
        let found = read("image", &encode(&DynamicImage::ImageRgb16(deep), ImageFormat::Png)).unwrap();
        assert_eq!(found.into_raw(), [255, 128, 0]);
        let grey = GrayImage::from_pixel(1, 1, ::image::Luma([9]));
        assert_eq!(read("image", &encode(&grey.into(), ImageFormat::Png)).unwrap().into_raw(), [9, 9, 9]);
    }
}
