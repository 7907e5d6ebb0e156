//! One analysis pass per document: words, lines, character classes, repetition statistics.

pub mod analysis;
pub mod ascii;
pub mod counter;
pub mod distribution;
pub mod edits;
pub mod hash;
pub mod line_facts;
pub mod marks;
pub mod phrases;
pub mod repetition;
pub mod signs;
pub mod statistics;
pub mod terminal;
pub mod words;

use rayon::prelude::*;

/// Why a text buffer and its offsets are not a batch of documents.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    #[error("offsets must hold at least one number")]
    NoOffsets,
    #[error(
        "offset {index} is {value}: offsets must rise and stay within the {bytes} bytes of the text"
    )]
    BadOffset {
        index: usize,
        value: i64,
        bytes: usize,
    },
    #[error("document {document} is not valid UTF-8")]
    NotUtf8 { document: usize },
}

/// Documents that lie back to back in one UTF-8 buffer; document `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct TextBatch<'a> {
    data: &'a [u8],
    offsets: &'a [i64],
}

impl<'a> TextBatch<'a> {
    /// Checks everything once, so that reading documents afterwards cannot fail.
    ///
    /// # Errors
    /// Offsets that fall, leave the buffer or are missing; a document that is not UTF-8.
    pub fn new(data: &'a [u8], offsets: &'a [i64]) -> Result<Self, BatchError> {
        if offsets.is_empty() {
            return Err(BatchError::NoOffsets);
        }
        let mut before = 0usize;
        for (index, &value) in offsets.iter().enumerate() {
            match usize::try_from(value) {
                Ok(offset) if offset >= before && offset <= data.len() => before = offset,
                _ => {
                    return Err(BatchError::BadOffset {
                        index,
                        value,
                        bytes: data.len(),
                    });
                }
            }
        }
        let batch = Self { data, offsets };
        let broken = (0..batch.len())
            .into_par_iter()
            .find_first(|&i| std::str::from_utf8(batch.bytes(i)).is_err());
        match broken {
            Some(document) => Err(BatchError::NotUtf8 { document }),
            None => Ok(batch),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the text of a document begins in the buffer, in bytes.
    #[must_use]
    pub fn start(&self, document: usize) -> usize {
        self.offsets[document] as usize
    }

    fn bytes(&self, document: usize) -> &'a [u8] {
        &self.data[self.offsets[document] as usize..self.offsets[document + 1] as usize]
    }

    /// # Panics
    /// Never for `document < len()`: `new` has checked the offsets and the encoding.
    #[must_use]
    pub fn get(&self, document: usize) -> &'a str {
        std::str::from_utf8(self.bytes(document)).expect("checked by TextBatch::new")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_documents_back() {
        let batch = TextBatch::new("abçd".as_bytes(), &[0, 2, 2, 5]).unwrap();
        assert_eq!(
            (0..batch.len()).map(|i| batch.get(i)).collect::<Vec<_>>(),
            ["ab", "", "çd"]
        );
    }

    #[test]
    fn refuses_broken_batches() {
        assert_eq!(TextBatch::new(b"", &[]).unwrap_err(), BatchError::NoOffsets);
        for offsets in [&[0i64, 3, 2][..], &[-1, 2], &[0, 6]] {
            assert!(matches!(
                TextBatch::new(b"abcde", offsets),
                Err(BatchError::BadOffset { .. })
            ));
        }
        // An offset inside a character leaves broken text on both sides.
        assert_eq!(
            TextBatch::new("aç".as_bytes(), &[0, 1, 2, 3]).unwrap_err(),
            BatchError::NotUtf8 { document: 1 }
        );
    }
}
