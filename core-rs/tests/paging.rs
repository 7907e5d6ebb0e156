//! The pool against a model that keeps whole sequences and a simulated cache memory.
//!
//! Every slot of the memory holds a digest of the sequence up to its token, as keys and values would. So a wrong
//! share, a lost copy, an eviction of a block in use or a stale hit shows as a wrong digest.

use llama3_core::paging::{Error, KvPool};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

const SALTS: [&[u8]; 2] = [b"", b"tenant"];

#[derive(Debug, Clone)]
enum Op {
    Admit {
        tokens: Vec<u32>,
        salt: usize,
        adapter: u64,
        room: usize,
    },
    Step {
        share: u8,
        token: u32,
    },
    Extend {
        pick: usize,
        drafts: usize,
        accepted: Vec<u32>,
    },
    Truncate {
        pick: usize,
        len: usize,
    },
    Fork {
        pick: usize,
        count: usize,
    },
    Free {
        pick: usize,
        cache: bool,
    },
    Pin {
        pick: usize,
    },
    Unpin {
        pick: usize,
    },
    Evict {
        count: usize,
    },
    Reset,
}

/// Few distinct tokens, so that prefixes meet often.
fn token() -> impl Strategy<Value = u32> {
    0u32..2
}

fn op() -> impl Strategy<Value = Op> {
    let tokens = prop::collection::vec(token(), 1..18);
    let accepted = prop::collection::vec(token(), 0..5);
    prop_oneof![
        6 => (tokens, 0..2usize, 0..2u64, 0..12usize)
            .prop_map(|(tokens, salt, adapter, room)| Op::Admit { tokens, salt, adapter, room }),
        10 => (any::<u8>(), token()).prop_map(|(share, token)| Op::Step { share, token }),
        2 => (any::<usize>(), 0..6usize, accepted)
            .prop_map(|(pick, drafts, accepted)| Op::Extend { pick, drafts, accepted }),
        2 => (any::<usize>(), 0..20usize).prop_map(|(pick, len)| Op::Truncate { pick, len }),
        3 => (any::<usize>(), 0..4usize).prop_map(|(pick, count)| Op::Fork { pick, count }),
        5 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(pick, cache)| Op::Free { pick, cache }),
        1 => any::<usize>().prop_map(|pick| Op::Pin { pick }),
        1 => any::<usize>().prop_map(|pick| Op::Unpin { pick }),
        1 => (0..4usize).prop_map(|count| Op::Evict { count }),
        1 => Just(Op::Reset),
    ]
}

#[derive(Debug, Clone)]
struct Sequence {
    salt: (usize, u64),
    tokens: Vec<u32>,
    limit: usize,
}

/// The pool under test, the model beside it and the simulated memory.
struct Harness {
    pool: KvPool,
    blocks: usize,
    size: usize,
    memory: Vec<u64>,
    running: BTreeMap<usize, Sequence>,
    pins: Vec<u64>,
}

impl Harness {
    fn new(blocks: usize, size: usize, seqs: usize) -> Self {
        Self {
            pool: KvPool::new(blocks, size, seqs, 8, b"secret", 0.01).unwrap(),
            blocks,
            size,
            memory: vec![0; blocks * size],
            running: BTreeMap::new(),
            pins: Vec::new(),
        }
    }

    fn digest(sequence: &Sequence, position: usize) -> u64 {
        let mut hasher = DefaultHasher::new();
        (sequence.salt, &sequence.tokens[..=position]).hash(&mut hasher);
        hasher.finish()
    }

    fn slot(&self, row: usize, position: usize) -> usize {
        let (_, width) = self.pool.shape();
        self.pool.table().get(row * width + position / self.size) * self.size + position % self.size
    }

    fn pick(&self, pick: usize) -> Option<i64> {
        let rows: Vec<_> = self.running.keys().collect();
        (!rows.is_empty()).then(|| *rows[pick % rows.len()] as i64)
    }

