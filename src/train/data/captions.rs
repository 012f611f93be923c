//! Captions as a person would type them, composed anew on every draw from a record's name, keywords and style.

use super::{Dice, Record};

/// A way of drawing: the icon set it comes from and the words that ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// The style's name in [`Record::style`] and in prompts for evaluation.
    pub name: &'static str,
    /// The npm package that is drawn so.
    pub package: &'static str,
    /// Words put before what is drawn: "`flat` red apple". The first is the name.
    pub adjectives: &'static [&'static str],
}

/// The styles of the icon data set.
pub const STYLES: [Style; 4] = [
    Style { name: "3d", package: "@iconify-json/fluent-emoji", adjectives: &["3d", "soft", "glossy", "fluent"] },
    Style { name: "flat", package: "@iconify-json/fluent-emoji-flat", adjectives: &["flat", "simple", "vector"] },
    Style { name: "detailed", package: "@iconify-json/noto", adjectives: &["detailed", "shaded", "noto"] },
    Style { name: "classic", package: "@iconify-json/noto-v1", adjectives: &["classic", "old", "retro"] },
];

/// Nouns that a style's adjective may be joined to, after the picture's own words: "red apple, flat `style`".
const NOUNS: [&str; 3] = ["style", "icon", "emoji"];
/// What people put before a wish.
const OPENINGS: [&str; 5] = ["a picture of", "a drawing of", "an icon of", "icon of", "draw"];

impl Record {
    /// A caption: lower-case, mostly one to four words, different from draw to draw. The style is left out in a third.
    pub fn caption(&self, dice: &mut Dice) -> String {
        let core = self.wish(dice);
        if !self.captions.is_empty() {
            return core;
        }
        let wish = match self.known_style().filter(|_| dice.chance(2.0 / 3.0)) {
            Some(style) => styled(&core, style, dice),
            None => core,
        };
        match dice.uniform() {
            u if u < 0.05 => with_article(&wish),
            u if u < 0.09 => format!("{} {}", OPENINGS[dice.below(OPENINGS.len())], with_article(&wish)),
            _ => wish,
        }
    }

    /// The words for what is drawn, without style; one of the given captions where there are some.
    pub(crate) fn wish(&self, dice: &mut Dice) -> String {
        if let Some(caption) = dice.pick(&self.captions) {
            return caption.clone();
        }
        let others: Vec<&str> = self.other_words();
        if others.is_empty() {
            return self.concept.clone();
        }
        match dice.uniform() {
            u if u < 0.54 => self.concept.clone(),
            u if u < 0.69 => self.name_and_keywords(&others, dice),
            u if u < 0.86 => self.keyword_and_head(&others, dice),
            _ => some(&others, 1 + dice.below(3), dice).join(" "),
        }
    }

    /// "crying face, sad" or "sad crying face".
    fn name_and_keywords(&self, others: &[&str], dice: &mut Dice) -> String {
        if dice.chance(0.4) {
            return format!("{} {}", some(others, 1, dice).concat(), self.concept);
        }
        let keywords = some(others, 1 + dice.below(2), dice).join(" ");
        let comma = if dice.chance(0.5) { "," } else { "" };
        format!("{}{comma} {keywords}", self.concept)
    }

    /// "sad face" for "crying face": a keyword put in front of the name's last word, or by itself if it says that.
    fn keyword_and_head(&self, others: &[&str], dice: &mut Dice) -> String {
        let keyword = some(others, 1, dice).concat();
        let head = self.concept.rsplit(' ').next().unwrap_or(&self.concept);
        let is_said = words(&keyword).iter().any(|w| w == head);
        if is_said { keyword } else { format!("{keyword} {head}") }
    }

    /// The keywords that say something which the name does not.
    fn other_words(&self) -> Vec<&str> {
        let name = words(&self.concept);
        let is_new = |keyword: &str| words(keyword).iter().any(|w| !name.contains(w));
        self.keywords.iter().map(String::as_str).filter(|k| is_new(k)).collect()
    }

