//! Hugging Face's `tokenizer.json`, for the one kind of tokenizer that this project has: byte-level BPE, whole pieces
//! before merges, Llama 3's split rule. Anything else is refused by its name, never approximated.

use crate::tokenizer::split::LLAMA3_PATTERN;
use crate::tokenizer::train::byte_alphabet;
use crate::tokenizer::vocab::all_splits;
use crate::tokenizer::{Error, MergeOrder, Tokenizer};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Reads a tokenizer.json.
pub fn parse(data: &[u8]) -> Result<Tokenizer, Error> {
    let file: File = serde_json::from_slice(data).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            Error::Unsupported(format!("not a tokenizer.json of this kind: {error}"))
        }
        _ => Error::Damaged(format!("not JSON: {error}")),
    })?;
    check_pipeline(&file)?;
    check_model(&file.model)?;
    let added = file.added_tokens.unwrap_or_default();
    if let Some(token) = added.iter().find(|token| !token.is_plain_special()) {
        return Err(unsupported(
            "added token",
            &token.content,
            "special tokens without strip, normalize or word rules",
        ));
    }
    let specials: HashMap<&str, u32> = added
        .iter()
        .map(|token| (token.content.as_str(), token.id))
        .collect();
    let vocab = file.model.vocab.unwrap_or_default();
    let tokens = base_tokens(&vocab, &specials)?;
    let id_of = |text: &str| {
        vocab
            .get(text)
            .copied()
            .ok_or_else(|| Error::Damaged(format!("a merge names {text:?}, which is no token")))
    };
    let first = first_of_template(&file.post_processor);
    let mut merges = Vec::new();
    for merge in file.model.merges.unwrap_or_default() {
        let (left, right) = merge.parts()?;
        merges.push((id_of(left)?, id_of(right)?));
    }
    let first = first.and_then(|name| specials.get(name.as_str()).copied());
    let tokenizer = Tokenizer::with_merges(
        &tokens,
        merges,
        added
            .into_iter()
            .map(|token| (token.id, token.content))
            .collect(),
    )?;
    Ok(tokenizer.beginning_with(first))
}

/// The file's bytes. Loads in `tokenizers` and `transformers`; there too, BOS comes with special tokens only.
pub fn write(tokenizer: &Tokenizer, bos: Option<(&str, u32)>) -> Result<Vec<u8>, Error> {
    let specials = tokenizer.specials().iter();
    let added: Vec<AddedToken> = specials
        .map(|(id, name)| AddedToken::special(id, name))
        .collect();
    let split = json!({"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": false});
    let to_bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let file = Written {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: added,
        normalizer: None,
        pre_tokenizer: Kind {
            r#type: "Sequence",
            rest: Pretokenizers {
                pretokenizers: [split, to_bytes],
            },
        },
        post_processor: bos.map(|(name, id)| bos_template(name, id)),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: WrittenModel {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: true,
            vocab: VocabMap { tokenizer },
            merges: MergeList { tokenizer },
        },
    };
    let mut bytes =
        serde_json::to_vec_pretty(&file).map_err(|error| Error::Damaged(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

// -- reading -------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Option<Vec<AddedToken>>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Serialize, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl AddedToken {
    fn special(id: u32, name: &str) -> Self {
        let content = name.to_string();
        Self {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }

    fn is_plain_special(&self) -> bool {
        self.special && !(self.single_word || self.lstrip || self.rstrip || self.normalized)
    }
}

#[derive(Deserialize)]
struct Model {
    /// Old files leave it out for BPE.
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default, deserialize_with = "map_or_nothing")]
    vocab: Option<HashMap<String, u32>>,
    #[serde(default, deserialize_with = "list_or_nothing")]
    merges: Option<Vec<Merge>>,
}

/// Other kinds of models have another kind of vocabulary, which must not hide the message about their type.
fn map_or_nothing<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<HashMap<String, u32>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Map(HashMap<String, u32>),
        Else(serde::de::IgnoredAny),
    }
    Ok(match Either::deserialize(from)? {
        Either::Map(map) => Some(map),
        Either::Else(_) => None,
    })
}

