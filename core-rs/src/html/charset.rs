//! The encoding of a page, by the rules that browsers follow: byte order mark, then what the page declares, then what
//! its bytes look like. Labels mean what the encoding standard says (`iso-8859-1` is windows-1252).

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// Bytes in which a declaration is looked for: the standard asks for 1024 and reads on in the head.
const SEARCHED: usize = 1 << 16;

/// A page in Unicode.
#[derive(Debug)]
pub struct Decoded {
    pub text: String,
    pub encoding: &'static str,
}

impl Decoded {
    /// Characters that stand for bytes that mean nothing, and control characters, of which text has none.
    pub fn undecodable(&self) -> usize {
        let is_odd = |&c: &char| c == '\u{fffd}' || (c.is_control() && !c.is_whitespace());
        self.text.chars().filter(is_odd).count()
    }
}

/// The text of a page in its encoding; what cannot be decoded becomes U+FFFD.
pub fn decode(bytes: &[u8]) -> Decoded {
    let encoding = Encoding::for_bom(bytes)
        .map(|(encoding, _)| encoding)
        .or_else(|| wide(bytes))
        .or_else(|| declared(&bytes[..bytes.len().min(SEARCHED)]))
        .unwrap_or_else(|| detected(bytes));
    let (text, encoding, _) = encoding.decode(bytes);
    Decoded {
        text: text.into_owned(),
        encoding: encoding.name(),
    }
}

/// UTF-16 without a mark: a page begins with `<`.
fn wide(bytes: &[u8]) -> Option<&'static Encoding> {
    match bytes {
        [b'<', 0, _, 0, ..] => Some(UTF_16LE),
        [0, b'<', 0, _, ..] => Some(UTF_16BE),
        _ => None,
    }
}

fn detected(bytes: &[u8]) -> &'static Encoding {
    if std::str::from_utf8(bytes).is_ok() {
        return UTF_8;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, true);
    detector.guess(None, Utf8Detection::Deny)
}

/// What a page says of its encoding. The bytes that say it are ASCII, whatever that is.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let found = Prescan { bytes, at: 0 }
        .encoding()
        .or_else(|| xml_declaration(bytes))?;
    match found {
        _ if found == UTF_16LE || found == UTF_16BE => Some(UTF_8),
        _ if found == X_USER_DEFINED => Some(WINDOWS_1252),
        _ => Some(found),
    }
}

fn xml_declaration(bytes: &[u8]) -> Option<&'static Encoding> {
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let bytes = bytes[start..].strip_prefix(b"<?xml")?;
    let end = bytes.iter().position(|&byte| byte == b'>')?;
    let after = find(&bytes[..end], b"encoding")?;
    let mut rest = bytes[after..end]
        .iter()
        .copied()
        .skip_while(u8::is_ascii_whitespace);
    (rest.next() == Some(b'=')).then_some(())?;
    let mut rest = rest.skip_while(u8::is_ascii_whitespace);
    let quote = rest.next().filter(|byte| matches!(byte, b'"' | b'\''))?;
    Encoding::for_label(&rest.take_while(|&byte| byte != quote).collect::<Vec<_>>())
}

/// Where `what` ends in `bytes`, if it occurs.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes
        .windows(what.len())
        .position(|window| window == what)
        .map(|at| at + what.len())
}

/// The standard's algorithm "prescan a byte stream to determine its encoding".
struct Prescan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Prescan<'_> {
    fn encoding(&mut self) -> Option<&'static Encoding> {
        while self.at < self.bytes.len() {
            let rest = &self.bytes[self.at..];
            if rest.starts_with(b"<!--") {
                self.at += find(&rest[2..], b"-->").map_or(rest.len(), |end| end + 2);
            } else if is_meta(rest) {
                self.at += 5;
                if let Some(encoding) = self.meta() {
                    return Some(encoding);
                }
            } else if matches!(rest, [b'<', letter, ..] | [b'<', b'/', letter, ..] if letter.is_ascii_alphabetic())
            {
                let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'>';
                self.at += rest.iter().position(is_end).unwrap_or(rest.len());
                while self.attribute().is_some() {}
            } else if matches!(rest, [b'<', b'!' | b'/' | b'?', ..]) {
                self.at += rest
                    .iter()
                    .position(|&byte| byte == b'>')
                    .map_or(rest.len(), |end| end + 1);
            } else {
                self.at += 1;
            }
        }
        None
    }

    fn meta(&mut self) -> Option<&'static Encoding> {
        let (mut pragma, mut needs_pragma, mut charset) = (false, None, None);
        while let Some((name, value)) = self.attribute() {
            match name.as_slice() {
                b"http-equiv" => pragma |= value == b"content-type",
                b"content" if charset.is_none() => {
                    if let Some(found) = of_content(&value) {
                        (charset, needs_pragma) = (Some(found), Some(true));
                    }
                }
                b"charset" => (charset, needs_pragma) = (Encoding::for_label(&value), Some(false)),
                _ => {}
            }
        }
        charset.filter(|_| !needs_pragma.unwrap_or(true) || pragma)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self, is_skipped: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&is_skipped) {
            self.at += 1;
        }
    }

    fn take(&mut self, is_taken: impl Fn(u8) -> bool) -> Vec<u8> {
        let start = self.at;
        self.skip(is_taken);
        self.bytes[start..self.at].to_ascii_lowercase()
    }

    /// The next attribute of the tag in lower case; None at its end.
    fn attribute(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        self.skip(|byte| byte.is_ascii_whitespace() || byte == b'/');
        if matches!(self.peek(), None | Some(b'>')) {
            return None;
        }
        let first = self.peek().unwrap_or_default();
        self.at += 1; // a `=` in front is part of the name
        let mut name = vec![first.to_ascii_lowercase()];
        name.extend(
            self.take(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b'/' | b'>' | b'=')),
        );
        self.skip(|byte| byte.is_ascii_whitespace());
        if self.peek() != Some(b'=') {
            return Some((name, vec![]));
        }
        self.at += 1;
        self.skip(|byte| byte.is_ascii_whitespace());
        let value = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => {
                self.at += 1;
                let value = self.take(|byte| byte != quote);
                self.at += 1;
                value
            }
            _ => self.take(|byte| !byte.is_ascii_whitespace() && byte != b'>'),
        };
        Some((name, value))
    }
}

fn is_meta(bytes: &[u8]) -> bool {
    bytes.len() > 5
        && bytes[..5].eq_ignore_ascii_case(b"<meta")
        && (bytes[5].is_ascii_whitespace() || bytes[5] == b'/')
}

/// The encoding that the `content` of a `<meta>` names.
fn of_content(value: &[u8]) -> Option<&'static Encoding> {
    let mut rest = value;
    loop {
        rest = &rest[find(rest, b"charset")?..];
        rest = rest.trim_ascii_start();
        if let [b'=', after @ ..] = rest {
            rest = after.trim_ascii_start();
            break;
        }
    }
    match rest {
        [quote @ (b'"' | b'\''), label @ ..] => {
            let end = label.iter().position(|byte| byte == quote)?;
            Encoding::for_label(&label[..end])
        }
        label => {
            let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
            Encoding::for_label(&label[..label.iter().position(is_end).unwrap_or(label.len())])
        }
    }
}
