//! What the prompt grammar does to a picture, on a model with random weights: every token shows.

use crate::pipeline::{PIPELINE, draw, request};
use limner::image::RgbImage;
use limner::request::Plan;

fn with(set: &[(&str, &str)]) -> RgbImage {
    draw(&request(set)).remove(0).pixels
}

fn drawn(prompt: &str) -> RgbImage {
    with(&[("prompt", prompt)])
}

/// The mean absolute difference of two pictures, of 255.
fn distance(a: &RgbImage, b: &RgbImage) -> f64 {
    a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

#[test]
fn prompts_that_mean_the_same_draw_the_same() {
    for (prompt, same) in [
        ("(red apple:1.0)", "red apple"),
        (r"red \apple", r"red \\apple"),
        ("[red apple|red apple]", "red apple"),
        ("[red:apple:0.0]", "apple"),
        ("[red:apple:1.0]", "red"),
        ("[red:apple:4]", "red"),
        ("[red:apple:0.2]", "apple"),
        ("red [apple::0]", "red "),
        ("red apple BREAK", "red apple"),
        ("((red)", r"\((red)"),
        ("(red:0)", "(red:-1)"),
    ] {
        assert_eq!(drawn(prompt), drawn(same), "{prompt}");
    }
    // The negative prompt knows the same syntax, except that AND is a word.
    let negative = |text| with(&[("negative_prompt", text)]);
    assert_eq!(negative("[blue:red:0.0]"), negative("red"));
    assert_ne!(negative("(blue:1.5)"), negative("blue"));
    assert_ne!(negative("blue AND red"), negative("blue"));
}

#[test]
fn every_part_of_a_prompt_matters() {
    let plain = drawn("red apple");
    for prompt in [
        "(red:1.4) apple",
        "((red)) apple",
        "[red] apple",
        r"\(red\) apple",
        "red BREAK apple",
        "[red apple:blue:0.5]",
        "[red apple|blue]",
        "red apple AND blue",
        "red apple :0.5 AND red apple :0.6",
        "red apple AND blue :-0.5",
    ] {
        assert!(distance(&drawn(prompt), &plain) > 0.0, "{prompt}");
    }
}

#[test]
fn more_weight_moves_a_picture_further() {
    let plain = drawn("red apple");
    let moved = ["(red:1.1) apple", "(red:1.5) apple"].map(|prompt| distance(&drawn(prompt), &plain));
    assert!(moved[0] > 0.0 && moved[1] > moved[0], "{moved:?}");
}

#[test]
fn the_end_of_a_long_prompt_is_read() {
    let long = "red apple ".repeat(20);
    assert_ne!(drawn(&format!("{long}red")), drawn(&format!("{long}blue")));
    // With either prompt the longer one, and with both.
    for (prompt, negative) in [(&long[..], "blue"), ("blue", &long[..]), (&long[..], "blue BREAK red")] {
        with(&[("prompt", prompt), ("negative_prompt", negative)]);
    }
    // A longer negative prompt is heard by its end too.
    let negative = |end: &str| with(&[("negative_prompt", &format!("{long}{end}"))]);
    assert_ne!(negative("red"), negative("blue"));
}

#[test]
fn a_switch_is_heard_at_its_step() {
    // Of 4 steps, 0.5 are 2: a later switch is nearer to what came before.
    let before = drawn("red");
    let late = ["[red:blue:3]", "[red:blue:2]", "[red:blue:1]"].map(|prompt| distance(&drawn(prompt), &before));
    assert!(late[0] > 0.0 && late[0] < late[2], "{late:?}");
    assert_eq!(drawn("[red:blue:0.5]"), drawn("[red:blue:2]"));
    assert_eq!(with(&[("prompt", "[red|blue]"), ("steps", "1")]), with(&[("prompt", "red"), ("steps", "1")]));
    assert_eq!(with(&[("prompt", "[red|blue]"), ("steps", "2")]), with(&[("prompt", "[red:blue:1]"), ("steps", "2")]));
    // Every sampler hears it, one with two calls a step among them.
    for sampler in limner::diffusion::sampler::Sampler::names() {
        let of = |prompt| with(&[("prompt", prompt), ("sampler", sampler)]);
        assert_ne!(of("[red:blue:2]"), of("red"), "{sampler}");
        assert_eq!(of("[red:blue:1.0]"), of("red"), "{sampler}");
    }
}

#[test]
fn shares_of_a_prompt_add_up_to_it() {
    let plain = drawn("red apple");
    let halves = drawn("red apple :0.5 AND red apple :0.5");
    assert!(halves.iter().zip(plain.iter()).all(|(a, b)| a.abs_diff(*b) <= 1), "{}", distance(&halves, &plain));
    assert_eq!(drawn("red AND blue :0"), drawn("red AND apple :0"));
    // Without guidance as with it.
    let alone = |prompt| with(&[("prompt", prompt), ("guidance", "1")]);
    let (plain, halves) = (alone("red apple"), alone("red apple :0.5 AND red apple :0.5"));
    assert!(halves.iter().zip(plain.iter()).all(|(a, b)| a.abs_diff(*b) <= 1), "{}", distance(&halves, &plain));
}

#[test]
fn a_prompt_that_no_memory_holds_is_refused_by_name() {
    for field in ["prompt", "negative_prompt"] {
        let plan = Plan::new(&request(&[(field, &"a BREAK ".repeat(4_000))]), &PIPELINE.facts()).unwrap();
        let error = PIPELINE.generate(&plan, &mut |_| Ok(())).unwrap_err().to_string();
        assert_eq!(error, format!("{field}: fills 4000 chunks of 14 tokens, at most 1024 are read"));
    }
}
