//! The loader against brute force: every row, every epoch, every damaged byte.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static FOLDERS: AtomicU64 = AtomicU64::new(0);

/// A directory that goes when the test does.
pub(super) struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let n = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("llama3-loader-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Documents of one shard: (identity, tokens).
pub(super) type Documents = Vec<(u64, Vec<u32>)>;

pub(super) fn write(
    path: &Path,
    vocab_size: u32,
    documents: &Documents,
    block_bytes: u64,
) -> Header {
    let mut writer = ShardWriter::with_block_bytes(path, vocab_size, [7; 32], block_bytes).unwrap();
    for (id, tokens) in documents {
        writer
            .append(tokens, &[0, tokens.len() as u64], &[*id])
            .unwrap();
    }
    writer.finish().unwrap()
}

pub(super) fn documents(vocab_size: u32) -> impl Strategy<Value = Documents> {
    let tokens = prop::collection::vec(0..vocab_size, 1..40);
    prop::collection::vec((any::<u64>(), tokens), 1..12)
}

/// What row-making must equal, written as plainly as possible.
fn brute_row(
    loader: &Loader,
    shards: &[Vec<Documents>],
    seq_len: usize,
    row: u64,
) -> (Vec<u32>, Vec<i32>, Vec<u64>) {
    let place = loader.place(row);
    let mut stream = Vec::new(); // (token, document identity, whether it starts a document)
    for shard in &shards[place.source] {
        for (id, tokens) in shard {
            stream.extend(
                tokens
                    .iter()
                    .enumerate()
                    .map(|(i, &token)| (token, *id, i == 0)),
            );
        }
    }
    let window = &stream[place.window as usize * seq_len..][..seq_len];
    let starts: Vec<usize> = (0..seq_len).filter(|&i| i == 0 || window[i].2).collect();
    let mut bounds: Vec<i32> = starts.iter().map(|&start| start as i32).collect();
    bounds.push(seq_len as i32);
    let ids = starts.iter().map(|&start| window[start].1).collect();
    (window.iter().map(|token| token.0).collect(), bounds, ids)
}

fn always(seq_len: u32, weights: Vec<f64>) -> Vec<Phase> {
    vec![Phase {
        from_row: 0,
        seq_len,
        weights,
    }]
}

fn build(
    folder: &Folder,
    shards: &[Vec<Documents>],
    vocab_size: u32,
    seq_len: u32,
    seed: u64,
) -> Option<Loader> {
    let weights = (1..=shards.len()).map(|weight| weight as f64).collect();
    build_phases(folder, shards, vocab_size, &always(seq_len, weights), seed)
}

fn build_phases(
    folder: &Folder,
    shards: &[Vec<Documents>],
    vocab_size: u32,
    phases: &[Phase],
    seed: u64,
) -> Option<Loader> {
    let sources = shards.iter().enumerate().map(|(s, shards)| {
        let open = |(n, documents): (usize, &Documents)| {
            let path = folder.0.join(format!("{s}-{n}.tok"));
            write(&path, vocab_size, documents, 128);
            Shard::open(&path).unwrap()
        };
        Source::new(
            &format!("source {s}"),
            shards.iter().enumerate().map(open).collect(),
        )
        .unwrap()
    });
    Loader::new(sources.collect(), phases, seed).ok()
}

fn plans() -> impl Strategy<Value = (u32, Vec<Vec<Documents>>)> {
    prop_oneof![Just(300u32), Just(128_256)].prop_flat_map(|vocab_size| {
        let shards = prop::collection::vec(documents(vocab_size), 1..3);
        (Just(vocab_size), prop::collection::vec(shards, 1..4))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_equal_brute_force((vocab_size, shards) in plans(), seq_len in 1u32..30, seed: u64) {
        let folder = Folder::new();
        let Some(loader) = build(&folder, &shards, vocab_size, seq_len, seed) else {
            return Ok(()); // a source shorter than a row
        };
        let rows = loader.rows(3, 40, 2).unwrap();
        for r in 0..40 {
            let (tokens, bounds, ids) = brute_row(&loader, &shards, seq_len as usize, 3 + 2 * r as u64);
            let (from, to) = (rows.splits[r] as usize, rows.splits[r + 1] as usize);
            let seq_len = seq_len as usize;
            prop_assert_eq!(&rows.tokens[r * seq_len..(r + 1) * seq_len], &tokens[..]);
            prop_assert_eq!(&rows.bounds[from + r..to + r + 1], &bounds[..]);
            prop_assert_eq!(&rows.doc_ids[from..to], &ids[..]);
        }
    }

    #[test]
    fn each_window_comes_exactly_once_per_epoch((vocab_size, shards) in plans(), seq_len in 1u32..12, seed: u64) {
        let folder = Folder::new();
        let Some(loader) = build(&folder, &shards, vocab_size, seq_len, seed) else { return Ok(()) };
        let mut epochs: Vec<Vec<HashSet<u64>>> = vec![Vec::new(); shards.len()];
        for row in 0..2000 {
            let place = loader.place(row);
            let epochs = &mut epochs[place.source];
            if epochs.len() as u64 == place.epoch {
                epochs.push(HashSet::new());
            }
            prop_assert_eq!(epochs.len() as u64, place.epoch + 1, "an epoch starts when the one before is whole");
            prop_assert!(place.window < loader.windows(place.source));
            prop_assert!(epochs[place.epoch as usize].insert(place.window), "twice in an epoch");
        }
        for (source, epochs) in epochs.iter().enumerate() {
            for whole in &epochs[..epochs.len().saturating_sub(1)] {
                prop_assert_eq!(whole.len() as u64, loader.windows(source));
            }
        }
    }

    #[test]
    fn phases_read_no_token_twice_in_a_pass_and_leave_out_less_than_a_window(
        (vocab_size, shards) in plans(), seed: u64,
        cuts in prop::collection::vec((1u64..150, 1u32..7, 0.0f64..1.0), 1..6),
    ) {
        let folder = Folder::new();
        let mut phases: Vec<Phase> = Vec::new();
        let mut from_row = 0;
        for (rows, seq_len, share) in cuts {
            let mut weights = vec![1.0; shards.len()];
            weights[0] = if shards.len() > 1 && share < 0.2 { 0.0 } else { share };
            phases.push(Phase { from_row, seq_len, weights });
            from_row += rows;
        }
        let Some(loader) = build_phases(&folder, &shards, vocab_size, &phases, seed) else { return Ok(()) };
        let mut read: Vec<Vec<HashSet<u64>>> = vec![Vec::new(); shards.len()];
        for row in 0..from_row + 1000 {
            let phase = phases.iter().rev().find(|phase| phase.from_row <= row).unwrap();
            let place = loader.place(row);
            prop_assert_eq!(loader.seq_len(row), u64::from(phase.seq_len));
            prop_assert!(phase.weights[place.source] > 0.0);
            let passes = &mut read[place.source];
            while passes.len() as u64 <= place.epoch {
                passes.push(HashSet::new());
            }
            prop_assert_eq!(passes.len() as u64, place.epoch + 1, "passes follow each other");
            for token in place.window * loader.seq_len(row)..(place.window + 1) * loader.seq_len(row) {
                prop_assert!(token < loader.sources()[place.source].tokens());
                prop_assert!(passes[place.epoch as usize].insert(token), "twice in a pass");
            }
        }
        let changes = phases.windows(2).filter(|pair| pair[0].seq_len != pair[1].seq_len).count() as u64;
        for (source, passes) in read.iter().enumerate() {
            let used = phases.iter().filter(|phase| phase.weights[source] > 0.0);
            let lengths: Vec<u64> = used.map(|phase| u64::from(phase.seq_len)).collect();
            if lengths.is_empty() { continue }
            let window = (1u64..).find(|window| lengths.iter().all(|length| window % length == 0)).unwrap();
            let whole = loader.windows(source) * window;
            prop_assert_eq!(loader.windows(source), loader.sources()[source].tokens() / window);
            let ended = &passes[..passes.len().saturating_sub(1)];
            let missing: u64 = ended.iter().map(|tokens| whole - tokens.len() as u64).sum();
            prop_assert!(missing <= changes * (window - 1), "{missing} left out by {changes} changes");
        }
    }

    #[test]
    fn a_phase_like_the_one_before_changes_nothing((vocab_size, shards) in plans(), seed: u64, cut in 1u64..300) {
        let weights: Vec<f64> = (1..=shards.len()).map(|weight| weight as f64).collect();
        let mut phases = always(4, weights);
        let (whole, folder) = (Folder::new(), Folder::new());
        let Some(one) = build_phases(&whole, &shards, vocab_size, &phases, seed) else { return Ok(()) };
        phases.push(Phase { from_row: cut, ..phases[0].clone() });
        let two = build_phases(&folder, &shards, vocab_size, &phases, seed).unwrap();
        for row in 0..600 {
            prop_assert_eq!(one.place(row), two.place(row));
        }
    }

    #[test]
    fn every_world_size_and_thread_count_reads_the_same(
        (vocab_size, shards) in plans(), batch in 4u64..9, start in 0u64..50, threads in 1usize..4,
    ) {
        let folder = Folder::new();
        let Some(loader) = build(&folder, &shards, vocab_size, 4, 11) else { return Ok(()) };
        let loader = Arc::new(loader);
        let whole = loader.rows(start, 3 * batch as usize, 1).unwrap();
        for world in 1..=4u64 {
            for rank in 0..world {
                let batches = Batches { start, batch, rank, world };
                let stream = Prefetcher::new(Arc::clone(&loader), batches, 2, threads).unwrap();
                for step in 0..3u64 {
                    let rows = stream.next_batch().unwrap();
                    let mine: Vec<u64> = (rank..batch).step_by(world as usize).map(|r| step * batch + r).collect();
                    let expected: Vec<u32> =
                        mine.iter().flat_map(|&r| whole.tokens[4 * r as usize..][..4].to_vec()).collect();
                    prop_assert_eq!(&*rows.tokens, &expected);
                    prop_assert_eq!(rows.source_ids.len(), mine.len());
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_found_and_placed(documents in documents(300), at: prop::sample::Index, bit in 0u8..8) {
        let folder = Folder::new();
        let path = folder.0.join("a.tok");
        write(&path, 300, &documents, 64);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        let found = Shard::open(&path).and_then(|shard| shard.verify());
        let Err(LoaderError::Damaged { path: named, offset, .. }) = found else {
            panic!("byte {at} of {}: {found:?}", bytes.len());
        };
        prop_assert_eq!(named, path);
        prop_assert!(offset <= at as u64);
    }

    #[test]
    fn truncation_and_growth_are_found(documents in documents(300), cut: prop::sample::Index, grown: bool) {
        let folder = Folder::new();
        let path = folder.0.join("a.tok");
        write(&path, 300, &documents, 64);
        let mut bytes = fs::read(&path).unwrap();
        bytes.resize(if grown { bytes.len() + 1 + cut.index(100) } else { cut.index(bytes.len()) }, 0);
        fs::write(&path, &bytes).unwrap();
        prop_assert!(Shard::open(&path).is_err());
    }

    #[test]
    fn bytes_that_are_no_shard_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..5000), magic: bool) {
        let folder = Folder::new();
        let path = folder.0.join("a.tok");
        if magic && bytes.len() > 8 {
            bytes[..8].copy_from_slice(b"L3TOKENS");
        }
        fs::write(&path, &bytes).unwrap();
        prop_assert!(Shard::open(&path).is_err());
    }
}

#[test]
fn a_shard_with_valid_hashes_but_foreign_ids_is_refused() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    write(&path, 300, &vec![(1, vec![299, 5])], 64);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..4098].copy_from_slice(&(300u16 | 5 << 9).to_le_bytes()); // 9 bits a token
    // Forge: new block hash, root, header hash, footer.
    let (mut header, layout) = Header::decode(&fs::read(&path).unwrap(), &path).unwrap();
    let hashes = layout.hashes as usize;
    let block = blake3::hash(&bytes[4096..4160]);
    bytes[hashes..hashes + 32].copy_from_slice(block.as_bytes());
    let blocks = (hashes - 4096).div_ceil(64);
    header.root = *blake3::hash(&bytes[hashes..hashes + 32 * blocks]).as_bytes();
    let page = header.encode(&layout);
    let footer = Header::footer(&page, &layout);
    bytes[..4096].copy_from_slice(&page);
    bytes[layout.footer as usize..].copy_from_slice(&footer);
    fs::write(&path, &bytes).unwrap();
    let error = Shard::open(&path)
        .unwrap()
        .verify()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("token 300 is outside the vocabulary of 300"),
        "{error}"
    );
}

/// A file of version 1 with one document.
fn words(path: &Path, vocab_size: u32, bits: u32, tokens: &[u32]) {
    let count = tokens.len() as u64;
    let header = Header {
        version: 1,
        bits,
        vocab_size,
        tokens: count,
        documents: 1,
        block_bytes: BLOCK_BYTES,
        tokenizer: [7; 32],
        root: [0; 32],
    };
    let layout = header.layout().unwrap();
    let mut body: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.to_le_bytes()[..bits as usize / 8].to_vec())
        .collect();
    body.resize(layout.doc_ends as usize - 4096, 0);
    body.extend(count.to_le_bytes());
    body.resize(layout.doc_ids as usize - 4096, 0);
    body.extend(9u64.to_le_bytes());
    body.resize(layout.hashes as usize - 4096, 0);
    let table = blake3::hash(&body);
    let root = *blake3::hash(table.as_bytes()).as_bytes();
    let page = Header { root, ..header }.encode(&layout);
    let footer = Header::footer(&page, &layout);
    let mut hashes = table.as_bytes().to_vec();
    hashes.resize((layout.footer - layout.hashes) as usize, 0);
    fs::write(path, [page, body, hashes, footer].concat()).unwrap();
}

#[test]
fn a_shard_of_whole_words_is_still_read() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    for (vocab_size, bits, other) in [(300, 16, 32), (1 << 16, 16, 32), (128_256, 32, 16)] {
        let tokens: Vec<u32> = (0..100).map(|i| i * 7919 % vocab_size).collect();
        words(&path, vocab_size, bits, &tokens);
        let shard = Shard::open(&path).unwrap();
        shard.verify().unwrap();
        let mut found = vec![];
        shard.view().unwrap().read(3..100, &mut found).unwrap();
        assert_eq!(found, tokens[3..]);
        words(&path, vocab_size, other, &tokens);
        assert!(Shard::open(&path).is_err(), "{vocab_size} in {other} bits");
    }
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    let good = write(&path, 300, &vec![(1, vec![1, 2, 3])], 64);
    let bytes = fs::read(&path).unwrap();
    let hostile = [
        Header {
            tokens: u64::MAX,
            ..good.clone()
        },
        Header {
            documents: u64::MAX / 4,
            ..good.clone()
        },
        Header {
            documents: 0,
            ..good.clone()
        },
        Header {
            block_bytes: 0,
            ..good.clone()
        },
        Header {
            block_bytes: 96,
            ..good.clone()
        },
        Header {
            bits: 3,
            ..good.clone()
        },
    ];
    let layout = good.layout().unwrap();
    for header in hostile {
        let mut bytes = bytes.clone();
        bytes[..4096].copy_from_slice(&header.encode(&layout));
        fs::write(&path, &bytes).unwrap();
        assert!(Shard::open(&path).is_err(), "{header:?}");
    }
}

