//! Reads a `.tok` shard through a memory map, which is made when a token is first asked for. Each block is hashed when it
//! is first touched.

use super::bits::{AHEAD, unpack};
use super::format::{FOOTER_BYTES, HASH_BYTES, HEADER_BYTES, Header, Layout};
use super::{LoaderError, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A shard whose frame is sound. A plan of a trillion tokens has thousands, so that opening reads header and footer
/// alone, and holds no file. Safe to share between threads.
pub struct Shard {
    path: PathBuf,
    header: Header,
    layout: Layout,
    mapped: OnceLock<Mapped>,
}

struct Mapped {
    file: File,
    map: Mmap,
    /// Whether the header is the one that was opened and the table of checksums belongs to it.
    sound: AtomicBool,
    verified: Vec<AtomicBool>,
}

/// The content of a shard, whose file was as long as it should be when this was asked for: hold it no longer than one
/// request.
#[derive(Clone, Copy)]
pub struct View<'a> {
    shard: &'a Shard,
    mapped: &'a Mapped,
}

impl Shard {
    /// Checks a shard's size, header and footer.
    ///
    /// # Errors
    /// `Io`; `Damaged` naming the region that is not as written.
    pub fn open(path: &Path) -> Result<Self> {
        let io = || LoaderError::io(path);
        let mut file = File::open(path).map_err(io())?;
        let size = file.metadata().map_err(io())?.len();
        let mut page = vec![0; HEADER_BYTES.min(size) as usize];
        file.read_exact(&mut page).map_err(io())?;
        let (header, layout) = Header::decode(&page, path)?;
        if size != layout.file_bytes {
            let said = layout.file_bytes;
            let what = format!("the file has {size} bytes, its header says {said}");
            return Err(LoaderError::damaged(path, said.min(size), what));
        }
        let mut footer = [0; FOOTER_BYTES as usize];
        file.seek(SeekFrom::Start(layout.footer)).map_err(io())?;
        file.read_exact(&mut footer).map_err(io())?;
        if footer[..] != Header::footer(&page, &layout) {
            let what = "the footer is damaged";
            return Err(LoaderError::damaged(path, layout.footer, what));
        }
        Ok(Self {
            path: path.to_path_buf(),
            header,
            layout,
            mapped: OnceLock::new(),
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

    /// Checks every block and every token now.
    ///
    /// # Errors
    /// `Damaged` naming the first bad block, or a token outside the vocabulary.
    pub fn verify(&self) -> Result<()> {
        let view = self.view()?;
        (0..view.mapped.verified.len()).try_for_each(|block| view.verify_block(block))?;
        let mut tokens = Vec::new();
        for from in (0..self.header.tokens).step_by(TOGETHER) {
            tokens.clear();
            let until = self.header.tokens.min(from + TOGETHER as u64);
            view.read(from..until, &mut tokens)?;
        }
        Ok(())
    }

    /// The content; the first time, the file is mapped.
    ///
    /// # Errors
    /// `Io`; `Damaged` where the file was cut.
    pub fn view(&self) -> Result<View<'_>> {
        let mapped = match self.mapped.get() {
            Some(mapped) => mapped,
            None => {
                let mapped = self.map()?;
                self.mapped.get_or_init(|| mapped) // another thread may have been first: the same file
            }
        };
        let view = View {
            shard: self,
            mapped,
        };
        view.check_size()?;
        Ok(view)
    }

    /// How many blocks were verified so far.
    #[cfg(test)]
    pub(super) fn verified_blocks(&self) -> usize {
        let verified = |mapped: &Mapped| {
            let set = |block: &&AtomicBool| block.load(Ordering::Acquire);
            mapped.verified.iter().filter(set).count()
        };
        self.mapped.get().map_or(0, verified)
    }

    fn map(&self) -> Result<Mapped> {
        let file = File::open(&self.path).map_err(LoaderError::io(&self.path))?;
        self.check_size(&file)?;
        // SAFETY: a shard is written beside its name, fsynced and renamed, and never changed after; no writer of
        // this crate opens an existing file. `check_size` finds that another truncated it before the map is touched;
        // only truncation within that moment is outside the contract.
        let map = unsafe { Mmap::map(&file) }.map_err(LoaderError::io(&self.path))?;
        let verified = (0..self.blocks()).map(|_| AtomicBool::new(false)).collect();
        Ok(Mapped {
            file,
            map,
            sound: AtomicBool::new(false),
            verified,
        })
    }

    fn blocks(&self) -> u64 {
        (self.layout.hashes - HEADER_BYTES).div_ceil(self.header.block_bytes)
    }

    /// Checks the table of checksums, and that it is the one of the header that was opened.
    fn check_table(&self, map: &Mmap) -> Result<()> {
        let damaged = |offset: u64, what: &str| Err(LoaderError::damaged(&self.path, offset, what));
        if map[..HEADER_BYTES as usize] != self.header.encode(&self.layout) {
            return damaged(0, "the file was changed while it was open");
        }
        // Offsets of the layout lie inside the map, which has at least `file_bytes` bytes.
        let (table, padding) = map[self.layout.hashes as usize..self.layout.footer as usize]
            .split_at((self.blocks() * HASH_BYTES) as usize);
        if *blake3::hash(table).as_bytes() != self.header.root
            || padding.iter().any(|&byte| byte != 0)
        {
            return damaged(self.layout.hashes, "the table of checksums is damaged");
        }
        Ok(())
    }

    /// A map reaches past the end of a file that was cut: reading there would end the process without a word.
    fn check_size(&self, file: &File) -> Result<()> {
        let found = file.metadata().map_err(LoaderError::io(&self.path))?.len();
        if found >= self.layout.file_bytes {
            return Ok(());
        }
        let what = format!(
            "the file was cut from {} to {found} bytes while it was open",
            self.layout.file_bytes
        );
        Err(LoaderError::damaged(&self.path, found, what))
    }
}

impl<'a> View<'a> {
    /// Tells the system what `read` and `document_at` will want first of the `count` tokens from `from` on, where it was
    /// not read before: many such wishes wait for a disk together, not one after the other.
    pub fn expect(&self, from: u64, count: u64) {
        let (header, layout) = (&self.shard.header, &self.shard.layout);
        self.expect_bytes(self.token_bytes(from..from + count));
        let column = layout.doc_ends + 8 * share(header.documents, from, header.tokens);
        self.expect_bytes(column..column + 8);
    }

    /// Lets the processor fetch what `read` and `document_at` will want first of token `from`: while it does, other rows
    /// are copied.
    pub fn fetch(&self, from: u64) {
        let (header, layout) = (&self.shard.header, &self.shard.layout);
        let guess = 8 * share(header.documents, from, header.tokens);
        let bytes = &self.mapped.map[..];
        fetch(bytes, self.token_bytes(from..from).start as usize, AHEAD);
        fetch(bytes, (layout.doc_ends + guess) as usize, 8);
        fetch(bytes, (layout.doc_ids + guess) as usize, 8);
    }

    /// Bytes of the file that hold the tokens `range`.
    fn token_bytes(&self, range: Range<u64>) -> Range<u64> {
        let bits = u64::from(self.shard.header.bits);
        HEADER_BYTES + range.start * bits / 8..HEADER_BYTES + (range.end * bits).div_ceil(8)
    }

    fn expect_bytes(&self, range: Range<u64>) {
        let blocks = self.blocks_of(&range);
        let unread = |block: &usize| !self.mapped.verified[*block].load(Ordering::Relaxed);
        for block in blocks.filter(unread) {
            let start = self.block_start(block);
            let length = self
                .shard
                .header
                .block_bytes
                .min(self.shard.layout.hashes - start);
            self.advise(start, length);
        }
        if !self.mapped.sound.load(Ordering::Relaxed) {
            let hashes = self.shard.layout.hashes;
            self.advise(hashes, self.shard.layout.footer - hashes);
        }
    }

    /// A hint: where the system takes none, reading works all the same.
    fn advise(&self, start: u64, length: u64) {
        #[cfg(unix)]
        let _ = self.mapped.map.advise_range(
            memmap2::Advice::WillNeed,
            start as usize,
            length as usize,
        );
        #[cfg(not(unix))]
        let _ = (start, length);
    }

    /// Appends the tokens `range` to `out`.
    ///
    /// # Errors
    /// `Invalid` when the range lies outside the shard; `Damaged`.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        if range.start > range.end || range.end > self.shard.header.tokens {
            let (path, tokens) = (self.shard.path.display(), self.shard.header.tokens);
            return Err(LoaderError::Invalid(format!(
                "{path}: no tokens {range:?} among {tokens}"
            )));
        }
        let (bits, vocab_size) = (self.shard.header.bits, self.shard.header.vocab_size);
        let place = self.token_bytes(range.clone());
        let bytes = self.bytes(place.clone())?;
        let first = (range.start * u64::from(bits) % 8) as usize;
        let count = (range.end - range.start) as usize; // as many bits lie in the map
        let highest = unpack(bytes, first, bits, count, out);
        // A hash proves that the file is as it was written, not that its writer was ours: an id outside the vocabulary
        // would be an access outside the embedding table.
        if highest >= vocab_size && count > 0 {
            let what = format!("token {highest} is outside the vocabulary of {vocab_size}");
            return Err(LoaderError::damaged(&self.shard.path, place.start, what));
        }
        Ok(())
    }

