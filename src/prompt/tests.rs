//! Examples from AUTOMATIC1111's own doctests where the semantics agree, and laws that hold for any text.

use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// What is read at a step, written as A1111's doctests do: passages of texts with their weights.
fn spans(text: &str, step: usize, steps: usize) -> Vec<Vec<(String, f64)>> {
    let Wording(passages) = Prompt::parse(text).parts()[0].at(step, steps);
    let rounded = |weight: f64| (weight * 1e4).round() / 1e4;
    passages.into_iter().map(|p| p.into_iter().map(|span| (span.text, rounded(span.weight))).collect()).collect()
}

fn weighted(text: &str) -> Vec<(String, f64)> {
    let mut passages = spans(text, 0, 1);
    assert_eq!(passages.len(), 1, "{text}");
    passages.remove(0)
}

/// All that is read at a step, weights and chunks apart.
fn read(text: &str, step: usize, steps: usize) -> String {
    spans(text, step, steps).concat().into_iter().map(|(text, _)| text).collect()
}

fn owned(spans: &[(&str, f64)]) -> Vec<(String, f64)> {
    spans.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect()
}

#[test]
fn brackets_weigh() {
    for (text, expected) in [
        ("normal text", &[("normal text", 1.0)][..]),
        ("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        (r"\(literal\]", &[("(literal]", 1.0)]),
        ("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky)))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.0),
            ],
        ),
        ("[dim] (red:1.0)", &[("dim", 0.9091), (" red", 1.0)]),
        ("(red apple: 1.25 )", &[("red apple", 1.25)]),
        ("(a:b)", &[("a:b", 1.1)]),
        ("(a|b:.5)", &[("a|b", 0.5)]),
        ("(a:0)(b:-3)", &[("ab", 0.001)]),
        ("(a:1.2.3)", &[("a:1.2.3", 1.1)]),
        (r"(a\:1.3)", &[("a:1.3", 1.1)]),
        ("()[]", &[]),
    ] {
        assert_eq!(weighted(text), owned(expected), "{text}");
    }
    assert_eq!(weighted(&format!("(a:1{})", "0".repeat(400))), owned(&[("a", 1000.0)]));
}

#[test]
fn what_is_not_well_formed_is_text() {
    for text in [
        "(a",
        "a)",
        "[a",
        "]a[",
        "a ) b ( c",
        "[a:b",
        ":)",
        "16:9",
        "a|b",
        "\\",
        r"a\b",
        "CANDY BREAKS",
        "<lora:>",
        "<lora::1>",
        "<lora:x:0.8",
        "<lora:x:a>",
        "<lora:x:>",
        "<lora:x:1e3>",
        "<lora:x:NaN>",
        "<lora:x:1:1:1>",
        "<lora:a,b:1>",
        "<lora:a<b:1>",
        "<Lora:x:1>",
        "<hypernet:x:1>",
        "lora:x:1>",
    ] {
        assert_eq!(weighted(text), owned(&[(text, 1.0)]));
    }
    // Of crossed brackets the one that is closed first is a pair.
    assert_eq!(weighted("(a [b) c]"), owned(&[("a [b", 1.1), (" c]", 1.0)]));
    assert_eq!(weighted("[a:b]"), owned(&[("a:b", 0.9091)]));
    assert_eq!(weighted("[a:b:c:0.5]"), owned(&[("a:b:c:0.5", 0.9091)]));
}