#[test]
fn the_writer_refuses_and_leaves_nothing() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    let mut writer = ShardWriter::create(&path, 10, [0; 32]).unwrap();
    for (ids, starts, doc_ids) in [
        (vec![1, 10], vec![0, 2], vec![1]),   // outside the vocabulary
        (vec![1, 2], vec![0, 1], vec![1]),    // does not span
        (vec![1, 2], vec![0, 2], vec![1, 2]), // identities do not fit
        (vec![1, 2], vec![0, 2, 1, 2], vec![1; 3]), // falling
        (vec![1, 2], vec![0, 0, 2], vec![1; 2]), // an empty document
    ] {
        assert!(
            writer.append(&ids, &starts, &doc_ids).is_err(),
            "{starts:?}"
        );
    }
    assert_eq!((writer.tokens(), writer.documents()), (0, 0));
    assert!(writer.finish().is_err());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn documents_are_found_again() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    let mut writer = ShardWriter::create(&path, 128_256, [0; 32]).unwrap();
    writer.append(&[9, 1, 2], &[0, 1, 3], &[7, 8]).unwrap();
    writer.append(&[3, 4], &[0, 2], &[9]).unwrap();
    writer.finish().unwrap();
    let shard = Shard::open(&path).unwrap();
    let content = shard.view().unwrap();
    let mut tokens = Vec::new();
    content.read(0..5, &mut tokens).unwrap();
    assert_eq!(tokens, [9, 1, 2, 3, 4]);
    let found: Vec<u64> = (0..5).map(|at| content.document_at(at).unwrap()).collect();
    assert_eq!(found, [0, 1, 1, 2, 2]);
    assert_eq!(
        (content.doc_id(2).unwrap(), content.doc_end(1).unwrap()),
        (9, 3)
    );
    assert!(content.document_at(5).is_err());
    assert!(content.doc_id(3).is_err());
    assert!(content.read(4..6, &mut tokens).is_err());
}

