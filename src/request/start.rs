//! The input picture of a plan: read, fitted, extended, and what of it may change.

use super::GenerateRequest;
use super::check::Checker;
use super::inpainting::Inpainting;
use super::numbers::{real, whole};
use super::plan::{Facts, MAX_PIXELS, MAX_RESULT_PIXELS, MAX_SIDE, Start};
use super::quoted;
use super::repaint::Repaint;
use crate::error::FieldError;
use crate::image::{self, Edges, Greys, Mask, RgbImage};
use crate::model::unet::Beside;

/// Share of the ladder that redraws a picture without a mask, as other programs have it.
const PICTURE_STRENGTH: f64 = 0.75;

impl Checker {
    /// How the request wants the new part fitted into the old.
    pub(super) fn repaint(&mut self, request: &GenerateRequest, facts: &Facts) -> Repaint {
        let pixels = |most: u32| {
            move |field: &str, typed: &str| whole(field, typed, 0..=u64::from(most)).map(|pixels| pixels as u32)
        };
        let feather = pixels(Repaint::MAX_FEATHER);
        let mask_feather = self.or_default("mask_feather", &request.mask_feather, 0, feather);
        let only_masked = self.or_default("only_masked", &request.only_masked, false, switch);
        let usual = Repaint::PADDING;
        let padding = pixels(Repaint::MAX_PADDING);
        let padding = self.or_default("only_masked_padding", &request.only_masked_padding, usual, padding);
        // A part that is scaled may come from anywhere; what is drawn as it is has to suit the model.
        let multiple = if only_masked { 1 } else { facts.multiple_of };
        let extend = self.or_default("extend", &request.extend, Edges::default(), |f, t| edges(f, t, multiple));
        Repaint { mask_feather, only_masked, only_masked_padding: if only_masked { padding } else { usual }, extend }
    }

    /// Notes when more would be drawn than one request may have.
    pub(super) fn check_drawn(&mut self, (width, height): (usize, usize), count: usize) {
        if width.max(height) > MAX_SIDE {
            let message = format!("makes a canvas of {width} x {height} pixels; a side may have at most {MAX_SIDE}");
            self.errors.push(FieldError::new("extend", "too_large", message).range(0.0, MAX_SIDE as f64));
        } else {
            self.check_pixels((width, height), count, MAX_PIXELS);
        }
    }

    fn check_pixels(&mut self, (width, height): (usize, usize), count: usize, most: usize) {
        let pixels = count * width * height;
        if pixels > most {
            let message = format!(
                "{count} pictures of {width} x {height} are {pixels} pixels; one request may have {most} in all"
            );
            self.errors.push(FieldError::new("count", "too_many_pixels", message));
        }
    }

    /// What sampling begins with, for so many pictures of this size before they are extended.
    pub(super) fn start(
        &mut self,
        request: &GenerateRequest,
        facts: &Facts,
        repaint: Repaint,
        rule: Inpainting,
        (width, height, count): (usize, usize, usize),
    ) -> Start {
        let repaints = request.mask.is_some() || !repaint.extend.is_none();
        // A model for editing sees the picture, and needs no trace of it in the noise.
        let whole = repaints || facts.beside == Beside::Picture;
        let default = if whole { 1.0 } else { PICTURE_STRENGTH };
        let strength = self.or_default("strength", &request.strength, default, |f, t| real(f, t, 0.01..=1.0));
        self.needs_mask("mask_feather", repaint.mask_feather > 0 && !repaints);
        self.needs_mask("only_masked", repaint.only_masked && !repaints);
        let Some(bytes) = &request.image else {
            self.needs_picture("mask", request.mask.is_some());
            self.needs_picture("strength", request.strength.as_deref().is_some_and(|typed| !typed.trim().is_empty()));
            self.needs_picture("extend", !repaint.extend.is_none());
            return Start::Noise;
        };
        let mask = request.mask.as_deref().map(|bytes| (bytes, rule.greys()));
        let Some((picture, mask)) = self.picture(bytes, mask, repaint, (width as u32, height as u32)) else {
            return Start::Noise;
        };
        let (width, height) = repaint.extend.around(picture.dimensions());
        self.check_pixels((width as usize, height as usize), count, MAX_RESULT_PIXELS);
        extended(picture, mask, repaint, strength)
    }

    fn needs_picture(&mut self, field: &str, given: bool) {
        // A picture that could not be read is noted already.
        if given && !self.errors.iter().any(|error| error.field == "image") {
            self.errors.push(FieldError::new(field, "without_image", "was given without a picture (the field image)"));
        }
    }