fn list_or_nothing<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Vec<Merge>>, D::Error> {
    Option::<Vec<Merge>>::deserialize(from)
}

/// `["a", "b"]`, or `"a b"` in older files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Joined(String),
}

impl Merge {
    fn parts(&self) -> Result<(&str, &str), Error> {
        match self {
            Merge::Pair(left, right) => Ok((left, right)),
            Merge::Joined(both) => both
                .split_once(' ')
                .ok_or_else(|| Error::Damaged(format!("the merge {both:?} has no two parts"))),
        }
    }
}

fn unsupported(what: &str, found: impl std::fmt::Display, wanted: &str) -> Error {
    Error::Unsupported(format!("{what} is {found}; supported: {wanted}"))
}

/// The `type` of a component, or all of it where it has none.
fn name(component: &Value) -> String {
    component["type"]
        .as_str()
        .map_or_else(|| component.to_string(), str::to_string)
}

/// Name of the special token that a post-processor puts before a text, if it does.
fn first_of_template(post_processor: &Value) -> Option<String> {
    match post_processor["type"].as_str()? {
        "TemplateProcessing" => {
            let name = post_processor["single"][0]["SpecialToken"]["id"].as_str()?;
            Some(name.to_string())
        }
        "Sequence" => post_processor["processors"]
            .as_array()?
            .iter()
            .find_map(first_of_template),
        _ => None,
    }
}

fn check_pipeline(file: &File) -> Result<(), Error> {
    if !file.normalizer.is_null() {
        return Err(unsupported("normalizer", name(&file.normalizer), "none"));
    }
    if file.decoder["type"] != "ByteLevel" {
        return Err(unsupported("decoder", name(&file.decoder), "ByteLevel"));
    }
    let wanted = "a Sequence of Split (Llama 3's rule) and ByteLevel";
    let steps = match file.pre_tokenizer["pretokenizers"]
        .as_array()
        .map(Vec::as_slice)
    {
        Some([split, bytes]) if file.pre_tokenizer["type"] == "Sequence" => (split, bytes),
        _ => {
            return Err(unsupported(
                "pre_tokenizer",
                name(&file.pre_tokenizer),
                wanted,
            ));
        }
    };
    let (split, bytes) = steps;
    if split["type"] != "Split" || split["behavior"] != "Isolated" || split["invert"] == true {
        return Err(unsupported("pre_tokenizer", split, wanted));
    }
    if split["pattern"]["Regex"] != LLAMA3_PATTERN {
        return Err(unsupported("split rule", &split["pattern"], "Llama 3's"));
    }
    if bytes["type"] != "ByteLevel"
        || bytes["add_prefix_space"] == true
        || bytes["use_regex"] != false
    {
        return Err(unsupported(
            "pre_tokenizer",
            bytes,
            "ByteLevel without prefix space and regex",
        ));
    }
    Ok(())
}

fn check_model(model: &Model) -> Result<(), Error> {
    let kind = model.r#type.as_deref().unwrap_or("BPE");
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if kind != "BPE" {
        return Err(unsupported("model", kind, "BPE"));
    }
    if model.byte_fallback || model.unk_token.is_some() {
        return Err(unsupported(
            "model",
            "BPE with byte_fallback or unk_token",
            "byte-level BPE",
        ));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(unsupported("model", "BPE with dropout", "BPE without"));
    }
    if !empty(&model.continuing_subword_prefix) || !empty(&model.end_of_word_suffix) {
        return Err(unsupported(
            "model",
            "BPE with word affixes",
            "byte-level BPE",
        ));
    }
    if !model.ignore_merges {
        return Err(unsupported(
            "model",
            "BPE with ignore_merges false",
            "ignore_merges true, as Llama 3 has it",
        ));
    }
    Ok(())
}

