//! The identity of a document: a hash of its text that ignores how the text happens to be stored.

use crate::text::TextBatch;
use rayon::prelude::*;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

pub const ID_BYTES: usize = 16;

pub type Id = [u8; ID_BYTES];

/// The first 128 bits of blake3 of each document's normalised text: Unicode NFC, lines without trailing
/// whitespace joined by `\n`, no blank lines at either end.
#[must_use]
pub fn ids(batch: TextBatch<'_>) -> Vec<Id> {
    (0..batch.len())
        .into_par_iter()
        .map(|i| id(batch.get(i)))
        .collect()
}

#[must_use]
pub fn id(text: &str) -> Id {
    if is_nfc_quick(text.chars()) == IsNormalized::Yes {
        id_of_nfc(text)
    } else {
        id_of_nfc(&text.nfc().collect::<String>())
    }
}

fn id_of_nfc(text: &str) -> Id {
    let mut hasher = blake3::Hasher::new();
    let mut newlines = 0u64;
    let mut begun = false;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            newlines += 1;
            continue;
        }
        // Blank lines count only between lines, so they are written when the next line comes.
        for _ in 0..if begun { newlines + 1 } else { 0 } {
            hasher.update(b"\n");
        }
        hasher.update(line.as_bytes());
        (begun, newlines) = (true, 0);
    }
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..ID_BYTES]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_does_not_matter_and_text_does() {
        let same = ["a b\n\nç", "\n a b"].map(id);
        assert_eq!(same[0], id("\n\na b  \r\n\t\r\nc\u{327}\n\n"));
        assert_eq!(
            &same[0][..],
            &blake3::hash("a b\n\nç".as_bytes()).as_bytes()[..ID_BYTES]
        );
        for other in ["a  b\n\nç", "a b\nç", "A b\n\nç", "a b\n\n\nç", ""] {
            assert_ne!(same[0], id(other));
        }
        assert_ne!(same[1], id("a b"), "indentation of the first line is text");
    }
}
