//! What ends a sentence, by Unicode's property Sentence_Terminal (UAX #29), and the Khmer signs that do too.

use std::ops::Range;

/// Whether a sentence may end with this character.
#[must_use]
pub fn is_terminal(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, '.' | '!' | '?');
    }
    matches!(c,
        '\u{589}' | '\u{61d}'..='\u{61f}' | '\u{6d4}' | '\u{700}'..='\u{702}' | '\u{7f9}' | '\u{837}' | '\u{839}'
        | '\u{83d}'..='\u{83e}' | '\u{964}'..='\u{965}' | '\u{104a}'..='\u{104b}' | '\u{1362}'
        | '\u{1367}'..='\u{1368}' | '\u{166e}' | '\u{1735}'..='\u{1736}' | '\u{17d4}'..='\u{17d6}'
        | '\u{17d9}'..='\u{17da}' | '\u{1803}' | '\u{1809}' | '\u{1944}'..='\u{1945}' | '\u{1aa8}'..='\u{1aab}'
        | '\u{1b4e}'..='\u{1b4f}' | '\u{1b5a}'..='\u{1b5b}' | '\u{1b5e}'..='\u{1b5f}' | '\u{1b7d}'..='\u{1b7f}'
        | '\u{1c3b}'..='\u{1c3c}' | '\u{1c7e}'..='\u{1c7f}' | '\u{2024}' | '\u{203c}'..='\u{203d}'
        | '\u{2047}'..='\u{2049}' | '\u{2cf9}'..='\u{2cfb}' | '\u{2e2e}' | '\u{2e3c}' | '\u{2e53}'..='\u{2e54}'
        | '\u{2e60}'..='\u{2e61}' | '\u{3002}' | '\u{a4ff}' | '\u{a60e}'..='\u{a60f}' | '\u{a6f3}' | '\u{a6f7}'
        | '\u{a876}'..='\u{a877}' | '\u{a8ce}'..='\u{a8cf}' | '\u{a92f}' | '\u{a9c8}'..='\u{a9c9}'
        | '\u{aa5d}'..='\u{aa5f}' | '\u{aaf0}'..='\u{aaf1}' | '\u{abeb}' | '\u{fe12}' | '\u{fe15}'..='\u{fe16}'
        | '\u{fe52}' | '\u{fe56}'..='\u{fe57}' | '\u{ff01}' | '\u{ff0e}' | '\u{ff1f}' | '\u{ff61}'
        | '\u{10a56}'..='\u{10a57}' | '\u{10f55}'..='\u{10f59}' | '\u{10f86}'..='\u{10f89}'
        | '\u{11047}'..='\u{11048}' | '\u{110be}'..='\u{110c1}' | '\u{11141}'..='\u{11143}'
        | '\u{111c5}'..='\u{111c6}' | '\u{111cd}' | '\u{111de}'..='\u{111df}' | '\u{11238}'..='\u{11239}'
        | '\u{1123b}'..='\u{1123c}' | '\u{112a9}' | '\u{113d4}'..='\u{113d5}' | '\u{1144b}'..='\u{1144c}'
        | '\u{115c2}'..='\u{115c3}' | '\u{115c9}'..='\u{115d7}' | '\u{11641}'..='\u{11642}'
        | '\u{1173c}'..='\u{1173e}' | '\u{11944}' | '\u{11946}' | '\u{11a42}'..='\u{11a43}'
        | '\u{11a9b}'..='\u{11a9c}' | '\u{11c41}'..='\u{11c42}' | '\u{11ef7}'..='\u{11ef8}'
        | '\u{11f43}'..='\u{11f44}' | '\u{16a6e}'..='\u{16a6f}' | '\u{16af5}' | '\u{16b37}'..='\u{16b38}'
        | '\u{16b44}' | '\u{16d6e}'..='\u{16d6f}' | '\u{16e98}' | '\u{1bc9f}' | '\u{1da88}')
}

/// Sentences of a line: a run of marks that end one, with closing quotes and brackets, before a space or the end;
/// what stands behind the last is one too.
#[must_use]
pub fn sentences(line: &str) -> u64 {
    if line.is_ascii() {
        sentences_of(line.bytes().map(char::from))
    } else {
        sentences_of(line.chars())
    }
}

fn sentences_of(line: impl Iterator<Item = char>) -> u64 {
    let (mut count, mut ended, mut open) = (0, false, false);
    for c in line {
        if is_terminal(c) || c == '…' {
            ended = open;
        } else if c.is_whitespace() {
            if ended {
                count += 1;
                (ended, open) = (false, false);
            }
        } else if !is_closing(c) {
            // Scripts without spaces go on at once behind a full stop of their own.
            if ended && !c.is_ascii() {
                count += 1;
            }
            (ended, open) = (false, true);
        }
    }
    count + u64::from(open)
}

/// As [`sentences`] for a part of a text that is ASCII. `stops` are the places of . ! ? in it, ascending.
pub fn ascii_sentences(
    bytes: &[u8],
    part: Range<usize>,
    stops: impl Iterator<Item = usize>,
) -> u64 {
    const CLOSES: u8 = 1;
    const SPACE: u8 = 2;
    static CLASS: [u8; 128] = {
        let mut table = [0; 128];
        let mut closes: &[u8] = b".!?\"')]}";
        while let [byte, rest @ ..] = closes {
            table[*byte as usize] = CLOSES;
            closes = rest;
        }
        let mut spaces: &[u8] = b"\t\n\x0b\x0c\r ";
        while let [byte, rest @ ..] = spaces {
            table[*byte as usize] = SPACE;
            spaces = rest;
        }
        table
    };
    let class = |at: usize| CLASS[usize::from(bytes[at] & 0x7f)];
    let (mut count, mut seen, mut behind) = (0, part.start, part.start);
    // Moves `seen` to what a sentence is made of, if that stands before `until`.
    let is_open = |seen: &mut usize, until: usize| {
        while *seen < until && class(*seen) != 0 {
            *seen += 1;
        }
        *seen < until
    };
    for stop in stops {
        if stop < behind {
            continue;
        }
        behind = stop + 1;
        while behind < part.end && class(behind) == CLOSES {
            behind += 1;
        }
        if behind < part.end && class(behind) == SPACE && is_open(&mut seen, stop) {
            count += 1;
            seen = behind;
        }
    }
    count + u64::from(is_open(&mut seen, part.end))
}

fn is_closing(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | ')' | ']' | '}' | '”' | '’' | '»' | '」' | '』' | '）'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_by_hand() {
        let cases = [
            ("", 0),
            ("No end", 1),
            ("One. Two! Three?", 3),
            ("He said \"stop.\" Then (he left.) And so on...", 3),
            ("Version 3.5 of e.g.this. Next", 2),
            ("... !? ", 0),
            ("これは文です。次の文です。", 2),
            ("A.\u{a0}B", 2),
        ];
        for (text, count) in cases {
            assert_eq!(sentences(text), count, "{text}");
        }
    }
}
