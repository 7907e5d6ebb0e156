//! A page to a tree by the HTML standard, with html5ever, in linear time.
//!
//! Three things make parsers of this standard slow, and all are taken away before the tree builder sees them: elements
//! nested without end (what nests deeper than [`MAX_DEPTH`] is laid flat), formatting elements, which the standard opens
//! again in every block (here they are plain inline elements), and tags with attributes without end.

use super::dom::{NodeId, Sink, Tree};
use html5ever::interface::Tracer;
use html5ever::interface::tree_builder::TreeSink;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{LocalName, local_name};
use std::cell::{Cell, RefCell};

/// Open elements beyond which what opens is laid flat. Browsers stop at 512.
const MAX_DEPTH: u32 = 256;
/// Nodes beyond which only text is taken: some hundred megabytes.
const MAX_NODES: usize = 2_000_000;
/// Attributes of a tag that are read.
const MAX_ATTRIBUTES: usize = 256;
/// Attributes that the tree builder or the layout reads.
const READ: [&str; 17] = [
    "alt",
    "alttext",
    "aria-hidden",
    "class",
    "close",
    "display",
    "encoding",
    "hidden",
    "href",
    "name",
    "open",
    "role",
    "separators",
    "shadowrootmode",
    "style",
    "type",
    "xmlns",
];
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta", "param",
    "track", "wbr",
];

/// Elements whose text is no markup: the tokenizer must learn of each.
const RAW: [&str; 9] = [
    "noscript", "script", "style", "title", "textarea", "iframe", "noembed", "noframes", "xmp",
];

/// The tree of a page.
pub fn parse(page: &str) -> Tree {
    finish(page, Reader::read)
}

#[cfg(test)]
pub fn parse_in_one_piece(page: &str) -> Tree {
    finish(page, Reader::feed)
}

fn finish(page: &str, read: fn(&Reader, &str)) -> Tree {
    let options = TreeBuilderOpts {
        scripting_enabled: true,
        ..Default::default()
    };
    let start = page.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let guard = Guard {
        builder: TreeBuilder::new(Sink::new(), options),
        dropped: Cell::new(0),
        raw: RefCell::new(None),
        plain: Cell::new(false),
        xml: Cell::new(start.starts_with("<?xml")),
        tokens: Cell::new(0),
    };
    let reader = Reader {
        tokenizer: Tokenizer::new(guard, TokenizerOpts::default()),
        queue: BufferQueue::default(),
    };
    read(&reader, page);
    reader.tokenizer.end();
    reader.tokenizer.sink.builder.sink.finish()
}

// -- between the tokenizer and the tree builder -----------------------------------------------------

struct Guard {
    builder: TreeBuilder<NodeId, Sink>,
    /// Elements that were laid flat and wait for their end tag.
    dropped: Cell<usize>,
    /// The element whose text is no markup (`script`, `title`, ...), while the tokenizer is inside it.
    raw: RefCell<Option<LocalName>>,
    /// After `<plaintext>`: no more markup at all.
    plain: Cell<bool>,
    /// Whether `<x/>` is a whole element, as in XHTML.
    xml: Cell<bool>,
    /// Tags, comments and doctypes so far.
    tokens: Cell<u64>,
}

impl TokenSink for Guard {
    type Handle = NodeId;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<NodeId> {
        let token = match token {
            Token::ParseError(_) => return TokenSinkResult::Continue,
            Token::TagToken(tag) => {
                self.count();
                if tag.kind == TagKind::EndTag {
                    self.raw.replace(None);
                }
                match self.tame(tag) {
                    Some(tag) => Token::TagToken(tag),
                    None => return TokenSinkResult::Continue,
                }
            }
            Token::CommentToken(_) => {
                self.count();
                return TokenSinkResult::Continue; // no text, and the tree builder takes no notice
            }
            Token::DoctypeToken(_) => {
                self.count();
                token
            }
            token => token,
        };
        let name = match &token {
            Token::TagToken(tag) => Some(tag.name.clone()),
            _ => None,
        };
        match self.builder.process_token(token, line) {
            TokenSinkResult::RawData(kind) => {
                self.raw.replace(name);
                TokenSinkResult::RawData(kind)
            }
            TokenSinkResult::Plaintext => {
                self.plain.set(true);
                TokenSinkResult::Plaintext
            }
            _ => TokenSinkResult::Continue, // no script runs, and the page is decoded already
        }
    }

    fn end(&self) {
        self.builder.end();
    }
}

impl Guard {
    fn count(&self) {
        self.tokens.set(self.tokens.get() + 1);
    }

