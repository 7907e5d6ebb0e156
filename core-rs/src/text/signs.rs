//! Signs of personal data: whatever a careful search would find has one, so that the search need not look at texts that
//! have none. Signs are plentiful on purpose; what they stand for is for the search to tell.

use super::marks::Marks;
use std::ops::Range;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Memory that one thread reuses for texts that are not ASCII.
#[derive(Debug, Default)]
pub struct Folded {
    text: String,
    marks: Marks,
}

/// Signs of e-mail addresses, phone numbers, payment cards, bank accounts (IBAN), IP addresses and secrets in a text
/// whose marks are known. Time linear in the text.
pub fn signs(text: &str, marks: &Marks, folded: &mut Folded) -> [u64; 6] {
    if marks.is_ascii {
        return signs_in(text.as_bytes(), marks);
    }
    fold(text, marks, &mut folded.text);
    folded.marks.scan(&folded.text);
    signs_in(folded.text.as_bytes(), &folded.marks)
}

fn signs_in(bytes: &[u8], marks: &Marks) -> [u64; 6] {
    let count = |found: usize| found as u64;
    let emails = marks.places(|block| block.at);
    let emails = count(emails.filter(|&at| is_email(bytes, at)).count());
    let logins = marks.places(|block| block.colon);
    let mut secrets = count(logins.filter(|&at| is_login(&bytes[at..])).count());
    let (mut phones, mut cards, mut ibans, mut ips) = (0, 0, 0, 0);
    let mut run_end = 0;
    // Letters, digits and + / _ -
    for place in marks.runs(|block| block.letter | block.digit | block.joint) {
        let Range { start: at, end } = place;
        let token = &bytes[place.clone()];
        secrets += u64::from(is_named(token, &bytes[end..]));
        let has_digit = marks.any(place.clone(), |block| block.digit);
        if token.len() < 12 && !has_digit && !marks.any(place, |block| block.joint) {
            secrets += u64::from(token == b"SG");
            continue;
        }
        secrets += u64::from(is_random(token) || token.ends_with(b"-----BEGIN"));
        for start in starts(bytes, at, end) {
            ibans += u64::from(is_account(&bytes[start..]));
            ips += u64::from(is_long_address(&bytes[start..]));
            secrets += u64::from(is_prefixed(&bytes[start..end], &bytes[end..]));
        }
        if has_digit {
            for digit in at..end {
                if digit >= run_end && bytes[digit].is_ascii_digit() {
                    let run = Numbers::at(bytes, digit);
                    phones += u64::from(run.is_phone(&bytes[..digit]));
                    cards += u64::from(run.card);
                    ips += u64::from(run.dotted);
                    run_end = run.end;
                }
            }
        }
    }
    [emails, phones, cards, ibans, ips, secrets]
}

/// Where something may begin inside a token: at its start and behind a mark.
fn starts(bytes: &[u8], at: usize, end: usize) -> impl Iterator<Item = usize> + '_ {
    (at..end).filter(move |&i| i == at || matches!(bytes[i - 1], b'+' | b'/' | b'_' | b'-'))
}

fn is_wordy(byte: Option<&u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 128)
}

fn is_email(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_wordy(bytes.get(at - 1)) && is_wordy(bytes.get(at + 1))
}

/// `://name:password@`
fn is_login(rest: &[u8]) -> bool {
    const MOST: usize = 512;
    rest.starts_with(b"://")
        && rest[3..]
            .iter()
            .take(MOST)
            .take_while(|byte| !byte.is_ascii_whitespace())
            .any(|&byte| byte == b'@')
}

/// Digits in groups, with spaces, brackets, dots, slashes and hyphens between them.
#[derive(Default)]
struct Numbers {
    end: usize,
    digits: usize,
    /// Groups of 3, 3 and 4 digits, or one that begins with 00.
    grouped: bool,
    card: bool,
    /// Four groups of up to three digits with dots between them.
    dotted: bool,
}

