//! Adapters: the numbers of diffusers and PEFT in every style of names, LyCORIS's formulas, and laws.

mod drawing;
pub(crate) mod models;
mod refusals;
mod room;
mod words;

use crate::networks::formula::input;
use candle_core::{DType, Device, Tensor};
use limner::kernels::Products;
use limner::model::adapter::Applied;
use limner::model::checkpoint::{Model, Precision};
use limner::model::unet::{Added, Conditioning};
use models::{Case, GOLDEN, Outputs};
use std::path::Path;

fn load(folder: &Path) -> Model {
    Model::load(folder, &Device::Cpu, DType::F32).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// What the model's networks say of the inputs that make.py gives its own.
fn outputs(model: &Model) -> Outputs {
    let ids = Tensor::new(GOLDEN.ids.clone(), &Device::Cpu).unwrap();
    let text = model.text.iter().map(|encoder| numbers(&encoder.network.forward(&ids).unwrap())).collect();
    let config = model.unet.config();
    let added = (model.text.len() > 1).then(|| Added {
        pooled: input("input.pooled", &[1, 10]),
        sizes: Tensor::new(&[[48f32, 64.0, 0.0, 0.0, 48.0, 64.0]], &Device::Cpu).unwrap(),
    });
    let context = input("input.context", &[1, 5, config.cross_attention_dim]);
    let given = Conditioning { added, ..Conditioning::text(&context) };
    let time = Tensor::new(&[250f32], &Device::Cpu).unwrap();
    let drawn = model.unet.forward(&input("input.x", &[1, 4, 6, 8]), &time, &given).unwrap();
    Outputs { text, unet: numbers(&drawn) }
}

/// The largest difference, relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

fn assert_same(found: &Outputs, expected: &Outputs, what: &str) {
    let mut all = found.text.iter().zip(&expected.text).chain([(&found.unet, &expected.unet)]);
    assert_eq!(found.text.len(), expected.text.len());
    let off = all.try_fold(0f32, |most, (a, b)| Some(most.max(difference(a, b)))).unwrap();
    assert!(off < 1e-5, "{what} is off by {off:.1e}");
}

fn bits(outputs: &Outputs) -> Vec<u32> {
    outputs.text.iter().flatten().chain(&outputs.unet).map(|value| value.to_bits()).collect()
}

fn applied(case: &Case, folder: &Path, name: &str, strength: [f64; 2]) -> Applied {
    Applied { name: name.to_owned(), path: case.write(folder, name), text: strength[0], unet: strength[1] }
}

#[test]
fn every_style_of_names_gives_the_numbers_of_diffusers_and_peft() {
    let adapters = tempfile::tempdir().unwrap();
    let (tiny, xl) = (GOLDEN.model(), GOLDEN.xl_model());
    let (model, xl) = (load(tiny.path()), load(xl.path()));
    assert_same(&outputs(&model), &GOLDEN.plain, "the model");
    assert_same(&outputs(&xl), &GOLDEN.xl_plain, "the model of SDXL's kind");
    for (model, cases) in [(&model, &GOLDEN.cases), (&xl, &GOLDEN.xl_cases)] {
        for (name, case) in cases {
            let adapted = model.adapted(&[applied(case, adapters.path(), name, case.strength)]).unwrap();
            assert_same(&outputs(&adapted), &case.outputs, name);
        }
    }
}

/// Packed weights are unpacked, changed and packed again.
#[test]
fn weights_for_products_in_bf16_are_changed_too() {
    let adapters = tempfile::tempdir().unwrap();
    let packed = Precision::on(&Device::Cpu, None).with_products(Some(Products::Brain));
    let (tiny, xl) = (GOLDEN.model(), GOLDEN.xl_model());
    for (tiny, plain, cases) in [(&tiny, &GOLDEN.plain, &GOLDEN.cases), (&xl, &GOLDEN.xl_plain, &GOLDEN.xl_cases)] {
        let model = Model::load(tiny.path(), &Device::Cpu, packed).unwrap();
        let before = bits(&outputs(&model));
        for (name, case) in cases {
            let adapted = model.adapted(&[applied(case, adapters.path(), name, case.strength)]).unwrap();
            let found = outputs(&adapted);
            let (off, changed) = (difference(&found.unet, &case.outputs.unet), difference(&found.unet, &plain.unet));
            assert!(off < 0.04 && off < changed / 2.0, "{name}: {off} off, {changed} from the model without it");
        }
        assert_eq!(bits(&outputs(&model)), before);
    }
}

#[test]
fn several_at_once_are_the_sum() {
    let adapters = tempfile::tempdir().unwrap();
    let tiny = GOLDEN.model();
    let (model, two) = (load(tiny.path()), &GOLDEN.two);
    let strengths = two.of.iter().zip(two.strengths);
    let applied: Vec<_> =
        strengths.map(|(name, strength)| applied(&GOLDEN.cases[name], adapters.path(), name, [strength; 2])).collect();
    assert_same(&outputs(&model.adapted(&applied).unwrap()), &two.outputs, "both");
}

#[test]
fn a_strength_of_zero_is_no_adapter_and_the_model_stays_as_it_is() {
    let adapters = tempfile::tempdir().unwrap();
    let tiny = GOLDEN.model();
    let model = load(tiny.path());
    let before = bits(&outputs(&model));
    for (name, case) in &GOLDEN.cases {
        let with = |strength| model.adapted(&[applied(case, adapters.path(), name, strength)]).unwrap();
        assert_eq!(bits(&outputs(&with([0.0, 0.0]))), before, "{name}");
        let [text, unet] = [with([1.0, 0.0]), with([0.0, 1.0])].map(|adapted| outputs(&adapted));
        assert!(
            difference(&text.unet, &GOLDEN.plain.unet) < 1e-5
                && difference(&unet.text[0], &GOLDEN.plain.text[0]) < 1e-5
        );
        assert!(difference(&unet.unet, &GOLDEN.plain.unet) > 1e-2, "{name}");
        assert_eq!(bits(&outputs(&model)), before, "after {name}");
    }
}
