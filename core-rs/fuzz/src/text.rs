//! Batches of documents, their statistics and words, and the rules that split text for a tokenizer.

use super::bytes::{Bytes, lossy};
use llama3_core::text::TextBatch;
use llama3_core::text::analysis::Analysis;
use llama3_core::text::repetition::ngram_hashes;
use llama3_core::text::statistics::NAMES;
use llama3_core::text::words::{Word, for_each_word};
use llama3_core::tokenizer::Rule;
use llama3_core::tokenizer::formats::pipeline::{parse_rule, write_rule};
use llama3_core::tokenizer::split::{Given, Source, Step};
use serde_json::Value;
use std::ops::Range;

/// Any offsets into any bytes: refused, or every document can be read and measured.
pub fn text(data: &[u8]) {
    let mut input = Bytes(data);
    let offsets: Vec<i64> = (0..input.below(6))
        .map(|_| match input.below(4) {
            0 => input.long() as i64,
            _ => i64::from(input.byte()),
        })
        .collect();
    let rest = input.0;
    let whole = [0, rest.len() as i64];
    for offsets in [&offsets[..], &whole] {
        let Ok(batch) = TextBatch::new(rest, offsets) else {
            continue;
        };
        for row in Analysis::of(batch).rows {
            assert_eq!(row.len(), NAMES.len());
            assert!(row.iter().all(|value| value.is_finite()));
        }
        (0..batch.len()).for_each(|i| words_lie_in_order(batch.get(i)));
    }
}

fn words_lie_in_order(text: &str) {
    let mut words: Vec<Word> = vec![];
    for_each_word(text, |word| words.push(word));
    for n in [1, 2, 10] {
        let expected = (words.len() + 1).saturating_sub(n);
        assert_eq!(ngram_hashes(&words, n).count(), expected);
    }
}

/// Any split rule, regular expressions of others included, on any text: pieces follow one another without gaps, and
/// the stretches that long texts are cut into give the same ones.
pub fn split(data: &[u8]) {
    let mut input = Bytes(data);
    let Some(rule) = rule_of(&mut input) else {
        return;
    };
    let text = lossy(input.0);
    let Ok(pieces) = pieces_of(&rule, &text) else {
        return; // the regular expression gave up
    };
    let mut done = 0;
    for piece in &pieces {
        assert_eq!(piece.start, done);
        assert!(piece.end > piece.start && text.is_char_boundary(piece.end));
        done = piece.end;
    }
    assert_eq!(done, text.len());
    let mut start = 0;
    let mut apart = vec![];
    for stretch in rule.stretches(&text, 5) {
        let Ok(found) = pieces_of(&rule, stretch) else {
            return;
        };
        apart.extend(found.into_iter().map(|at| at.start + start..at.end + start));
        start += stretch.len();
    }
    assert_eq!(apart, pieces, "{rule:?} in stretches of {text:?}");
    if let Ok(again) = parse_rule(&write_rule(&rule)) {
        assert_eq!(pieces_of(&again, &text).ok(), Some(pieces));
    }
}

fn rule_of(input: &mut Bytes) -> Option<Rule> {
    let kind = input.byte();
    if kind & 0x80 != 0 {
        let value = serde_json::from_slice(input.string()).unwrap_or(Value::Null);
        return parse_rule(&value).ok();
    }
    let step = |input: &mut Bytes| {
        Some(match input.below(6) {
            0 => Step::Llama3 { digits: 3 },
            1 => Step::Llama3 { digits: 1 },
            2 => Step::Gpt2,
            3 => Step::Digits,
            4 => Step::DigitRuns,
            _ => {
                let source = lossy(input.string());
                let source = if input.flag() {
                    Source::Text(source)
                } else {
                    Source::Regex(source)
                };
                Step::Given(Box::new(Given::new(source).ok()?))
            }
        })
    };
    let steps: Option<Vec<Step>> = (0..kind % 3).map(|_| step(input)).collect();
    steps.map(Rule::new)
}

fn pieces_of(rule: &Rule, text: &str) -> Result<Vec<Range<usize>>, ()> {
    let mut pieces = vec![];
    rule.for_each_piece(text, |piece| pieces.push(piece))
        .map_err(|_| ())?;
    Ok(pieces)
}
