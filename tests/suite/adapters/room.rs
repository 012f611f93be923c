//! Memory for the weights that adapters change: asked for before they are there, and kept to.

use super::drawing::Studio;
use super::models::GOLDEN;
use crate::jobs::request;
use crate::library::{copy, library, loaded, refusal};
use candle_core::{DType, Device};
use limner::kernels::Products;
use limner::memory::size;
use limner::model::checkpoint::Precision;
use limner::pipeline::{Pipeline, Room};
use limner::request::Plan;
use std::fs::File;
use std::sync::{Arc, Mutex};

/// Whose pipeline asks `room`.
fn within(studio: Studio, room: Room) -> Studio {
    Studio { pipeline: studio.pipeline.within(room), ..studio }
}

/// A model whose weights are as they are stored, and one whose weights are laid out for products in bf16.
fn studios() -> [Studio; 2] {
    let packed = Precision::on(&Device::Cpu, None).with_products(Some(Products::Brain));
    [DType::F32.into(), packed].map(|precision| Studio::with_precision(GOLDEN.model(), precision).adapted())
}

#[test]
fn what_is_asked_for_is_what_changed_weights_take() {
    for studio in studios() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asks = asked.clone();
        let room = Room::new(move |bytes, _| {
            asks.lock().unwrap().push(bytes);
            Ok(())
        });
        let studio = within(studio, room);
        let alone = studio.pipeline.bytes();
        let take = |loras: &str| {
            studio.draw(&[("loras", loras)]);
            studio.pipeline.bytes() - alone
        };
        let (text, all) = (take("kohya:1:0"), take("kohya"));
        assert!(0 < text && text < all, "{text} of the text encoder in {all}");
        assert_eq!((take("kohya"), take("kohya:0"), take("")), (all, 0, 0), "nothing is changed");
        assert_eq!(*asked.lock().unwrap(), [text, all]);
    }
}

/// Whoever is asked for room cuts the adapter short: it can only be read before that.
#[test]
fn room_is_made_before_changed_weights_are_computed() {
    for studio in studios() {
        let path = studio.place.path().join("loras/kohya.safetensors");
        let cut = move |_: u64, _: &mut dyn FnMut() -> limner::Result<()>| {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            Ok(())
        };
        let studio = within(studio, Room::new(cut));
        let (plan, alone) = (studio.plan(&[("loras", "kohya")]).unwrap(), studio.pipeline.bytes());
        let error = studio.pipeline.generate(&plan, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{error}");
        assert_eq!(studio.pipeline.bytes(), alone, "what is not there does not count");
    }
}

#[test]
fn a_model_that_is_not_in_use_goes_for_changed_weights_and_without_room_they_are_refused() {
    let studio = Studio::with_adapters();
    let place = studio.place.path();
    ["a", "b"].iter().for_each(|name| copy(studio.tiny.path(), &place.join(name)));
    let alone = studio.pipeline.bytes();
    studio.draw(&[("loras", "kohya")]);
    let both = studio.pipeline.bytes();

    let open = |budget| library(&[place], &place.join("a"), budget);
    let draw = |pipeline: &Pipeline, loras: &str| {
        let request = request(&[("steps", "1"), ("loras", loras)]);
        pipeline.generate(&Plan::new(&request, &pipeline.facts())?, &mut |_| Ok(()))
    };
    for (spare, left) in [(0, vec!["b", "a"]), (1, vec!["a"])] {
        let library = open(alone + both - spare);
        drop(library.lend("b", &mut || Ok(())).unwrap());
        let pipeline = library.lend("a", &mut || Ok(())).unwrap();
        draw(&pipeline, "kohya").unwrap();
        assert_eq!((loaded(&library), pipeline.bytes()), (left.iter().map(ToString::to_string).collect(), both));
    }

    let library = open(both - 1);
    let pipeline = library.lend("a", &mut || Ok(())).unwrap();
    let error = refusal(draw(&pipeline, "kohya"));
    let numbers = format!("needs {} of memory, and all models together may take {}", size(both), size(both - 1));
    assert!(error.code == "model_too_large" && error.message.contains(&numbers), "{}", error.message);
    assert_eq!(pipeline.bytes(), alone);
    assert_eq!(draw(&pipeline, "").unwrap().len(), 1, "without them it draws");
}
