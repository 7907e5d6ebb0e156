//! Which window of which source a row is: a pure function of (plan, seed, row).

use super::buffers::Buffers;
use super::permutation::{Permutation, mix};
use super::{LoaderError, Mixture, Result, Shard, Weights};
use std::sync::Arc;

/// A named source: its shards in order, read as one long row of tokens.
pub struct Source {
    name: String,
    key: u64,
    shards: Vec<Shard>,
    /// Token offset of each shard in the concatenation, and the total.
    offsets: Vec<u64>,
}

impl Source {
    /// Joins shards of one tokenizer.
    ///
    /// # Errors
    /// `Invalid` when there is no shard, or shards differ in vocabulary or tokenizer.
    pub fn new(name: &str, shards: Vec<Shard>) -> Result<Self> {
        let Some(first) = shards.first().map(Shard::header) else {
            return Err(LoaderError::Invalid(format!(
                "source {name:?} has no shards"
            )));
        };
        let kind = |shard: &Shard| (shard.header().vocab_size, shard.header().tokenizer);
        let wanted = (first.vocab_size, first.tokenizer);
        if let Some(other) = shards.iter().find(|shard| kind(shard) != wanted) {
            let path = other.path().display();
            return Err(LoaderError::Invalid(format!(
                "{path}: made with another tokenizer than the first shard"
            )));
        }
        let mut offsets = vec![0u64];
        for shard in &shards {
            offsets.push(offsets[offsets.len() - 1].saturating_add(shard.header().tokens));
        }
        let mut key = [0; 8];
        key.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
        Ok(Self {
            name: name.into(),
            // By name, so that adding a source to a plan reorders no other.
            key: u64::from_le_bytes(key),
            shards,
            offsets,
        })
    }

    /// Its name in the plan.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens of all shards.
    pub fn tokens(&self) -> u64 {
        self.offsets[self.offsets.len() - 1] // never empty
    }

    /// Shards in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard that holds token `at` of the concatenation, and the token's index there.
    pub(super) fn shard_at(&self, at: u64) -> (usize, u64) {
        let shard = self.offsets.partition_point(|&offset| offset <= at) - 1; // the first offset is 0
        (shard, at - self.offsets[shard])
    }
}

/// What holds from a row on: tokens per row, and the weights of all sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    pub from_row: u64,
    pub seq_len: u32,
    pub weights: Vec<f64>,
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the source in the plan.
    pub source: usize,
    /// How often the source had been read whole before.
    pub epoch: u64,
    /// Which of the source's pieces of one row's length.
    pub window: u64,
}

/// Sources, their mixture, the row lengths and the seed: everything that decides what row `i` is.
///
/// A source is cut into windows of the fewest tokens that rows of every length it gives in any phase fill (the least
/// common multiple; the longest row, where each length divides the next). A pass visits them in an order of its own, each
/// once. A phase takes whole windows of it: first the first rows of all windows that it takes from a pass, then the
/// second rows, and so on. So within a pass no token comes twice, and where the row length changes each source leaves out
/// less than one window.
pub struct Loader {
    sources: Vec<Source>,
    mixture: Mixture,
    stretches: Vec<Stretch>,
    /// Tokens per window of each source.
    window_tokens: Vec<u64>,
    seed: u64,
    buffers: Arc<Buffers>,
}

/// Rows of one length, through however many changes of the weights.
struct Stretch {
    from_row: u64,
    seq_len: u64,
    takes: Vec<Take>,
}

/// What a stretch takes of one source, whose windows are numbered through all passes.
#[derive(Clone, Copy)]
struct Take {
    /// Rows that the source gave before the stretch.
    rows_before: u64,
    /// The first window, and how many; `u64::MAX` for the last stretch, which has no end.
    first: u64,
    windows: u64,
}

impl Take {
    /// The window of the stretch's row `i` of this source, and which of its `rows` rows; a pass has `pass` windows.
    fn at(&self, i: u64, rows: u64, pass: u64) -> (u64, u64) {
        let left = pass - self.first % pass;
        let (start, i) = match i.checked_sub(left * rows) {
            None => (self.first, i),
            Some(i) => (
                self.first + left + i / (pass * rows) * pass,
                i % (pass * rows),
            ),
        };
        let end = (start - start % pass + pass).min(self.first.saturating_add(self.windows));
        let taken = end - start;
        (start + i % taken, i / taken)
    }
}

impl Loader {
    /// # Errors
    /// `Invalid` for bad weights or rows out of order, a row of no tokens, or a source with weight that is shorter than
    /// its window.
    pub fn new(sources: Vec<Source>, phases: &[Phase], seed: u64) -> Result<Self> {
        Self::with_window(sources, phases, seed, 1)
    }

