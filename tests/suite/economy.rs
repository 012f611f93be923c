//! What is left out to be done sooner: laws of the network's shortcuts, and of pictures drawn with them.

use crate::networks::{golden_unets, numbers};
use crate::pipeline::{draw, photograph, png, request};
use candle_core::Tensor;
use limner::model::unet::Conditioning;
use limner::pipeline::Receipt;
use limner::request::GenerateRequest;

/// What the network sees a step later: less noise at an earlier time.
fn later(x: &Tensor, t: &Tensor) -> (Tensor, Tensor) {
    ((x * 0.9).unwrap(), (t * 0.8).unwrap())
}

#[test]
fn reused_features_give_the_same_numbers_where_nothing_changed() {
    for (unet, [x, t], given) in golden_unets() {
        let whole = numbers(&unet.forward(&x, &t, &given).unwrap());
        for depth in 1..=unet.config().cache_depth() {
            let (found, deep) = unet.forward_keeping(&x, &t, &given, depth).unwrap();
            assert_eq!(numbers(&found), whole, "depth {depth}");
            assert_eq!(numbers(&unet.forward_reusing(&x, &t, &given, &deep).unwrap()), whole, "depth {depth}");
            let (x, t) = later(&x, &t);
            let reused = numbers(&unet.forward_reusing(&x, &t, &given, &deep).unwrap());
            assert!(reused != whole && reused != numbers(&unet.forward(&x, &t, &given).unwrap()), "depth {depth}");
        }
    }
}

#[test]
fn the_more_is_computed_anew_the_nearer_it_is() {
    let (unet, [x, t], given) = golden_unets().remove(0);
    let (x2, t2) = later(&x, &t);
    let whole = numbers(&unet.forward(&x2, &t2, &given).unwrap());
    let off = |depth| {
        let (_, deep) = unet.forward_keeping(&x, &t, &given, depth).unwrap();
        let found = numbers(&unet.forward_reusing(&x2, &t2, &given, &deep).unwrap());
        found.iter().zip(&whole).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    let offs: Vec<f32> = (1..=unet.config().cache_depth()).map(off).collect();
    assert!(offs.is_sorted_by(|a, b| a > b), "{offs:?}");
}

#[test]
fn merging_nothing_changes_nothing_and_merging_some_changes_something() {
    for (unet, [x, t], given) in golden_unets() {
        let plain = numbers(&unet.forward(&x, &t, &given).unwrap());
        let merged = |merge| numbers(&unet.forward(&x, &t, &Conditioning { merge, ..given.clone() }).unwrap());
        let largest = plain.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = |found: &[f32]| found.iter().zip(&plain).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
        // So small a share is of no position; they are only seen in another order.
        assert!(off(&merged(1e-9)) < 1e-5);
        let some = off(&merged(0.5));
        assert!(some.is_finite() && some > 1e-4, "{some}");
    }
}

#[test]
fn samples_are_merged_by_themselves() {
    let (unet, [x, t], given) = golden_unets().remove(0);
    let given = Conditioning { merge: 0.5, ..given };
    let both = unet.forward(&x, &t, &given).unwrap();
    for i in 0..x.dim(0).unwrap() {
        let row = |tensor: &Tensor| tensor.narrow(0, i, 1).unwrap();
        let alone = Conditioning { context: row(&given.context), ..given.clone() };
        let alone = numbers(&unet.forward(&row(&x), &row(&t), &alone).unwrap());
        let together = numbers(&row(&both));
        let off = alone.iter().zip(&together).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off < 1e-5, "sample {i} is off by {off}");
    }
}

#[test]
fn a_picture_with_less_work_is_the_same_file_alone_and_in_company_and_again() {
    for (sampler, economy) in [
        ("euler", "fast"),
        ("dpmpp_2m", "balanced"),
        ("heun", "exact(cache=3, depth=2)"),
        // Guidance ends between two whole calls, begins late, and another network takes over.
        ("euler", "exact(cache=4, guide_from=0.3, guide_to=0.7)"),
        ("dpmpp_2m_sde", "exact(cache=2, merge=0.5)"),
    ] {
        let set = [("sampler", sampler), ("economy", economy), ("steps", "7")];
        let together = draw(&GenerateRequest { count: Some("2".into()), ..request(&set) });
        let second = &together[1];
        let alone = draw(&GenerateRequest { seed: Some("8".into()), ..request(&set) }).remove(0);
        assert_eq!(alone.to_png().unwrap(), second.to_png().unwrap(), "{economy}");
        let receipt = Receipt::from_png(&second.to_png().unwrap()).unwrap();
        assert_eq!(draw(&receipt.request()).remove(0).pixels, second.pixels, "{economy}");
        assert_ne!(draw(&request(&set[..1])).remove(0).pixels, second.pixels, "{economy}");
    }
}

#[test]
fn what_is_left_out_is_what_was_said() {
    let pixels = |set: &[(&str, &str)]| draw(&request(set)).remove(0).pixels;
    // Guidance nowhere is the conditional model.
    assert_eq!(pixels(&[("economy", "exact(guide_to=0)")]), pixels(&[("guidance", "1")]));
    // A first step is always whole, and so is every one with a cache for one step.
    assert_eq!(pixels(&[("economy", "exact(cache=9)"), ("steps", "1")]), pixels(&[("steps", "1")]));
    assert_eq!(pixels(&[("economy", "balanced(cache=1)")]), pixels(&[]));
    for economy in ["exact(cache=2)", "exact(cache=2, depth=2)", "exact(merge=0.5)", "exact(guide_from=0.5)"] {
        assert_ne!(pixels(&[("economy", economy)]), pixels(&[]), "{economy}");
    }
}

#[test]
fn where_the_network_is_differentiated_its_calls_are_whole() {
    let restored = |economy: &str| {
        let set = [("restore", "grey(posterior=0.5)"), ("economy", economy), ("guidance", "1")];
        draw(&GenerateRequest { image: Some(png(&photograph(32, 32))), ..request(&set) }).remove(0).pixels
    };
    assert_eq!(restored("exact(cache=2)"), restored("exact"));
}
