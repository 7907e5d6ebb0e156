//! Words: maximal runs of letters and digits (with their combining marks), compared without case, in the composed
//! form (NFC) and without characters that are not seen, such as soft hyphens.
//!
//! In scripts written without spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer) every character is a word of
//! its own, so that n-grams of words become n-grams of characters there.

use super::ascii::for_each_ascii_word;
use super::hash::Hash64;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// A word by what the analysis needs of it; its letters are never copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Hash of the lower-case letters.
    pub hash: u64,
    /// Length in characters.
    pub chars: u32,
}

/// Lower-case byte of an ASCII letter or digit, 0 for every other byte.
static LOWER: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// Bytes of ASCII that are worth a change of the way of scanning.
const AHEAD: usize = 32;

/// Calls `found` with every word in order. Time linear in the bytes; a text that is not composed is copied.
pub fn for_each_word(text: &str, found: impl FnMut(Word)) {
    if is_composed(text) {
        scan(text, found);
    } else {
        scan(&text.nfc().collect::<String>(), found);
    }
}

/// Whether the text is surely in the form NFC. Characters below U+0300 are, in any order.
fn is_composed(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars().filter(|&c| c >= '\u{300}')) == IsNormalized::Yes
}

/// Stretches of ASCII by [`for_each_ascii_word`], what lies between them character by character.
fn scan(text: &str, mut found: impl FnMut(Word)) {
    let bytes = text.as_bytes();
    let mut masks = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let stretch = ascii_stretch(&bytes[at..]);
        for_each_ascii_word(&bytes[at..at + stretch], &mut masks, &mut found);
        at += stretch;
        at += scan_characters(&text[at..], &mut found);
    }
}

/// Bytes of ASCII that `bytes` begins with, without a word at its end that may go on in other characters.
fn ascii_stretch(bytes: &[u8]) -> usize {
    const LEAP: usize = 64;
    let leaps = bytes.chunks_exact(LEAP).take_while(|leap| leap.is_ascii());
    let leapt = LEAP * leaps.count();
    let Some(steps) = bytes[leapt..].iter().position(|byte| !byte.is_ascii()) else {
        return bytes.len();
    };
    let ascii = leapt + steps;
    let word = bytes[..ascii]
        .iter()
        .rev()
        .take_while(|&&byte| LOWER[usize::from(byte)] != 0);
    ascii - word.count()
}

/// Scans characters up to the end of a word behind which [`AHEAD`] bytes of ASCII follow, or to the end of the text;
/// the bytes that were scanned.
fn scan_characters(text: &str, found: &mut impl FnMut(Word)) -> usize {
    let bytes = text.as_bytes();
    let mut hash = Hash64::default();
    let mut chars = 0u32;
    let mut at = 0;
    while at < bytes.len() {
        let lower = LOWER[usize::from(bytes[at])];
        if lower != 0 {
            hash.push(lower);
            chars = chars.saturating_add(1);
            at += 1;
            continue;
        }
        let mut step = 1;
        if bytes[at] >= 128 {
            let Some(c) = text[at..].chars().next() else {
                break;
            };
            step = c.len_utf8();
            if is_unseen(c) {
                at += step;
                continue;
            }
            if is_unspaced(c) {
                end_word(&mut hash, &mut chars, found);
                hash.push_char(c);
                chars = 1;
            } else if c.is_alphanumeric() || (chars > 0 && is_mark(c)) {
                c.to_lowercase().for_each(|lower| hash.push_char(lower));
                chars = chars.saturating_add(1);
                at += step;
                continue;
            }
        }
        end_word(&mut hash, &mut chars, found);
        at += step;
        if step == 1 && bytes.get(at..at + AHEAD).is_some_and(<[u8]>::is_ascii) {
            return at;
        }
    }
    end_word(&mut hash, &mut chars, found);
    at
}

#[inline]
fn end_word(hash: &mut Hash64, chars: &mut u32, found: &mut impl FnMut(Word)) {
    if *chars > 0 {
        found(Word {
            hash: hash.finish(),
            chars: *chars,
        });
        *chars = 0;
    }
}

fn is_mark(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Mark
}

/// A character that is not seen and ends no word: soft hyphens, joiners, marks of direction and variation.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{e0100}'..='\u{e01ef}')
}

/// A letter, digit or mark of a script that puts no spaces between words.
fn is_unspaced(c: char) -> bool {
    let in_script = matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{3100}'..='\u{312f}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}'
        | '\u{1b000}'..='\u{1b16f}' | '\u{20000}'..='\u{3ffff}');
    in_script && (c.is_alphanumeric() || is_mark(c))
}

#[cfg(test)]
mod tests {
    use super::super::hash::hash_bytes;
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<Word> {
        let mut out = vec![];
        for_each_word(text, |word| out.push(word));
        out
    }

    fn named(names: &[&str]) -> Vec<Word> {
        let word = |name: &&str| Word {
            hash: hash_bytes(name.as_bytes()),
            chars: name.chars().count() as u32,
        };
        names.iter().map(word).collect()
    }

    #[test]
    fn splits_and_folds_case() {
        assert_eq!(
            words("Hello, WORLD42! x_y"),
            named(&["hello", "world42", "x", "y"])
        );
        assert_eq!(words("ÉCOLE naïve"), named(&["école", "naïve"]));
        assert_eq!(words("e\u{301}t हिन्दी"), named(&["ét", "हिन्दी"]));
        assert_eq!(words(" \n--"), []);
    }

    #[test]
    fn how_a_word_is_written_does_not_matter() {
        let composed = "Hà Nội là thủ đô, Århus, 각";
        let decomposed: String = composed.nfd().collect();
        assert_ne!(composed, decomposed);
        assert_eq!(words(composed), words(&decomposed));
        assert_eq!(
            words("qu\u{ad}ick fo\u{200b}x\u{feff} \u{2060}a"),
            named(&["quick", "fox", "a"])
        );
        assert_eq!(words("\u{ad} \u{200d}"), []);
    }

    #[test]
    fn unspaced_scripts_give_characters() {
        assert_eq!(words("ab漢字cd。ก"), named(&["ab", "漢", "字", "cd", "ก"]));
    }

    proptest! {
        #[test]
        fn case_and_separators_do_not_matter(parts in prop::collection::vec("[a-zA-Z0-9]{1,12}", 0..20)) {
            let spaced = parts.join(" ");
            let marked = parts.join("--\n");
            prop_assert_eq!(words(&spaced), words(&marked));
            prop_assert_eq!(words(&spaced), words(&spaced.to_uppercase()));
            prop_assert_eq!(words(&spaced).len(), parts.len());
        }

        #[test]
        fn stretches_of_ascii_change_nothing(text in "([ a-zA-Z0-9_.]{0,90}(é|漢|\u{ad}|E\u{301}|—)?){0,6}") {
            let composed: String = text.nfc().collect();
            let mut expected = vec![];
            let mut at = 0;
            while at < composed.len() {
                // A scan that begins behind the end of a word goes on as one that did not stop.
                at += scan_characters(&composed[at..], &mut |word| expected.push(word));
            }
            prop_assert_eq!(words(&text), expected);
        }

        #[test]
        fn any_text_is_scanned(text in "\\PC*") {
            let chars: usize = words(&text).iter().map(|w| w.chars as usize).sum();
            prop_assert!(chars <= text.nfc().count());
        }
    }
}
