//! Special tokens: names and ids of control tokens. Text becomes one only where the caller allows its name.

use super::error::Error;
use super::vocab::{MAX_TOKENS, Vocab};
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::BTreeMap;
use std::collections::HashMap;

/// Control tokens by id and by name.
pub struct Specials {
    by_id: BTreeMap<u32, String>,
    by_name: HashMap<String, u32>,
    all: Option<Finder>,
}

/// Finds names of allowed special tokens in text.
pub struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

/// Which names in a text stand for control tokens.
pub enum Allowed {
    /// None: everything is plain text. The only safe choice for text from outside.
    Nothing,
    All,
    Some(Finder),
}

/// A part of a text to be encoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Span<'t> {
    Text(&'t str),
    Control(u32),
}

impl Specials {
    /// Ids must lie outside the base vocabulary; ids and names must be unique.
    pub fn new(vocab: &Vocab, tokens: Vec<(u32, String)>) -> Result<Self, Error> {
        let (mut by_id, mut by_name) = (BTreeMap::new(), HashMap::new());
        for (id, name) in tokens {
            if name.is_empty() {
                return Err(Error::Damaged(format!("special token {id} has no name")));
            }
            if (id as usize) < vocab.len() {
                return Err(Error::Damaged(format!(
                    "special token {name:?} has the id {id} of a normal token"
                )));
            }
            if id as usize >= MAX_TOKENS {
                return Err(Error::TooLarge(format!(
                    "special token {name:?}: id {id} is over {MAX_TOKENS}"
                )));
            }
            if by_name.insert(name.clone(), id).is_some() || by_id.contains_key(&id) {
                return Err(Error::Damaged(format!(
                    "special token {name:?} or its id {id} occurs twice"
                )));
            }
            by_id.insert(id, name);
        }
        let all = (!by_id.is_empty())
            .then(|| finder(by_id.iter()))
            .transpose()?;
        Ok(Self {
            by_id,
            by_name,
            all,
        })
    }

    pub fn name(&self, id: u32) -> Option<&str> {
        self.by_id.get(&id).map(String::as_str)
    }

    pub fn id(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// (id, name), lowest id first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.by_id.iter().map(|(&id, name)| (id, name.as_str()))
    }

    /// One more than the highest special id, or 0.
    pub fn end(&self) -> usize {
        self.by_id
            .last_key_value()
            .map_or(0, |(&id, _)| id as usize + 1)
    }

    /// Allows exactly these names.
    pub fn allow(&self, names: &[String]) -> Result<Allowed, Error> {
        let mut chosen = BTreeMap::new();
        for name in names {
            let id = self
                .id(name)
                .ok_or_else(|| Error::UnknownSpecial(name.clone()))?;
            chosen.insert(id, name.clone());
        }
        if chosen.is_empty() {
            Ok(Allowed::Nothing)
        } else {
            finder(chosen.iter()).map(Allowed::Some)
        }
    }

    /// `text` cut at the allowed names, leftmost first and the longest name at each place.
    pub fn spans<'t>(&self, text: &'t str, allowed: &Allowed) -> Vec<Span<'t>> {
        let finder = match allowed {
            Allowed::Nothing => None,
            Allowed::All => self.all.as_ref(),
            Allowed::Some(finder) => Some(finder),
        };
        let (mut spans, mut done) = (Vec::new(), 0);
        for found in finder
            .iter()
            .flat_map(|finder| finder.automaton.find_iter(text))
        {
            if found.start() > done {
                spans.push(Span::Text(&text[done..found.start()]));
            }
            if let Some(id) = finder.and_then(|finder| finder.ids.get(found.pattern().as_usize())) {
                spans.push(Span::Control(*id));
            }
            done = found.end();
        }
        if done < text.len() {
            spans.push(Span::Text(&text[done..]));
        }
        spans
    }
}

fn finder<'n>(tokens: impl Iterator<Item = (&'n u32, &'n String)>) -> Result<Finder, Error> {
    let (ids, names): (Vec<u32>, Vec<&str>) = tokens.map(|(&id, name)| (id, name.as_str())).unzip();
    let automaton = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(names)
        .map_err(|error| Error::TooLarge(format!("special tokens: {error}")))?;
    Ok(Finder { automaton, ids })
}
