//! The encoder against a naive one, the trainer against a naive one, formats against themselves.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// Byte-pair encoding as one would explain it: the whole piece, else merge the lowest-ranked neighbours.
fn naive_encode(tokens: &[Vec<u8>], text: &str) -> Vec<u32> {
    let rank: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let mut ids = Vec::new();
    for piece in split::llama3::pieces(text, 3) {
        let piece = &text.as_bytes()[piece];
        if let Some(&id) = rank.get(piece) {
            ids.push(id);
            continue;
        }
        let mut parts: Vec<&[u8]> = piece.chunks(1).collect();
        loop {
            let joined = |i: usize| [parts[i], parts[i + 1]].concat();
            let candidates = (0..parts.len().saturating_sub(1))
                .filter_map(|i| rank.get(&joined(i)[..]).map(|&r| (r, i)));
            let Some((r, i)) = candidates.min() else {
                break;
            };
            parts[i] = &tokens[r as usize];
            parts.remove(i + 1);
        }
        ids.extend(parts.iter().map(|part| rank[part]));
    }
    ids
}

/// Recounts all pairs for each merge.
fn naive_train(texts: &[String], size: usize) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = train::byte_alphabet()
        .into_iter()
        .map(|byte| vec![byte])
        .collect();
    let id_of: HashMap<u8, u32> = (0u32..)
        .zip(&tokens)
        .map(|(id, token)| (token[0], id))
        .collect();
    let pieces = texts
        .iter()
        .flat_map(|text| split::llama3::pieces(text, 3).map(|piece| &text.as_bytes()[piece]));
    let mut words: Vec<Vec<u32>> = pieces
        .map(|piece| piece.iter().map(|byte| id_of[byte]).collect())
        .collect();
    while tokens.len() < size {
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((pair[0], pair[1])).or_default() += 1;
        }
        let best = counts
            .into_iter()
            .max_by_key(|&(pair, count)| (count, std::cmp::Reverse(pair)));
        let Some((pair, _)) = best else { break };
        let merged = tokens.len() as u32;
        tokens.push([&tokens[pair.0 as usize][..], &tokens[pair.1 as usize][..]].concat());
        for word in &mut words {
            let (mut done, mut at) = (Vec::new(), 0);
            while at < word.len() {
                let here = at + 1 < word.len() && (word[at], word[at + 1]) == pair;
                done.push(if here { merged } else { word[at] });
                at += if here { 2 } else { 1 };
            }
            *word = done;
        }
    }
    tokens
}

fn learn(texts: &[String], size: usize) -> Result<Vec<Vec<u8>>, Error> {
    let mut trainer = Trainer::default();
    trainer.feed(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    trainer.finish(size)
}

/// The most tokens that the texts yield, up to `size`.
fn learn_up_to(texts: &[String], size: usize) -> Vec<Vec<u8>> {
    match learn(texts, size) {
        Err(Error::TooFewMerges { reached, .. }) => learn(texts, reached).unwrap(),
        tokens => tokens.unwrap(),
    }
}

/// Few letters and many repeats: every kind of overlap occurs.
fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[ab ]{0,30}|[a-c é!\n]{0,40}|\\PC{0,10}", 1..6)
}

/// A vocabulary whose tokens no training made: some are out of the reach of merges.
fn arbitrary_vocabulary() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::hash_set("[ab]{2,7}|[abc é]{2,9}", 0..40).prop_map(|words| {
        let mut words: Vec<String> = words.into_iter().collect();
        words.sort_by_key(|word| blake3::hash(word.as_bytes()).as_bytes().to_owned());
        let bytes = (0..=255u8).map(|byte| vec![byte]);
        bytes
            .chain(words.into_iter().map(String::into_bytes))
            .collect()
    })
}

const PLAIN: Options = Options {
    meta_compat: false,
    bos: None,
    eos: None,
};

