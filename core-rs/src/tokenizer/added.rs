//! Added tokens: names that stand for ids of their own and are found in text before anything is split. Of the special
//! ones (control tokens) text becomes one only where the caller allows its name; the others are words like any other.

use super::error::Error;
use super::vocab::{MAX_TOKENS, Vocab};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A name with an id, and how it is found in text (Hugging Face's terms).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    pub id: u32,
    pub name: String,
    /// A control token.
    pub special: bool,
    /// It takes the whitespace before it along.
    pub lstrip: bool,
    /// It takes the whitespace after it along.
    pub rstrip: bool,
    /// It is looked for in normalized text, after those that are not.
    pub normalized: bool,
}

impl AddedToken {
    pub fn special(id: u32, name: String) -> Self {
        Self {
            id,
            name,
            special: true,
            lstrip: false,
            rstrip: false,
            normalized: false,
        }
    }

    /// A control token that nothing but its name stands for, as all of Llama 3's.
    pub fn is_plain_special(&self) -> bool {
        *self == Self::special(self.id, self.name.clone())
    }
}

/// Added tokens by id and by name.
pub struct AddedTokens {
    by_id: BTreeMap<u32, AddedToken>,
    by_name: HashMap<String, u32>,
    /// Text is brought to Unicode's composed form (NFC) before it is split.
    nfc: bool,
    words: Matcher,
    all: Matcher,
}

/// Finds added tokens in text: those to be found in the text as it is, then those in its normalized form.
#[derive(Default)]
pub struct Matcher {
    exact: Option<Finder>,
    normalized: Option<Finder>,
}

/// Bytes of names up to which the fastest automaton is made; making it takes time with the square of a name's length.
const FAST_BYTES: usize = 1 << 13;

struct Finder {
    automaton: AhoCorasick,
    tokens: Vec<AddedToken>,
}

/// Which names of special tokens in a text stand for control tokens.
pub enum Allowed {
    /// None: they are plain text. The only safe choice for text from outside.
    Nothing,
    All,
    Some(Matcher),
}

/// A part of a text to be encoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Span<'t> {
    Text(Cow<'t, str>),
    Added(u32),
}

impl AddedTokens {
    /// Ids must lie outside the base vocabulary (or be that of a token with the same bytes, unless special); ids and
    /// names must be unique.
    pub fn new(vocab: &Vocab, tokens: Vec<AddedToken>, nfc: bool) -> Result<Self, Error> {
        let (mut by_id, mut by_name) = (BTreeMap::new(), HashMap::new());
        for token in tokens {
            let (id, name) = (token.id, token.name.clone());
            let kind = if token.special { "special" } else { "added" };
            if name.is_empty() {
                return Err(Error::Damaged(format!("{kind} token {id} has no name")));
            }
            let normal = vocab.token(id);
            if normal.is_some_and(|bytes| token.special || bytes != name.as_bytes()) {
                return Err(Error::Damaged(format!(
                    "{kind} token {name:?} has the id {id} of a normal token"
                )));
            }
            if id as usize >= MAX_TOKENS {
                return Err(Error::TooLarge(format!(
                    "{kind} token {name:?}: id {id} is over {MAX_TOKENS}"
                )));
            }
            if by_name.insert(name.clone(), id).is_some() || by_id.insert(id, token).is_some() {
                return Err(Error::Damaged(format!(
                    "{kind} token {name:?} or its id {id} occurs twice"
                )));
            }
        }
        let words = Matcher::new(by_id.values().filter(|token| !token.special), nfc)?;
        let all = Matcher::new(by_id.values(), nfc)?;
        Ok(Self {
            by_id,
            by_name,
            nfc,
            words,
            all,
        })
    }

    pub fn name(&self, id: u32) -> Option<&str> {
        self.by_id.get(&id).map(|token| token.name.as_str())
    }

    pub fn id(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Lowest id first.
    pub fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.by_id.values()
    }

    /// One more than the highest id, or 0.
    pub fn end(&self) -> usize {
        self.by_id
            .last_key_value()
            .map_or(0, |(&id, _)| id as usize + 1)
    }

    pub fn nfc(&self) -> bool {
        self.nfc
    }