    /// What a forward does: copies first, all sources before any target, then the keys and values from `start` on.
    fn compute(&mut self, row: usize, start: usize) {
        let copies = self.pool.take_copies();
        let read = |block: u32| self.memory[block as usize * self.size..][..self.size].to_vec();
        let contents: Vec<_> = copies.iter().map(|&(from, _)| read(from)).collect();
        for ((_, to), content) in copies.iter().zip(contents) {
            self.memory[*to as usize * self.size..][..self.size].copy_from_slice(&content);
        }
        let sequence = &self.running[&row];
        for position in start..sequence.tokens.len() {
            let slot = self.slot(row, position);
            self.memory[slot] = Self::digest(sequence, position);
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Admit {
                tokens,
                salt,
                adapter,
                room,
            } => self.admit(tokens, (salt, adapter), room),
            Op::Step { share, token } => self.step(share, token),
            Op::Extend {
                pick,
                drafts,
                accepted,
            } => self.extend(pick, drafts, accepted),
            Op::Truncate { pick, len } => self.truncate(pick, len),
            Op::Fork { pick, count } => self.fork(pick, count),
            Op::Free { pick, cache } => {
                if let Some(row) = self.pick(pick) {
                    self.pool.free(row, cache).unwrap();
                    assert_eq!(
                        self.pool.free(row, cache),
                        Err(Error::Row(row)),
                        "a double free is an error"
                    );
                    self.running.remove(&(row as usize));
                }
            }
            Op::Pin { pick } => {
                let pin = self.pick(pick).and_then(|row| self.pool.pin(row).unwrap());
                self.pins.extend(pin);
            }
            Op::Unpin { pick } => {
                if !self.pins.is_empty() {
                    let pin = self.pins.swap_remove(pick % self.pins.len());
                    self.pool.unpin(pin).unwrap();
                    assert_eq!(self.pool.unpin(pin), Err(Error::Pin(pin)));
                }
            }
            Op::Evict { count } => {
                let before = self.pool.stats();
                let evicted = self.pool.evict(count) as u64;
                assert_eq!(evicted, before.cached.min(count as u64));
                assert_eq!(self.pool.stats().free, before.free);
            }
            Op::Reset => {
                self.pool.reset();
                self.running.clear();
                self.pins.clear();
                assert_eq!(self.pool.stats().free as usize, self.blocks - 1);
                assert_eq!(self.pool.stats().cached, 0);
            }
        }
    }

    fn admit(&mut self, tokens: Vec<u32>, salt: (usize, u64), room: usize) {
        let chain = self
            .pool
            .keys()
            .chain(&tokens, self.size, SALTS[salt.0], salt.1);
        let limit = tokens.len() + room;
        let (blocks, stats) = (self.pool.blocks_for(limit), self.pool.stats());
        let expected = self.pool.match_len(&tokens, &chain);
        match self.pool.admit(&tokens, &chain, limit) {
            Err(error) => {
                assert!(matches!(error, Error::NeverFits { .. }));
                assert!(blocks > self.pool.row_limit());
            }
            Ok(None) => {
                assert!(blocks <= self.pool.row_limit());
                assert!(
                    !self.running.is_empty() || !self.pins.is_empty(),
                    "what fits alone is admitted when alone"
                );
                assert_eq!(self.pool.stats().free, stats.free);
            }
            Ok(Some(admission)) => {
                assert_eq!(admission.cached, expected);
                assert!(admission.cached < tokens.len() && admission.cached % self.size == 0);
                self.running.insert(
                    admission.row,
                    Sequence {
                        salt,
                        tokens,
                        limit,
                    },
                );
                self.compute(admission.row, admission.cached);
            }
        }
    }

