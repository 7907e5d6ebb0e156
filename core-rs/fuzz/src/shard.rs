//! Token shards of any content. Checksums would stop nearly every input at the first page, so the input says what the
//! header, the columns and the tokens are, and a flag for each checksum whether it is made to fit.

use super::bytes::Bytes;
use llama3_core::loader::{Header, Loader, Phase, Shard, Source, View, count_ngrams, draw_runs};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const HEADER_BYTES: usize = 4096;
static FILES: AtomicU64 = AtomicU64::new(0);

/// A file that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opening, verifying, reading, counting n-grams and making rows: refused as damaged, or within bounds.
pub fn shard(data: &[u8]) {
    let mut input = Bytes(data);
    let raw = input.flag();
    let content = if raw {
        input.0.to_vec()
    } else {
        built(&mut input)
    };
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("llama3-fuzz-{}-{number}.tok", std::process::id());
    let file = Scratch(std::env::temp_dir().join(name));
    fs::write(&file.0, content).expect("room for a small file");
    read(&file.0);
}

fn read(path: &Path) {
    let Ok(shard) = Shard::open(path) else {
        return;
    };
    let header = shard.header().clone();
    let _ = shard.verify();
    if let Ok(content) = shard.view() {
        look(content, &header);
    }
    let shards = [shard];
    ngrams(&shards);
    let [shard] = shards;
    rows(shard);
}

fn look(content: View<'_>, header: &Header) {
    let mut tokens = vec![];
    let edges = [0, 1, header.tokens / 2, header.tokens, u64::MAX];
    for (start, end) in edges
        .iter()
        .flat_map(|&a| edges.iter().map(move |&b| (a, b)))
    {
        tokens.clear();
        if content.read(start..end, &mut tokens).is_ok() {
            assert_eq!(tokens.len() as u64, end - start);
            assert!(tokens.iter().all(|&id| id < header.vocab_size));
        }
        let _ = (
            content.doc_end(start),
            content.doc_id(start),
            content.document_at(start),
        );
    }
}

/// What is drawn from a shard is counted there, at least once for each place.
fn ngrams(shards: &[Shard]) {
    for (length, edge) in [(1, 0), (3, 1)] {
        let Ok(drawn) = draw_runs(shards, length, edge, 20, 7) else {
            continue;
        };
        assert_eq!(drawn.tokens.len(), drawn.starts.len() * length);
        let Ok(counts) = count_ngrams(shards, &drawn.tokens, length, length) else {
            continue; // a block that was not drawn from is damaged
        };
        for (row, count) in drawn.tokens.chunks_exact(length).zip(counts) {
            let places = drawn
                .tokens
                .chunks_exact(length)
                .filter(|other| *other == row);
            assert!(count >= places.count() as u64);
        }
    }
}

fn rows(shard: Shard) {
    let phases = [(0, 4), (3, 2)].map(|(from_row, seq_len)| Phase {
        from_row,
        seq_len,
        weights: vec![1.0],
    });
    let Ok(source) = Source::new("fuzz", vec![shard]) else {
        return;
    };
    let Ok(loader) = Loader::new(vec![source], &phases, 7) else {
        return;
    };
    for (start, count) in [(0, 3), (3, 40)] {
        let Ok(rows) = loader.rows(start, count, 1) else {
            continue;
        };
        assert_eq!(rows.tokens.len() as u64, count as u64 * rows.seq_len);
        assert_eq!(rows.bounds.len(), rows.doc_ids.len() + count);
        for row in 0..count {
            let (from, to) = (
                rows.splits[row] as usize + row,
                rows.splits[row + 1] as usize + row,
            );
            let bounds = &rows.bounds[from..=to];
            assert_eq!(
                (bounds[0], i64::from(bounds[bounds.len() - 1])),
                (0, rows.seq_len as i64)
            );
            assert!(
                bounds.windows(2).all(|pair| pair[0] < pair[1]),
                "{bounds:?}"
            );
        }
    }
}

/// A file with the counts, columns and tokens that the input names.
fn built(input: &mut Bytes) -> Vec<u8> {
    let vocab_size = [0, 1, 3, 300, 1 << 16, (1 << 16) + 1, u32::MAX][input.below(7)];
    let packed = vocab_size.saturating_sub(1).max(1).ilog2() + 1;
    let words = if vocab_size <= 1 << 16 { 16 } else { 32 };
    let (version, bits) =
        [(2, packed), (1, words), (2, 32), (1, 8)][input.below(16) & 3 & input.below(4)];
    let huge = input.below(16) == 15;
    let header = Header {
        version,
        bits,
        vocab_size,
        tokens: if huge {
            input.long()
        } else {
            input.below(60) as u64
        },
        documents: if huge {
            input.long()
        } else {
            input.below(8) as u64
        },
        block_bytes: [64, 128, 1 << 18, 1 << 63, 65, 0][input.below(6)],
        tokenizer: [7; 32],
        root: [0; 32],
    };
    let fitting = header.block_bytes != 0;
    let layout = if fitting { header.layout() } else { None };
    let Some(layout) = layout.filter(|layout| layout.file_bytes < 1 << 16) else {
        return input.0.to_vec();
    };
    let mut body = vec![0; (layout.hashes as usize) - HEADER_BYTES];
    let columns = (layout.doc_ends as usize) - HEADER_BYTES;
    let tokens = input.take(columns);
    body[..tokens.len()].copy_from_slice(tokens);
    let ends = columns..columns + 8 * header.documents as usize;
    for (index, place) in body[ends].chunks_exact_mut(8).enumerate() {
        let end = match input.byte() {
            255 => input.long(),
            byte if byte & 1 == 1 => u64::from(byte) % 61,
            _ => (index as u64 + 1) * header.tokens / header.documents,
        };
        place.copy_from_slice(&end.to_le_bytes());
    }
    let block = usize::try_from(header.block_bytes).unwrap_or(usize::MAX);
    let mut table: Vec<u8> = body
        .chunks(block)
        .flat_map(|part| *blake3::hash(part).as_bytes())
        .collect();
    let root = *blake3::hash(&table).as_bytes();
    let page = Header { root, ..header }.encode(&layout);
    let footer = Header::footer(&page, &layout);
    table.resize((layout.footer - layout.hashes) as usize, 0);
    let mut file = [page, body, table, footer].concat();
    if input.below(8) == 7 {
        let at = input.long() as usize % file.len();
        file[at] ^= 1 | input.byte();
    }
    if input.below(8) == 7 {
        file.truncate(input.long() as usize % file.len());
    }
    file
}
