//! The judge learns, remembers, and every parameter of it is taught.

use super::training::Lesson;
use super::*;
use crate::train::data::{CHANNELS, Dataset, Dice, Record, Split};

const SIZE: usize = 16;

/// Two shapes in two styles (dark and light), as `concept` pictures of 16 x 16.
pub(crate) fn tiny() -> (Dataset, Vec<u8>) {
    let mut records = Vec::new();
    let mut pixels = Vec::new();
    for (concept, is_drawn) in [("left bar", [true, false]), ("right bar", [false, true]), ("full square", [true; 2])] {
        for (style, shade) in [("dark", 0u8), ("light", 170)] {
            records.push(Record {
                file: String::new(),
                concept: concept.to_owned(),
                style: Some(style.to_owned()),
                keywords: vec![],
                group: None,
                captions: vec![],
                split: Split::Train,
            });
            let pixel = |i: usize| if is_drawn[i / CHANNELS % SIZE * 2 / SIZE] { shade } else { 255 };
            pixels.extend((0..SIZE * SIZE * CHANNELS).map(pixel));
        }
    }
    (Dataset::of_records(SIZE, records), pixels)
}

#[test]
fn every_parameter_gets_a_finite_gradient_that_is_not_zero() -> Result<()> {
    let (data, pixels) = tiny();
    let judge = Judge::new(data.words().into_iter().collect(), SIZE, 1)?;
    let loss = Lesson::new(&data, &pixels)?.loss(&judge, 8, &mut Dice::new(2))?;
    let gradients = loss.backward()?;
    for (name, var) in judge.parameters.named() {
        let norm = match gradients.get(&var) {
            Some(g) => g.sqr()?.sum_all()?.to_scalar::<f32>()?,
            None => 0.0,
        };
        assert!(norm.is_finite() && norm > 0.0, "{name}: {norm}");
    }
    Ok(())
}

#[test]
fn a_short_lesson_is_learnt_and_survives_the_file() -> Result<()> {
    let (data, pixels) = tiny();
    let settings = Settings { steps: 40, batch: 12, learning_rate: 3e-3, seed: 5 };
    let mut losses = Vec::new();
    let judge = train(&data, &pixels, &settings, &mut |_, loss| {
        losses.push(loss);
        Ok(())
    })?;
    assert!(losses[39] < 0.6 * losses[0], "{losses:?}");
    let folder = tempfile::tempdir().map_err(Error::io("tempdir"))?;
    let path = folder.path().join("judge.safetensors");
    judge.save(&path)?;
    let again = Judge::open(&path)?;
    let names = ["full square", "left bar", "right bar"];
    let texts = again.embed_texts(&names)?;
    let best = again.embed_pictures(&pixels)?.matmul(&texts.t()?)?.argmax(1)?.to_vec1::<u32>()?;
    assert_eq!(best, [1, 1, 2, 2, 0, 0]);
    let (a, b) = (judge.embed_pictures(&pixels)?, again.embed_pictures(&pixels)?);
    assert_eq!(a.to_vec2::<f32>()?, b.to_vec2::<f32>()?);
    Ok(())
}

#[test]
fn the_same_seed_is_the_same_judge() -> Result<()> {
    let words = || vec!["bar".to_owned(), "left".to_owned()];
    let bar = |seed| Judge::new(words(), SIZE, seed)?.embed_texts(&["left bar"])?.to_vec2::<f32>().map_err(Error::from);
    assert_eq!(bar(1)?, bar(1)?);
    assert_ne!(bar(1)?, bar(2)?);
    Ok(())
}

#[test]
fn a_file_that_is_no_judge_is_refused_by_name() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("tempdir"))?;
    let path = folder.path().join("other.safetensors");
    std::fs::write(&path, b"something else").map_err(Error::io(&path))?;
    assert!(Judge::open(&path).is_err_and(|e| e.to_string().contains("other.safetensors: not a judge")));
    assert!(matches!(Judge::new(vec![], 20, 0), Err(Error::Training(_))), "20 is not a multiple of 16");
    Ok(())
}
