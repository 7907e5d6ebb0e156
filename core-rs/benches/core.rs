//! What the core does all day, on made-up text: `make bench-core`. Figures beside other software are in `benchmarks/`.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use llama3_core::dedup::{cluster, lines, minhash::MinHash};
use llama3_core::loader::{Loader, Phase, Shard, ShardWriter, Source};
use llama3_core::paging::KvPool;
use llama3_core::text::TextBatch;
use llama3_core::text::analysis::Analysis;
use llama3_core::threads::set_num_threads;
use llama3_core::tokenizer::{Allowed, Options, Tokenizer, Trainer, Utf8Stream};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

const DOCUMENTS: usize = 400;
const WORDS: usize = 300;
const VOCABULARY: usize = 2000;

fn main() {
    set_num_threads(1); // one thread everywhere, so that figures of two machines can be compared
    divan::main();
}

/// Numbers without a pattern: SplitMix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Documents of words that follow Zipf's law roughly, with lines, numbers and a menu that is in all of them.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut draw = Draw(1);
    let words: Vec<String> = (0..4000)
        .map(|_| {
            let length = 2 + draw.below(9);
            (0..length)
                .map(|_| char::from(b'a' + draw.below(26) as u8))
                .collect()
        })
        .collect();
    let document = |_| {
        let mut text = String::from("Home | About | Contact\n");
        for at in 0..WORDS {
            let most = draw.below(words.len());
            let rank = draw.below(1 + most);
            text += &words[rank];
            text += match at % 40 {
                39 => ".\n",
                20 => ", 1984 ",
                _ => " ",
            };
        }
        text
    };
    (0..DOCUMENTS).map(document).collect()
});

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let special = vec![(VOCABULARY as u32, "<|end|>".to_string())];
    Tokenizer::new(&trained(), special).expect("a sound tokenizer")
});

fn texts() -> Vec<&'static str> {
    TEXTS.iter().map(String::as_str).collect()
}

fn size() -> BytesCount {
    BytesCount::new(TEXTS.iter().map(String::len).sum::<usize>())
}

fn trained() -> Vec<Vec<u8>> {
    let mut trainer = Trainer::default();
    trainer.feed(&texts());
    trainer.finish(VOCABULARY).expect("enough text")
}

fn ids() -> Vec<u32> {
    let rows = TOKENIZER.encode_batch(&texts(), &Allowed::Nothing, Options::default());
    rows.expect("plain text").ids
}

/// The documents in one buffer with their offsets.
static JOINED: LazyLock<(String, Vec<i64>)> = LazyLock::new(|| {
    let mut offsets = vec![0];
    for text in TEXTS.iter() {
        offsets.push(offsets[offsets.len() - 1] + text.len() as i64);
    }
    (TEXTS.concat(), offsets)
});

fn batch() -> TextBatch<'static> {
    TextBatch::new(JOINED.0.as_bytes(), &JOINED.1).expect("whole documents")
}

#[divan::bench]
fn train(bencher: Bencher) {
    LazyLock::force(&TEXTS);
    bencher.counter(size()).bench_local(trained);
}

#[divan::bench]
fn encode(bencher: Bencher) {
    let texts = texts();
    let run = || TOKENIZER.encode_batch(black_box(&texts), &Allowed::Nothing, Options::default());
    run().expect("plain text");
    bencher.counter(size()).bench_local(run);
}

#[divan::bench]
fn decode(bencher: Bencher) {
    let ids = ids();
    bencher
        .counter(ItemsCount::new(ids.len()))
        .bench_local(|| TOKENIZER.decode(black_box(&ids)));
}

/// As an answer is shown: token by token.
#[divan::bench]
fn decode_streaming(bencher: Bencher) {
    let ids = ids();
    bencher.counter(ItemsCount::new(ids.len())).bench_local(|| {
        let mut stream = Utf8Stream::default();
        ids.iter()
            .map(|&id| {
                stream
                    .push(TOKENIZER.token_bytes(id).expect("an own id"))
                    .len()
            })
            .sum::<usize>()
    });
}

#[divan::bench]
fn statistics(bencher: Bencher) {
    let batch = batch();
    bencher
        .counter(size())
        .bench_local(|| Analysis::of(black_box(batch)));
}

