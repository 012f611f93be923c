//! Names in a text that stand for vectors instead of words (textual inversion).

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Words. Never empty.
    Text(&'a str),
    /// The name with this index.
    Name(usize),
}

/// `text` with its names found: whole words, upper and lower case alike, and of several that begin at the same place the
/// longest. A name that begins or ends with a sign needs no border there.
pub fn pieces<'a>(text: &'a str, names: &[&str]) -> Vec<Piece<'a>> {
    let mut order: Vec<usize> = (0..names.len()).filter(|&i| !names[i].is_empty()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(names[i].len()), i));
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    while !order.is_empty() && at < text.len() {
        let found = order.iter().find_map(|&i| Some((i, word(text, at, names[i])?)));
        let Some((i, length)) = found else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        if from < at {
            pieces.push(Piece::Text(&text[from..at]));
        }
        pieces.push(Piece::Name(i));
        at += length;
        from = at;
    }
    if from < text.len() {
        pieces.push(Piece::Text(&text[from..]));
    }
    pieces
}

/// How many bytes of `text` the word `name` takes at byte `at`, if it stands there.
fn word(text: &str, at: usize, name: &str) -> Option<usize> {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let length = same_beginning(&text[at..], name)?;
    let border =
        |inside: Option<char>, outside: Option<char>| !(inside.is_some_and(joins) && outside.is_some_and(joins));
    let before = border(name.chars().next(), text[..at].chars().next_back());
    let after = border(name.chars().next_back(), text[at + length..].chars().next());
    (before && after).then_some(length)
}

/// How many bytes of `text` are `name` but for the case, if it begins so.
fn same_beginning(text: &str, name: &str) -> Option<usize> {
    let mut rest = text.chars();
    let same = |(a, b): (char, char)| a == b || a.to_lowercase().eq(b.to_lowercase());
    name.chars().all(|wanted| rest.next().is_some_and(|c| same((c, wanted)))).then(|| text.len() - rest.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 5] = ["EasyNegative", "<cat-toy>", "easynegative v2", "", "über"];

    fn found(text: &str) -> String {
        let shown = |piece| match piece {
            Piece::Text(text) => text.to_owned(),
            Piece::Name(i) => format!("{{{i}}}"),
        };
        pieces(text, &NAMES).into_iter().map(shown).collect()
    }

    #[test]
    fn names_are_whole_words_of_any_case() {
        for (text, expected) in [
            ("easynegative", "{0}"),
            ("a EASYNEGATIVE, b", "a {0}, b"),
            ("EasyNegative V2 easynegative V3", "{2} {0} V3"),
            (
                "uneasynegative easynegatives easynegative_2 easynegative2",
                "uneasynegative easynegatives easynegative_2 easynegative2",
            ),
            ("easynegative-2", "{0}-2"),
            ("a<CAT-toy>b <cat-toy", "a{1}b <cat-toy"),
            ("ÜBER über überall", "{4} {4} überall"),
            ("", ""),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
        assert_eq!(pieces("anything", &[]), [Piece::Text("anything")]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_empty(text in "(easynegative|<cat-toy>|İ|é|🍎| |a|,|\\PC){0,20}") {
            let mut rest = text.as_str();
            for piece in pieces(&text, &NAMES) {
                let length = match piece {
                    Piece::Text(piece) => {
                        prop_assert!(!piece.is_empty() && rest.starts_with(piece));
                        piece.len()
                    }
                    Piece::Name(i) => same_beginning(rest, NAMES[i]).unwrap(),
                };
                rest = &rest[length..];
            }
            prop_assert_eq!(rest, "");
        }
    }
}