#[test]
fn a_plan_that_cannot_be_read_is_refused() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    write(&path, 300, &vec![(1, vec![1, 2, 3])], 64);
    let source = || Source::new("a", vec![Shard::open(&path).unwrap()]).unwrap();
    let rows_of = |seq_len| always(seq_len, vec![1.0]);
    assert!(Loader::new(vec![source()], &rows_of(0), 1).is_err());
    assert!(Loader::new(vec![source()], &rows_of(4), 1).is_err());
    assert!(Loader::new(vec![source()], &[], 1).is_err());
    assert!(Loader::new(vec![], &rows_of(1), 1).is_err());
    let then = |from_row, seq_len| Phase {
        from_row,
        ..rows_of(seq_len).remove(0)
    };
    assert!(Loader::new(vec![source()], &[then(0, 1), then(0, 1)], 1).is_err());
    assert!(Loader::new(vec![source()], &[then(0, 2), then(5, 3)], 1).is_err());
    let changing = Loader::new(vec![source()], &[then(0, 1), then(5, 3)], 1).unwrap();
    assert_eq!(changing.rows(3, 2, 1).unwrap().seq_len, 1);
    assert!(changing.rows(3, 3, 1).is_err(), "one array has one length");
    assert_eq!(*changing.rows(5, 1, 1).unwrap().tokens, [1, 2, 3]);
    assert!(Source::new("none", vec![]).is_err());
    let other = folder.0.join("b.tok");
    write(&other, 299, &vec![(1, vec![1, 2, 3])], 64);
    let mixed = vec![Shard::open(&path).unwrap(), Shard::open(&other).unwrap()];
    assert!(Source::new("mixed", mixed).is_err());
    let loader = Arc::new(Loader::new(vec![source()], &rows_of(3), 1).unwrap());
    assert!(loader.rows(u64::MAX, 2, 1).is_err());
    assert!(loader.rows(0, usize::MAX, 1).is_err());
    assert!(loader.rows(0, 2, u64::MAX).is_err());
    let bad = Batches {
        start: 0,
        batch: 2,
        rank: 0,
        world: 3,
    };
    assert!(Prefetcher::new(loader, bad, 1, 1).is_err());
}

