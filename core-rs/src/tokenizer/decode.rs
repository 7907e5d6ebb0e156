//! Ids to bytes, and ids to text as they arrive: a character split over tokens comes out once, whole.

use super::added::AddedTokens;
use super::error::Error;
use super::vocab::Vocab;

/// Bytes of the tokens, added ones by their names.
pub fn decode(
    vocab: &Vocab,
    added: &AddedTokens,
    ids: &[u32],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    out.reserve(ids.len().saturating_mul(4));
    for &id in ids {
        out.extend_from_slice(token_bytes(vocab, added, id)?);
    }
    Ok(())
}

/// Bytes of one token.
#[inline]
pub fn token_bytes<'t>(
    vocab: &'t Vocab,
    added: &'t AddedTokens,
    id: u32,
) -> Result<&'t [u8], Error> {
    vocab
        .token(id)
        .or_else(|| added.name(id).map(str::as_bytes))
        .ok_or(Error::UnknownId(id))
}

/// Turns bytes that arrive in any portions into text. What it has given out, put together, is always a prefix of
/// `String::from_utf8_lossy` of all bytes; `flush` gives the rest. Holds back at most three bytes.
#[derive(Default)]
pub struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Text that has become certain with these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let (mut text, mut done) = (String::new(), 0);
        while done < self.pending.len() {
            let rest = &self.pending[done..];
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    done = self.pending.len();
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&rest[..valid]));
                    done += valid;
                    let Some(invalid) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += invalid;
                }
            }
        }
        self.pending.drain(..done);
        text
    }

    /// Ends the stream: an unfinished character becomes U+FFFD. The stream can be used anew.
    pub fn flush(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stream_gives_the_same_text_however_the_bytes_are_cut(
            parts in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(0xF0), Just(0x9F), Just(0x98), Just(0x80), Just(0xE4), Just(b'a')],
                0..6), 0..12)
        ) {
            let whole: Vec<u8> = parts.concat();
            let mut stream = Utf8Stream::default();
            let mut text = String::new();
            for part in &parts {
                text.push_str(&stream.push(part));
                prop_assert!(stream.pending.len() <= 3);
            }
            text.push_str(&stream.flush());
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }
}