#[test]
fn a_switch_is_made_at_its_step() {
    for (text, expected) in [
        ("a [b:3]", &[(3, "a "), (10, "a b")][..]),
        ("a [b: 3]", &[(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", &[(2, "a "), (10, "a b")]),
        ("[(a:2):3]", &[(3, ""), (10, "a")]),
        ("a [b : c : 1] d", &[(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", &[(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", &[(10, "a [unbalanced")]),
        ("a [b:.5] c", &[(5, "a  c"), (10, "a b c")]),
        ("[a::0.55]b", &[(5, "ab"), (10, "b")]),
        ("[a:b:0.0]", &[(10, "b")]),
        ("[a:b:0]", &[(10, "b")]),
        ("[a:b:1.0]", &[(10, "a")]),
        ("[a:b:1]", &[(1, "a"), (10, "b")]),
        ("[a:b:-0.5]", &[(10, "b")]),
        ("[a:b:99]", &[(10, "a")]),
        ("((a][:b:c [d:3]", &[(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ] {
        let mut step = 0;
        for (until, expected) in expected {
            for step in step..*until {
                assert_eq!(read(text, step, 10), *expected, "{text} at {step}");
            }
            step = *until;
        }
    }
}

#[test]
fn alternatives_take_turns() {
    let turns = |text| (0..4).map(|step| read(text, step, 4)).collect::<Vec<_>>();
    assert_eq!(turns("[a|(b:1.1)]"), ["a", "b", "a", "b"]);
    assert_eq!(turns("x[a|b|]"), ["xa", "xb", "x", "xa"]);
    assert_eq!(turns("[a:0.5|b]"), ["a:0.5", "b", "a:0.5", "b"]);
    assert_eq!(turns("[[a|b]|c]"), ["a", "c", "a", "c"]);
    assert_eq!(turns("[[a|b]:c:2]"), ["a", "b", "c", "c"]);
}

#[test]
fn break_begins_a_passage() {
    let passages = |text| spans(text, 0, 1).into_iter().map(|passage| passage.len()).collect::<Vec<_>>();
    assert_eq!(spans("a BREAK b", 0, 1), [owned(&[("a ", 1.0)]), owned(&[(" b", 1.0)])]);
    assert_eq!(spans("(aBREAK BREAK.b)", 0, 1), [owned(&[("aBREAK ", 1.1)]), owned(&[(".b", 1.1)])]);
    assert_eq!(passages("BREAK"), [0, 0]);
}

#[test]
fn and_joins_prompts_with_weights() {
    let parts = |text: &str| {
        let prompt = Prompt::parse(text);
        let part = |part: &Part| (part.at(0, 1).0.concat().into_iter().map(|span| span.text).collect(), part.weight);
        prompt.parts().iter().map(part).collect::<Vec<(String, f64)>>()
    };
    assert_eq!(parts("a :1.2 AND b"), owned(&[("a ", 1.2), (" b", 1.0)]));
    assert_eq!(parts("a AND b : -0.5 AND"), owned(&[("a ", 1.0), (" b ", -0.5), ("", 1.0)]));
    assert_eq!(parts("ratio 16:9"), owned(&[("ratio 16:9", 1.0)]));
    assert_eq!(parts("(a AND b:2) BAND AND_"), owned(&[("a AND b BAND AND_", 1.0)]));
    assert_eq!(parts("(a AND b"), owned(&[("(a ", 1.0), (" b", 1.0)]));
    assert_eq!(parts(&"a AND ".repeat(1000)).len(), MAX_PARTS);
    assert_eq!(Prompt::parse_negative("a :2 AND b").texts(), ["a :2 AND b"]);
}

#[test]
fn adapters_are_taken_out_wherever_they_stand() {
    let tag = |name, text, unet| LoraTag { name, text, unet };
    for (text, read_as, tags) in [
        ("a <lora:x:0.8> b", "a  b", vec![tag("x", 0.8, 0.8)]),
        ("<lora:x>", "", vec![tag("x", 1.0, 1.0)]),
        ("<lora:x:-.5:+2>a", "a", vec![tag("x", -0.5, 2.0)]),
        ("<lora: a (v2) [b] é | : 1 >", "", vec![tag("a (v2) [b] é |", 1.0, 1.0)]),
        (
            "(a<lora:x:0>:1.2)<lora:y:1><lora:x:3>",
            "a",
            vec![tag("x", 0.0, 0.0), tag("y", 1.0, 1.0), tag("x", 3.0, 3.0)],
        ),
        ("<lora:<lora:x:1>", "<lora:", vec![tag("x", 1.0, 1.0)]),
        ("<<lora:x:1>>", "<>", vec![tag("x", 1.0, 1.0)]),
        (r"\(<lora:(:1>\)", "()", vec![tag("(", 1.0, 1.0)]),
    ] {
        assert_eq!((read(text, 0, 1).as_str(), Prompt::loras(text)), (read_as, tags), "{text}");
    }
    // One that is read at some steps only acts all the same, and stays no separator of anything.
    assert_eq!((read("[<lora:x:1>a|b]", 1, 2), Prompt::loras("[<lora:x:1>a|b]").len()), ("b".to_owned(), 1));
    assert_eq!(Prompt::parse("a <lora:x:1> AND <lora:y:1> b").parts().len(), 2);
    assert_eq!(Prompt::parse_negative("a <lora:x:1>").texts(), ["a <lora:x:1>"]);
    assert!(!is_lora_name(" a") && !is_lora_name(&"a".repeat(150)) && is_lora_name("a.b-c d"));
}

#[test]
fn texts_are_all_that_is_ever_read() {
    assert_eq!(
        Prompt::parse("a [b:(c:2):0.5] [d|e] AND BREAK f").texts(),
        ["a ", "b", "c", " ", "d", "e", " ", " ", " f"]
    );
}

#[test]
fn hostile_prompts_are_neither_deep_nor_slow() {
    let began = Instant::now();
    for piece in [
        "(", "[", ")", "]", "([", "(])", "[|", "[:", "\\", ":", "|", "(a:1)", "[a|b]", "[a:1]", "AND ", "BREAK ",
        "<lora:", "<lora:a>",
    ] {
        let many = 32_000 / piece.len();
        read(&piece.repeat(many), 3, 10);
        let closing: String = piece.chars().rev().map(|c| if c == '(' { ')' } else { ']' }).collect();
        read(&format!("{}a{}", piece.repeat(many / 2), closing.repeat(many / 2)), 3, 10);
        read(&format!("{}{}", "[a:".repeat(8_000), ":1]".repeat(8_000)), 3, 10);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let nested = |depth: usize| read(&format!("{}a{}", "(".repeat(depth), ")".repeat(depth)), 0, 1);
    assert_eq!((nested(lexer::MAX_DEPTH), nested(lexer::MAX_DEPTH + 2)), ("a".into(), "((a))".into()));
}

/// Text in which syntax is frequent.
fn syntax() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "(",
        ")",
        "[",
        "]",
        ":",
        "|",
        "\\",
        "BREAK",
        "AND",
        "<lora:",
        "<lora:a:1>",
        ">",
        " ",
        "a",
        "é",
        "0.5",
        "1.3",
        "7",
        "-2",
        ".",
        "🍎",
    ]);
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_can_be_read_at_any_step(text in prop_oneof![syntax(), any::<String>()], step in 0usize..50, more in 1usize..50) {
        for prompt in [Prompt::parse(&text), Prompt::parse_negative(&text)] {
            for part in prompt.parts() {
                prop_assert!(part.weight.is_finite());
                let Wording(passages) = part.at(step, step + more);
                prop_assert!(!passages.is_empty());
                for span in passages.concat() {
                    prop_assert!(span.weight.is_finite() && span.weight > 0.0 && !span.text.is_empty());
                }
            }
        }
    }

    /// The law of adapters: what is taken out is there to be found, and can be typed again.
    #[test]
    fn a_tag_is_read_back_and_leaves_the_rest_as_it_is(
        (before, after) in (r"[a-z \[\]()]{0,20}", r"[a-z \[\]()]{0,20}"),
        name in r"[a-zA-Z0-9 _.()\[\]|é-]{1,20}",
        (strength, other) in (-10.0..10f64, prop_oneof![Just(None), (-10.0..10f64).prop_map(Some)]),
    ) {
        prop_assume!(is_lora_name(&name));
        let tag = LoraTag { name: &name, text: strength, unet: other.unwrap_or(strength) };
        let text = format!("{before}{}{after}", tag.typed());
        prop_assert_eq!(Prompt::loras(&text), vec![tag]);
        prop_assert_eq!(Prompt::parse(&text), Prompt::parse(&format!("{before}{after}")));
        prop_assert_eq!(Prompt::parse_negative(&text).texts().concat().contains(&name), true);
    }

    #[test]
    fn text_without_special_characters_is_itself(text in r"[^()\[\]:|\\AB<]{1,80}") {
        prop_assert_eq!(weighted(&text), owned(&[(&text, 1.0)]));
    }

    #[test]
    fn escaped_text_is_itself(text in r"[a-z ()\[\]:|\\\\]{1,80}") {
        let escaped: String = text.chars().flat_map(|c| {
            let special = !c.is_alphanumeric() && c != ' ';
            special.then_some('\\').into_iter().chain([c])
        }).collect();
        prop_assert_eq!(weighted(&escaped), owned(&[(&text, 1.0)]));
    }

    #[test]
    fn brackets_without_partner_keep_all_characters(text in r"[a-z 0-9:|(\[]{1,80}") {
        prop_assert_eq!(weighted(&text), owned(&[(&text, 1.0)]));
    }
}
