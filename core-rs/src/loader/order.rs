//! Which window of which source a row is: a pure function of (plan, seed, row).

use super::permutation::{Permutation, mix};
use super::{LoaderError, Mixture, Result, Shard, Weights};

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

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the source in the plan.
    pub source: usize,
    /// How often the source had been read whole before.
    pub epoch: u64,
    /// Which of the source's windows of `seq_len` tokens.
    pub window: u64,
}

/// Sources, their mixture, the row length and the seed: everything that decides what row `i` is.
pub struct Loader {
    sources: Vec<Source>,
    mixture: Mixture,
    seq_len: u64,
    seed: u64,
}

impl Loader {
    /// # Errors
    /// `Invalid` for a bad schedule, a row of no tokens, or a source with weight that is shorter than one row.
    pub fn new(
        sources: Vec<Source>,
        schedule: &[Weights],
        seq_len: u32,
        seed: u64,
    ) -> Result<Self> {
        if seq_len == 0 {
            return Err(LoaderError::Invalid(
                "a row needs at least one token".into(),
            ));
        }
        let mixture = Mixture::new(sources.len(), schedule)?;
        for (index, source) in sources.iter().enumerate() {
            let used = schedule.iter().any(|change| {
                change
                    .weights
                    .get(index)
                    .is_some_and(|&weight| weight > 0.0)
            });
            if used && source.tokens() < u64::from(seq_len) {
                let (name, tokens) = (source.name(), source.tokens());
                return Err(LoaderError::Invalid(format!(
                    "source {name:?} has {tokens} tokens, less than one row of {seq_len}"
                )));
            }
        }
        Ok(Self {
            sources,
            mixture,
            seq_len: u64::from(seq_len),
            seed,
        })
    }

    /// The sources in the plan's order.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Tokens per row.
    pub fn seq_len(&self) -> u64 {
        self.seq_len
    }

    /// Whole windows in a source: rows of one epoch. The tokens after the last whole window are not read.
    pub fn windows(&self, source: usize) -> u64 {
        self.sources[source].tokens() / self.seq_len
    }

    /// Where row `row` comes from.
    pub fn place(&self, row: u64) -> Place {
        let (source, drawn) = self.mixture.pick(row);
        let windows = self.windows(source); // at least 1: checked for every source with weight
        let epoch = drawn / windows;
        let key = mix(mix(self.seed ^ self.sources[source].key).wrapping_add(epoch));
        let window = Permutation::new(windows, key).apply(drawn % windows);
        Place {
            source,
            epoch,
            window,
        }
    }
}