#[test]
fn damage_met_while_streaming_is_an_error_of_that_batch() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    write(&path, 300, &vec![(1, vec![1; 64])], 64);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 + 64] ^= 1; // second block: tokens 57..64 of 9 bits
    fs::write(&path, &bytes).unwrap();
    let source = Source::new("a", vec![Shard::open(&path).unwrap()]).unwrap();
    let loader = Arc::new(Loader::new(vec![source], &always(32, vec![1.0]), 1).unwrap());
    let batches = Batches {
        start: 0,
        batch: 1,
        rank: 0,
        world: 1,
    };
    let stream = Prefetcher::new(loader, batches, 2, 2).unwrap();
    // Two windows, one of them bad, two epochs: the good one still comes.
    let results: Vec<_> = (0..4).map(|_| stream.next_batch()).collect();
    let errors: Vec<String> = results
        .iter()
        .filter_map(|rows| rows.as_ref().err().map(ToString::to_string))
        .collect();
    assert_eq!(errors.len(), 2);
    assert!(
        errors[0].contains("a.tok") && errors[0].contains("byte 4160"),
        "{}",
        errors[0]
    );
}

#[test]
fn a_stream_that_is_left_makes_no_further_row() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    write(&path, 300, &vec![(1, vec![1; 64])], 64);
    let source = Source::new("a", vec![Shard::open(&path).unwrap()]).unwrap();
    let loader = Loader::new(vec![source], &always(1, vec![1.0]), 1).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(true);
    // A thousand million rows would be a long time to wait.
    let left = loader.rows_unless(0, 1_000_000_000, 1, &stop);
    assert!(left.is_err());
}