    fn step(&mut self, share: u8, token: u32) {
        let chosen = self
            .running
            .keys()
            .enumerate()
            .filter(|(at, _)| share >> (at % 8) & 1 == 1);
        let width = self.pool.shape().1 * self.size;
        let rows: Vec<i64> = chosen
            .map(|(_, &row)| row as i64)
            .filter(|row| self.running[&(*row as usize)].tokens.len() < width)
            .collect();
        let tokens: Vec<u32> = rows.iter().map(|row| token ^ (*row as u32 & 1)).collect();
        let mut slots = vec![-1; rows.len()];
        let done = self.pool.step(&rows, &tokens, &mut slots).unwrap();
        assert_eq!(
            slots[..done].iter().collect::<BTreeSet<_>>().len(),
            done,
            "slots of one step are distinct"
        );
        if let Some(row) = rows.get(done) {
            let sequence = &self.running[&(*row as usize)];
            assert!(
                sequence.tokens.len() >= sequence.limit,
                "a row within its promise is never refused"
            );
            assert_eq!(self.pool.available(), 0);
        }
        for at in 0..done {
            let row = rows[at] as usize;
            self.running.get_mut(&row).unwrap().tokens.push(tokens[at]);
            let last = self.running[&row].tokens.len() - 1;
            assert_eq!(slots[at] as usize, self.slot(row, last));
        }
        for row in &rows[..done] {
            let last = self.running[&(*row as usize)].tokens.len() - 1;
            self.compute(*row as usize, last);
        }
    }

    fn extend(&mut self, pick: usize, drafts: usize, mut accepted: Vec<u32>) {
        let Some(row) = self.pick(pick) else { return };
        let len = self.running[&(row as usize)].tokens.len();
        match self.pool.extend(row, drafts) {
            Err(error) => assert!(matches!(error, Error::RowFull { .. })),
            Ok(None) => {}
            Ok(Some(slots)) => {
                accepted.truncate(drafts);
                if drafts > 0 {
                    assert_eq!(
                        self.pool.step(&[row], &[0], &mut [0]),
                        Err(Error::Drafts(row))
                    );
                }
                let too_many = vec![0; drafts + 1];
                assert!(matches!(
                    self.pool.accept(row, &too_many),
                    Err(Error::TooManyAccepted { .. })
                ));
                let expected: Vec<_> = (len..len + drafts)
                    .map(|position| self.slot(row as usize, position))
                    .collect();
                assert!(slots.iter().map(|&slot| slot as usize).eq(expected));
                self.running
                    .get_mut(&(row as usize))
                    .unwrap()
                    .tokens
                    .extend(&accepted);
                self.compute(row as usize, len);
                self.pool.accept(row, &accepted).unwrap();
            }
        }
    }

    fn truncate(&mut self, pick: usize, len: usize) {
        let Some(row) = self.pick(pick) else { return };
        let sequence = self.running.get_mut(&(row as usize)).unwrap();
        match self.pool.truncate(row, len) {
            Ok(()) => sequence.tokens.truncate(len),
            Err(Error::Truncate { .. }) => assert!(len == 0 || len > sequence.tokens.len()),
            Err(error) => assert_eq!(error, Error::NoSpace(row)),
        }
    }

    fn fork(&mut self, pick: usize, count: usize) {
        let Some(row) = self.pick(pick) else { return };
        let (free, rows) = (self.pool.stats().free, self.running.len());
        if let Some(forks) = self.pool.fork(row, count).unwrap() {
            assert_eq!(forks.len(), count);
            assert_eq!(
                self.pool.stats().free,
                free,
                "a fork takes no block before somebody writes"
            );
            let source = self.running[&(row as usize)].clone();
            self.running
                .extend(forks.into_iter().map(|fork| (fork, source.clone())));
            assert_eq!(self.running.len(), rows + count);
        }
    }

