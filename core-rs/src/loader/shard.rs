//! Reads a `.tok` shard through a memory map. Each block is hashed when it is first touched.

use super::format::{HASH_BYTES, HEADER_BYTES, Header, Layout};
use super::{LoaderError, Result};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// An open shard. Cheap to open (header, footer and the hash table are checked); safe to share between threads.
pub struct Shard {
    path: PathBuf,
    file: File,
    map: Mmap,
    header: Header,
    layout: Layout,
    verified: Vec<AtomicBool>,
}

impl Shard {
    /// Opens a shard and checks its frame.
    ///
    /// # Errors
    /// `Io`; `Damaged` naming the region when header, size, hash table or footer are not as written.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(LoaderError::io(path))?;
        // SAFETY: a shard is written beside its name, fsynced and renamed, and never changed after; no writer of
        // this crate opens an existing file. `check_size` finds that another truncated it before the map is touched;
        // only truncation within that moment is outside the contract.
        let map = unsafe { Mmap::map(&file) }.map_err(LoaderError::io(path))?;
        let (header, layout) = Header::decode(&map, path)?;
        let damaged = |offset: u64, what: String| Err(LoaderError::damaged(path, offset, what));
        if map.len() as u64 != layout.file_bytes {
            let what = format!(
                "the file has {} bytes, its header says {}",
                map.len(),
                layout.file_bytes
            );
            return damaged(layout.file_bytes.min(map.len() as u64), what);
        }
        // Below, offsets of the layout lie inside the map, which has exactly `file_bytes` bytes.
        let blocks = (layout.hashes - HEADER_BYTES).div_ceil(header.block_bytes);
        let (table, padding) = map[layout.hashes as usize..layout.footer as usize]
            .split_at((blocks * HASH_BYTES) as usize);
        if *blake3::hash(table).as_bytes() != header.root || padding.iter().any(|&byte| byte != 0) {
            return damaged(layout.hashes, "the table of checksums is damaged".into());
        }
        if map[layout.footer as usize..] != Header::footer(&map[..HEADER_BYTES as usize], &layout) {
            return damaged(layout.footer, "the footer is damaged".into());
        }
        let verified = (0..blocks).map(|_| AtomicBool::new(false)).collect();
        Ok(Self {
            path: path.to_path_buf(),
            file,
            map,
            header,
            layout,
            verified,
        })
    }

    /// What the shard says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks every block now.
    ///
    /// # Errors
    /// `Damaged` naming the first bad block.
    pub fn verify(&self) -> Result<()> {
        (0..self.verified.len()).try_for_each(|block| self.verify_block(block))
    }

    /// Appends the tokens `range` to `out`.
    ///
    /// # Errors
    /// `Invalid` when the range lies outside the shard; `Damaged`.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<i64>) -> Result<()> {
        if range.start > range.end || range.end > self.header.tokens {
            let (path, tokens) = (self.path.display(), self.header.tokens);
            return Err(LoaderError::Invalid(format!(
                "{path}: no tokens {range:?} among {tokens}"
            )));
        }
        let width = u64::from(self.header.width);
        let bytes =
            self.bytes(HEADER_BYTES + range.start * width..HEADER_BYTES + range.end * width)?;
        if width == 2 {
            out.extend(words(bytes).map(|word| i64::from(u16::from_le_bytes(word))));
        } else {
            out.extend(words(bytes).map(|word| i64::from(u32::from_le_bytes(word))));
        }
        Ok(())
    }

    /// Index of the first token after document `d`.
    ///
    /// # Errors
    /// `Invalid` when there is no such document; `Damaged`.
    pub fn doc_end(&self, d: u64) -> Result<u64> {
        self.column(self.layout.doc_ends, d)
    }

    /// First 8 bytes of the identity of document `d`.
    ///
    /// # Errors
    /// `Invalid` when there is no such document; `Damaged`.
    pub fn doc_id(&self, d: u64) -> Result<u64> {
        self.column(self.layout.doc_ids, d)
    }

    /// The document that holds token `index`, by binary search.
    ///
    /// # Errors
    /// `Invalid` when there is no such token; `Damaged`.
    pub fn document_at(&self, index: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.header.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.doc_end(middle)? <= index {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == self.header.documents {
            let path = self.path.display();
            return Err(LoaderError::Invalid(format!(
                "{path}: no document holds token {index}"
            )));
        }
        Ok(low)
    }

    fn column(&self, base: u64, d: u64) -> Result<u64> {
        if d >= self.header.documents {
            let (path, documents) = (self.path.display(), self.header.documents);
            return Err(LoaderError::Invalid(format!(
                "{path}: no document {d} among {documents}"
            )));
        }
        let at = base + 8 * d;
        let mut value = [0; 8];
        value.copy_from_slice(self.bytes(at..at + 8)?);
        Ok(u64::from_le_bytes(value))
    }

    /// Bytes of the hashed region, verified. `range` lies inside it by the callers' checks.
    fn bytes(&self, range: Range<u64>) -> Result<&[u8]> {
        if range.is_empty() {
            return Ok(&[]);
        }
        self.check_size()?;
        let shift = self.header.block_bytes.trailing_zeros(); // a power of two: a division costs as much as a read
        let first = (range.start - HEADER_BYTES) >> shift;
        let last = (range.end - 1 - HEADER_BYTES) >> shift;
        for block in first as usize..=last as usize {
            if !self.verified[block].load(Ordering::Acquire) {
                self.verify_block(block)?;
            }
        }
        Ok(&self.map[range.start as usize..range.end as usize])
    }

    /// A map reaches past the end of a file that was cut: reading there would end the process without a word.
    fn check_size(&self) -> Result<()> {
        let found = self
            .file
            .metadata()
            .map_err(LoaderError::io(&self.path))?
            .len();
        if found >= self.layout.file_bytes {
            return Ok(());
        }
        let what = format!(
            "the file was cut from {} to {found} bytes while it was open",
            self.layout.file_bytes
        );
        Err(LoaderError::damaged(&self.path, found, what))
    }

    fn verify_block(&self, block: usize) -> Result<()> {
        self.check_size()?;
        let start = HEADER_BYTES + block as u64 * self.header.block_bytes;
        let end = (start + self.header.block_bytes).min(self.layout.hashes);
        let bytes = &self.map[start as usize..end as usize];
        let expected = self.layout.hashes as usize + block * HASH_BYTES as usize;
        if blake3::hash(bytes).as_bytes()[..] != self.map[expected..expected + HASH_BYTES as usize]
        {
            return Err(LoaderError::damaged(
                &self.path,
                start,
                "the content does not match its checksum",
            ));
        }
        self.check_vocabulary(start, end)?;
        self.verified[block].store(true, Ordering::Release);
        Ok(())
    }

    /// A hash proves that the file is as it was written, not that its writer was ours: an id outside the
    /// vocabulary would be an access outside the embedding table.
    fn check_vocabulary(&self, start: u64, end: u64) -> Result<()> {
        let bytes =
            &self.map[start as usize..end.clamp(start, self.layout.tokens_end.max(start)) as usize];
        let highest = if self.header.width == 2 {
            words(bytes).map(u16::from_le_bytes).max().map(u32::from)
        } else {
            words(bytes).map(u32::from_le_bytes).max()
        };
        match highest {
            Some(id) if id >= self.header.vocab_size => {
                let what = format!(
                    "token {id} is outside the vocabulary of {}",
                    self.header.vocab_size
                );
                Err(LoaderError::damaged(&self.path, start, what))
            }
            _ => Ok(()),
        }
    }
}

/// Whole words of `N` bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|chunk| {
        let mut word = [0; N];
        word.copy_from_slice(chunk);
        word
    })
}
