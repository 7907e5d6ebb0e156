//! What comes before the merging in a `tokenizer.json`: normalizer, pre-tokenizer and post-processor, read and written.
//! Anything that cannot be done exactly is refused by its name, never approximated.

use crate::tokenizer::split::{Given, Rule, Source, Step, gpt2, llama3};
use crate::tokenizer::{Error, Tokenizer};
use serde_json::{Value, json};

/// Every digit alone, as a regular expression.
const DIGIT_PATTERNS: [&str; 2] = [r"\p{N}", r"\p{N}{1}"];

pub fn unsupported(what: &str, found: impl std::fmt::Display, wanted: &str) -> Error {
    Error::Unsupported(format!("{what} is {found}; supported: {wanted}"))
}

/// The `type` of a component, or all of it where it has none.
pub fn name(component: &Value) -> String {
    component["type"]
        .as_str()
        .map_or_else(|| component.to_string(), str::to_string)
}

/// Whether the normalizer is NFC; else it must be nothing.
pub fn parse_normalizer(normalizer: &Value) -> Result<bool, Error> {
    let parts = match normalizer["type"].as_str() {
        _ if normalizer.is_null() => return Ok(false),
        Some("NFC") => return Ok(true),
        Some("Sequence") => normalizer["normalizers"].as_array(),
        _ => None,
    };
    let parts = parts.ok_or_else(|| unsupported("normalizer", name(normalizer), "none or NFC"))?;
    let mut nfc = false;
    for part in parts {
        nfc |= parse_normalizer(part)?;
    }
    Ok(nfc)
}

/// The split rule of a pre-tokenizer, which must end with ByteLevel: tokens are made of bytes.
pub fn parse_rule(pre_tokenizer: &Value) -> Result<Rule, Error> {
    let mut components = Vec::new();
    flatten(pre_tokenizer, &mut components);
    let wanted = "Split, Digits, and ByteLevel as the last";
    let (bytes, cuts) = match components.split_last() {
        Some((last, rest)) if last["type"] == "ByteLevel" => (last, rest),
        _ => return Err(unsupported("pre_tokenizer", name(pre_tokenizer), wanted)),
    };
    let mut steps = Vec::new();
    for component in cuts {
        steps.push(match component["type"].as_str() {
            Some("Split") => parse_split(component)?,
            Some("Digits") if component["individual_digits"] == true => Step::Digits,
            Some("Digits") => Step::DigitRuns,
            _ => return Err(unsupported("pre_tokenizer", name(component), wanted)),
        });
    }
    if bytes["add_prefix_space"] != false {
        let found = "ByteLevel with add_prefix_space";
        return Err(unsupported("pre_tokenizer", found, "ByteLevel without"));
    }
    if bytes["use_regex"] != false {
        steps.push(Step::Gpt2);
    }
    Ok(Rule::new(steps))
}

/// Sequences, nested or not, as one list.
fn flatten<'v>(component: &'v Value, out: &mut Vec<&'v Value>) {
    match component["pretokenizers"].as_array() {
        Some(parts) if component["type"] == "Sequence" => {
            parts.iter().for_each(|part| flatten(part, out));
        }
        _ => out.push(component),
    }
}

fn parse_split(split: &Value) -> Result<Step, Error> {
    let pattern = &split["pattern"];
    let step = match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
        (Some(llama3::PATTERN), _) => Step::Llama3 {
            digits: llama3::DIGITS,
        },
        (Some(llama3::SINGLE_DIGITS_PATTERN), _) => Step::Llama3 { digits: 1 },
        (Some(gpt2::PATTERN), _) => Step::Gpt2,
        (Some(regex), _) if DIGIT_PATTERNS.contains(&regex) => Step::Digits,
        (Some(regex), _) => given(Source::Regex(regex.into()))?,
        (None, Some(text)) => given(Source::Text(text.into()))?,
        (None, None) => return Err(unsupported("pre_tokenizer", split, "Split by a pattern")),
    };
    // Rules that match every character leave nothing between matches for the inverted form to keep.
    let covers_all = matches!(step, Step::Llama3 { .. } | Step::Gpt2);
    match (split["behavior"].as_str(), split["invert"] == true) {
        (Some("Isolated"), _) => Ok(step),
        (Some("Removed"), true) if covers_all => Ok(step),
        _ => Err(unsupported(
            "pre_tokenizer",
            format!("Split with behavior {}", split["behavior"]),
            "Isolated",
        )),
    }
}

fn given(source: Source) -> Result<Step, Error> {
    Ok(Step::Given(Box::new(Given::new(source)?)))
}

/// The pre-tokenizer that cuts as `rule` does.
pub fn write_rule(rule: &Rule) -> Value {
    let (steps, use_regex) = match rule.steps() {
        [steps @ .., Step::Gpt2] => (steps, true),
        steps => (steps, false),
    };
    let mut parts: Vec<Value> = steps.iter().map(write_step).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    if parts.is_empty() {
        return bytes;
    }
    parts.push(bytes);
    json!({"type": "Sequence", "pretokenizers": parts})
}

fn write_step(step: &Step) -> Value {
    let pattern = match step {
        Step::Digits => return json!({"type": "Digits", "individual_digits": true}),
        Step::DigitRuns => return json!({"type": "Digits", "individual_digits": false}),
        Step::Llama3 { digits: 1 } => json!({"Regex": llama3::SINGLE_DIGITS_PATTERN}),
        Step::Llama3 { .. } => json!({"Regex": llama3::PATTERN}),
        Step::Gpt2 => json!({"Regex": gpt2::PATTERN}),
        Step::Given(given) => match &given.source {
            Source::Regex(pattern) => json!({"Regex": pattern}),
            Source::Text(text) => json!({"String": text}),
        },
    };
    json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
}

pub fn write_normalizer(nfc: bool) -> Value {
    if nfc {
        json!({"type": "NFC"})
    } else {
        Value::Null
    }
}

/// Bytes that tell any two ways from text to merging apart.
pub fn describe(tokenizer: &Tokenizer) -> Vec<u8> {
    let rule = write_rule(tokenizer.rule());
    json!([rule, tokenizer.ignore_merges(), tokenizer.added().nfc()])
        .to_string()
        .into_bytes()
}

/// Name of the special token that a post-processor puts before a text, if it does.
pub fn first_of_template(post_processor: &Value) -> Option<&str> {
    match post_processor["type"].as_str()? {
        "TemplateProcessing" => post_processor["single"][0]["SpecialToken"]["id"].as_str(),
        "Sequence" => post_processor["processors"]
            .as_array()?
            .iter()
            .find_map(first_of_template),
        _ => None,
    }
}

/// The post-processor that puts a special token before a text.
pub fn begin_with(name: &str, id: u32) -> Value {
    let (bos, first) = (
        json!({"SpecialToken": {"id": name, "type_id": 0}}),
        json!({"Sequence": {"id": "A", "type_id": 0}}),
    );
    let (bos_2, second) = (
        json!({"SpecialToken": {"id": name, "type_id": 1}}),
        json!({"Sequence": {"id": "B", "type_id": 1}}),
    );
    let template = json!({
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, bos_2, second],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]}},
    });
    let offsets = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    json!({"type": "Sequence", "processors": [offsets, template]})
}