impl Numbers {
    fn at(bytes: &[u8], first: usize) -> Self {
        let mut run = Self::default();
        let (mut last, mut by_dots) = ([0usize; 4], 0);
        let mut at = first;
        loop {
            let start = at;
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            let size = at - start;
            run.digits += size;
            run.end = at;
            last = [last[1], last[2], last[3], size];
            let dot = start > first
                && start >= 2
                && bytes[start - 1] == b'.'
                && bytes[start - 2].is_ascii_digit();
            by_dots = match (size <= 3, dot) {
                (false, _) => 0,
                (true, true) if by_dots > 0 => by_dots + 1,
                _ => 1,
            };
            run.dotted |= by_dots >= 4;
            run.grouped |= last[1..] == [3, 3, 4] || bytes[start..at].starts_with(b"00");
            run.card |= size >= 12 || last == [4, 4, 4, 4] || (last[1..3] == [4, 6] && size >= 4);
            while bytes.get(at).is_some_and(|byte| b" ()./-".contains(byte)) {
                at += 1;
            }
            if !bytes.get(at).is_some_and(u8::is_ascii_digit) {
                return run;
            }
        }
    }

    /// Enough digits, and something that makes them a phone number: their groups, a plus, or a word before them.
    fn is_phone(&self, before: &[u8]) -> bool {
        const WORDS: [&[u8]; 13] = [
            b"tel",
            b"phone",
            b"mobil",
            b"cell",
            b"fax",
            b"call",
            b"dial",
            b"ring",
            b"sms",
            b"whatsapp",
            b"text me",
            b"handy",
            b"portable",
        ];
        if self.digits < 7 {
            return false;
        }
        let near = before[before.len().saturating_sub(64)..].to_ascii_lowercase();
        self.grouped
            || before.ends_with(b"+")
            || WORDS
                .iter()
                .any(|word| near.windows(word.len()).any(|part| part == *word))
    }
}

/// Two letters, two digits, and at least 11 more, single spaces or hyphens between them.
fn is_account(rest: &[u8]) -> bool {
    let [a, b, c, d, tail @ ..] = rest else {
        return false;
    };
    if !(a.is_ascii_alphabetic()
        && b.is_ascii_alphabetic()
        && c.is_ascii_digit()
        && d.is_ascii_digit())
    {
        return false;
    }
    let (mut count, mut at) = (0, 0);
    while count < 11 {
        at += usize::from(matches!(tail.get(at), Some(b' ' | b'-')));
        if !tail.get(at).is_some_and(u8::is_ascii_alphanumeric) {
            return false;
        }
        (count, at) = (count + 1, at + 1);
    }
    true
}

/// Four hexadecimal digits, a colon, up to four more, a colon: an IPv6 address of the public part.
fn is_long_address(rest: &[u8]) -> bool {
    if !(rest.len() > 5
        && rest[0].is_ascii_digit()
        && rest[4] == b':'
        && rest[..4].iter().all(u8::is_ascii_hexdigit))
    {
        return false;
    }
    let more = rest[5..]
        .iter()
        .take(4)
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    rest.get(5 + more) == Some(&b':')
}

/// A long token with three or more of each: small letters, capitals, digits.
fn is_random(token: &[u8]) -> bool {
    let count = |kind: fn(&u8) -> bool| token.iter().filter(|byte| kind(byte)).count();
    token.len() >= 32
        && count(u8::is_ascii_lowercase) >= 3
        && count(u8::is_ascii_uppercase) >= 3
        && count(u8::is_ascii_digit) >= 3
}

/// What services begin their keys with.
fn is_prefixed(token: &[u8], rest: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 25] = [
        b"AKIA",
        b"ASIA",
        b"ABIA",
        b"ACCA",
        b"ghp_",
        b"gho_",
        b"ghu_",
        b"ghs_",
        b"ghr_",
        b"github_pat_",
        b"glpat-",
        b"sk-",
        b"hf_",
        b"sk_",
        b"rk_",
        b"xox",
        b"xapp-",
        b"AIza",
        b"GOCSPX-",
        b"npm_",
        b"pypi-",
        b"dop_v1_",
        b"shp",
        b"AGE-SECRET-KEY-1",
        b"eyJ",
    ];
    PREFIXES.iter().any(|prefix| token.starts_with(prefix))
        || token == b"SG"
        || (token == b"ya29" && rest.starts_with(b"."))
        || rest.starts_with(b":AA")
}

