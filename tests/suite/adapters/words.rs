//! Textual inversion: vectors in place of words.

use super::drawing::Studio;
use super::models::{GOLDEN, save};
use super::{difference, load, numbers};
use crate::networks::formula::input;
use candle_core::{IndexOp, Tensor};

#[test]
fn vectors_between_words_give_the_numbers_of_diffusers() {
    let tiny = GOLDEN.model();
    let (model, golden) = (load(tiny.path()), &GOLDEN.inversion);
    let (encoder, first) = (&model.text[0], model.text[0].network.vocabulary_size() as u32);
    let words = [&golden.before[..], &[first, first + 1], &golden.after].concat();
    let vectors = input("inversion.<cat-toy>", &[2, 12]);
    let said = encoder.read(&encoder.tokenizer.framed(&words), words.len() + 1, None, Some(&vectors)).unwrap();
    let off = difference(&numbers(&said.states), &golden.states);
    assert!(off < 1e-5, "off by {off:.1e}");
}

/// Rows of the text encoders' tables: what a word is read as.
fn rows(studio: &Studio, encoder: usize, ids: &[u32]) -> Tensor {
    let folder = ["text_encoder", "text_encoder_2"][encoder];
    let table = &studio.tiny.tensors(&format!("{folder}/model.safetensors"))["embeddings.token_embedding.weight"];
    Tensor::stack(&ids.iter().map(|&id| table.i(id as usize).unwrap()).collect::<Vec<_>>(), 0).unwrap()
}

/// In the tests' vocabulary.
const RED: u32 = 736;
const MAN: u32 = 786;

#[test]
fn the_vectors_of_words_draw_what_the_words_draw() {
    let studio = Studio::new(GOLDEN.model());
    let file = |name: &str| studio.place.path().join(format!("embeddings/{name}.safetensors"));
    save(&file("One"), &[("emb_params", &rows(&studio, 0, &[RED]))], &[]);
    save(&file("two-words"), &[("emb_params", &rows(&studio, 0, &[RED, MAN]))], &[]);
    save(&file("toy"), &[("<red-toy>", &rows(&studio, 0, &[RED]).squeeze(0).unwrap())], &[]);
    let drawn = |prompt: &str| studio.pixels(&[("prompt", prompt)]);
    for (prompt, same) in [
        ("a one star", "a red star"),
        ("a ONE, star", "a red, star"),
        ("a two-words", "a red man"),
        ("(one:1.4) [star|one]", "(red:1.4) [star|red]"),
        ("a <red-toy>star", "a red star"),
        ("a toy", "a red"),
        ("ones", "ones"),
    ] {
        assert_eq!(drawn(prompt), drawn(same), "{prompt}");
    }
    assert_ne!(drawn("a one star"), drawn("a star"));
    let negative = |text: &str| studio.pixels(&[("negative_prompt", text)]);
    assert_eq!(negative("two-words"), negative("red man"));
    // Fourteen words fill a chunk: two vectors at its end begin another, as they are not parted.
    let words = "a ".repeat(13);
    assert_eq!(drawn(&format!("{words}two-words")), drawn(&format!("{words}BREAK red man")));

    let count = |prompt: &str| studio.pipeline.tokens(prompt).unwrap().count;
    assert_eq!([count("a one"), count("a two-words"), count("<red-toy> <red-toy>")], [2, 3, 2]);
    let receipt = &studio.draw(&[("prompt", "one"), ("negative_prompt", "toy")]).receipt;
    let names: Vec<&str> = receipt.embeddings.iter().map(|embedding| embedding.name.as_str()).collect();
    assert_eq!(names, ["One", "toy"]);
    assert!(receipt.parameters().contains("TI hashes: \"One: "), "{}", receipt.parameters());
}

#[test]
fn two_text_encoders_have_vectors_of_their_own() {
    let studio = Studio::new(GOLDEN.xl_model());
    let file = studio.place.path().join("embeddings/both.safetensors");
    let (l, g) = (rows(&studio, 0, &[RED, MAN]), rows(&studio, 1, &[RED, MAN]));
    save(&file, &[("clip_l", &l), ("clip_g", &g)], &[]);
    let drawn = |prompt: &str| studio.pixels(&[("prompt", prompt)]);
    assert_eq!(drawn("a both"), drawn("a red man"));
    let reason = |tensors: &[(&str, &Tensor)]| {
        save(&file, tensors, &[]);
        let (code, message) = studio.refused(&[("prompt", "a both")]);
        assert_eq!(code, "unusable_embedding");
        message
    };
    assert!(
        reason(&[("emb_params", &l)])
            .ends_with("it has vectors for one text encoder, the model has two (clip_l and clip_g)")
    );
    let short = l.narrow(0, 0, 1).unwrap();
    assert!(reason(&[("clip_l", &short), ("clip_g", &g)]).ends_with("not as many vectors for each text encoder"));
}

#[test]
fn vectors_for_another_model_are_refused_by_their_width() {
    let studio = Studio::new(GOLDEN.model());
    let file = studio.place.path().join("embeddings/neg.safetensors");
    let refused = |tensors: &[(&str, &Tensor)]| {
        save(&file, tensors, &[]);
        studio.refused(&[("prompt", "red"), ("negative_prompt", "a neg")]).1
    };
    let name = studio.pipeline.facts().name;
    let wide = input("input.wide", &[2, 768]);
    let start = format!("\"neg\" cannot be used with {name}: neg.safetensors: ");
    let expected = "emb_params: expected vectors of 12 numbers, found 768";
    assert_eq!(refused(&[("emb_params", &wide)]), format!("{start}{expected}"));
    let expected = "it has vectors for two text encoders (clip_l and clip_g), the model has one";
    assert_eq!(refused(&[("clip_l", &wide), ("clip_g", &wide)]), format!("{start}{expected}"));
    assert!(
        refused(&[("a", &wide), ("b", &wide)])
            .ends_with("no textual inversion: expected emb_params, or a single tensor")
    );
    assert!(
        refused(&[("<x>", &input("input.x", &[1, 1, 12]))])
            .ends_with("<x>: expected vectors, found the shape [1, 1, 12]")
    );
    // One that is not named is nobody's business.
    assert_eq!(studio.draw(&[("prompt", "a negative")]).receipt.embeddings, []);
}