    fn needs_mask(&mut self, field: &str, given: bool) {
        // As with the picture.
        if given && !self.errors.iter().any(|error| error.field == "mask") {
            let message = "was given without anything to repaint (the field mask, or extend)";
            self.errors.push(FieldError::new(field, "without_mask", message));
        }
    }

    /// Picture and mask at `size`, or at the picture's own when only a part is drawn. The mask is compared with the upright
    /// picture as it was sent.
    fn picture(
        &mut self,
        image: &[u8],
        mask: Option<(&[u8], Greys)>,
        repaint: Repaint,
        size: (u32, u32),
    ) -> Option<(RgbImage, Option<Mask>)> {
        let picture = self.note(image::read("image", image).map(Some), None)?;
        let (width, height) = if repaint.only_masked { picture.dimensions() } else { size };
        let mask = match mask.map(|(bytes, greys)| Mask::read(bytes, picture.dimensions(), greys)?.fit(width, height)) {
            None => None,
            Some(read) => Some(self.note(read.map(Some), None)?),
        };
        Some((image::fit(picture, width, height), mask))
    }
}

/// The picture with its new borders, which are white in the mask.
fn extended(picture: RgbImage, mask: Option<Mask>, repaint: Repaint, strength: f64) -> Start {
    if repaint.extend.is_none() {
        return Start::Picture { picture, strength, mask, repaint };
    }
    let mask = Some(Mask::with_borders(mask, picture.dimensions(), repaint.extend));
    Start::Picture { picture: repaint.extend.fill(&picture), strength, mask, repaint }
}

/// `on` is what a form sends for a box that is ticked.
pub(super) fn switch(field: &str, typed: &str) -> Result<bool, FieldError> {
    match typed {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => {
            let message = format!("must be true or false, was {}", quoted(typed));
            Err(FieldError::new(field, "not_true_or_false", message))
        }
    }
}

