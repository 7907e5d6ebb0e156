//! Tokenizers that others wrote, and any text through a tokenizer.

use super::bytes::{Bytes, lossy};
use llama3_core::tokenizer::formats::{hf, tiktoken as model_file};
use llama3_core::tokenizer::{AddedToken, Allowed, Options, Parts, Rule, Tokenizer, Utf8Stream};
use std::sync::LazyLock;

const TEXT: &str = "Hello, wörld! 1234567 \u{1f600}\n\n\t  a\u{301} <|end|> ab\r\n";

/// Any `tokenizer.json`: refused, or its text, ids and its own file come back as they were.
pub fn tokenizer_json(data: &[u8]) {
    if let Ok(tokenizer) = hf::parse(data, Vec::new()) {
        holds(&tokenizer, TEXT);
        survives_its_file(&tokenizer);
    }
}

/// Any tiktoken `.model`.
pub fn tiktoken(data: &[u8]) {
    let Ok(tokens) = model_file::parse(data) else {
        return;
    };
    let special = vec![(tokens.len() as u32, "<|end|>".to_string())];
    let Ok(tokenizer) = Tokenizer::new(&tokens, special) else {
        return;
    };
    holds(&tokenizer, TEXT);
    let written = model_file::write(&tokenizer).expect("what was read can be written");
    assert_eq!(model_file::parse(&written).ok(), Some(tokens));
}

/// A tokenizer of any tokens, merges and added tokens, with any text.
pub fn tokenizer_parts(data: &[u8]) {
    let mut input = Bytes(data);
    let whole = input.flag();
    let mut tokens: Vec<Vec<u8>> = if whole {
        (0..=255).map(|byte| vec![byte]).collect()
    } else {
        vec![]
    };
    tokens.extend(
        (0..input.below(20))
            .map(|_| input.string().to_vec())
            .collect::<Vec<_>>(),
    );
    let id = |input: &mut Bytes| match input.below(8) {
        7 => input.long() as u32,
        _ => u32::from(input.byte()) + 256 * u32::from(input.flag()),
    };
    let merges = input.flag().then(|| {
        (0..input.below(20))
            .map(|_| (id(&mut input), id(&mut input)))
            .collect()
    });
    let added = (0..input.below(5)).map(|_| AddedToken {
        id: id(&mut input),
        name: lossy(input.string()),
        special: input.flag(),
        lstrip: input.flag(),
        rstrip: input.flag(),
        normalized: input.flag(),
    });
    let parts = Parts {
        added: added.collect(),
        tokens,
        merges,
        rule: if input.flag() {
            Rule::llama3()
        } else {
            Rule::new(vec![])
        },
        ignore_merges: input.flag(),
        nfc: input.flag(),
        first: None,
        has_holes: input.flag(),
    };
    if let Ok(tokenizer) = Tokenizer::build(parts) {
        holds(&tokenizer, &lossy(input.0));
        survives_its_file(&tokenizer);
    }
}

/// Any bytes through a small tokenizer, and any portions of bytes through a stream.
pub fn encode(data: &[u8]) {
    static SMALL: LazyLock<Tokenizer> = LazyLock::new(small);
    let mut input = Bytes(data);
    let portion = 1 + input.below(7);
    holds(&SMALL, &lossy(input.0));
    let ids = SMALL.encode_bytes(input.0).expect("every byte is a token");
    assert_eq!(SMALL.decode(&ids).expect("own ids"), input.0);
    let mut stream = Utf8Stream::default();
    let mut streamed: String = input
        .0
        .chunks(portion)
        .map(|part| stream.push(part))
        .collect();
    streamed += &stream.flush();
    assert_eq!(streamed, lossy(input.0));
}

fn small() -> Tokenizer {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let words = [
        "ab", "  ", "\n\n", "th", "the", " the", "12", "ö", "\u{301}",
    ];
    tokens.extend(words.map(|word| word.as_bytes().to_vec()));
    let special = vec![(tokens.len() as u32, "<|end|>".to_string())];
    Tokenizer::new(&tokens, special).expect("a sound tokenizer")
}

/// What holds for every tokenizer: counting, batches and decoding agree with encoding.
fn holds(tokenizer: &Tokenizer, text: &str) {
    let names: String = tokenizer
        .added()
        .iter()
        .map(|token| format!("a {} ", token.name))
        .collect();
    let texts = [text, &names, ""];
    for allowed in [Allowed::Nothing, Allowed::All] {
        let Ok(rows) = tokenizer.encode_batch(&texts, &allowed, Options::default()) else {
            continue;
        };
        assert_eq!(rows.row_starts.len(), texts.len() + 1);
        for (index, text) in texts.iter().enumerate() {
            let ids =
                &rows.ids[rows.row_starts[index] as usize..rows.row_starts[index + 1] as usize];
            let alone = tokenizer.encode(text, &allowed, Options::default());
            assert_eq!(alone.as_deref().ok(), Some(ids));
            assert_eq!(
                tokenizer.count(text, &allowed, Options::default()).ok(),
                Some(ids.len())
            );
            let decoded = tokenizer.decode(ids).expect("own ids can be decoded");
            if is_faithful(tokenizer) {
                assert_eq!(lossy(&decoded), *text);
            }
        }
        let options = Options {
            meta_compat: true,
            ..Options::default()
        };
        let _ = tokenizer.encode(text, &allowed, options);
    }
    let _ = (
        tokenizer.encode_bytes(text.as_bytes()),
        tokenizer.decode(&[0, u32::MAX]),
    );
}

/// Whether ids give back the very text: nothing is normalized, swallowed or unknown.
fn is_faithful(tokenizer: &Tokenizer) -> bool {
    let added = tokenizer.added();
    tokenizer.vocab().missing_byte().is_none()
        && !added.nfc()
        && added.iter().all(|token| !token.lstrip && !token.rstrip)
}

/// A tokenizer that can be written is read back as the same one.
fn survives_its_file(tokenizer: &Tokenizer) {
    let Ok(file) = hf::write(tokenizer, None) else {
        return;
    };
    let again =
        hf::parse(&file, Vec::new()).unwrap_or_else(|error| panic!("{error}: {}", lossy(&file)));
    assert_eq!(again.hash(), tokenizer.hash(), "{}", lossy(&file));
}
