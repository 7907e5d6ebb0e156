//! Gathers rows: copies windows out of the shards and finds where documents start inside them.

use super::buffers::Tokens;
use super::{Loader, LoaderError, Place, Result, View};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

/// `n` rows of `seq_len` tokens, and their cut into documents. Rows begin a segment even in mid-document.
#[derive(Debug)]
pub struct Rows {
    /// `n x seq_len`, row-major; each below 2^31.
    pub tokens: Tokens,
    /// Per row: 0, each document start inside the row, `seq_len`. Row `r`'s begin at `splits[r] + r`.
    pub bounds: Vec<i32>,
    /// Per segment: first 8 bytes of its document's identity. Row `r`'s are `splits[r]..splits[r + 1]`.
    pub doc_ids: Vec<u64>,
    /// `n + 1` offsets into `doc_ids`.
    pub splits: Vec<i64>,
    /// Per row: index of its source in the plan.
    pub source_ids: Vec<i32>,
    /// Tokens per row.
    pub seq_len: u64,
}

/// Tokens of one request: 32 GiB.
const MOST_TOKENS: usize = 1 << 33;

/// Rows of which the system is told before they are read.
const AHEAD: usize = 16;

/// Shards whose length a request remembers to have checked.
const RECENT: usize = 2 * AHEAD;

impl Loader {
    /// The rows `start`, `start + stride`, ..., `count` of them, all of one length.
    ///
    /// # Errors
    /// `Invalid` when the request does not fit into memory or 64 bits, or the row length changes between the first row
    /// and the last; `Damaged` naming shard and offset.
    pub fn rows(&self, start: u64, count: usize, stride: u64) -> Result<Rows> {
        self.rows_unless(start, count, stride, &AtomicBool::new(false))
    }

    /// As `rows`; given up between two rows when `stop` is set, with an error that nobody waits for.
    pub(super) fn rows_unless(
        &self,
        start: u64,
        count: usize,
        stride: u64,
        stop: &AtomicBool,
    ) -> Result<Rows> {
        let too_many = || {
            LoaderError::Invalid(format!(
                "{count} rows from {start} by {stride} are too many"
            ))
        };
        let seq_len = usize::try_from(self.seq_len(start)).map_err(|_| too_many())?;
        let total = count.checked_mul(seq_len).ok_or_else(too_many)?;
        if total > MOST_TOKENS {
            return Err(too_many()); // memory that is promised and not there ends the process, not the request
        }
        let span = stride.checked_mul(count as u64).ok_or_else(too_many)?;
        start.checked_add(span).ok_or_else(too_many)?;
        let last = start + span.saturating_sub(stride);
        if self.stretch(start) != self.stretch(last) {
            return Err(LoaderError::Invalid(format!(
                "the row length changes between row {start} and row {last}"
            )));
        }
        let mut rows = Rows {
            tokens: self.buffers().take(total).map_err(|_| too_many())?,
            bounds: Vec::with_capacity(2 * count),
            doc_ids: Vec::with_capacity(2 * count),
            splits: Vec::with_capacity(count + 1),
            source_ids: Vec::with_capacity(count),
            seq_len: seq_len as u64,
        };
        rows.splits.push(0);
        let mut views = Views::default();
        let mut places = VecDeque::with_capacity(AHEAD);
        let mut coming = (0..count as u64).map(|r| self.place(start + stride * r));
        loop {
            for place in coming.by_ref().take(AHEAD - places.len()) {
                self.expect(place, rows.seq_len, &mut views)?;
                places.push_back(place);
            }
            let Some(place) = places.pop_front() else {
                break;
            };
            if stop.load(Ordering::Relaxed) {
                return Err(LoaderError::Invalid("the stream was ended".into()));
            }
            if let Some(&next) = places.front() {
                let source = &self.sources()[next.source];
                let (index, from) = source.shard_at(next.window * rows.seq_len);
                views.of(self, next.source, index)?.fetch(from);
            }
            self.gather(place, &mut rows, &mut views)?;
            rows.source_ids.push(place.source as i32); // at most 4096 sources
            rows.splits.push(rows.doc_ids.len() as i64);
        }
        Ok(rows)
    }

    /// Tells the system which part of the window's first shard is read soon.
    fn expect<'a>(&'a self, place: Place, seq_len: u64, views: &mut Views<'a>) -> Result<()> {
        let source = &self.sources()[place.source];
        let (index, from) = source.shard_at(place.window * seq_len);
        let count = seq_len.min(source.shards()[index].header().tokens - from);
        views.of(self, place.source, index)?.expect(from, count);
        Ok(())
    }

    /// Appends one window, its bounds and document ids.
    fn gather<'a>(&'a self, place: Place, rows: &mut Rows, views: &mut Views<'a>) -> Result<()> {
        let source = &self.sources()[place.source];
        let (mut index, mut from) = source.shard_at(place.window * rows.seq_len);
        let mut filled = 0;
        while filled < rows.seq_len {
            // A window lies inside the source, so there is a next shard as long as it is not full.
            let shard = &source.shards()[index];
            let to = shard.header().tokens.min(from + rows.seq_len - filled);
            let content = views.of(self, place.source, index)?;
            content.read(from..to, &mut rows.tokens)?;
            let mut document = content.document_at(from)?;
            let mut at = from;
            while at < to {
                rows.bounds.push((filled + at - from) as i32); // below seq_len, which fits
                rows.doc_ids.push(content.doc_id(document)?);
                let end = content.doc_end(document)?;
                if end <= at {
                    return Err(LoaderError::damaged(
                        shard.path(),
                        0,
                        "document ends do not rise",
                    ));
                }
                at = end;
                document += 1;
            }
            filled += to - from;
            (index, from) = (index + 1, 0);
        }
        rows.bounds.push(rows.seq_len as i32);
        Ok(())
    }
}

/// The shards that a request has met last: what asks the file system for their length need not ask again.
#[derive(Default)]
struct Views<'a> {
    met: Vec<((usize, usize), View<'a>)>,
    next: usize,
}

impl<'a> Views<'a> {
    /// The content of the shard `index` of a source.
    fn of(&mut self, loader: &'a Loader, source: usize, index: usize) -> Result<View<'a>> {
        let key = (source, index);
        if let Some((_, view)) = self.met.iter().find(|(met, _)| *met == key) {
            return Ok(*view);
        }
        let view = loader.sources()[source].shards()[index].view()?;
        if self.met.len() < RECENT {
            self.met.push((key, view));
        } else {
            self.met[self.next] = (key, view);
            self.next = (self.next + 1) % RECENT;
        }
        Ok(view)
    }
}
