//! Files a stranger may send, through the request's door.

use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageFormat, LumaA, Rgb, RgbImage};
use limner::image::read;
use std::io::Cursor;

fn encode(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn jpeg_is_close_and_the_others_exact() {
    let picture = RgbImage::from_fn(48, 32, |x, y| Rgb([(x * 5) as u8, (y * 7) as u8, 90]));
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Jpeg] {
        let found = read("image", &encode(picture.clone(), format)).unwrap();
        let worst = found.iter().zip(picture.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= if format == ImageFormat::Jpeg { 40 } else { 0 }, "{format:?}: {worst}");
    }
}

#[test]
fn grey_with_alpha_is_laid_on_white() {
    let file = encode(GrayAlphaImage::from_pixel(1, 1, LumaA([10, 0])), ImageFormat::Png);
    assert_eq!(read("image", &file).unwrap().into_raw(), [255, 255, 255]);
}

#[test]
fn a_single_pixel_is_a_picture() {
    let file = encode(GrayImage::from_pixel(1, 1, image::Luma([3])), ImageFormat::Png);
    assert_eq!(read("image", &file).unwrap().into_raw(), [3, 3, 3]);
}

#[test]
fn bytes_of_no_picture_are_refused() {
    for bytes in [
        &b""[..],
        b"PK\x03\x04",
        b"GIF89a\x01\x00\x01\x00",
        b"<svg xmlns='x'/>",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
    ] {
        let error = read("mask", bytes).unwrap_err();
        assert!(error.field == "mask" && ["not_an_image", "damaged"].contains(&error.code), "{error:?}");
    }
}

#[test]
fn a_picture_with_something_behind_it_is_read_alone() {
    let picture = RgbImage::from_pixel(9, 9, Rgb([1, 2, 3]));
    let mut file = encode(picture.clone(), ImageFormat::Png);
    file.extend(b"<html><script>alert(1)</script></html>");
    assert_eq!(read("image", &file).unwrap(), picture);
}
