//! The settings in pictures: a PNG's text chunks, and the text in them, to a request that is checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limner::image::read_png_text;
use limner::request::{Facts, Plan, from_parameters};

fuzz_target!(|bytes: &[u8]| {
    let found = ["parameters", "limner"].map(|key| read_png_text(bytes, key));
    let typed = String::from_utf8_lossy(bytes).into_owned();
    for text in found.into_iter().flatten().chain([typed]) {
        let Some(parameters) = from_parameters(&text) else { continue };
        let facts = Facts::plain("any", (64, 64), 8);
        // Settings that are out of range are refused; what is not has a size that can be drawn.
        if let Ok(plan) = Plan::new(&parameters.request, &facts) {
            let (width, height) = plan.drawn();
            assert!(width % 8 == 0 && height % 8 == 0 && width * height > 0);
        }
    }
});
