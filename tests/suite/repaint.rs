//! Repainting a part of a picture, on a model with random weights: whatever the settings, what is black in the mask is the
//! input's, bit for bit.

use crate::pipeline::{PIPELINE, draw, photograph, png, request};
use limner::image::{RgbImage, fit};
use limner::pipeline::{Picture, Receipt};
use limner::request::{GenerateRequest, Plan, from_parameters};

/// A picture of 100 x 70 pixels: not of the model's size, nor of its shape.
fn input() -> RgbImage {
    photograph(100, 70)
}

/// White from (60, 20) up to (79, 34).
fn white(x: u32, y: u32) -> bool {
    (60..80).contains(&x) && (20..35).contains(&y)
}

fn mask(width: u32, height: u32, white: impl Fn(u32, u32) -> bool) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([if white(x, y) { 255 } else { 0 }; 3]))
}

fn upload(picture: &RgbImage, mask: Option<&RgbImage>, set: &[(&str, &str)]) -> GenerateRequest {
    GenerateRequest { image: Some(png(picture)), mask: mask.map(png), ..request(set) }
}

fn one(request: &GenerateRequest) -> Picture {
    draw(request).remove(0)
}

/// How many pixels of `drawn` differ from `before`, among those for which `of` holds.
fn changed(drawn: &RgbImage, before: &RgbImage, of: impl Fn(u32, u32) -> bool) -> usize {
    assert_eq!(drawn.dimensions(), before.dimensions());
    drawn.enumerate_pixels().filter(|(x, y, pixel)| of(*x, *y) && *pixel != before.get_pixel(*x, *y)).count()
}

#[test]
fn a_feather_mixes_in_the_white_and_leaves_the_black() {
    let before = fit(input(), 32, 32);
    let halves = mask(100, 70, |x, _| x >= 50);
    let hard = one(&upload(&input(), Some(&halves), &[])).pixels;
    let soft = one(&upload(&input(), Some(&halves), &[("mask_feather", "6")])).pixels;
    assert_eq!(changed(&soft, &before, |x, _| x < 16), 0);
    // Seven pixels from the black, everything is new.
    assert_eq!(changed(&soft, &hard, |x, _| x >= 16 + 7), 0);
    assert!(changed(&soft, &hard, |x, _| x < 16 + 4) > 50);
    for (x, y, pixel) in soft.enumerate_pixels() {
        for (channel, value) in pixel.0.into_iter().enumerate() {
            let (old, new) = (before.get_pixel(x, y).0[channel], hard.get_pixel(x, y).0[channel]);
            assert!((old.min(new)..=old.max(new)).contains(&value), "{x} {y}");
        }
    }
}

#[test]
fn a_part_is_drawn_large_and_put_back_into_a_picture_of_its_own_size() {
    let part = mask(100, 70, white);
    let only = |set: &[(&str, &str)]| {
        let set = [&[("only_masked", "true")], set].concat();
        one(&upload(&input(), Some(&part), &set)).pixels
    };
    let plain = only(&[]);
    for (set, fewest) in [
        (&[][..], 290),
        (&[("only_masked_padding", "0")], 290),
        (&[("only_masked_padding", "256"), ("strength", "0.5")], 250),
        (&[("mask_feather", "3"), ("width", "64")], 250),
        (&[("height", "64"), ("only_masked_padding", "5")], 290),
    ] {
        let drawn = only(set);
        assert_eq!(changed(&drawn, &input(), |x, y| !white(x, y)), 0, "{set:?}");
        assert!(changed(&drawn, &input(), white) >= fewest, "{set:?}");
        assert!(set.is_empty() || drawn != plain, "{set:?}");
    }
}

#[test]
fn a_thin_stroke_at_the_border_is_repainted_too() {
    let before = photograph(400, 60);
    let stroke = |x: u32, y: u32| y == 59 && x > 9;
    let set = [("only_masked", "true"), ("only_masked_padding", "0")];
    let drawn = one(&upload(&before, Some(&mask(400, 60, stroke)), &set)).pixels;
    assert_eq!(changed(&drawn, &before, |x, y| !stroke(x, y)), 0);
    assert!(changed(&drawn, &before, stroke) > 350);
}

#[test]
fn a_picture_is_extended_and_stays_in_its_place() {
    let fitted = fit(input(), 32, 32);
    for (extend, mask_feather) in [("8,0,16,8", "0"), ("0,24,0,0", "5"), ("0,0,8,0", "64")] {
        let set = [("extend", extend), ("mask_feather", mask_feather)];
        let drawn = one(&upload(&input(), None, &set));
        let sides: Vec<u32> = extend.split(',').map(|side| side.parse().unwrap()).collect();
        assert_eq!(drawn.pixels.dimensions(), (32 + sides[0] + sides[2], 32 + sides[1] + sides[3]));
        let kept = image::imageops::crop_imm(&drawn.pixels, sides[0], sides[1], 32, 32).to_image();
        assert_eq!(kept, fitted, "{extend}");
        assert!(drawn.receipt.masked && drawn.receipt.strength == Some(1.0));
        // Not the repeated edge that sampling began with.
        let corner = drawn.pixels.get_pixel(drawn.pixels.width() - 1, 0);
        assert_ne!(corner, fitted.get_pixel(31, 0), "{extend}");
    }
}