    /// The tag as the tree builder gets it, if it does.
    fn tame(&self, mut tag: Tag) -> Option<Tag> {
        let opens = tag.kind == TagKind::StartTag;
        if opens {
            tag.attrs
                .retain(|attribute| READ.contains(&&*attribute.name.local));
            if tag.name == local_name!("html")
                && tag.attrs.iter().any(|a| &*a.name.local == "xmlns")
            {
                self.xml.set(true);
            }
        }
        let void = VOID.contains(&&*tag.name);
        if opens && tag.self_closing && self.xml.get() && !void && !self.in_foreign() {
            return None; // an empty element
        }
        if RAW.contains(&&*tag.name) {
            return Some(tag);
        }
        if void {
            return (self.builder.sink.nodes() < MAX_NODES).then_some(tag);
        }
        if self.builder.sink.nodes() >= MAX_NODES {
            return None;
        }
        if opens && self.is_full() {
            self.dropped.set(self.dropped.get() + 1);
            if self.in_foreign() {
                return None;
            }
            // A void element in its place keeps what stood apart apart.
            return Some(Tag {
                name: local_name!("br"),
                attrs: vec![],
                self_closing: false,
                ..tag
            });
        }
        if !opens && self.dropped.get() > 0 {
            self.dropped.set(self.dropped.get() - 1);
            return None;
        }
        tag.name = plain_name(tag.name);
        Some(tag)
    }

    fn in_foreign(&self) -> bool {
        self.builder
            .adjusted_current_node_present_but_not_in_html_namespace()
    }

    /// Whether as many elements are open as may be. They are counted only where the last one was placed that deep.
    fn is_full(&self) -> bool {
        if self.builder.sink.last_depth() < MAX_DEPTH {
            return false;
        }
        let open = Counter(Cell::new(0));
        self.builder.trace_handles(&open);
        open.0.get() >= MAX_DEPTH
    }
}

struct Counter(Cell<u32>);

impl Tracer for Counter {
    type Handle = NodeId;

    fn trace_handle(&self, _: &NodeId) {
        self.0.set(self.0.get() + 1);
    }
}

/// Formatting elements become plain ones, which behave alike but for wrong nesting; links stay known as such.
fn plain_name(name: LocalName) -> LocalName {
    match &*name {
        "a" => LocalName::from("link-text"),
        "code" | "tt" => LocalName::from("code-text"),
        "b" | "big" | "em" | "font" | "i" | "nobr" | "s" | "small" | "strike" | "strong" | "u" => {
            local_name!("span")
        }
        _ => name,
    }
}

// -- before the tokenizer ---------------------------------------------------------------------------

/// Feeds the tokenizer piece by piece, cut where tags begin, so that a tag's attributes can be counted before it reads
/// them.
struct Reader {
    tokenizer: Tokenizer<Guard>,
    queue: BufferQueue,
}

impl Reader {
    fn guard(&self) -> &Guard {
        &self.tokenizer.sink
    }

    fn feed(&self, piece: &str) {
        #[cfg(test)]
        super::tests::work(piece.len());
        self.queue.push_back(StrTendril::from_slice(piece));
        let _ = self.tokenizer.feed(&self.queue); // the guard never stops it
    }

    fn read(&self, page: &str) {
        let mut at = 0;
        let mut inside = false; // a comment or the like, up to the token that it makes
        while at < page.len() {
            let rest = &page[at..];
            if self.guard().plain.get() {
                return self.feed(rest);
            }
            let before = self.guard().tokens.get();
            at += match Opening::of(rest.as_bytes()) {
                _ if inside => self.up_to_next(rest),
                _ if self.guard().raw.borrow().is_some() => self.raw(rest),
                Opening::Start => self.start_tag(rest),
                Opening::End => self.end_tag(rest),
                Opening::Nothing => {
                    self.end_text();
                    3
                }
                Opening::Cdata if self.guard().in_foreign() => self.cdata(rest),
                Opening::Cdata | Opening::Comment => {
                    inside = true;
                    self.up_to_next(rest)
                }
                Opening::Text => self.up_to_next(rest),
            };
            inside = inside && self.guard().tokens.get() == before;
        }
    }

    /// Lets the tokenizer finish what may go on in what it is fed next: a lone `<`, the first letters of `&amp;`.
    fn end_text(&self) {
        self.feed("</>"); // means nothing
    }

    /// Feeds everything before the next `<`.
    fn up_to_next(&self, rest: &str) -> usize {
        let end = rest
            .bytes()
            .skip(1)
            .position(|byte| byte == b'<')
            .map_or(rest.len(), |found| found + 1);
        self.feed(&rest[..end]);
        end
    }

    fn start_tag(&self, rest: &str) -> usize {
        let tag = Attributes::scan(rest.as_bytes());
        match tag.cut {
            Some(cut) => {
                self.feed(&rest[..cut]);
                self.feed(">");
            }
            None => self.feed(&rest[..tag.end]),
        }
        tag.end
    }