    fn known_style(&self) -> Option<&'static Style> {
        STYLES.iter().find(|style| Some(style.name) == self.style.as_deref())
    }

    /// The plain request for this picture, as the evaluation types it: "flat red apple".
    pub fn prompt(&self) -> String {
        match &self.style {
            Some(style) => format!("{style} {}", self.concept),
            None => self.concept.clone(),
        }
    }

    /// Texts that hold every word any caption of this record can have.
    pub(super) fn vocabulary(&self) -> Vec<String> {
        if !self.captions.is_empty() {
            return self.captions.clone();
        }
        let own = [&self.concept].into_iter().chain(&self.keywords).cloned();
        let style =
            self.known_style().into_iter().flat_map(|s| s.adjectives.iter().chain(&NOUNS).chain(&["in"]).copied());
        own.chain(style.chain(OPENINGS).chain(["a", "an"]).map(str::to_owned)).collect()
    }
}

/// `n` different items (fewer if there are not so many) in random order.
fn some<'a>(items: &[&'a str], n: usize, dice: &mut Dice) -> Vec<&'a str> {
    let mut items = items.to_vec();
    dice.shuffle(&mut items);
    items.truncate(n);
    items
}

fn with_article(core: &str) -> String {
    let article = if core.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {core}")
}

/// "flat red apple", "red apple, flat style", "red apple flat" or "red apple in flat style".
fn styled(core: &str, style: &Style, dice: &mut Dice) -> String {
    let adjective = if dice.chance(0.6) { style.name } else { dice.pick(style.adjectives).unwrap_or(&style.name) };
    let noun = NOUNS[dice.below(NOUNS.len())];
    match dice.uniform() {
        u if u < 0.65 => format!("{adjective} {core}"),
        u if u < 0.75 => format!("{core}, {adjective} {noun}"),
        u if u < 0.87 => format!("{core} {adjective}"),
        u if u < 0.94 => format!("{core} in {adjective} style"),
        _ => format!("{adjective} {noun} {core}"),
    }
}

/// Lower-case, accents and punctuation removed, dashes as spaces: the form in which names and keywords are kept.
pub fn plain(text: &str) -> String {
    let folded: String = text.to_lowercase().chars().map(fold).filter(|c| !"“”()!,.?".contains(*c)).collect();
    folded
        .split(|c: char| c.is_whitespace() || "-–—:/".contains(c))
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Letters with accents, and typographic apostrophes, as they are on every keyboard.
fn fold(c: char) -> char {
    match c {
        'à' | 'á' | 'â' | 'ä' | 'ã' | 'å' | 'ā' | 'ǎ' => 'a',
        'ç' => 'c',
        'è' | 'é' | 'ê' | 'ë' | 'ē' | 'ě' => 'e',
        'ì' | 'í' | 'î' | 'ï' => 'i',
        'ñ' => 'n',
        'ò' | 'ó' | 'ô' | 'ö' | 'õ' | 'ō' => 'o',
        'ù' | 'ú' | 'û' | 'ü' | 'ū' => 'u',
        '’' | '‘' => '\'',
        _ => c,
    }
}

/// Splits a text as CLIP's tokenizer does before it looks for byte pairs: runs of letters, single digits, runs of other
/// signs, and the English endings `'s 't 're 've 'm 'll 'd`. Lower-cased.
pub fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, tail) = rest.split_at(first_word(rest, first));
        words.push(word.to_owned());
        rest = tail.trim_start();
    }
    words
}

/// The length in bytes of the word that `text` starts with.
fn first_word(text: &str, first: char) -> usize {
    const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    if let Some(ending) = ENDINGS.iter().find(|ending| text.starts_with(**ending)) {
        return ending.len();
    }
    if first.is_numeric() {
        return first.len_utf8();
    }
    let is_letters = first.is_alphabetic();
    let belongs = |c: char| !c.is_whitespace() && !c.is_numeric() && c.is_alphabetic() == is_letters;
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}