proptest! {
    #[test]
    fn encoding_equals_the_naive_encoder(tokens in arbitrary_vocabulary(), text in "[ab]{0,120}|[abc é!\n]{0,200}") {
        let tokenizer = Tokenizer::new(&tokens, vec![]).unwrap();
        let ids = tokenizer.encode(&text, &Allowed::Nothing, PLAIN).unwrap();
        prop_assert_eq!(&ids, &naive_encode(&tokens, &text));
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_bytes());
        prop_assert_eq!(tokenizer.count(&text, &Allowed::Nothing, PLAIN).unwrap(), ids.len());
        // A second time, when the memory of merged pieces answers.
        prop_assert_eq!(&tokenizer.encode(&text, &Allowed::Nothing, PLAIN).unwrap(), &ids);
    }

    #[test]
    fn training_equals_the_naive_trainer(texts in texts(), size in 256usize..300) {
        let tokens = learn_up_to(&texts, size);
        prop_assert_eq!(&tokens, &naive_train(&texts, size));
    }

    #[test]
    fn every_trained_token_is_reached_by_merging(texts in texts()) {
        let tokens = learn_up_to(&texts, 320);
        let vocab = Vocab::new(&tokens, |_| false).unwrap();
        let merges = Merges::by_rank(&vocab).unwrap();
        for (id, token) in (0u32..).zip(&tokens) {
            let mut ids = Vec::new();
            merge::Merger::default().merge(&vocab, &merges, token, &mut ids);
            prop_assert_eq!(ids, vec![id]);
        }
    }

    #[test]
    fn both_formats_give_the_same_tokenizer_back(tokens in arbitrary_vocabulary()) {
        let tokenizer = Tokenizer::new(&tokens, vec![(300, "<|x|>".into()), (301, "<|y|>".into())]).unwrap();
        let model = formats::tiktoken::write(&tokenizer).unwrap();
        prop_assert_eq!(&formats::tiktoken::parse(&model).unwrap(), &tokens);
        let json = formats::hf::write(&tokenizer, Some(("<|x|>", 300))).unwrap();
        let again = formats::hf::parse(&json, Vec::new()).unwrap();
        prop_assert_eq!(again.hash(), tokenizer.hash());
        prop_assert_eq!(formats::hf::write(&again, Some(("<|x|>", 300))).unwrap(), json);
    }

    #[test]
    fn damaged_files_are_errors(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = formats::tiktoken::parse(&data);
        prop_assert!(formats::hf::parse(&data, Vec::new()).is_err());
    }

    #[test]
    fn a_batch_is_its_texts_one_by_one(texts in texts(), tokens in arbitrary_vocabulary()) {
        let tokenizer = Tokenizer::new(&tokens, vec![(400, "<|s|>".into())]).unwrap();
        let options = Options { bos: Some(400), eos: Some(400), ..PLAIN };
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let rows = tokenizer.encode_batch(&texts, &Allowed::Nothing, options).unwrap();
        prop_assert_eq!(rows.row_starts.len(), texts.len() + 1);
        for (text, ends) in texts.iter().zip(rows.row_starts.windows(2)) {
            let row = &rows.ids[ends[0] as usize..ends[1] as usize];
            let alone = tokenizer.encode(text, &Allowed::Nothing, PLAIN).unwrap();
            prop_assert_eq!(row, [&[400], &alone[..], &[400]].concat());
        }
    }

    #[test]
    fn bytes_of_any_kind_encode_without_loss(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        let tokenizer = Tokenizer::new(&tokens, vec![]).unwrap();
        let ids = tokenizer.encode_bytes(&bytes).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), bytes);
    }
}