    /// As `new`; above a `window` of 1, of which the windows of all sources are multiples, each phase takes windows of its
    /// own, though its rows are as long as those before. So a loader of the first phases and one of all agree on the rows
    /// before the last phase of the first, where the lengths of all divide `window`.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_window(
        sources: Vec<Source>,
        phases: &[Phase],
        seed: u64,
        window: u64,
    ) -> Result<Self> {
        let Some(first) = phases.first() else {
            return Err(LoaderError::Invalid("there is no phase".into()));
        };
        if phases.iter().any(|phase| phase.seq_len == 0) {
            return Err(LoaderError::Invalid(
                "a row needs at least one token".into(),
            ));
        }
        if let Some(pair) = phases
            .windows(2)
            .find(|pair| pair[0].from_row >= pair[1].from_row)
        {
            let rows = format!("{} and {}", pair[0].from_row, pair[1].from_row);
            return Err(LoaderError::Invalid(format!(
                "phases must begin at rising rows, not at {rows}"
            )));
        }
        let mut weights: Vec<Weights> = phases.iter().map(Phase::weights).collect();
        weights.dedup_by(|next, last| next.weights == last.weights); // what does not change goes on
        let mixture = Mixture::new(sources.len(), &weights)?;
        let window_tokens = (0..sources.len())
            .map(|index| window_of(&sources[index], index, phases, (first.seq_len, window)))
            .collect::<Result<_>>()?;
        let mut loader = Self {
            sources,
            mixture,
            stretches: Vec::new(),
            window_tokens,
            seed,
            buffers: Arc::default(),
        };
        for phase in phases {
            loader.extend(phase.from_row, u64::from(phase.seq_len), window > 1);
        }
        Ok(loader)
    }

    /// Rows of `seq_len` tokens from `from_row` on, from windows that are new where that is asked for or they are longer or
    /// shorter than those before.
    fn extend(&mut self, from_row: u64, seq_len: u64, anew: bool) {
        let takes = match self.stretches.last() {
            Some(last) if last.seq_len == seq_len && !anew => return,
            None => vec![
                Take {
                    rows_before: 0,
                    first: 0,
                    windows: u64::MAX
                };
                self.sources.len()
            ],
            Some(last) => (0..self.sources.len())
                .map(|source| {
                    let before = last.takes[source];
                    let rows_before = self.mixture.rows_of(source, from_row);
                    let rows = rows_before - before.rows_before;
                    Take {
                        rows_before,
                        first: before.first + rows.div_ceil(self.rows_of(source, last.seq_len)),
                        windows: u64::MAX,
                    }
                })
                .collect(),
        };
        if let Some(last) = self.stretches.last_mut() {
            for (take, next) in last.takes.iter_mut().zip(&takes) {
                take.windows = next.first - take.first;
            }
        }
        self.stretches.push(Stretch {
            from_row,
            seq_len,
            takes,
        });
    }

    /// Rows of `seq_len` tokens in a window of a source; at least 1, for a source without weight too.
    fn rows_of(&self, source: usize, seq_len: u64) -> u64 {
        (self.window_tokens[source] / seq_len).max(1)
    }

    /// The sources in the plan's order.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Where the memory of rows comes from.
    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// Tokens of the row `row`.
    pub fn seq_len(&self, row: u64) -> u64 {
        self.stretches[self.stretch(row)].seq_len
    }

    /// Which of the stretches a row lies in.
    pub(super) fn stretch(&self, row: u64) -> usize {
        self.stretches
            .partition_point(|stretch| stretch.from_row <= row)
            - 1 // the first starts at row 0
    }

    /// Windows of one pass of a source. The tokens after the last whole window are not read.
    pub fn windows(&self, source: usize) -> u64 {
        self.sources[source].tokens() / self.window_tokens[source]
    }

    /// Where row `row` comes from.
    pub fn place(&self, row: u64) -> Place {
        let (source, drawn) = self.mixture.pick(row);
        let stretch = &self.stretches[self.stretch(row)];
        let (take, rows) = (
            &stretch.takes[source],
            self.rows_of(source, stretch.seq_len),
        );
        let pass = self.windows(source); // at least 1: checked for every source with weight
        let (number, part) = take.at(drawn - take.rows_before, rows, pass);
        let epoch = number / pass;
        let key = mix(mix(self.seed ^ self.sources[source].key).wrapping_add(epoch));
        let window = Permutation::new(pass, key).apply(number % pass) * rows + part;
        Place {
            source,
            epoch,
            window,
        }
    }
}

impl Phase {
    fn weights(&self) -> Weights {
        Weights {
            from_row: self.from_row,
            weights: self.weights.clone(),
        }
    }

    fn uses(&self, source: usize) -> bool {
        self.weights[source] > 0.0 // as many weights as sources: the mixture is made first
    }
}

/// Tokens per window of the source at `index`: filled by its rows of every length and by rows of `also` tokens; the first
/// of `otherwise` where it is not used.
fn window_of(
    source: &Source,
    index: usize,
    phases: &[Phase],
    (otherwise, also): (u32, u64),
) -> Result<u64> {
    let lengths: Vec<u64> = phases
        .iter()
        .filter(|phase| phase.uses(index))
        .map(|phase| u64::from(phase.seq_len))
        .collect();
    if lengths.is_empty() {
        return Ok(u64::from(otherwise));
    }
    let (name, tokens) = (source.name(), source.tokens());
    let window = lengths
        .iter()
        .try_fold(also.max(1), |window, &length| multiple(window, length));
    match window {
        Some(window) if window <= tokens => Ok(window),
        window => {
            let longest = lengths.into_iter().max().unwrap_or(1);
            let what = match window {
                Some(window) if window == longest => format!("one row of {longest}"),
                Some(window) => {
                    format!("one window of {window}, which its rows of all lengths fill")
                }
                None => "the window that its rows of all lengths fill".into(),
            };
            Err(LoaderError::Invalid(format!(
                "source {name:?} has {tokens} tokens, less than {what}"
            )))
        }
    }
}

/// The least common multiple of two numbers above 0, where it is a number of 64 bits.
fn multiple(a: u64, b: u64) -> Option<u64> {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor).checked_mul(b)
}