    /// Index of the first token after document `d`.
    ///
    /// # Errors
    /// `Invalid` when there is no such document; `Damaged`.
    pub fn doc_end(&self, d: u64) -> Result<u64> {
        self.column(self.shard.layout.doc_ends, d)
    }

    /// First 8 bytes of the identity of document `d`.
    ///
    /// # Errors
    /// `Invalid` when there is no such document; `Damaged`.
    pub fn doc_id(&self, d: u64) -> Result<u64> {
        self.column(self.shard.layout.doc_ids, d)
    }

    /// The document that holds token `index`.
    ///
    /// # Errors
    /// `Invalid` when there is no such token; `Damaged`.
    pub fn document_at(&self, index: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.shard.header.documents);
        // Tokens before document `low`, and before the end of document `high - 1`.
        let (mut before, mut until) = (0, self.shard.header.tokens);
        for guess in 0.. {
            if low >= high {
                break;
            }
            // Documents are of about one length, as a whole: a few guesses find what halving finds in twenty steps.
            let middle = if guess < GUESSES && (before..until).contains(&index) {
                low + share(high - low, index - before, until - before)
            } else {
                low + (high - low) / 2
            };
            let end = self.doc_end(middle)?;
            if end <= index {
                (low, before) = (middle + 1, end);
            } else {
                (high, until) = (middle, end);
            }
        }
        if low == self.shard.header.documents {
            let path = self.shard.path.display();
            return Err(LoaderError::Invalid(format!(
                "{path}: no document holds token {index}"
            )));
        }
        Ok(low)
    }

    fn column(&self, base: u64, d: u64) -> Result<u64> {
        if d >= self.shard.header.documents {
            let (path, documents) = (self.shard.path.display(), self.shard.header.documents);
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
    fn bytes(&self, range: Range<u64>) -> Result<&'a [u8]> {
        if range.is_empty() {
            return Ok(&[]);
        }
        for block in self.blocks_of(&range) {
            if !self.mapped.verified[block].load(Ordering::Acquire) {
                self.verify_block(block)?;
            }
        }
        Ok(&self.mapped.map[range.start as usize..range.end as usize])
    }

    /// The blocks that hold a range that is not empty.
    fn blocks_of(&self, range: &Range<u64>) -> RangeInclusive<usize> {
        let shift = self.shard.header.block_bytes.trailing_zeros(); // a power of two: a division costs as much as a read
        let first = (range.start - HEADER_BYTES) >> shift;
        let last = (range.end - 1 - HEADER_BYTES) >> shift;
        first as usize..=last as usize
    }

    fn block_start(&self, block: usize) -> u64 {
        HEADER_BYTES + block as u64 * self.shard.header.block_bytes
    }

    fn check_size(&self) -> Result<()> {
        self.shard.check_size(&self.mapped.file)
    }

    fn verify_block(&self, block: usize) -> Result<()> {
        self.check_size()?;
        if !self.mapped.sound.load(Ordering::Acquire) {
            self.shard.check_table(&self.mapped.map)?;
            self.mapped.sound.store(true, Ordering::Release);
        }
        let start = self.block_start(block);
        let end = (start + self.shard.header.block_bytes).min(self.shard.layout.hashes);
        let bytes = &self.mapped.map[start as usize..end as usize];
        let expected = self.shard.layout.hashes as usize + block * HASH_BYTES as usize;
        if blake3::hash(bytes).as_bytes()[..]
            != self.mapped.map[expected..expected + HASH_BYTES as usize]
        {
            return Err(LoaderError::damaged(
                &self.shard.path,
                start,
                "the content does not match its checksum",
            ));
        }
        self.mapped.verified[block].store(true, Ordering::Release);
        Ok(())
    }
}

/// Tokens that a check of a whole shard reads at once.
const TOGETHER: usize = 1 << 16;

/// How often the place of a document is guessed before its range is halved.
const GUESSES: u32 = 6;

/// `part` in `whole` of `count`, below `count` and about right: a quotient of 128 bits costs as much as a read.
fn share(count: u64, part: u64, whole: u64) -> u64 {
    let share = count as f64 * (part as f64 / whole as f64);
    (share as u64).min(count.saturating_sub(1))
}

/// Lets the processor fetch `count` bytes from `from` on.
fn fetch(bytes: &[u8], from: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes
        .get(from..)
        .unwrap_or(&[])
        .chunks(64)
        .take(count.div_ceil(64))
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86_64, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, from, count);
}
