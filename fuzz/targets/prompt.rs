//! Any text is a prompt: parsing never fails, and what comes of it keeps its promises at every step.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limner::prompt::{MAX_PARTS, Part, Prompt, Wording};

fn check(part: &Part) {
    assert!(part.weight.is_finite());
    for (step, steps) in [(0, 1), (0, 20), (7, 20), (19, 20), (999, 1000)] {
        let Wording(passages) = part.at(step, steps);
        assert!(!passages.is_empty());
        for span in passages.iter().flatten() {
            assert!(!span.text.is_empty() && span.weight.is_finite() && span.weight > 0.0);
        }
    }
}

fuzz_target!(|text: &str| {
    let prompt = Prompt::parse(text);
    assert!((1..=MAX_PARTS).contains(&prompt.parts().len()));
    prompt.parts().iter().for_each(check);
    let negative = Prompt::parse_negative(text);
    assert_eq!(negative.parts().len(), 1);
    check(&negative.parts()[0]);
    // Never more than was typed.
    assert!(prompt.texts().iter().map(|text| text.len()).sum::<usize>() <= text.len());
});
