//! Requests that ask for adapters.

use super::models::GOLDEN;
use crate::checkpoint::tiny::Tiny;
use crate::http::{app_with, get, of, with};
use crate::library::library;
use candle_core::{DType, Device};
use limner::Error;
use limner::error::FieldError;
use limner::image::{RgbImage, read_png_text};
use limner::kernels::Products;
use limner::model::adapter::Catalogue;
use limner::model::checkpoint::{Opened, Precision};
use limner::pipeline::{LoraReceipt, Picture, Pipeline, Receipt};
use limner::request::{GenerateRequest, MAX_LORAS, Plan, from_parameters};
use limner::server::router;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// A model in memory, and a place for adapters and embeddings.
pub(super) struct Studio {
    pub(super) tiny: Tiny,
    pub(super) place: TempDir,
    pub(super) pipeline: Pipeline,
}

impl Studio {
    pub(super) fn new(tiny: Tiny) -> Self {
        Self::with_precision(tiny, DType::F32.into())
    }

    pub(super) fn with_precision(tiny: Tiny, precision: Precision) -> Self {
        let place = tempfile::tempdir().unwrap();
        for folder in ["loras", "embeddings"] {
            fs::create_dir(place.path().join(folder)).unwrap();
        }
        let opened = Opened::read(tiny.path()).unwrap().with_catalogue(Catalogue::new(vec![place.path().to_owned()]));
        Self { pipeline: Pipeline::new(opened, &Device::Cpu, precision).unwrap(), tiny, place }
    }

    /// With the adapters `kohya` and `loha`.
    pub(super) fn with_adapters() -> Self {
        Self::new(GOLDEN.model()).adapted()
    }

    pub(super) fn adapted(self) -> Self {
        let studio = self;
        ["kohya", "loha"].into_iter().for_each(|name| drop(studio.write(name, name)));
        studio
    }

    /// Writes an adapter by a name.
    fn write(&self, case: &str, name: &str) -> PathBuf {
        let written = GOLDEN.cases[case].write(self.place.path(), case);
        let path = self.place.path().join(format!("loras/{name}.safetensors"));
        fs::rename(written, &path).unwrap();
        path
    }

    pub(super) fn plan(&self, set: &[(&str, &str)]) -> limner::Result<Plan> {
        let mut request = GenerateRequest { prompt: Some("red star".into()), ..Default::default() };
        for (field, value) in [("steps", "2"), ("seed", "7"), ("guidance", "2")].iter().chain(set) {
            assert!(request.set_text(field, (*value).into()), "{field}");
        }
        Plan::new(&request, &self.pipeline.facts())
    }

    pub(super) fn draw(&self, set: &[(&str, &str)]) -> Picture {
        self.pipeline.generate(&self.plan(set).unwrap(), &mut |_| Ok(())).unwrap().remove(0)
    }

    pub(super) fn pixels(&self, set: &[(&str, &str)]) -> RgbImage {
        self.draw(set).pixels
    }

    /// The one thing that is wrong with a request: its code and what is said of it.
    pub(super) fn refused(&self, set: &[(&str, &str)]) -> (&'static str, String) {
        let FieldError { code, message, .. } = self.wrong(set);
        (code, message)
    }