/// `key: value` and the like, by the name.
fn is_named(token: &[u8], rest: &[u8]) -> bool {
    let [.., before, last] = token else {
        return false;
    };
    let names: &[&[u8]] = match [before.to_ascii_lowercase(), last.to_ascii_lowercase()] {
        [b'e', b'y'] => &[b"key"],
        [b'e', b'n'] => &[b"token"],
        [b'e', b't'] => &[b"secret"],
        [b'r', b'd'] => &[b"password"],
        [b'w', b'd'] => &[b"passwd", b"pwd"],
        [b'a', b'l'] => &[b"credential"],
        [b'l', b's'] => &[b"credentials"],
        _ => return false,
    };
    let ends_with = |name: &&[u8]| {
        token
            .len()
            .checked_sub(name.len())
            .is_some_and(|from| token[from..].eq_ignore_ascii_case(name))
    };
    if !names.iter().any(ends_with) {
        return false;
    }
    let rest = rest
        .strip_prefix(b"\"")
        .or(rest.strip_prefix(b"'"))
        .unwrap_or(rest);
    let rest = rest.trim_ascii_start();
    rest.starts_with(b":")
        || rest.starts_with(b"=")
        || (rest.len() > 1 && rest[..2].eq_ignore_ascii_case(b"is"))
}

/// The text in plain signs: compatibility forms, digits of other scripts (as 0), dashes and spaces; invisible ones go.
fn fold(text: &str, marks: &Marks, folded: &mut String) {
    folded.clear();
    let mut from = 0;
    for start in marks.places(|block| block.high & !block.follows) {
        folded.push_str(&text[from..start]);
        let Some(c) = text[start..].chars().next() else {
            break;
        };
        from = start + c.len_utf8();
        // Letters without another form: most of what is not ASCII.
        if matches!(c, '\u{3041}'..='\u{3096}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
        {
            folded.push(c);
        } else if c.general_category() == GeneralCategory::DecimalNumber {
            folded.push('0');
        } else if is_nfkc_quick(std::iter::once(c)) == IsNormalized::Yes {
            push_plain(c, folded);
        } else {
            std::iter::once(c)
                .nfkc()
                .for_each(|plain| push_plain(plain, folded));
        }
    }
    folded.push_str(&text[from..]);
}

fn push_plain(c: char, folded: &mut String) {
    match c.general_category() {
        GeneralCategory::Format => {}
        GeneralCategory::DashPunctuation => folded.push('-'),
        GeneralCategory::SpaceSeparator => folded.push(' '),
        _ => folded.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_by_hand() {
        let cases = [
            ("write to a.b@example.org now", [1, 0, 0, 0, 0, 0]),
            ("@ home, a@ b, 12 of 345", [0; 6]),
            (
                "call me at (555) 123-4567 or +49 30 1234567",
                [0, 2, 0, 0, 0, 0],
            ),
            ("in 1998-1999 and 2000000", [0; 6]),
            ("phone：０３０ １２３４５６７", [0, 1, 0, 0, 0, 0]),
            ("4111 1111 1111 1111", [0, 0, 1, 0, 0, 0]),
            ("4111111111111111", [0, 0, 1, 0, 0, 0]),
            ("DE89 3704 0044 0532 0130 00", [0, 1, 1, 1, 0, 0]),
            ("at 8.8.8.8, v1.2.3", [0, 0, 0, 0, 1, 0]),
            ("2001:4860::8888", [0, 0, 0, 0, 2, 0]),
            ("-----BEGIN RSA PRIVATE KEY-----", [0, 0, 0, 0, 0, 1]),
            ("my_token = \"x\"", [0, 0, 0, 0, 0, 1]),
            ("https://me:pass@host/", [1, 0, 0, 0, 0, 1]),
            ("ghp_abc", [0, 0, 0, 0, 0, 1]),
            ("the key is here, a monkey.", [0, 0, 0, 0, 0, 1]),
        ];
        for (text, expected) in cases {
            let mut marks = Marks::default();
            marks.read(text);
            assert_eq!(
                signs(text, &marks, &mut Folded::default()),
                expected,
                "{text}"
            );
        }
    }
}
