//! Pictures to noise and back, edits, and the way from one picture to another.

use super::{LATENTS, PIXELS, request, run};
use crate::pipeline::{photograph, png};
use limner::Error;
use limner::image::{Encoded, RgbImage};
use limner::pipeline::{FlowReport, Outcome, Pipeline, Receipt, Report};
use limner::request::GenerateRequest;

fn report(outcome: &Outcome) -> &FlowReport {
    match &outcome.report {
        Some(Report::Flow(report)) => report,
        other => panic!("{other:?}"),
    }
}

fn furthest(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn encode(pipeline: &Pipeline, tolerance: &str) -> Outcome {
    run(pipeline, &request("encode", &[("tolerance", tolerance)])).unwrap()
}

#[test]
fn noise_is_a_picture_file_that_leads_back_to_the_picture() {
    let encoded = encode(&PIXELS, "0.00001");
    let file = encoded.pictures[0].to_png().unwrap();
    let noise = Encoded::from_png(&file).unwrap();
    assert_eq!((noise.shape, noise.model.as_str()), ([3, 8, 8], "tiny-pixels"));
    assert_eq!(encoded.pictures[0].pixels.dimensions(), (8, 8));
    let found = report(&encoded);
    assert!(found.round_trip.unwrap() < 0.01 && found.round_trip_bytes.unwrap() <= 2, "{found:?}");
    assert!(found.effort.evaluations > 20 && found.autoencoder_bytes.is_none());

    let mut back = request("decode", &[("tolerance", "0.00001")]);
    back.set_file("image", file.clone());
    let decoded = run(&PIXELS, &back).unwrap();
    let picture = limner::image::fit(photograph(32, 32), 8, 8);
    assert!(furthest(&decoded.pictures[0].pixels, &picture) <= 2);
    assert!(report(&decoded).round_trip.unwrap() < 0.01, "{:?}", report(&decoded));
    // The receipt tells the task, and cannot be drawn again without the picture.
    let receipt = Receipt::from_png(&file).unwrap();
    assert_eq!((receipt.request().text("task"), receipt.needs_pictures()), ("encode", true));
}

#[test]
fn a_tighter_tolerance_loses_less_on_the_way() {
    let [rough, fine] = ["0.01", "0.00001"].map(|tolerance| report(&encode(&LATENTS, tolerance)).clone());
    assert!(
        rough.round_trip > fine.round_trip && fine.effort.evaluations > rough.effort.evaluations,
        "{rough:?} {fine:?}"
    );
    assert!(fine.round_trip.unwrap() < 0.3 * rough.round_trip.unwrap() && fine.autoencoder_bytes.is_some());
}

#[test]
fn noise_of_another_model_is_refused() {
    let mut request = request("decode", &[]);
    request.set_file("image", encode(&PIXELS, "0.01").pictures[0].to_png().unwrap());
    match run(&LATENTS, &request) {
        Err(Error::Invalid(errors)) => {
            assert_eq!((errors[0].field.as_str(), errors[0].code), ("image", "other_noise"));
            assert!(errors[0].message.contains("3 channels, but tiny has 4"), "{}", errors[0].message);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_edit_to_what_a_picture_shows_already_leaves_it_as_it_is() {
    let edit = |set: &[(&str, &str)]| {
        let usual = [("source_prompt", "red apple"), ("guidance", "1"), ("tolerance", "0.00001"), ("strength", "0.8")];
        run(&PIXELS, &request("edit", &[&usual, set].concat())).unwrap().pictures.remove(0).pixels
    };
    let picture = limner::image::fit(photograph(32, 32), 8, 8);
    assert!(furthest(&edit(&[]), &picture) <= 2);
    let (much, little) = (edit(&[("prompt", "blue")]), edit(&[("prompt", "blue"), ("strength", "0.1")]));
    assert!(furthest(&much, &picture) > 4 && furthest(&little, &picture) < furthest(&much, &picture));
    assert_ne!(edit(&[("prompt", "blue"), ("guidance", "3")]), much);
}

fn between(set: &[(&str, &str)]) -> Outcome {
    let mut request: GenerateRequest = request("interpolate", &[&[("tolerance", "0.00003")], set].concat());
    request
        .set_file("image_2", png(&RgbImage::from_fn(8, 8, |x, y| image::Rgb([200, (x * 20) as u8, (y * 25) as u8]))));
    run(&PIXELS, &request).unwrap()
}

#[test]
fn the_way_between_two_pictures_is_an_animation_and_a_strip() {
    let outcome = between(&[("count", "4")]);
    let [animation, strip] = &outcome.pictures[..] else { panic!("{}", outcome.pictures.len()) };
    assert_eq!((animation.more_frames.len(), strip.more_frames.len()), (3, 0));
    assert_eq!(strip.pixels.dimensions(), (4 * 12 + 4, 16));
    let ends = [limner::image::fit(photograph(32, 32), 8, 8), limner::image::fit(read_second(), 8, 8)];
    for (frame, own, other) in [(&animation.pixels, 0, 1), (&animation.more_frames[2], 1, 0)] {
        let (near, far) = (apart(frame, &ends[own]), apart(frame, &ends[other]));
        assert!(near < 4.0 && near < 0.2 * far, "{near} {far}");
    }
    assert_ne!(animation.more_frames[0], animation.more_frames[1]);

    let file = animation.to_png().unwrap();
    let reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
    let control = reader.info().animation_control().unwrap();
    assert_eq!((control.num_frames, control.num_plays), (4, 0));
    // Programs that know of no animation see the first frame.
    assert_eq!(limner::image::read("image", &file).unwrap(), animation.pixels);
    assert!(
        png::Decoder::new(std::io::Cursor::new(strip.to_png().unwrap()))
            .read_info()
            .unwrap()
            .info()
            .animation_control()
            .is_none()
    );
}

/// The mean difference of bytes.
fn apart(a: &RgbImage, b: &RgbImage) -> f64 {
    a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

fn read_second() -> RgbImage {
    RgbImage::from_fn(8, 8, |x, y| image::Rgb([200, (x * 20) as u8, (y * 25) as u8]))
}

#[test]
fn a_frame_is_the_same_whatever_cores_make_it() {
    let together = between(&[("count", "3")]);
    let alone = limner::kernels::on_this_thread(|| between(&[("count", "3")]));
    assert_eq!(together.pictures[1].pixels, alone.pictures[1].pixels);
}
