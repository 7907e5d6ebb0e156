//! Text to ids: split, look the whole piece up, merge what is no token. One text or many, on one thread or all.
//! Bytes that the vocabulary lacks are left out, as Hugging Face does.

use super::added::{Allowed, Span};
use super::error::Error;
use super::merge::Merger;
use super::meta;
use super::vocab::{Key, NONE, SHORT_BYTES, hash_of, key_of};
use super::{Tokenizer, threads};
use rayon::prelude::*;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

/// How to encode beyond plain text to ids.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// Cut the text first as Meta's reference code does (see `meta`).
    pub meta_compat: bool,
    /// Control token before each text.
    pub bos: Option<u32>,
    /// Control token after each text.
    pub eos: Option<u32>,
}

/// Ids of many texts back to back; text i is `ids[row_starts[i]..row_starts[i + 1]]`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub ids: Vec<u32>,
    pub row_starts: Vec<u64>,
}

/// Work for one thread at a time, in bytes of text.
const CHUNK_BYTES: usize = 1 << 16;
/// Positions inside a piece are 32-bit.
const MAX_TEXT_BYTES: usize = u32::MAX as usize - 1;

/// What a batch comes down to: texts (normalized) and single ids in order, rows closed by `EndOfRow`.
enum Part<'t> {
    Text(Cow<'t, str>),
    Id(u32),
    EndOfRow,
}

/// The same, long texts cut where no piece reaches across.
enum Item<'t> {
    Text(&'t str),
    Id(u32),
    EndOfRow,
}

impl Tokenizer {
    /// Ids of every text. The result does not depend on the number of threads.
    pub fn encode_batch(
        &self,
        texts: &[&str],
        allowed: &Allowed,
        options: Options,
    ) -> Result<Rows, Error> {
        let parts = self.parts(texts, allowed, options)?;
        let items = self.items(&parts);
        let chunks = chunks(&items);
        if let [_] | [] = chunks[..] {
            return self.encode_items(&items);
        }
        let rows: Result<Vec<Rows>, Error> = threads::install(|| {
            chunks
                .into_par_iter()
                .map(|chunk| self.encode_items(&items[chunk]))
                .collect()
        });
        Ok(concatenate(&rows?))
    }

    /// Ids of one text.
    pub fn encode(
        &self,
        text: &str,
        allowed: &Allowed,
        options: Options,
    ) -> Result<Vec<u32>, Error> {
        Ok(self.encode_batch(&[text], allowed, options)?.ids)
    }

    /// Number of ids of one text, without keeping them.
    pub fn count(&self, text: &str, allowed: &Allowed, options: Options) -> Result<usize, Error> {
        let parts = self.parts(&[text], allowed, options)?;
        let items = self.items(&parts);
        let length = |chunk: Range<usize>| Ok(self.encode_items(&items[chunk])?.ids.len());
        let chunks = chunks(&items);
        if let [_] | [] = chunks[..] {
            return length(0..items.len());
        }
        threads::install(|| chunks.into_par_iter().map(length).sum())
    }

    /// Ids of bytes that need not be UTF-8, by tiktoken's rule: the valid prefix is encoded as text; its last piece
    /// (with the run of blank tokens it may belong to) is merged anew together with all bytes that follow.
    pub fn encode_bytes(&self, bytes: &[u8]) -> Result<Vec<u32>, Error> {
        check_length(bytes.len())?;
        let valid = match std::str::from_utf8(bytes) {
            Ok(text) => return self.encode(text, &Allowed::Nothing, Options::default()),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&bytes[..valid]);
        let (mut ids, mut stable) = (Vec::new(), 0);
        SCRATCH.with_borrow_mut(|scratch| {
            self.rule.for_each_piece(&text, |piece| {
                stable = ids.len();
                self.encode_piece(text.as_bytes(), piece, scratch, &mut ids);
            })
        })?;
        if ids.get(stable).is_some_and(|&id| self.is_blank(id)) {
            while stable > 0 && self.is_blank(ids[stable - 1]) {
                stable -= 1;
            }
        }
        let mut rest = Vec::new();
        for id in ids.drain(stable..) {
            rest.extend_from_slice(self.vocab.token(id).unwrap_or_default());
        }
        rest.extend_from_slice(&bytes[valid..]);
        SCRATCH
            .with_borrow_mut(|scratch| self.encode_piece(&rest, 0..rest.len(), scratch, &mut ids));
        Ok(ids)
    }

    fn is_blank(&self, id: u32) -> bool {
        self.vocab
            .token(id)
            .is_some_and(|token| token.iter().all(|byte| b" \n\t".contains(byte)))
    }

