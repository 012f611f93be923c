//! The evaluation's figures on pictures whose truth is known.

use super::*;
use crate::train::data::CHANNELS;

/// Concepts that only differ in colour, all but one of them seen in both styles.
fn tiny() -> (Dataset, Vec<u8>) {
    let (mut records, mut pixels) = (Vec::new(), Vec::new());
    for (i, concept) in ["red", "green", "blue", "black"].iter().enumerate() {
        for (style, shade) in [("pure", 0u8), ("pale", 150)] {
            let is_pair = i == 0 && style == "pale";
            records.push(Record {
                file: String::new(),
                concept: (*concept).to_owned(),
                style: Some(style.to_owned()),
                keywords: vec![],
                group: None,
                captions: vec![],
                split: if is_pair { Split::HeldOutPair } else { Split::Train },
            });
            pixels.extend((0..16 * 16 * CHANNELS).map(|v| if v % CHANNELS == i { 255 } else { shade }));
        }
    }
    (Dataset::of_records(16, records), pixels)
}

#[test]
fn wilson_intervals_are_those_of_statsmodels() {
    // from statsmodels.stats.proportion import proportion_confint; proportion_confint(8, 10, method="wilson"), (0, 20)
    let some = Interval::wilson(8, 10);
    assert!((some.low - 0.490_162).abs() < 1e-5 && (some.high - 0.943_318).abs() < 1e-5, "{some:?}");
    let none = Interval::wilson(0, 20);
    assert!(none.low.abs() < 1e-12 && (none.high - 0.161_125).abs() < 1e-5, "{none:?}");
}

#[test]
fn a_painter_who_copies_reaches_the_ceiling_and_is_found_out() -> Result<()> {
    let (data, pixels) = tiny();
    let training = super::super::judge::Settings { steps: 60, batch: 12, learning_rate: 3e-3, seed: 1 };
    let judge = super::super::judge::train(&data, &pixels, &training, &mut |_, _| Ok(()))?;
    let bytes = data.picture_bytes();
    let mut copy = |prompt: &str, _seed: u64| {
        let index = data.records.iter().position(|r| r.prompt() == prompt).unwrap_or_default();
        let picture = RgbImage::from_raw(16, 16, pixels[index * bytes..][..bytes].to_vec());
        picture.ok_or_else(|| Error::Training("wrong size".to_owned()))
    };
    let settings = Settings { prompts: 100, seed: 3 };
    let report = evaluate(&data, &pixels, &judge, &settings, Some(&mut copy))?;
    let seen = report.seen.as_ref().ok_or_else(|| Error::Training("no seen prompts".to_owned()))?;
    assert_eq!((report.concepts, seen.real.pictures), (4, 7));
    assert_eq!(seen.generated.as_ref(), Some(&seen.real));
    assert_eq!(seen.share_of_ceiling(), Some(1.0));
    assert!(seen.real.recall_at_1.value > 0.8, "{report}");
    assert!(seen.shuffled.as_ref().is_some_and(|s| s.recall_at_1.value < 0.5), "{report}");
    assert_eq!(report.nearest_training_picture.generated_seen, Some(0.0));
    assert!(report.nearest_training_picture.real_held_out.is_some_and(|d| d > 0.1), "{report}");
    Ok(())
}

#[test]
fn without_a_painter_only_real_pictures_are_judged() -> Result<()> {
    let (data, pixels) = tiny();
    let judge = Judge::new(data.words().into_iter().collect(), 16, 0)?;
    let report = evaluate(&data, &pixels, &judge, &Settings { prompts: 2, seed: 0 }, None)?;
    assert!(report.seen.is_some_and(|g| g.real.pictures == 2 && g.generated.is_none() && g.shuffled.is_none()));
    let small = Judge::new(vec![], 32, 0)?;
    assert!(evaluate(&data, &pixels, &small, &Settings { prompts: 2, seed: 0 }, None).is_err());
    Ok(())
}

#[test]
fn a_picture_of_another_size_is_refused() {
    let (data, pixels) = tiny();
    let judge = Judge::new(vec![], 16, 0);
    let mut large = |_: &str, _: u64| Ok(RgbImage::new(32, 32));
    let report =
        judge.and_then(|judge| evaluate(&data, &pixels, &judge, &Settings { prompts: 1, seed: 0 }, Some(&mut large)));
    assert!(report.is_err_and(|e| e.to_string().contains("32x32")));
}