#[divan::bench]
fn minhash(bencher: Bencher) {
    let (batch, hashes) = (batch(), MinHash::new(5, 112));
    bencher
        .counter(size())
        .bench_local(|| hashes.band_keys(black_box(batch), 14));
}

#[divan::bench]
fn settle_near_duplicates(bencher: Bencher) {
    let (batch, hashes) = (batch(), MinHash::new(5, 112));
    let keys = hashes.band_keys(batch, 14);
    let question = cluster::Question {
        batch,
        keys: &keys,
        bands: 14,
        ngram: 5,
        threshold: 0.8,
        fixed: 0,
    };
    bencher
        .counter(size())
        .bench_local(|| cluster::settle(black_box(&question)));
}

#[divan::bench]
fn line_dedup(bencher: Bencher) {
    let (batch, bucket) = (batch(), vec![0; DOCUMENTS]);
    bencher.counter(size()).bench_local(|| {
        let mut keys = lines::line_keys(black_box(batch), &bucket);
        let frequent = lines::frequent(&mut keys, 6);
        lines::drop_lines(batch, &bucket, &frequent)
    });
}

/// A shard that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write_shard() -> Scratch {
    let path = std::env::temp_dir().join(format!("llama3-bench-{}.tok", std::process::id()));
    let _ = fs::remove_file(&path);
    let mut writer =
        ShardWriter::create(&path, VOCABULARY as u32 + 1, [7; 32]).expect("a place for it");
    for (number, text) in TEXTS.iter().enumerate() {
        let ids = TOKENIZER
            .encode(text, &Allowed::Nothing, Options::default())
            .expect("plain text");
        let starts = [0, ids.len() as u64];
        writer
            .append(&ids, &starts, &[number as u64])
            .expect("room for it");
    }
    writer.finish().expect("room for it");
    Scratch(path)
}

#[divan::bench]
fn loader_batch(bencher: Bencher) {
    let file = write_shard();
    let source =
        Source::new("texts", vec![Shard::open(&file.0).expect("own shard")]).expect("one shard");
    let phase = Phase {
        from_row: 0,
        seq_len: 512,
        weights: vec![1.0],
    };
    let loader = Loader::new(vec![source], &[phase], 7).expect("a sound plan");
    let mut start = 0;
    bencher
        .counter(ItemsCount::new(32 * 512_usize))
        .bench_local(|| {
            start += 32;
            loader.rows(start, 32, 1)
        });
}

/// 64 sequences: admitted, stepped 128 times together, ended.
#[divan::bench]
fn pager(bencher: Bencher) {
    let prompts: Vec<Vec<u32>> = (0..64)
        .map(|row| (0..100).map(|at| at / 90 * row + at).collect())
        .collect();
    let steps = 128;
    let run = || {
        let mut pool = KvPool::new(4096, 16, 64, 64, b"secret", 0.01).expect("sound sizes");
        let mut rows: Vec<i64> = vec![];
        for prompt in &prompts {
            let chain = pool.keys().chain(prompt, 16, b"", 0);
            let admitted = pool.admit(prompt, &chain, 100 + steps).expect("it fits");
            rows.push(admitted.expect("there is room").row as i64);
        }
        let (tokens, mut slots) = (vec![7; rows.len()], vec![0; rows.len()]);
        for _ in 0..steps {
            pool.step(&rows, &tokens, &mut slots).expect("running rows");
            pool.take_copies();
        }
        rows.iter()
            .for_each(|&row| pool.free(row, true).expect("a running row"));
        pool.stats()
    };
    bencher
        .counter(ItemsCount::new(64 * steps))
        .bench_local(run);
}

/// Eight answers to one prompt, sharing its blocks until they differ.
#[divan::bench]
fn pager_fork(bencher: Bencher) {
    let prompt: Vec<u32> = (0..1000).collect();
    bencher.counter(ItemsCount::new(8_usize)).bench_local(|| {
        let mut pool = KvPool::new(1024, 16, 16, 128, b"secret", 0.0).expect("sound sizes");
        let chain = pool.keys().chain(&prompt, 16, b"", 0);
        let admitted = pool.admit(&prompt, &chain, 1100).expect("it fits");
        let row = admitted.expect("there is room").row as i64;
        pool.fork(row, 7).expect("a running row")
    });
}
