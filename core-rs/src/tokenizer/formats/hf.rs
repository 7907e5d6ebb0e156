//! Hugging Face's `tokenizer.json`, for byte-level BPE. Anything else is refused by its name, never approximated.

use super::pipeline::{self, unsupported};
use crate::tokenizer::train::byte_alphabet;
use crate::tokenizer::vocab::{MAX_TOKENS, all_splits};
use crate::tokenizer::{AddedToken, Error, MergeOrder, Parts, Tokenizer};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// An added token that another file beside tokenizer.json states.
pub struct Stated {
    pub name: String,
    /// None: the one that its name has in the vocabulary, else the next free one.
    pub id: Option<u32>,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
    /// It is named for a role (the end of a text, say), and left out where the vocabulary has no such token.
    pub role: Option<Role>,
}

/// What a named token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It begins or ends texts: no text may become it, so merges do not make it.
    Edge,
    /// Anything else: text may become it where merges make it.
    Other,
}

/// Reads a tokenizer.json. The `stated` tokens are added to its own in their order, as Hugging Face does.
pub fn parse(data: &[u8], stated: Vec<Stated>) -> Result<Tokenizer, Error> {
    let file: File = serde_json::from_slice(data).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            Error::Unsupported(format!("not a tokenizer.json of this kind: {error}"))
        }
        _ => Error::Damaged(format!("not JSON: {error}")),
    })?;
    check_model(&file.model)?;
    if file.decoder["type"] != "ByteLevel" {
        let found = pipeline::name(&file.decoder);
        return Err(unsupported("decoder", found, "ByteLevel"));
    }
    let nfc = pipeline::parse_normalizer(&file.normalizer)?;
    let rule = pipeline::parse_rule(&file.pre_tokenizer)?;
    let mut added = file.added_tokens.unwrap_or_default();
    if let Some(token) = added.iter().find(|token| token.single_word) {
        let found = format!("{:?} with single_word", token.content);
        return Err(unsupported("added token", found, "added tokens without"));
    }
    let vocab = file.model.vocab.unwrap_or_default();
    let mut merges = file.model.merges.unwrap_or_default();
    merges.retain(|merge| !merge.is_header());
    add_stated(&mut added, stated, &vocab, &mut merges)?;
    let ids: HashMap<&str, u32> = added
        .iter()
        .map(|token| (token.content.as_str(), token.id))
        .collect();
    let merged = added_among_merges(&merges, &ids)?;
    let tokens = base_tokens(&vocab, |text, id| {
        ids.get(text) == Some(&id) && !merged.contains(text)
    })?;
    let begins = pipeline::first_of_template(&file.post_processor);
    let first = begins.and_then(|name| ids.get(name).copied());
    let tokenizer = Tokenizer::build(Parts {
        tokens,
        merges: Some(merge_ids(&merges, &vocab)?),
        added: added.iter().map(AddedEntry::token).collect(),
        rule,
        ignore_merges: file.model.ignore_merges,
        nfc,
        first,
        has_holes: true,
    })?;
    check_added_ids(&added, &vocab)?;
    if let (Some(unk), Some(byte)) = (file.model.unk_token, tokenizer.vocab().missing_byte()) {
        let found = format!("BPE with the unk_token {unk:?} for bytes such as 0x{byte:02X}");
        return Err(unsupported("model", found, "byte-level BPE"));
    }
    Ok(tokenizer)
}