/// Words of a small alphabet, enough for several chunks of work.
fn long_text() -> String {
    (0..60_000u32)
        .map(|i| format!("w{}{} ", i % 97, "ab".repeat((i % 7) as usize)))
        .collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (text, one_line) = (long_text(), "ab".repeat(100_000));
    let texts = vec![text.clone(), one_line, String::new(), text];
    let learn_and_encode = || {
        let tokens = learn(&texts, 350).unwrap();
        let tokenizer = Tokenizer::new(&tokens, vec![]).unwrap();
        let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
        let rows = tokenizer
            .encode_batch(&borrowed, &Allowed::Nothing, PLAIN)
            .unwrap();
        assert_eq!(
            tokenizer
                .count(&texts[0], &Allowed::Nothing, PLAIN)
                .unwrap() as u64,
            rows.row_starts[1]
        );
        (tokens, rows)
    };
    let seen = [1, 2, 5].map(|threads| threads::testing::with_threads(threads, learn_and_encode));
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn special_names_are_text_unless_allowed() {
    let tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    let names = vec![
        (300, "<|a|>".to_string()),
        (301, "<|ab|>".to_string()),
        (302, "<|a|><|b|>".to_string()),
    ];
    let tokenizer = Tokenizer::new(&tokens, names).unwrap();
    let text = "x<|a|><|b|><|ab|><|a|>";
    let encode = |allowed: &Allowed| tokenizer.encode(text, allowed, PLAIN).unwrap();
    assert!(encode(&Allowed::Nothing).iter().all(|&id| id < 256));
    assert_eq!(encode(&Allowed::All), [u32::from(b'x'), 302, 301, 300]);
    let only = tokenizer.added().allow(&["<|ab|>".to_string()]).unwrap();
    assert_eq!(
        encode(&only)
            .iter()
            .filter(|&&id| id > 255)
            .collect::<Vec<_>>(),
        [&301]
    );
    assert!(tokenizer.added().allow(&["<|no|>".to_string()]).is_err());
    assert_eq!(
        tokenizer.decode(&encode(&Allowed::All)).unwrap(),
        text.as_bytes()
    );
    assert_eq!(tokenizer.decode(&[299]), Err(Error::UnknownId(299)));
    assert_eq!(tokenizer.vocab_size(), 303);
}

fn with_merges(tokens: &[Vec<u8>], merges: Vec<(u32, u32)>, ignore_merges: bool) -> Tokenizer {
    Tokenizer::build(Parts {
        tokens: tokens.to_vec(),
        merges: Some(merges),
        added: vec![],
        rule: Rule::llama3(),
        ignore_merges,
        nfc: false,
        first: None,
        has_holes: false,
    })
    .unwrap()
}

#[test]
fn a_token_out_of_the_reach_of_merges_is_shown_only_where_merges_are_ignored() {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    let long = b"a word over fifteen bytes"
        .map(|byte| byte.max(b'a'))
        .to_vec();
    tokens.extend([b"ab".to_vec(), b"abc".to_vec(), long.clone()]);
    let merges = vec![(u32::from(b'a'), u32::from(b'b'))];
    let texts = [
        "abc".to_string(),
        String::from_utf8(long).unwrap(),
        "ab".into(),
    ];
    for (ignore_merges, expected) in [(true, [1, 1, 1]), (false, [2, 24, 1])] {
        let tokenizer = with_merges(&tokens, merges.clone(), ignore_merges);
        let lengths = texts.each_ref().map(|text| {
            tokenizer
                .encode(text, &Allowed::Nothing, PLAIN)
                .unwrap()
                .len()
        });
        assert_eq!(lengths, expected);
        let again =
            formats::hf::parse(&formats::hf::write(&tokenizer, None).unwrap(), Vec::new()).unwrap();
        assert_eq!(
            (again.hash(), again.ignore_merges()),
            (tokenizer.hash(), ignore_merges)
        );
    }
}

#[test]
fn bytes_that_the_vocabulary_lacks_are_left_out() {
    let tokens: Vec<Vec<u8>> = (b'a'..=b'z')
        .map(|byte| vec![byte])
        .chain([b"ab".to_vec()])
        .collect();
    let tokenizer = with_merges(&tokens, vec![(0, 1)], false);
    let encode = |text: &str| tokenizer.encode(text, &Allowed::Nothing, PLAIN).unwrap();
    for _ in 0..2 {
        assert_eq!(encode("ab"), [26]);
        assert!(encode("!").is_empty());
        assert!(encode(&"!".repeat(100)).is_empty());
        assert_eq!(encode("b!c"), [1, 2]);
        assert_eq!(encode(&"!a".repeat(100)), [0; 100]);
    }
    assert_eq!(tokenizer.encode_bytes(b"a\xFFb").unwrap(), [26]);
}

#[test]
fn added_words_are_found_in_every_text_and_take_whitespace_along() {
    let tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    let word = |id, name: &str| AddedToken {
        special: false,
        ..AddedToken::special(id, name.into())
    };
    let added = vec![
        word(256, "cat"),
        AddedToken {
            lstrip: true,
            ..word(257, "<l>")
        },
        AddedToken {
            rstrip: true,
            ..AddedToken::special(258, "<r>".into())
        },
        AddedToken {
            normalized: true,
            ..word(259, "e\u{301}t")
        },
    ];
    let tokenizer = Tokenizer::build(Parts {
        tokens,
        merges: None,
        added,
        rule: Rule::llama3(),
        ignore_merges: true,
        nfc: true,
        first: None,
        has_holes: false,
    })
    .unwrap();
    let encode = |text: &str, allowed: &Allowed| tokenizer.encode(text, allowed, PLAIN).unwrap();
    let x = u32::from(b'x');
    assert_eq!(encode("xcatx", &Allowed::Nothing), [x, 256, x]);
    assert_eq!(encode("x  <l>x", &Allowed::Nothing), [x, 257, x]);
    assert_eq!(encode("x<r>  x", &Allowed::All), [x, 258, x]);
    assert_eq!(encode("<r>  <l>", &Allowed::All), [258, 257]);
    assert_eq!(encode("<r>", &Allowed::Nothing).len(), 3);
    assert_eq!(encode("x\u{E9}tx", &Allowed::Nothing), [x, 259, x]);
    assert_eq!(encode("xe\u{301}tx", &Allowed::Nothing), [x, 259, x]);
    assert_eq!(encode("e\u{301}", &Allowed::Nothing), [0xC3, 0xA9]);
    assert!(tokenizer.added().allow(&["cat".to_string()]).is_err());
    let again =
        formats::hf::parse(&formats::hf::write(&tokenizer, None).unwrap(), Vec::new()).unwrap();
    assert_eq!(again.hash(), tokenizer.hash());
    assert!(again.added().iter().eq(tokenizer.added().iter()));
}

#[test]
fn a_listed_merge_order_is_kept_and_not_written_as_ranks() {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    tokens.extend([b"ab".to_vec(), b"bc".to_vec()]);
    let (a, b, c) = (u32::from(b'a'), u32::from(b'b'), u32::from(b'c'));
    let tokenizer = with_merges(&tokens, vec![(b, c), (a, b)], true);
    assert_eq!(
        tokenizer.encode("abc", &Allowed::Nothing, PLAIN).unwrap(),
        [a, 257]
    );
    assert!(formats::tiktoken::write(&tokenizer).is_err());
    let again =
        formats::hf::parse(&formats::hf::write(&tokenizer, None).unwrap(), Vec::new()).unwrap();
    assert_eq!(again.hash(), tokenizer.hash());
    let by_rank = with_merges(&tokens, vec![(a, b), (b, c)], true);
    assert_eq!(
        by_rank.hash(),
        Tokenizer::new(&tokens, vec![]).unwrap().hash()
    );
}