    fn parts<'t>(
        &self,
        texts: &[&'t str],
        allowed: &Allowed,
        options: Options,
    ) -> Result<Vec<Part<'t>>, Error> {
        let mut parts = Vec::with_capacity(2 * texts.len());
        for text in texts {
            check_length(text.len())?;
            parts.extend(options.bos.map(Part::Id));
            if options.meta_compat {
                for text in meta::parts(text) {
                    parts.extend(self.added.spans(text, allowed).into_iter().map(Part::from));
                }
            } else {
                parts.extend(self.added.spans(text, allowed).into_iter().map(Part::from));
            }
            parts.extend(options.eos.map(Part::Id));
            parts.push(Part::EndOfRow);
        }
        Ok(parts)
    }

    fn items<'t>(&self, parts: &'t [Part<'t>]) -> Vec<Item<'t>> {
        let mut items = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Text(text) => {
                    items.extend(self.rule.stretches(text, CHUNK_BYTES).map(Item::Text));
                }
                Part::Id(id) => items.push(Item::Id(*id)),
                Part::EndOfRow => items.push(Item::EndOfRow),
            }
        }
        items
    }

    fn encode_items(&self, items: &[Item<'_>]) -> Result<Rows, Error> {
        let bytes: usize = items.iter().map(Item::bytes).sum();
        let mut rows = Rows {
            ids: Vec::with_capacity(bytes / 3 + 8),
            row_starts: vec![0],
        };
        SCRATCH.with_borrow_mut(|scratch| {
            for item in items {
                match *item {
                    Item::Text(text) => self.rule.for_each_piece(text, |piece| {
                        self.encode_piece(text.as_bytes(), piece, scratch, &mut rows.ids);
                    })?,
                    Item::Id(id) => rows.ids.push(id),
                    Item::EndOfRow => rows.row_starts.push(rows.ids.len() as u64),
                }
            }
            Ok(rows)
        })
    }

    fn merge_piece(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let piece = self.vocab.known_bytes(piece);
        scratch.merger.merge(&self.vocab, &self.merges, &piece, out);
    }

    /// Appends the ids of `text[piece]`: the token with exactly these bytes if there is one (the Llama 3 vocabulary
    /// has 588 that no merging reaches; other families do not show theirs), else the merged piece.
    #[inline]
    fn encode_piece(
        &self,
        text: &[u8],
        piece: Range<usize>,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        if piece.len() > SHORT_BYTES {
            let bytes = &text[piece];
            match self.vocab.long_id(bytes) {
                Some(id) => out.push(id),
                None => self.merge_piece(bytes, scratch, out),
            }
            return;
        }
        let key = key_of(text, piece.start, piece.end);
        let hash = hash_of(key);
        if let Some(id) = self.vocab.short_id(key, hash) {
            out.push(id);
        } else if !scratch.memo.recall(self.tag, key, hash, out) {
            let first = out.len();
            self.merge_piece(&text[piece], scratch, out);
            scratch.memo.store(self.tag, key, hash, &out[first..]);
        }
    }
}

impl<'t> From<Span<'t>> for Part<'t> {
    fn from(span: Span<'t>) -> Self {
        match span {
            Span::Text(text) => Self::Text(text),
            Span::Added(id) => Self::Id(id),
        }
    }
}

impl Item<'_> {
    fn bytes(&self) -> usize {
        match self {
            Item::Text(text) => text.len(),
            _ => 1,
        }
    }
}

/// Ranges of items of about CHUNK_BYTES each.
fn chunks(items: &[Item<'_>]) -> Vec<Range<usize>> {
    let (mut ranges, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, item) in items.iter().enumerate() {
        bytes += item.bytes();
        if bytes >= CHUNK_BYTES {
            ranges.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < items.len() {
        ranges.push(start..items.len());
    }
    ranges
}

fn concatenate(parts: &[Rows]) -> Rows {
    let mut all = Rows {
        ids: Vec::with_capacity(parts.iter().map(|part| part.ids.len()).sum()),
        row_starts: Vec::with_capacity(
            1 + parts
                .iter()
                .map(|part| part.row_starts.len() - 1)
                .sum::<usize>(),
        ),
    };
    all.row_starts.push(0);
    for part in parts {
        let offset = all.ids.len() as u64;
        all.row_starts
            .extend(part.row_starts[1..].iter().map(|start| start + offset));
        all.ids.extend_from_slice(&part.ids);
    }
    all
}

fn check_length(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_TEXT_BYTES {
        return Err(Error::TooLarge(format!(
            "a text of {bytes} bytes; at most {MAX_TEXT_BYTES} are possible"
        )));
    }
    Ok(())
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a thread keeps between calls.
#[derive(Default)]
struct Scratch {
    merger: Merger,
    memo: Memo,
}

/// Merged short pieces seen lately: a direct-mapped table of one cache line per entry, so that a piece costs one
/// probe and an unlucky one merely pushes another out.
#[derive(Default)]
struct Memo {
    /// key (2 words), then 12 numbers of 32 bits: the tokenizer's tag and up to 11 ids, `NONE` after the last.
    lines: Vec<[u64; 8]>,
}

const MEMO_LINES: usize = 1 << 14;
const MEMO_IDS: usize = 11;

impl Memo {
    /// Appends the ids of the piece if they are known.
    #[inline]
    fn recall(&self, tag: u32, key: Key, hash: u64, out: &mut Vec<u32>) -> bool {
        let Some(line) = self.lines.get(line_of(hash)) else {
            return false;
        };
        if line[0] != key as u64 || line[1] != (key >> 64) as u64 || line[2] as u32 != tag {
            return false;
        }
        out.push((line[2] >> 32) as u32);
        for &word in &line[3..] {
            for id in [word as u32, (word >> 32) as u32] {
                if id == NONE {
                    return true;
                }
                out.push(id);
            }
        }
        true
    }

    #[inline]
    fn store(&mut self, tag: u32, key: Key, hash: u64, ids: &[u32]) {
        if ids.is_empty() || ids.len() > MEMO_IDS {
            return;
        }
        if self.lines.is_empty() {
            self.lines = vec![[0; 8]; MEMO_LINES];
        }
        let mut numbers = [NONE; MEMO_IDS + 1];
        numbers[0] = tag;
        numbers[1..=ids.len()].copy_from_slice(ids);
        let line = &mut self.lines[line_of(hash)];
        (line[0], line[1]) = (key as u64, (key >> 64) as u64);
        for (word, pair) in line[2..].iter_mut().zip(numbers.chunks_exact(2)) {
            *word = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        }
    }
}

/// The high bits: the vocabulary's table, probed just before, used the low ones.
#[inline]
fn line_of(hash: u64) -> usize {
    (hash >> 40) as usize & (MEMO_LINES - 1)
}