/// The file's bytes. Loads in `tokenizers` and `transformers`; there too, BOS comes with special tokens only.
pub fn write(tokenizer: &Tokenizer, bos: Option<(&str, u32)>) -> Result<Vec<u8>, Error> {
    let file = Written {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: tokenizer.added().iter().map(AddedEntry::from).collect(),
        normalizer: pipeline::write_normalizer(tokenizer.added().nfc()),
        pre_tokenizer: pipeline::write_rule(tokenizer.rule()),
        post_processor: bos.map(|(name, id)| pipeline::begin_with(name, id)),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: WrittenModel {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: tokenizer.ignore_merges(),
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
    added_tokens: Option<Vec<AddedEntry>>,
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
struct AddedEntry {
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

impl AddedEntry {
    fn token(&self) -> AddedToken {
        AddedToken {
            id: self.id,
            name: self.content.clone(),
            special: self.special,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized,
        }
    }
}

impl From<&AddedToken> for AddedEntry {
    fn from(token: &AddedToken) -> Self {
        Self {
            id: token.id,
            content: token.name.clone(),
            single_word: false,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: token.special,
        }
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
    /// The first line of a merges.txt, which older files carry along.
    fn is_header(&self) -> bool {
        matches!(self, Merge::Joined(line) if line.starts_with("#version"))
    }

    /// Whether it makes or uses a token.
    fn involves(&self, name: &str) -> bool {
        self.parts().is_ok_and(|(left, right)| {
            left == name
                || right == name
                || name.strip_prefix(left).is_some_and(|rest| rest == right)
        })
    }

    fn parts(&self) -> Result<(&str, &str), Error> {
        match self {
            Merge::Pair(left, right) => Ok((left, right)),
            Merge::Joined(both) => both
                .split_once(' ')
                .ok_or_else(|| Error::Damaged(format!("the merge {both:?} has no two parts"))),
        }
    }
}

fn check_model(model: &Model) -> Result<(), Error> {
    let kind = model.r#type.as_deref().unwrap_or("BPE");
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if kind != "BPE" {
        return Err(unsupported("model", kind, "BPE"));
    }
    if model.byte_fallback {
        let found = "BPE with byte_fallback";
        return Err(unsupported("model", found, "byte-level BPE"));
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
    Ok(())
}

/// Added tokens that merges make or use: they are base tokens too. Control tokens must not be among them, else text
/// could become one.
fn added_among_merges<'t>(
    merges: &[Merge],
    added: &HashMap<&'t str, u32>,
) -> Result<HashSet<&'t str>, Error> {
    let (mut among, mut whole) = (HashSet::new(), String::new());
    for merge in merges {
        let (left, right) = merge.parts()?;
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        let parts = [left, right, &whole];
        among.extend(parts.iter().filter_map(|part| added.get_key_value(*part)));
    }
    Ok(among.into_iter().map(|(name, _)| *name).collect())
}

fn merge_ids(merges: &[Merge], vocab: &HashMap<String, u32>) -> Result<Vec<(u32, u32)>, Error> {
    let id_of = |text: &str| {
        vocab
            .get(text)
            .copied()
            .ok_or_else(|| Error::Damaged(format!("a merge names {text:?}, which is no token")))
    };
    let pair = |merge: &Merge| {
        let (left, right) = merge.parts()?;
        Ok((id_of(left)?, id_of(right)?))
    };
    merges.iter().map(pair).collect()
}

/// Base tokens in the order of their ids; empty where an added token has the id or none has it.
fn base_tokens(
    vocab: &HashMap<String, u32>,
    is_added: impl Fn(&str, u32) -> bool,
) -> Result<Vec<Vec<u8>>, Error> {
    let byte_of: HashMap<char, u8> = (0..=255)
        .map(|byte| (CHAR_OF[usize::from(byte)], byte))
        .collect();
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut taken = HashSet::with_capacity(vocab.len());
    for (text, &id) in vocab {
        if id as usize >= MAX_TOKENS {
            return Err(Error::TooLarge(format!(
                "token {text:?}: id {id} is over {MAX_TOKENS}"
            )));
        }
        if !taken.insert(id) {
            return Err(Error::Damaged(format!("two tokens have the id {id}")));
        }
        if is_added(text, id) {
            continue;
        }
        let bytes: Option<Vec<u8>> = text.chars().map(|c| byte_of.get(&c).copied()).collect();
        let named = || unsupported("token", format!("{text:?}"), "byte-level characters");
        let index = id as usize;
        tokens.resize(tokens.len().max(index + 1), Vec::new());
        tokens[index] = bytes.ok_or_else(named)?;
    }
    Ok(tokens)
}

/// Tokens that other files state: one that is there already becomes special if it is stated so.
fn add_stated(
    added: &mut Vec<AddedEntry>,
    stated: Vec<Stated>,
    vocab: &HashMap<String, u32>,
    merges: &mut Vec<Merge>,
) -> Result<(), Error> {
    let mut places: HashMap<String, usize> = (0..)
        .zip(added.iter())
        .map(|(place, token)| (token.content.clone(), place))
        .collect();
    let mut next = vocab.len() as u32;
    for token in added.iter() {
        next = next.max(token.id.saturating_add(1));
    }
    for token in stated {
        if let Some(&place) = places.get(&token.name) {
            added[place].special |= token.special;
            continue;
        }
        let id = vocab.get(&token.name).copied().unwrap_or(next);
        match token.role {
            Some(_) if !vocab.contains_key(&token.name) => continue,
            Some(Role::Edge) if is_marker(&token.name) => {
                let name = token.name.as_str();
                merges.retain(|merge| !merge.involves(name));
            }
            Some(_) if is_word(&token.name, merges) => continue,
            _ => {}
        }
        if token.id.is_some_and(|stated| stated != id) {
            let (name, stated) = (&token.name, token.id.unwrap_or_default());
            return Err(Error::Damaged(format!(
                "added token {name:?} is stated to have the id {stated}, its place gives it {id}"
            )));
        }
        next = next.max(id.saturating_add(1));
        places.insert(token.name.clone(), added.len());
        added.push(AddedEntry {
            id,
            content: token.name,
            single_word: false,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: token.special,
        });
    }
    Ok(())
}

/// Whether a name can be a control token's: more than one character, and not all of them blank.
fn is_marker(name: &str) -> bool {
    let is_blank = |c: char| c.is_whitespace() || "ĠĊĉč".contains(c);
    name.chars().count() > 1 && !name.chars().all(is_blank)
}

/// Whether a token of the vocabulary is one that text becomes by merging.
fn is_word(name: &str, merges: &[Merge]) -> bool {
    name.chars().count() == 1 || merges.iter().any(|merge| merge.involves(name))
}

/// Added tokens must have the ids that Hugging Face gives them: the vocabulary's, else the next free ones.
fn check_added_ids(added: &[AddedEntry], vocab: &HashMap<String, u32>) -> Result<(), Error> {
    let mut next = vocab.len() as u32;
    for token in added {
        let expected = vocab.get(&token.content).copied().unwrap_or(next);
        if !vocab.contains_key(&token.content) {
            next += 1;
        }
        if token.id != expected {
            return Err(Error::Damaged(format!(
                "added token {:?} has the id {}, its place gives it {expected}",
                token.content, token.id
            )));
        }
    }
    Ok(())
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

#[derive(Serialize)]
struct Written<'t> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedEntry>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Option<Value>,
    decoder: Value,
    model: WrittenModel<'t>,
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
        let (vocab, added) = (self.tokenizer.vocab(), self.tokenizer.added());
        // Readers number the added tokens that are not in here from the end of the vocabulary on.
        let apart: Vec<&AddedToken> = added
            .iter()
            .filter(|token| token.id as usize >= vocab.len())
            .collect();
        let is_hole = |(id, token): (u32, &[u8])| token.is_empty() && added.name(id).is_none();
        let consecutive = !(0u32..).zip(vocab.tokens()).any(is_hole)
            && (vocab.len() as u32..)
                .zip(&apart)
                .all(|(id, token)| id == token.id);
        let mut map = to.serialize_map(None)?;
        for (id, token) in (0u32..).zip(vocab.tokens()) {
            match added.name(id).filter(|_| token.is_empty()) {
                Some(name) => map.serialize_entry(name, &id)?,
                None if token.is_empty() => {}
                None => map.serialize_entry(&to_chars(token), &id)?,
            }
        }
        for token in apart.iter().filter(|_| !consecutive) {
            map.serialize_entry(&token.name, &token.id)?;
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