#[test]
fn an_extended_picture_may_have_a_mask_and_be_drawn_in_part() {
    let part = mask(100, 70, white);
    let set = [("only_masked", "true"), ("extend", "3,0,0,5"), ("only_masked_padding", "0")];
    let drawn = one(&upload(&input(), Some(&part), &set)).pixels;
    assert_eq!(drawn.dimensions(), (103, 75));
    let inside = image::imageops::crop_imm(&drawn, 3, 0, 100, 70).to_image();
    assert_eq!(changed(&inside, &input(), |x, y| !white(x, y)), 0);
    assert!(changed(&inside, &input(), white) > 250);

    let left = mask(100, 70, |x, _| x < 50);
    let drawn = one(&upload(&input(), Some(&left), &[("extend", "8,0,0,0"), ("mask_feather", "2")])).pixels;
    let inside = image::imageops::crop_imm(&drawn, 8, 0, 32, 32).to_image();
    assert_eq!(changed(&inside, &fit(input(), 32, 32), |x, _| x >= 16), 0);
    assert!(changed(&inside, &fit(input(), 32, 32), |x, _| x < 14) > 400);
}

#[test]
fn a_preview_shows_the_whole_picture() {
    let set = [("only_masked", "true"), ("extend", "0,0,7,0"), ("sampler", "euler")];
    let plan = Plan::new(&upload(&input(), None, &set), &PIPELINE.facts()).unwrap();
    let mut previews = Vec::new();
    let pictures = PIPELINE.generate(&plan, &mut |progress| {
        previews.push(progress.preview()?.unwrap());
        Ok(())
    });
    let result = &pictures.unwrap()[0].pixels;
    assert!(previews.iter().all(|preview| changed(preview, result, |x, _| x < 100) == 0));
    // Euler's last step to sigma 0 is the clean estimate itself, up to rounding and scaling.
    assert!(result.iter().zip(previews[3].iter()).all(|(a, b)| a.abs_diff(*b) <= 3));
    assert_ne!(previews[0], previews[3]);
}

#[test]
fn the_receipt_of_a_repainted_picture_draws_it_again() {
    let part = mask(100, 70, white);
    for set in [
        &[("mask_feather", "6"), ("strength", "0.7")][..],
        &[("only_masked", "true"), ("only_masked_padding", "7")],
        &[("extend", "8,0,0,16"), ("count", "2")],
    ] {
        let first = upload(&input(), Some(&part), set);
        let file = one(&first).to_png().unwrap();
        let receipt = Receipt::from_png(&file).unwrap();
        let parameters = from_parameters(&receipt.parameters()).unwrap();
        assert_eq!(parameters.ignored, [""; 0]);
        for again in [receipt.request(), parameters.request] {
            let again = GenerateRequest { image: first.image.clone(), mask: first.mask.clone(), ..again };
            assert!(one(&again).to_png().unwrap() == file, "{set:?}");
        }
    }
}

/// Whatever the rule, what is black stays, and the white part is another picture by each.
#[test]
fn every_rule_keeps_what_is_black_and_draws_something_of_its_own() {
    let before = fit(input(), 32, 32);
    let halves = mask(100, 70, |x, _| x >= 50);
    let rules = ["blend", "repaint(jump=2, times=2)", "pseudo_inverse", "posterior(scale=0.1)", "replacement"];
    let drawn = rules.map(|rule| {
        let settings = [("inpainting", rule), ("sampler", "euler_a"), ("steps", "6")];
        let picture = one(&upload(&input(), Some(&halves), &settings));
        assert_eq!(changed(&picture.pixels, &before, |x, _| x < 16), 0, "{rule}");
        assert!(changed(&picture.pixels, &before, |x, _| x >= 16) > 100, "{rule}");
        // What the receipt says draws the same again.
        let again =
            GenerateRequest { image: Some(png(&input())), mask: Some(png(&halves)), ..picture.receipt.request() };
        assert_eq!(one(&again).pixels, picture.pixels, "{rule}");
        assert_eq!(picture.receipt.inpainting.to_string(), rule);
        picture.pixels
    });
    for (i, one) in drawn.iter().enumerate() {
        assert!(drawn[..i].iter().all(|other| other != one), "{}", rules[i]);
    }
}

/// Greys are strengths: the paler a part, the more of the picture is left in it; and only black is sacred.
#[test]
fn a_grey_part_keeps_more_of_the_picture() {
    let before = fit(input(), 32, 32);
    // Black, dark, light and white stripes, each 8 pixels of the model's picture.
    let stripes = RgbImage::from_fn(32, 32, |x, _| image::Rgb([[0, 60, 160, 255][x as usize / 8]; 3]));
    let settings = [("inpainting", "differential"), ("steps", "10"), ("sampler", "euler")];
    let drawn = one(&upload(&before, Some(&stripes), &settings)).pixels;
    let apart = |stripe: u32| {
        let columns = stripe * 8..(stripe + 1) * 8;
        let pixels = drawn.enumerate_pixels().filter(|(x, ..)| columns.contains(x));
        let square = |a: u8, b: u8| (f64::from(a) - f64::from(b)).powi(2);
        pixels
            .map(|(x, y, pixel)| (0..3).map(|c| square(pixel.0[c], before.get_pixel(x, y).0[c])).sum::<f64>())
            .sum::<f64>()
    };
    assert_eq!(apart(0), 0.0);
    assert!(apart(1) > 0.0 && apart(1) < apart(2) && apart(2) < apart(3), "{} {} {}", apart(1), apart(2), apart(3));
}

#[test]
fn a_rule_without_anything_to_keep_is_refused() {
    let facts = PIPELINE.facts();
    for request in [request(&[("inpainting", "repaint")]), upload(&input(), None, &[("inpainting", "repaint")])] {
        let message = Plan::new(&request, &facts).unwrap_err().to_string();
        assert!(message.contains("inpainting: needs a picture and a mask"), "{message}");
    }
    let message = Plan::new(&request(&[("inpainting", "paint")]), &facts).unwrap_err().to_string();
    assert!(message.contains("must be one of blend, differential"), "{message}");
}