    /// An end tag without its attributes, which mean nothing.
    fn end_tag(&self, rest: &str) -> usize {
        let tag = Attributes::scan(rest.as_bytes());
        if tag.closed {
            self.feed(&rest[..name_end(rest.as_bytes())]);
            self.feed(">");
        }
        tag.end
    }

    /// Text of an element that holds no markup; only its own end tag ends it.
    fn raw(&self, rest: &str) -> usize {
        let name = self.guard().raw.borrow().clone().unwrap_or_default();
        let end = name_end(rest.as_bytes());
        let ours = rest.starts_with("</") && rest[2..end].eq_ignore_ascii_case(&name);
        if !ours || end == rest.len() {
            return self.up_to_next(rest);
        }
        // Only the tokenizer knows whether this is text (inside `<!-- <script>`). An end tag with attributes, which
        // mean nothing, then has a `>` too many.
        self.feed(&rest[..end]);
        self.feed(">");
        if self.guard().raw.borrow().is_some() {
            end + usize::from(rest[end..].starts_with('>'))
        } else {
            Attributes::scan(rest.as_bytes()).end
        }
    }

    fn cdata(&self, rest: &str) -> usize {
        self.end_text();
        let text = &rest["<![CDATA[".len()..];
        let end = text.find("]]>").unwrap_or(text.len());
        let token = Token::CharacterTokens(StrTendril::from_slice(
            &text[..end].replace('\0', "\u{fffd}"),
        ));
        if end > 0 {
            let _ = self.guard().process_token(token, 0);
        }
        rest.len().min("<![CDATA[".len() + end + "]]>".len())
    }
}

/// What begins with a `<`, or with none.
enum Opening {
    Start,
    End,
    /// `</>`
    Nothing,
    Cdata,
    Comment,
    Text,
}

impl Opening {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [b'<', first, ..] if first.is_ascii_alphabetic() => Self::Start,
            [b'<', b'/', b'>', ..] => Self::Nothing,
            [b'<', b'/', first, ..] if first.is_ascii_alphabetic() => Self::End,
            _ if bytes.starts_with(b"<![CDATA[") => Self::Cdata,
            [b'<', b'!' | b'?', ..] | [b'<', b'/', _, ..] => Self::Comment,
            _ => Self::Text,
        }
    }
}

/// Where the name of a tag at the start of `bytes` ends.
fn name_end(bytes: &[u8]) -> usize {
    let is_end = |&byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>');
    bytes
        .iter()
        .skip(2)
        .position(is_end)
        .map_or(bytes.len(), |found| found + 2)
}

/// How far a tag reaches.
struct Attributes {
    /// After its `>`, or the end of the page.
    end: usize,
    closed: bool,
    /// Where the attributes begin that are too many.
    cut: Option<usize>,
}

impl Attributes {
    /// Scans a tag as the standard's attribute states do.
    fn scan(bytes: &[u8]) -> Self {
        let (mut at, mut count, mut cut) = (name_end(bytes), 0, None);
        loop {
            at += bytes[at..]
                .iter()
                .take_while(|&&byte| byte.is_ascii_whitespace() || byte == b'/')
                .count();
            match bytes.get(at) {
                None => {
                    #[cfg(test)]
                    super::tests::work(at);
                    return Self {
                        end: at,
                        closed: false,
                        cut,
                    };
                }
                Some(b'>') => {
                    return Self {
                        end: at + 1,
                        closed: true,
                        cut,
                    };
                }
                Some(_) => {}
            }
            count += 1;
            if count > MAX_ATTRIBUTES && cut.is_none() {
                cut = Some(at);
            }
            at = Self::value_end(bytes, Self::attribute_name_end(bytes, at));
        }
    }

    fn attribute_name_end(bytes: &[u8], at: usize) -> usize {
        let is_end = |&byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'=');
        // A `=` in front is part of the name.
        bytes
            .iter()
            .skip(at + 1)
            .position(is_end)
            .map_or(bytes.len(), |found| at + 1 + found)
    }

    fn value_end(bytes: &[u8], at: usize) -> usize {
        let skip_space = |at: usize| {
            at + bytes[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count()
        };
        let equals = skip_space(at);
        if bytes.get(equals) != Some(&b'=') {
            return at;
        }
        let start = skip_space(equals + 1);
        match bytes.get(start) {
            Some(&quote @ (b'"' | b'\'')) => {
                let rest = &bytes[start + 1..];
                rest.iter()
                    .position(|&byte| byte == quote)
                    .map_or(bytes.len(), |found| start + found + 2)
            }
            Some(b'>') | None => start,
            Some(_) => {
                let is_end = |&byte: &u8| byte.is_ascii_whitespace() || byte == b'>';
                bytes[start..]
                    .iter()
                    .position(is_end)
                    .map_or(bytes.len(), |found| start + found)
            }
        }
    }
}
