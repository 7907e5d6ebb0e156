//! Every rule against a regex engine.

use super::*;
use fancy_regex::Regex;
use proptest::prelude::*;

fn by_regex(regex: &Regex, text: &str) -> Vec<Range<usize>> {
    regex
        .find_iter(text)
        .map(|found| found.unwrap().range())
        .collect()
}

fn ours(rule: &Rule, text: &str) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    rule.for_each_piece(text, |piece| pieces.push(piece))
        .unwrap();
    pieces
}

fn given(source: Source) -> Step {
    Step::Given(Box::new(Given::new(source).unwrap()))
}

fn by_hand() -> Vec<(Step, &'static str)> {
    vec![
        (Step::Llama3 { digits: 3 }, llama3::PATTERN),
        (Step::Llama3 { digits: 1 }, llama3::SINGLE_DIGITS_PATTERN),
        (Step::Gpt2, gpt2::PATTERN),
        (Step::Digits, r"\p{N}|\P{N}+"),
        (Step::DigitRuns, r"\p{N}+|\P{N}+"),
    ]
}

/// Rules of one to three steps, and the patterns that they stand for, applied one after the other.
fn rules() -> impl Strategy<Value = (Rule, Vec<&'static str>)> {
    proptest::collection::vec(0usize..by_hand().len(), 1..4).prop_map(|chosen| {
        let (steps, patterns) = chosen
            .into_iter()
            .map(|index| by_hand().swap_remove(index))
            .unzip();
        (Rule::new(steps), patterns)
    })
}

/// At least two members of every class, every letter of the contractions, and the odd code points.
const ALPHABET: &[char] = &[
    'a',
    'Z',
    's',
    'S',
    't',
    'r',
    'e',
    'v',
    'm',
    'l',
    'L',
    'd',
    '\u{17F}',
    '\u{130}',
    '\u{131}',
    '\u{212A}',
    '中',
    'é',
    '\u{10400}',
    '0',
    '7',
    '½',
    '٣',
    'Ⅷ',
    '\'',
    '!',
    '.',
    '_',
    '\u{301}',
    '\u{200B}',
    '\u{200D}',
    '😀',
    '\0',
    '\u{1C}',
    '\u{FFFE}',
    '\u{180E}',
    ' ',
    '\t',
    '\u{B}',
    '\u{85}',
    '\u{A0}',
    '\u{1680}',
    '\u{2028}',
    '\u{3000}',
    '\r',
    '\n',
];

#[test]
fn equal_to_the_regex_on_every_sequence_of_up_to_three_characters() {
    for (step, pattern) in by_hand() {
        let (rule, regex) = (Rule::new(vec![step]), Regex::new(pattern).unwrap());
        let check = |text: &[char]| {
            let text: String = text.iter().collect();
            assert_eq!(ours(&rule, &text), by_regex(&regex, &text), "{text:?}");
        };
        for &a in ALPHABET {
            check(&[a]);
            for &b in ALPHABET {
                check(&[a, b]);
                ALPHABET.iter().for_each(|&c| check(&[a, b, c]));
            }
        }
    }
}

#[test]
fn contractions_take_exactly_the_characters_that_case_folding_allows() {
    for (step, pattern) in by_hand() {
        let (rule, regex) = (Rule::new(vec![step]), Regex::new(pattern).unwrap());
        for c in (0..=0x10_FFFFu32).filter_map(char::from_u32) {
            let text = format!("'{c}e");
            assert_eq!(ours(&rule, &text), by_regex(&regex, &text), "{text:?}");
        }
    }
}

#[test]
fn a_given_pattern_keeps_what_lies_between_its_matches() {
    let cut = |source| {
        let text = "a1b22  c\n";
        let pieces = ours(&Rule::new(vec![given(source)]), text);
        pieces
            .into_iter()
            .map(|piece| text[piece].to_string())
            .collect::<Vec<_>>()
    };
    let regex = |pattern: &str| cut(Source::Regex(pattern.into()));
    assert_eq!(regex(r"\d+"), ["a", "1", "b", "22", "  c\n"]);
    assert_eq!(regex(r"(?=\d)"), ["a", "1b", "2", "2  c\n"]);
    assert_eq!(regex(r"\s+(?!\S)|$"), ["a1b22", " ", " c", "\n"]);
    assert_eq!(cut(Source::Text("22 ".into())), ["a1b", "22 ", " c\n"]);
    assert_eq!(cut(Source::Text(".".into())), ["a1b22  c\n"]);
}

#[test]
fn patterns_that_do_not_compile_or_are_ambiguous_are_refused_by_name() {
    for pattern in [
        "(",
        r"\p{Nope}",
        r"a\w+",
        r"[[:alpha:]]",
        "(?m:^a)",
        "(?s).",
        r"x\\\b",
        "(?-i:a)",
    ] {
        let Err(Error::Unsupported(what)) = Given::new(Source::Regex(pattern.into())) else {
            panic!("{pattern} was taken");
        };
        assert!(what.contains(&format!("{pattern:?}")), "{what}");
    }
    for pattern in [r"\\w", r"(?i:'s)|(?!a)b|(?<!a)|(?:c)", r"[a-z&]+"] {
        assert!(
            Given::new(Source::Regex(pattern.into())).is_ok(),
            "{pattern}"
        );
    }
}

#[test]
fn a_pattern_that_gives_up_is_an_error() {
    let rule = Rule::new(vec![given(Source::Regex(r"(a|aa)+\1b".into()))]);
    let text = "a".repeat(60);
    let mut ignored = 0;
    let result = rule.for_each_piece(&text, |piece| ignored += piece.len());
    assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
}

proptest! {
    #[test]
    fn equal_to_the_regexes(
        (rule, patterns) in rules(),
        text in prop_oneof![
            proptest::collection::vec(proptest::sample::select(ALPHABET), 0..40).prop_map(String::from_iter),
            "\\PC*",
        ],
    ) {
        let by_engine: Vec<Step> = patterns.iter().map(|p| given(Source::Regex(p.to_string()))).collect();
        prop_assert_eq!(ours(&rule, &text), ours(&Rule::new(by_engine), &text));
    }

    #[test]
    fn stretches_change_no_piece(
        (rule, _) in rules(),
        text in proptest::collection::vec(proptest::sample::select(ALPHABET), 0..80),
        target in 0usize..20,
    ) {
        let text: String = text.into_iter().collect();
        let (mut offset, mut found) = (0, Vec::new());
        for stretch in rule.stretches(&text, target) {
            found.extend(ours(&rule, stretch).into_iter().map(|piece| piece.start + offset..piece.end + offset));
            offset += stretch.len();
        }
        prop_assert_eq!(offset, text.len());
        prop_assert_eq!(found, ours(&rule, &text));
    }
}