/// `left,top,right,bottom`, each a multiple of `multiple`.
fn edges(field: &str, typed: &str, multiple: usize) -> Result<Edges, FieldError> {
    let most = MAX_SIDE as u64;
    let refuse = |code, message: String| Err(FieldError::new(field, code, message).range(0.0, most as f64));
    let sides: Vec<&str> = typed.split(',').collect();
    let [left, top, right, bottom] = sides[..] else {
        return refuse("not_four_numbers", format!("must be left,top,right,bottom in pixels, was {}", quoted(typed)));
    };
    let mut pixels = [0; 4];
    for (pixels, side) in pixels.iter_mut().zip([left, top, right, bottom]) {
        *pixels = whole(field, side, 0..=most)? as u32;
        if !pixels.is_multiple_of(multiple as u32) {
            let below = *pixels / multiple as u32 * multiple as u32;
            let above = below + multiple as u32;
            return refuse(
                "multiple_of",
                format!("must be multiples of {multiple}, but {pixels} is not; the nearest are {below} and {above}"),
            );
        }
    }
    Ok(pixels.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::request::Plan;

    fn facts() -> Facts {
        Facts { tiny_decoder: true, ..Facts::plain("tiny", (64, 64), 16) }
    }

    fn request(set: &[(&str, &str)]) -> GenerateRequest {
        let mut request = GenerateRequest { prompt: Some("red apple".into()), ..Default::default() };
        for (field, value) in set {
            assert!(request.set_text(field, (*value).into()), "{field}");
        }
        request
    }

    fn errors(request: &GenerateRequest) -> Vec<FieldError> {
        match Plan::new(request, &facts()) {
            Err(Error::Invalid(errors)) => errors,
            other => panic!("{other:?}"),
        }
    }

    fn png(width: u32, height: u32, value: u8) -> Vec<u8> {
        image::encode_png(&RgbImage::from_pixel(width, height, ::image::Rgb([value; 3])), &[]).unwrap()
    }

    #[test]
    fn a_plan_gives_the_request_that_gives_it_again() {
        let chosen = [
            ("seed", "18446744073709551615"),
            ("guidance", "0.1"),
            ("noise", "torch-cpu"),
            ("count", "3"),
            ("decoder", "tiny"),
        ];
        for set in [&[][..], &chosen] {
            let plan = Plan::new(&request(set), &facts()).unwrap();
            assert_eq!(Plan::new(&plan.request(), &Facts { guidance: 9.0, steps: 7, ..facts() }).unwrap(), plan);
        }
    }

    #[test]
    fn so_does_a_plan_with_a_picture() {
        for (set, masked) in [
            (&[][..], false),
            (&[], true),
            (&[("mask_feather", "8"), ("strength", "0.3")], true),
            (&[("only_masked", "on"), ("only_masked_padding", "3")], true),
            (&[("only_masked_padding", "3")], true),
            (&[("extend", "16, 0,32,0"), ("mask_feather", "64")], false),
            (&[("extend", "5,0,7,1"), ("only_masked", "1"), ("width", "32")], true),
        ] {
            let mask = masked.then(|| png(100, 50, 255));
            let upload = GenerateRequest { image: Some(png(100, 50, 9)), mask, ..request(set) };
            let plan = Plan::new(&upload, &facts()).unwrap();
            let typed = GenerateRequest::from_json(plan.request().to_json().as_bytes()).unwrap();
            let again = GenerateRequest { image: upload.image, mask: upload.mask, ..typed };
            assert_eq!(Plan::new(&again, &facts()).unwrap(), plan, "{set:?}");
        }
    }

    #[test]
    fn each_wrong_value_has_its_code() {
        for (field, value, expected, range) in [
            ("mask_feather", "65", "out_of_range", Some(64.0)),
            ("mask_feather", "-1", "out_of_range", Some(64.0)),
            ("mask_feather", "wide", "not_a_whole_number", Some(64.0)),
            ("only_masked_padding", "257", "out_of_range", Some(256.0)),
            ("only_masked", "maybe", "not_true_or_false", None),
            ("extend", "8,8,8", "not_four_numbers", Some(2048.0)),
            ("extend", "0,0,0,0,0", "not_four_numbers", Some(2048.0)),
            ("extend", "a,0,0,0", "not_a_whole_number", Some(2048.0)),
            ("extend", "0,0,-16,0", "out_of_range", Some(2048.0)),
            ("extend", "0,0,9,0", "multiple_of", Some(2048.0)),
            ("extend", "0,2000,0,0", "too_large", Some(2048.0)),
        ] {
            let found = errors(&GenerateRequest { image: Some(png(64, 64, 9)), ..request(&[(field, value)]) });
            let first = (found[0].field.as_str(), found[0].code, found[0].maximum);
            assert_eq!(first, (field, expected, range), "{value}: {found:?}");
        }
        let code = |set: &[(&str, &str)]| errors(&request(set))[0].code;
        assert_eq!(code(&[("extend", "16,0,0,0")]), "without_image");
        assert_eq!(code(&[("mask_feather", "1")]), "without_mask");
        assert_eq!(code(&[("only_masked", "true")]), "without_mask");
        let usual =
            [("mask_feather", "0"), ("only_masked", "false"), ("extend", "0,0,0,0"), ("only_masked_padding", "9")];
        assert!(Plan::new(&request(&usual), &facts()).is_ok());
    }

    #[test]
    fn a_part_leaves_the_picture_its_size_but_not_any_size() {
        let with = |image, set: &[(&str, &str)]| GenerateRequest {
            mask: Some(png(100, 50, 255)),
            image: Some(image),
            ..request(set)
        };
        let part = with(png(100, 50, 9), &[("only_masked", "true"), ("extend", "0,3,0,0")]);
        let plan = Plan::new(&part, &facts()).unwrap();
        let Start::Picture { picture, mask: Some(mask), .. } = &plan.start else { panic!() };
        assert_eq!((picture.dimensions(), mask.as_grey().dimensions(), plan.drawn()), ((100, 53), (100, 53), (64, 64)));
        let plan = Plan::new(&with(png(100, 50, 9), &[("extend", "0,16,0,0")]), &facts()).unwrap();
        assert_eq!((plan.drawn(), plan.width, plan.height), ((64, 80), 64, 64));
        let (wide, white) = (png(3000, 2000, 9), png(3000, 2000, 255));
        let many = [("only_masked", "true"), ("count", "11"), ("width", "16"), ("height", "16")];
        let many = GenerateRequest { mask: Some(white), ..with(wide, &many) };
        assert_eq!(errors(&many)[0].code, "too_many_pixels");
    }

    #[test]
    fn pictures_are_fitted_and_masks_must_match() {
        let mut good = request(&[]);
        (good.image, good.mask) = (Some(png(100, 50, 9)), Some(png(100, 50, 255)));
        let Start::Picture { picture, strength, mask, .. } = Plan::new(&good, &facts()).unwrap().start else {
            panic!()
        };
        assert_eq!((picture.dimensions(), strength, mask.unwrap().as_grey().dimensions()), ((64, 64), 1.0, (64, 64)));
        let with = |image: Option<Vec<u8>>, mask| errors(&GenerateRequest { image, mask, ..request(&[]) })[0].code;
        assert_eq!(with(Some(png(64, 64, 9)), Some(png(64, 32, 255))), "mask_size");
        assert_eq!(with(Some(png(64, 64, 9)), Some(png(64, 64, 0))), "mask_empty");
        assert_eq!(with(None, Some(png(64, 64, 255))), "without_image");
        assert_eq!(with(Some(b"GIF89a".to_vec()), None), "not_an_image");
    }
}