    /// The same tokens, those of these names control tokens too: no text becomes one unless it is allowed to.
    pub fn with_special(&self, vocab: &Vocab, names: &[String]) -> Result<Self, Error> {
        let mut tokens: Vec<AddedToken> = self.iter().cloned().collect();
        for name in names {
            let id = self
                .id(name)
                .ok_or_else(|| Error::UnknownSpecial(name.clone()))?;
            if let Ok(index) = tokens.binary_search_by_key(&id, |token| token.id) {
                tokens[index].special = true;
            }
        }
        Self::new(vocab, tokens, self.nfc)
    }

    /// Allows exactly these special tokens.
    pub fn allow(&self, names: &[String]) -> Result<Allowed, Error> {
        let mut chosen = HashSet::new();
        for name in names {
            let id = self.id(name).filter(|id| self.by_id[id].special);
            chosen.insert(id.ok_or_else(|| Error::UnknownSpecial(name.clone()))?);
        }
        if chosen.is_empty() {
            return Ok(Allowed::Nothing);
        }
        let wanted = |token: &&AddedToken| !token.special || chosen.contains(&token.id);
        Matcher::new(self.by_id.values().filter(wanted), self.nfc).map(Allowed::Some)
    }

    /// `text`, normalized, cut at the added tokens that are words and at the allowed special ones: leftmost first,
    /// and the longest name at each place.
    pub fn spans<'t>(&self, text: &'t str, allowed: &Allowed) -> Vec<Span<'t>> {
        let matcher = match allowed {
            Allowed::Nothing => &self.words,
            Allowed::All => &self.all,
            Allowed::Some(matcher) => matcher,
        };
        let mut spans = Vec::new();
        for (range, id) in found(matcher.exact.as_ref(), text) {
            match id {
                Some(id) => spans.push(Span::Added(id)),
                None => self.push_normalized(&text[range], matcher, &mut spans),
            }
        }
        spans
    }

    fn push_normalized<'t>(&self, text: &'t str, matcher: &Matcher, spans: &mut Vec<Span<'t>>) {
        let text = if self.nfc {
            composed(text)
        } else {
            Cow::Borrowed(text)
        };
        if matcher.normalized.is_none() {
            spans.push(Span::Text(text));
            return;
        }
        for (range, id) in found(matcher.normalized.as_ref(), &text) {
            spans.push(match (id, &text) {
                (Some(id), _) => Span::Added(id),
                (None, Cow::Borrowed(text)) => Span::Text(Cow::Borrowed(&text[range])),
                (None, Cow::Owned(text)) => Span::Text(Cow::Owned(text[range].to_string())),
            });
        }
    }
}

impl Matcher {
    fn new<'t>(tokens: impl Iterator<Item = &'t AddedToken>, nfc: bool) -> Result<Self, Error> {
        let (normalized, exact): (Vec<_>, Vec<_>) = tokens.partition(|token| token.normalized);
        Ok(Self {
            exact: Finder::new(&exact, false)?,
            normalized: Finder::new(&normalized, nfc)?,
        })
    }
}

impl Finder {
    fn new(tokens: &[&AddedToken], nfc: bool) -> Result<Option<Self>, Error> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let name = |token: &&AddedToken| match nfc {
            true => composed(&token.name).into_owned(),
            false => token.name.clone(),
        };
        let bytes: usize = tokens.iter().map(|token| token.name.len()).sum();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind((bytes > FAST_BYTES).then_some(AhoCorasickKind::ContiguousNFA))
            .build(tokens.iter().map(name))
            .map_err(|error| Error::TooLarge(format!("added tokens: {error}")))?;
        let tokens = tokens.iter().map(|&token| token.clone()).collect();
        Ok(Some(Self { automaton, tokens }))
    }
}

/// The ranges of `text` in order, with the id where an added token was found.
fn found(finder: Option<&Finder>, text: &str) -> Vec<(std::ops::Range<usize>, Option<u32>)> {
    let (mut ranges, mut done) = (Vec::new(), 0);
    if let Some(finder) = finder {
        for found in finder.automaton.find_iter(text) {
            let token = &finder.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                ranges.push((done..start, None));
            }
            ranges.push((start..end, Some(token.id)));
            done = end;
        }
    }
    if done < text.len() {
        ranges.push((done..text.len(), None));
    }
    ranges
}

/// Unicode's composed form (NFC).
fn composed(text: &str) -> Cow<'_, str> {
    use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}
