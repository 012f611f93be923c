//! Laws of the data set: captions, words, splits, and what is on disk.

use super::store::Draft;
use super::*;
use std::collections::BTreeMap;

pub(super) fn record(concept: &str, style: &str, keywords: &[&str]) -> Record {
    Record {
        file: format!("pictures/{concept}-{style}.png"),
        concept: concept.to_owned(),
        style: Some(style.to_owned()),
        keywords: keywords.iter().map(|k| (*k).to_owned()).collect(),
        group: None,
        captions: vec![],
        split: Split::Train,
    }
}

fn draws(record: &Record, n: u64) -> Vec<String> {
    (0..n).map(|i| record.caption(&mut Dice::stream(7, i))).collect()
}

#[test]
fn captions_are_what_people_type() {
    let face = record("crying face", "flat", &["awful", "sad", "cry", "tear", "face"]);
    let captions = draws(&face, 4000);
    let share = |test: &dyn Fn(&str) -> bool| captions.iter().filter(|c| test(c)).count() as f64 / 4000.0;
    for wanted in ["crying face", "sad face", "flat crying face", "flat sad face", "a crying face", "sad"] {
        assert!(captions.iter().any(|c| c == wanted), "{wanted} never drawn");
    }
    assert!(share(&|c| c.split(' ').count() <= 3) > 0.6, "short prompts must be common");
    let names_style = |c: &str| ["flat", "simple", "vector"].iter().any(|w| c.contains(w));
    assert!((0.55..0.8).contains(&share(&names_style)), "{}", share(&names_style));
    assert_eq!(face.caption(&mut Dice::new(5)), face.caption(&mut Dice::new(5)));
}

#[test]
fn every_word_of_a_caption_is_in_the_list_of_words() {
    let records = vec![record("crying face", "3d", &["it's sad", "o'clock 12"]), record("t rex", "detailed", &[])];
    let data = Dataset::of_records(8, records);
    let words = data.words();
    for caption in data.records.iter().flat_map(|r| draws(r, 2000)) {
        for word in captions::words(&caption).iter().filter(|w| w.chars().any(char::is_alphanumeric)) {
            assert!(words.contains(word), "{word} of {caption:?}");
        }
    }
}

#[test]
fn a_folders_captions_are_used_word_for_word() {
    let mut own = record("a dog on grass", "flat", &["x"]);
    own.captions = vec!["a dog on grass".to_owned(), "our dog".to_owned()];
    assert!(draws(&own, 50).iter().all(|c| own.captions.contains(c)));
}

#[test]
fn texts_are_split_as_clip_does() {
    // regex.findall(open_clip.SimpleTokenizer().pat, "it's 10 o'clock: t-rex!!") and so on
    assert_eq!(captions::words("It's 10 o'clock"), ["it", "'s", "1", "0", "o", "'", "clock"]);
    assert_eq!(captions::words(" t-rex!!  3d\n"), ["t", "-", "rex", "!!", "3", "d"]);
    assert_eq!(captions::plain("Piñata – “Free of charge” button (x)"), "pinata free of charge button x");
}

#[test]
fn held_out_pairs_form_a_latin_square() {
    let styles = captions::STYLES.map(|s| s.name);
    let names: Vec<String> = (0..1000).map(|i| format!("concept{} {} x", i % 10, i)).collect();
    let mut records: Vec<Record> =
        names.iter().flat_map(|name| styles.iter().map(|style| record(name, style, &[]))).collect();
    records.push(record("drawn once only", styles[0], &[]));
    split::hold_out_pairs(&mut records, &styles);
    let mut pairs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for r in records.iter().filter(|r| r.split == Split::HeldOutPair) {
        pairs.entry(&r.concept).or_default().push(r.style.as_deref().unwrap_or_default());
    }
    assert!((60..150).contains(&pairs.len()), "{}", pairs.len());
    assert!(pairs.values().all(|styles| styles.len() == 1), "one style of a concept is held out");
    let per_style = styles.map(|s| pairs.values().filter(|held| held[0] == s).count());
    assert!(per_style.iter().max() <= per_style.iter().min().map(|n| n + 1).as_ref(), "{per_style:?}");
    let whole = records.iter().filter(|r| r.split == Split::HeldOut).count();
    assert!(whole % styles.len() == 0 && (100..300).contains(&whole), "{whole}");
    let before = records.clone();
    split::hold_out_pairs(&mut records, &styles);
    assert_eq!(before, records, "the choice never moves");
}

#[test]
fn a_published_set_reads_back_and_is_not_overwritten() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("tempdir"))?;
    let out = folder.path().join("set");
    let publish = |shade: u8, force: bool| -> Result<()> {
        let draft = Draft::new(&out, 8, force)?;
        let mut one = record("grey", "flat", &[]);
        one.file = draft.add("grey", &[shade; 8 * 8 * CHANNELS])?;
        draft.publish(vec![], vec![one])
    };
    publish(100, false)?;
    assert_eq!(Dataset::open(&out)?.load_pixels()?, [100; 8 * 8 * CHANNELS]);
    assert!(publish(200, false).is_err_and(|e| e.to_string().contains("--force")));
    publish(200, true)?;
    assert_eq!(Dataset::open(&out)?.load_pixels()?, [200; 8 * 8 * CHANNELS]);
    let left = std::fs::read_dir(folder.path()).map_err(Error::io(folder.path()))?.count();
    assert_eq!(left, 1, "no temporary folder stays");
    Ok(())
}

#[test]
fn damage_names_the_file() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("tempdir"))?;
    let nothing = Dataset::open(folder.path());
    assert!(nothing.is_err_and(|e| e.to_string().contains("index.json")));
    let out = folder.path().join("set");
    let draft = Draft::new(&out, 8, false)?;
    let mut one = record("grey", "flat", &[]);
    one.file = draft.add("grey", &[0; 8 * 8 * CHANNELS])?;
    draft.publish(vec![], vec![one])?;
    std::fs::write(out.join("pictures/grey.png"), b"not a picture").map_err(Error::io(&out))?;
    let damaged = Dataset::open(&out)?.load_pixels();
    assert!(damaged.is_err_and(|e| e.to_string().contains("pictures/grey.png")));
    Ok(())
}
