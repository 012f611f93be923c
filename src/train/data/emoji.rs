//! What can be drawn: names and keywords from `emojibase-data`, as concepts.

use super::captions::plain;
use super::package::Package;
use crate::Result;
use serde::Deserialize;

/// The package read here.
pub(super) const PACKAGE: &str = "emojibase-data";

/// Something with a name, which icon sets may hold a drawing of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Concept {
    /// Plain lower-case words.
    pub(super) name: String,
    /// Other words for it, plain and different from the name.
    pub(super) keywords: Vec<String>,
    /// The broad kind, where it has one.
    pub(super) group: Option<String>,
    /// Code points as the icon sets write them: lower-case hexadecimal joined by dashes, without U+FE0F.
    pub(super) code: String,
    /// The name as icon sets spell it: `red-apple`.
    pub(super) slug: String,
}

#[derive(Debug, Deserialize)]
struct Emoji {
    label: String,
    hexcode: String,
    #[serde(default)]
    tags: Vec<String>,
    group: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Messages {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    key: String,
    message: String,
    order: usize,
}

/// All concepts in the package's order. Flags and the components of other emoji (hair, skin) are left out; skin-tone
/// variants hang below their emoji and are not read at all. The letters of the alphabet are taken in.
pub(super) fn concepts(package: &Package) -> Result<Vec<Concept>> {
    let emoji: Vec<Emoji> = package.json("en/data.json")?;
    let groups = package.json::<Messages>("en/messages.json")?.groups;
    Ok(emoji.iter().filter_map(|emoji| concept(emoji, &groups)).collect())
}

fn concept(emoji: &Emoji, groups: &[Group]) -> Option<Concept> {
    let group = groups.iter().find(|g| Some(g.order) == emoji.group);
    if group.is_some_and(|g| g.key == "flags" || g.key == "component") {
        return None;
    }
    let letter = emoji.label.strip_prefix("regional indicator ");
    if group.is_none() && letter.is_none() {
        return None;
    }
    let name = plain(&letter.map_or_else(|| reworded(&emoji.label), |l| format!("letter {l}")));
    let letters = letter.iter().flat_map(|l| [*l, "alphabet", "character"]).map(plain);
    let mut keywords: Vec<String> = emoji.tags.iter().map(|tag| plain(tag)).chain(letters).collect();
    keywords.retain(|k| k.chars().any(char::is_alphanumeric) && *k != name);
    keywords.sort();
    keywords.dedup();
    Some(Concept {
        keywords,
        group: group.map_or_else(|| Some("symbols".to_owned()), |g| Some(g.message.clone())),
        code: emoji.hexcode.to_lowercase().split('-').filter(|c| *c != "fe0f").collect::<Vec<_>>().join("-"),
        slug: slug(&emoji.label),
        name,
    })
}

/// Labels such as "man: red hair" and "keycap: *", as a person would say them.
fn reworded(label: &str) -> String {
    match label.split_once(": ") {
        Some((who, "bald")) => format!("bald {who}"),
        Some((who, what)) if what.ends_with("hair") || what == "beard" => format!("{who} with {what}"),
        Some((what, "#")) => format!("{what} hash"),
        Some((what, "*")) => format!("{what} asterisk"),
        _ => label.to_owned(),
    }
}

/// A label in the spelling of iconify's icon names.
fn slug(label: &str) -> String {
    plain(label).replace('\'', "").replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emoji(label: &str, tags: &[&str], group: Option<usize>) -> Emoji {
        let tags = tags.iter().map(|t| (*t).to_owned()).collect();
        Emoji { label: label.to_owned(), hexcode: "2764-FE0F-200D-1F525".to_owned(), tags, group }
    }

    fn groups() -> Vec<Group> {
        let group = |key: &str, order| Group { key: key.to_owned(), message: format!("{key}!"), order };
        vec![group("smileys", 0), group("component", 2), group("flags", 9)]
    }

    #[test]
    fn a_concept_has_a_plain_name_and_other_words_for_it() {
        let found = concept(&emoji("T-Rex", &["T-Rex", "dinosaur", "...", "rex"], Some(0)), &groups());
        let found = found.unwrap_or_else(|| unreachable!("a smiley is a concept"));
        assert_eq!((found.name.as_str(), found.slug.as_str()), ("t rex", "t-rex"));
        assert_eq!(found.keywords, ["dinosaur", "rex"]);
        assert_eq!(found.code, "2764-200d-1f525");
    }

    #[test]
    fn flags_components_and_nameless_codes_are_no_concepts() {
        for (label, group) in [("France", Some(9)), ("red hair", Some(2)), ("digit zero", None)] {
            assert_eq!(concept(&emoji(label, &[], group), &groups()), None, "{label}");
        }
    }

    #[test]
    fn names_are_said_as_a_person_would() {
        let said = ["man: red hair", "woman: bald", "keycap: *", "keycap: 1", "O button (blood type)", "man’s shoe"];
        let names: Vec<String> = said.iter().map(|label| plain(&reworded(label))).collect();
        let expected =
            ["man with red hair", "bald woman", "keycap asterisk", "keycap 1", "o button blood type", "man's shoe"];
        assert_eq!(names, expected);
        let letter = concept(&emoji("regional indicator Q", &[], None), &groups());
        assert_eq!(letter.map(|c| c.name).as_deref(), Some("letter q"));
    }
}
