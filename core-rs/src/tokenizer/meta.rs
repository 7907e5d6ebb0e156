//! Meta's reference code cuts long text before it tokenizes: every 400,000 characters, and where a run of blank or
//! of visible characters passes 25,000. Ids of such texts differ from plain BPE; this reproduces them.

const MAX_CHARS: usize = 400_000;
const MAX_RUN: usize = 25_000;

/// The parts of `text` that the reference encodes one by one, in order. Together they are `text`.
pub fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut chars, mut run, mut run_is_blank) = (0, 0, false);
    for (at, c) in text.char_indices() {
        let blank = is_blank(c);
        if chars == MAX_CHARS {
            parts.push(&text[start..at]);
            (start, chars, run) = (at, 0, 0);
        } else if run == MAX_RUN && blank == run_is_blank {
            parts.push(&text[start..at]);
            (start, run) = (at, 0);
        }
        run = if run > 0 && blank == run_is_blank {
            run + 1
        } else {
            1
        };
        run_is_blank = blank;
        chars += 1;
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}

/// Python's `str.isspace`: White_Space and the four separators U+001C to U+001F.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}