    /// Every row reads its own history, and the counts follow from the tables alone.
    fn audit(&self) {
        assert_eq!(self.pool.check(), Vec::<String>::new());
        let mut held = BTreeSet::new();
        for (&row, sequence) in &self.running {
            assert_eq!(self.pool.seq_lens().get(row), sequence.tokens.len());
            for position in 0..sequence.tokens.len() {
                let slot = self.slot(row, position);
                held.insert(slot / self.size);
                assert_eq!(
                    self.memory[slot],
                    Self::digest(sequence, position),
                    "row {row}, position {position}"
                );
            }
        }
        let stats = self.pool.stats();
        if self.pins.is_empty() {
            assert_eq!(stats.free as usize + held.len() + 1, self.blocks);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_operations_keep_every_history_and_every_count(
        blocks in 4..24usize, size in 1..5usize, seqs in 1..7usize, ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut harness = Harness::new(blocks, size, seqs);
        for op in ops {
            harness.apply(op);
            harness.audit();
        }
        for row in harness.running.keys().copied().collect::<Vec<_>>() {
            harness.pool.free(row as i64, true).unwrap();
        }
        for pin in std::mem::take(&mut harness.pins) {
            harness.pool.unpin(pin).unwrap();
        }
        prop_assert_eq!(harness.pool.stats().free as usize, blocks - 1);
        prop_assert_eq!(harness.pool.stats().promised, 0);
        prop_assert_eq!(harness.pool.check(), Vec::<String>::new());
    }

    #[test]
    fn the_same_operations_give_the_same_block_ids(ops in prop::collection::vec(op(), 1..40), secret in any::<[u8; 4]>()) {
        let (mut one, mut two) = (Harness::new(12, 2, 4), Harness::new(12, 2, 4));
        two.pool = KvPool::new(12, 2, 4, 8, &secret, 0.01).unwrap();
        for op in ops {
            one.apply(op.clone());
            two.apply(op);
            let cells = |pool: &KvPool| (0..pool.table().len()).map(|at| pool.table().get(at)).collect::<Vec<_>>();
            prop_assert_eq!(cells(&one.pool), cells(&two.pool), "whatever the secret");
        }
    }

    #[test]
    fn forks_freed_in_any_order_restore_the_pool(
        len in 1..14usize, steps in 0..9usize, order in Just([0usize, 1, 2, 3, 4]).prop_shuffle(),
    ) {
        let mut pool = KvPool::new(64, 4, 8, 8, b"secret", 0.0).unwrap();
        let tokens: Vec<u32> = (0..len as u32).collect();
        let chain = pool.keys().chain(&tokens, 4, b"", 0);
        let row = pool.admit(&tokens, &chain, len + 9).unwrap().unwrap().row;
        let mut rows = vec![row as i64];
        rows.extend(pool.fork(row as i64, 4).unwrap().unwrap().iter().map(|&row| row as i64));
        for step in 0..steps as u32 {
            let tokens: Vec<u32> = (0..5).map(|at| 100 + step * 5 + at).collect();
            prop_assert_eq!(pool.step(&rows, &tokens, &mut [0; 5]).unwrap(), 5);
        }
        let copies = if steps > 0 && len % 4 != 0 { 4 } else { 0 };
        prop_assert_eq!(pool.take_copies().len(), copies, "the last holder writes in place");
        for at in order {
            pool.free(rows[at], true).unwrap();
            prop_assert_eq!(pool.check(), Vec::<String>::new());
        }
        prop_assert_eq!((pool.stats().free, pool.stats().promised, pool.stats().rows), (63, 0, 0));
    }
}

fn admit(pool: &mut KvPool, tokens: &[u32], max_len: usize) -> Option<(i64, usize)> {
    let chain = pool.keys().chain(tokens, pool.block_size(), b"", 0);
    pool.admit(tokens, &chain, max_len)
        .unwrap()
        .map(|admission| (admission.row as i64, admission.cached))
}

#[test]
fn tails_go_before_heads_and_the_least_recently_used_first() {
    let mut pool = KvPool::new(16, 2, 4, 8, b"secret", 0.0).unwrap();
    let (old, new): (Vec<u32>, Vec<u32>) = ((0..6).collect(), (10..16).collect());
    for tokens in [&old, &new] {
        let (row, _) = admit(&mut pool, tokens, 0).unwrap();
        pool.free(row, true).unwrap();
    }
    let found = |pool: &KvPool, tokens: &[u32]| {
        let longer: Vec<u32> = tokens.iter().copied().chain([99]).collect();
        pool.match_len(&longer, &pool.keys().chain(&longer, 2, b"", 0))
    };
    let mut seen = Vec::new();
    for _ in 0..6 {
        pool.evict(1);
        seen.push((found(&pool, &old), found(&pool, &new)));
    }
    assert_eq!(seen, [(4, 6), (2, 6), (0, 6), (0, 4), (0, 2), (0, 0)]);
}

#[test]
fn a_duplicate_takes_the_place_of_an_evicted_original() {
    let mut pool = KvPool::new(16, 2, 4, 8, b"secret", 0.0).unwrap();
    let tokens = [1, 2, 3, 4, 5];
    let (first, _) = admit(&mut pool, &[1], 8).unwrap();
    let (second, _) = admit(&mut pool, &[1], 8).unwrap();
    for &token in &tokens[1..] {
        pool.step(&[first, second], &[token, token], &mut [0, 0])
            .unwrap();
    }
    pool.free(first, true).unwrap();
    pool.evict(2);
    assert_eq!(
        pool.match_len(&tokens, &pool.keys().chain(&tokens, 2, b"", 0)),
        0
    );
    pool.free(second, true).unwrap();
    assert_eq!(
        pool.match_len(&tokens, &pool.keys().chain(&tokens, 2, b"", 0)),
        4
    );
    assert_eq!(pool.check(), Vec::<String>::new());
}

#[test]
fn a_copy_into_a_freed_block_is_dropped() {
    let mut pool = KvPool::new(16, 2, 4, 4, b"secret", 0.0).unwrap();
    let (row, _) = admit(&mut pool, &[1], 4).unwrap();
    let forks = pool.fork(row, 2).unwrap().unwrap();
    for fork in forks {
        pool.step(&[fork as i64], &[2], &mut [0]).unwrap();
        pool.free(fork as i64, false).unwrap();
    }
    assert_eq!(pool.take_copies(), []);
    let fork = pool.fork(row, 1).unwrap().unwrap()[0] as i64;
    pool.step(&[fork], &[2], &mut [0]).unwrap();
    assert_eq!(pool.take_copies().len(), 1);
    assert_eq!(pool.take_copies(), []);
}

#[test]
fn bad_calls_are_refused_and_change_nothing() {
    let mut pool = KvPool::new(4, 2, 2, 4, b"secret", 0.0).unwrap();
    let chain = pool.keys().chain(&[], 2, b"", 0);
    assert_eq!(pool.admit(&[], &chain, 0), Err(Error::NoTokens));
    let chain = pool.keys().chain(&[1], 2, b"", 0);
    assert_eq!(
        pool.admit(&[1], &chain, 7),
        Err(Error::NeverFits {
            tokens: 7,
            blocks: 4,
            limit: 3
        })
    );
    let (row, _) = admit(&mut pool, &[1, 2, 3], 0).unwrap();
    let before = pool.stats();
    assert_eq!(
        pool.step(&[row, row], &[4, 5], &mut [0, 0]),
        Err(Error::Repeated(row))
    );
    assert_eq!(
        pool.step(&[row, 7], &[4, 5], &mut [0, 0]),
        Err(Error::Row(7))
    );
    assert_eq!(
        pool.step(&[row], &[4, 5], &mut [0]),
        Err(Error::Lengths(1, 2, 1))
    );
    assert_eq!(pool.free(-1, true), Err(Error::Row(-1)));
    assert_eq!(pool.unpin(3), Err(Error::Pin(3)));
    assert!(matches!(pool.truncate(row, 4), Err(Error::Truncate { .. })));
    assert_eq!((pool.stats(), pool.seq_lens().get(0)), (before, 3));
    for sizes in [
        (1, 2, 2, 2),
        (4, 0, 2, 2),
        (4, 2, 0, 2),
        (4, 2, 2, 0),
        (usize::MAX, 2, 2, 2),
        (4, 2, usize::MAX, 2),
    ] {
        let (blocks, size, seqs, width) = sizes;
        assert!(matches!(
            KvPool::new(blocks, size, seqs, width, b"", 0.0),
            Err(Error::Config(_))
        ));
    }
}

#[test]
fn memory_of_other_salts_and_adapters_is_never_found() {
    let mut pool = KvPool::new(16, 2, 4, 4, b"secret", 0.0).unwrap();
    let tokens = [1, 2, 3];
    let mut cached = HashMap::new();
    for (salt, adapter) in [(&b""[..], 0), (b"a", 0), (b"", 1), (b"a", 0)] {
        let chain = pool.keys().chain(&tokens, 2, salt, adapter);
        let admission = pool.admit(&tokens, &chain, 0).unwrap().unwrap();
        cached.insert((salt, adapter), admission.cached);
    }
    assert_eq!(
        cached,
        HashMap::from([((&b""[..], 0), 0), ((&b"a"[..], 0), 2), ((&b""[..], 1), 0)])
    );
}