    fn wrong(&self, set: &[(&str, &str)]) -> FieldError {
        match self.plan(set) {
            Err(Error::Invalid(mut errors)) if errors.len() == 1 => errors.remove(0),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn adapters_change_the_picture_and_leave_the_model_as_it_is() {
    let studio = Studio::with_adapters();
    let drawn = |prompt: &str| studio.pixels(&[("prompt", prompt)]);
    let plain = studio.draw(&[]).to_png().unwrap();
    let bytes = studio.pipeline.bytes();
    let with = drawn("red star <lora:kohya:0.8>");
    let more = studio.pipeline.bytes() - bytes;
    assert!(more > 0 && more < bytes, "{more} of {bytes}: only what is changed is there twice");
    let without = drawn("red star");
    assert_ne!(with, without);
    assert_eq!(studio.draw(&[]).to_png().unwrap(), plain, "a picture without adapters after one with some");
    assert_eq!(drawn("red star <lora:kohya:0>"), without);
    assert_eq!(drawn("red star<lora:loha:0:0>"), without);

    // Where in the prompt it stands, and how it is summed up, does not matter; on what it acts does.
    assert_eq!(drawn("<lora:kohya:.5>red <lora:kohya:0.3:0.3>star"), drawn("red star <lora:kohya:0.8>"));
    assert_eq!(studio.pixels(&[("loras", "kohya:0.8")]), with);
    assert_eq!(studio.pixels(&[("prompt", "red star<lora:kohya:0.3>"), ("loras", " kohya:0.5, ")]), with);
    let [text, unet] = ["red star<lora:kohya:0.8:0>", "red star<lora:kohya:0:0.8>"].map(drawn);
    assert!(text != unet && text != with && unet != with && text != without && unet != without);
    let both = drawn("red star<lora:kohya:0.8><lora:loha:-1>");
    assert!(both != with && both != drawn("red star<lora:loha:-1>"));
    // In a negative prompt it is words.
    let negative = |text| studio.pixels(&[("negative_prompt", text)]);
    assert_ne!(negative("<lora:kohya:0.8>"), negative(""));
    assert_eq!(studio.plan(&[("negative_prompt", "<lora:nothing:1>")]).unwrap().loras, []);
}

#[test]
fn weights_for_products_in_bf16_are_shared_and_left_as_they_are() {
    let packed = Precision::on(&Device::Cpu, None).with_products(Some(Products::Brain));
    let studio = Studio::with_precision(GOLDEN.model(), packed).adapted();
    let (plain, bytes) = (studio.draw(&[]), studio.pipeline.bytes());
    assert_eq!(plain.receipt.products, Products::Brain);
    let with = studio.draw(&[("prompt", "red star <lora:kohya:0.8>")]);
    let more = studio.pipeline.bytes() - bytes;
    assert!(more > 0 && more < bytes, "{more} of {bytes}: only what is changed is there twice");
    assert!(with.pixels != plain.pixels && studio.draw(&[]).to_png().unwrap() == plain.to_png().unwrap());
}

#[test]
fn the_receipt_says_which_adapters_and_draws_the_picture_again() {
    let studio = Studio::with_adapters();
    let picture = studio.draw(&[("loras", "kohya:0.8:0.5, loha")]);
    let hash = |name: &str| {
        let file = fs::read(studio.place.path().join(format!("loras/{name}.safetensors"))).unwrap();
        Sha256::digest(file).iter().take(5).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let lora = |name: &str, text, unet| LoraReceipt { name: name.to_owned(), text, unet, hash: hash(name) };
    let receipt = &picture.receipt;
    assert_eq!(receipt.prompt, "red star <lora:kohya:0.8:0.5><lora:loha:1>");
    assert_eq!(receipt.loras, [lora("kohya", 0.8, 0.5), lora("loha", 1.0, 1.0)]);
    let file = picture.to_png().unwrap();
    let parameters = read_png_text(&file, "parameters").unwrap();
    let hashes = format!("Lora hashes: \"kohya: {}, loha: {}\", Version", hash("kohya"), hash("loha"));
    assert!(parameters.contains(&hashes), "{parameters}");
    assert_eq!(Receipt::from_png(&file).as_ref(), Some(receipt));
    for request in [receipt.request(), from_parameters(&parameters).unwrap().request] {
        let plan = Plan::new(&request, &studio.pipeline.facts()).unwrap();
        let again = studio.pipeline.generate(&plan, &mut |_| Ok(())).unwrap();
        assert_eq!(again[0].to_png().unwrap(), file);
    }
}

#[test]
fn a_file_that_is_replaced_acts_from_the_next_picture_on() {
    let studio = Studio::with_adapters();
    let drawn = || studio.pixels(&[("prompt", "red star<lora:kohya:1>")]);
    let before = drawn();
    assert_eq!(drawn(), before);
    studio.write("diffusers_new", "kohya");
    let after = drawn();
    assert_ne!(after, before);
    studio.write("diffusers_new", "other");
    assert_eq!(studio.pixels(&[("prompt", "red star<lora:other:1>")]), after);
}

#[test]
fn what_cannot_be_used_is_refused_at_the_door() {
    let studio = Studio::with_adapters();
    let wrong = |set: &[(&str, &str)]| {
        let error = studio.wrong(set);
        (error.field.clone(), error.code, error.message)
    };
    let (field, code, message) = wrong(&[("prompt", "a <lora:kohia:1>")]);
    assert_eq!((field.as_str(), code), ("prompt", "unknown_lora"));
    assert_eq!(message, "there is no LoRA called \"kohia\"; there are kohya, loha");
    for name in ["../loras/kohya", "kohya.safetensors", "/etc/passwd", "loras/kohya", "Kohya"] {
        assert_eq!(wrong(&[("loras", name)]).1, "unknown_lora", "{name}");
    }
    assert_eq!((wrong(&[("loras", "kohya:a")]).0.as_str(), wrong(&[("loras", "kohya:a")]).1), ("loras", "not_a_lora"));
    assert_eq!(wrong(&[("loras", "kohya:1e3")]).1, "not_a_lora");
    for strength in ["20.5", "-21", "99999999999999999999"] {
        let error = studio.wrong(&[("prompt", &format!("<lora:kohya:{strength}>"))]);
        assert_eq!((error.code, error.minimum, error.maximum), ("out_of_range", Some(-20.0), Some(20.0)));
    }
    let many: Vec<String> = (0..=MAX_LORAS).map(|i| format!("lora{i}")).collect();
    many.iter().for_each(|name| drop(studio.write("loha", name)));
    assert_eq!(wrong(&[("loras", &many.join(","))]).1, "too_many");
    assert_eq!(studio.plan(&[("loras", &many[1..].join(","))]).unwrap().loras.len(), MAX_LORAS);

    let other = GOLDEN.xl_cases["xl_kohya"].write(&studio.place.path().join("loras"), "xl_kohya");
    let (field, code, message) = wrong(&[("prompt", "<lora:xl_kohya:1>")]);
    assert_eq!((field.as_str(), code), ("prompt", "unusable_lora"));
    let start = format!(
        "\"xl_kohya\" cannot be used with {}: xl_kohya.safetensors: does not fit",
        studio.pipeline.facts().name
    );
    assert!(message.starts_with(&start), "{message}");
    fs::write(other, "nothing").unwrap();
    assert!(wrong(&[("prompt", "<lora:xl_kohya:1>")]).2.contains("not a safetensors file"));
}

#[test]
fn a_file_from_anywhere_can_be_offered() {
    let mut studio = Studio::with_adapters();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = GOLDEN.cases["peft"].write(elsewhere.path(), "peft");
    assert_eq!(studio.pipeline.offer_lora(&path).as_deref(), Some("peft"));
    assert_ne!(studio.pixels(&[("loras", "peft:0.5")]), studio.pixels(&[]));
    assert_eq!(studio.pipeline.offer_lora(&elsewhere.path().join("a:b.safetensors")), None);
}

#[tokio::test]
async fn a_server_lists_adapters_and_takes_them_by_name() {
    let studio = Studio::with_adapters();
    let row = crate::networks::formula::input("input.row", &[12]);
    super::models::save(&studio.place.path().join("embeddings/neg.safetensors"), &[("emb_params", &row)], &[]);
    let routes = router(app_with(&[], Arc::new(library(&[studio.place.path()], studio.tiny.path(), u64::MAX))));
    assert_eq!(of(&routes, get("/api/v1/loras")).await.1, json!({ "loras": ["kohya", "loha"] }));
    assert_eq!(of(&routes, get("/api/v1/embeddings")).await.1, json!({ "embeddings": ["neg"] }));
    let draw = |fields: serde_json::Value| {
        let mut body = json!({ "prompt": "red star", "steps": 2, "seed": 7, "guidance": 2 });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        with("POST", "/api/v1/generate", &body.to_string())
    };
    let (status, plain) = of(&routes, draw(json!({}))).await;
    assert_eq!(status, 200, "{plain}");
    let (status, drawn) = of(&routes, draw(json!({ "loras": "kohya:0.8", "negative_prompt": "neg" }))).await;
    assert_eq!(status, 200, "{drawn}");
    assert_eq!(drawn["pictures"][0]["prompt"], "red star <lora:kohya:0.8>");
    assert_ne!(drawn["pictures"][0]["png"], plain["pictures"][0]["png"]);
    let (_, again) = of(&routes, draw(json!({}))).await;
    assert_eq!(again["pictures"][0]["png"], plain["pictures"][0]["png"]);
    let (status, refused) = of(&routes, draw(json!({ "loras": "nothing" }))).await;
    assert_eq!((status.as_u16(), &refused["errors"][0]["field"]), (422, &json!("loras")), "{refused}");
}