/// Base tokens in the order of their ids, which must be 0, 1, 2, ... once the specials are taken out.
fn base_tokens(
    vocab: &HashMap<String, u32>,
    specials: &HashMap<&str, u32>,
) -> Result<Vec<Vec<u8>>, Error> {
    let byte_of: HashMap<char, u8> = (0..=255)
        .map(|byte| (CHAR_OF[usize::from(byte)], byte))
        .collect();
    let base = vocab
        .iter()
        .filter(|&(text, id)| specials.get(text.as_str()) != Some(id));
    let mut tokens: Vec<(u32, Vec<u8>)> = Vec::with_capacity(vocab.len());
    for (text, &id) in base {
        let bytes: Option<Vec<u8>> = text.chars().map(|c| byte_of.get(&c).copied()).collect();
        tokens.push((
            id,
            bytes.ok_or_else(|| {
                unsupported("token", format!("{text:?}"), "byte-level characters")
            })?,
        ));
    }
    tokens.sort_unstable();
    match tokens
        .iter()
        .enumerate()
        .find(|&(index, &(id, _))| index != id as usize)
    {
        Some((index, _)) => Err(Error::Damaged(format!(
            "the ids have a gap or a repeat at {index}"
        ))),
        None => Ok(tokens.into_iter().map(|(_, token)| token).collect()),
    }
}

// -- writing -------------------------------------------------------------------------------------

/// The visible character that stands for each byte: itself where it is visible Latin-1, else U+0100 and up.
static CHAR_OF: std::sync::LazyLock<[char; 256]> = std::sync::LazyLock::new(|| {
    let mut char_of = ['\0'; 256];
    for (index, byte) in (0u32..).zip(byte_alphabet()) {
        let visible = index < 188;
        let code = if visible {
            u32::from(byte)
        } else {
            0x100 + index - 188
        };
        char_of[usize::from(byte)] = char::from_u32(code).unwrap_or_default();
    }
    char_of
});

fn to_chars(token: &[u8]) -> String {
    token
        .iter()
        .map(|&byte| CHAR_OF[usize::from(byte)])
        .collect()
}

fn bos_template(name: &str, id: u32) -> Value {
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

#[derive(Serialize)]
struct Written<'t> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken>,
    normalizer: Option<()>,
    pre_tokenizer: Kind<Pretokenizers>,
    post_processor: Option<Value>,
    decoder: Value,
    model: WrittenModel<'t>,
}

#[derive(Serialize)]
struct Kind<T> {
    r#type: &'static str,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct Pretokenizers {
    pretokenizers: [Value; 2],
}

#[derive(Serialize)]
struct WrittenModel<'t> {
    r#type: &'static str,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: VocabMap<'t>,
    merges: MergeList<'t>,
}

struct VocabMap<'t> {
    tokenizer: &'t Tokenizer,
}

impl Serialize for VocabMap<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let vocab = self.tokenizer.vocab();
        let mut map = to.serialize_map(Some(vocab.len()))?;
        for (id, token) in vocab.tokens().enumerate() {
            map.serialize_entry(&to_chars(token), &id)?;
        }
        map.end()
    }
}

struct MergeList<'t> {
    tokenizer: &'t Tokenizer,
}

impl Serialize for MergeList<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let vocab = self.tokenizer.vocab();
        let pairs = match self.tokenizer.merges().order() {
            MergeOrder::Listed(list) => list.clone(),
            MergeOrder::ByRank => all_splits(vocab)
                .into_iter()
                .map(|(_, left, right)| (left, right))
                .collect(),
        };
        let text = |id: u32| to_chars(vocab.token(id).unwrap_or_default());
        let mut list = to.serialize_seq(Some(pairs.len()))?;
        for (left, right) in pairs {
            list.serialize_element(&[text(left), text(right)])?;
        }
        list.end()
    }
}
