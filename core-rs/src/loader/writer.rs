//! Writes a `.tok` shard: streams tokens beside the target, then columns, hashes and header, fsync, rename.

use super::bits::{Packer, bits_of};
use super::format::{BLOCK_BYTES, HEADER_BYTES, Header, Layout, MOST_VOCABULARY, VERSION};
use super::{LoaderError, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A shard being written. It appears under its name when `finish` succeeds; dropped before, it leaves nothing.
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    header: Header,
    packer: Packer,
    doc_ends: Vec<u64>,
    doc_ids: Vec<u64>,
    blocks: BlockHasher,
    finished: bool,
}

/// Hashes a stream in blocks of fixed size.
struct BlockHasher {
    block_bytes: u64,
    filled: u64,
    current: blake3::Hasher,
    table: Vec<u8>,
}

impl BlockHasher {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(self.block_bytes - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.update(now);
            self.filled += now.len() as u64;
            if self.filled == self.block_bytes {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        if self.filled > 0 {
            self.table.extend(self.current.finalize().as_bytes());
            self.current.reset();
            self.filled = 0;
        }
    }
}

impl ShardWriter {
    /// Starts a shard at `path`.
    ///
    /// # Errors
    /// `Io`; `Invalid` for a vocabulary of more than 2^31.
    pub fn create(path: &Path, vocab_size: u32, tokenizer: [u8; 32]) -> Result<Self> {
        Self::with_block_bytes(path, vocab_size, tokenizer, BLOCK_BYTES)
    }

    pub(crate) fn with_block_bytes(
        path: &Path,
        vocab_size: u32,
        tokenizer: [u8; 32],
        block_bytes: u64,
    ) -> Result<Self> {
        if vocab_size > MOST_VOCABULARY {
            return Err(LoaderError::Invalid(format!(
                "a vocabulary of {vocab_size} is too large: {MOST_VOCABULARY} is possible"
            )));
        }
        let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(format!(
            ".tmp-{}-{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        let temporary = path.with_file_name(name);
        let mut file = BufWriter::with_capacity(
            1 << 20,
            File::create_new(&temporary).map_err(LoaderError::io(path))?,
        );
        let header = Header {
            version: VERSION,
            bits: bits_of(vocab_size),
            vocab_size,
            tokens: 0,
            documents: 0,
            block_bytes,
            tokenizer,
            root: [0; 32],
        };
        let blank = file.write_all(&[0; HEADER_BYTES as usize]);
        let current = blake3::Hasher::new();
        let writer = Self {
            path: path.to_path_buf(),
            temporary,
            file,
            header,
            packer: Packer::default(),
            doc_ends: Vec::new(),
            doc_ids: Vec::new(),
            blocks: BlockHasher {
                block_bytes,
                filled: 0,
                current,
                table: Vec::new(),
            },
            finished: false,
        };
        blank.map_err(LoaderError::io(path))?; // after construction: dropping the writer removes the file
        Ok(writer)
    }

    /// Tokens written so far.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Documents written so far.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Appends documents: document `d` is `ids[starts[d]..starts[d + 1]]`, its identity `doc_ids[d]`.
    /// All is checked before anything is written.
    ///
    /// # Errors
    /// `Invalid` for lengths that do not fit, tokens outside the vocabulary, a document without any token; `Io`.
    pub fn append(&mut self, ids: &[u32], starts: &[u64], doc_ids: &[u64]) -> Result<()> {
        self.check(ids, starts, doc_ids)?;
        let mut bytes = Vec::new();
        for (bounds, &id) in starts.windows(2).zip(doc_ids) {
            let document = &ids[bounds[0] as usize..bounds[1] as usize]; // checked above
            bytes.clear();
            self.packer.pack(document, self.header.bits, &mut bytes);
            self.put(&bytes)?;
            self.header.tokens += document.len() as u64;
            self.header.documents += 1;
            self.doc_ends.push(self.header.tokens);
            self.doc_ids.push(id);
        }
        Ok(())
    }

    fn check(&self, ids: &[u32], starts: &[u64], doc_ids: &[u64]) -> Result<()> {
        let invalid = |what: String| Err(LoaderError::Invalid(what));
        if starts.first() != Some(&0) || starts.last() != Some(&(ids.len() as u64)) {
            return invalid(format!(
                "document starts do not span the {} tokens",
                ids.len()
            ));
        }
        if starts.len() != doc_ids.len() + 1 {
            return invalid(format!(
                "{} documents but {} identities",
                starts.len() - 1,
                doc_ids.len()
            ));
        }
        if let Some(&id) = ids.iter().find(|&&id| id >= self.header.vocab_size) {
            return invalid(format!(
                "token {id} is outside the vocabulary of {}",
                self.header.vocab_size
            ));
        }
        for (d, bounds) in starts.windows(2).enumerate() {
            if bounds[0] > bounds[1] {
                return invalid(format!("document {d} starts after its end"));
            }
            if bounds[0] == bounds[1] {
                return invalid(format!("document {d} has no token"));
            }
        }
        Ok(())
    }

    /// Writes the columns, the hashes and the header, forces all to disk and gives the shard its name.
    ///
    /// # Errors
    /// `Invalid` when no document was written; `Io`. Nothing is left behind then.
    pub fn finish(mut self) -> Result<Header> {
        if self.header.documents == 0 {
            return Err(LoaderError::Invalid(format!(
                "{}: no document was written",
                self.path.display()
            )));
        }
        let layout = self.header.layout();
        let layout = layout.ok_or_else(|| LoaderError::Invalid("the shard is too large".into()))?;
        let mut rest = Vec::new();
        self.packer.finish(&mut rest);
        self.put(&rest)?;
        self.pad(layout.tokens_end, layout.doc_ends)?;
        let column = 8 * self.header.documents;
        for (values, end, next) in [
            (
                std::mem::take(&mut self.doc_ends),
                layout.doc_ends + column,
                layout.doc_ids,
            ),
            (
                std::mem::take(&mut self.doc_ids),
                layout.doc_ids + column,
                layout.hashes,
            ),
        ] {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            self.put(&bytes)?;
            self.pad(end, next)?;
        }
        self.blocks.close();
        let path = self.path.clone();
        self.seal(&layout).map_err(LoaderError::io(&path))?;
        self.finished = true;
        Ok(self.header.clone())
    }

    fn seal(&mut self, layout: &Layout) -> io::Result<()> {
        let table = std::mem::take(&mut self.blocks.table);
        self.header.root = *blake3::hash(&table).as_bytes();
        let page = self.header.encode(layout);
        self.file.write_all(&table)?;
        let padding = layout.footer - layout.hashes - table.len() as u64;
        self.file.write_all(&vec![0; padding as usize])?;
        self.file.write_all(&Header::footer(&page, layout))?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&page)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.blocks.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(LoaderError::io(&self.path))
    }

    fn pad(&mut self, from: u64, to: u64) -> Result<()> {
        self.put(&[0; 64][..(to - from) as usize]) // sections are 64-byte aligned
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.temporary); // best effort: it is a temporary
        }
    }
}