#[test]
fn finding_a_document_touches_few_blocks() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    let lengths = |n: u64| 1 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 60;
    let documents: Documents = (0..20_000)
        .map(|n| (n, vec![5; lengths(n) as usize]))
        .collect();
    let header = write(&path, 300, &documents, 64); // 8 ends of documents to a block
    let mut ends = vec![];
    for (_, tokens) in &documents {
        ends.push(ends.last().copied().unwrap_or(0) + tokens.len() as u64);
    }
    let mut touched = vec![];
    for number in 0..200 {
        let shard = Shard::open(&path).unwrap();
        let at = (number * 7919) * header.tokens / (200 * 7919);
        let found = shard.view().unwrap().document_at(at).unwrap();
        assert_eq!(found, ends.partition_point(|&end| end <= at) as u64);
        touched.push(shard.verified_blocks());
    }
    touched.sort_unstable();
    // Halving would touch about log2(20,000 / 8) = 11.
    assert!(touched[100] <= 5 && touched[199] <= 9, "{touched:?}");
}

#[test]
fn documents_of_any_lengths_are_found() {
    let folder = Folder::new();
    let path = folder.0.join("a.tok");
    // Guesses go wrong here: a few long documents among many short ones.
    let documents: Documents = (0..400)
        .map(|n| (n, vec![5; if n % 97 == 3 { 3000 } else { 1 }]))
        .collect();
    write(&path, 300, &documents, 64);
    let shard = Shard::open(&path).unwrap();
    let content = shard.view().unwrap();
    let mut at = 0;
    for (number, (_, tokens)) in documents.iter().enumerate() {
        for index in [at, at + tokens.len() as u64 - 1] {
            assert_eq!(content.document_at(index).unwrap(), number as u64);
        }
        at += tokens.len() as u64;
    }
}
