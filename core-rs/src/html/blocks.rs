//! Joins what is shown into blocks of text, with white space as a browser shows it.

/// How text is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Kept to the byte.
    pub verbatim: bool,
    /// Of a program: spaces that do not break are indentation.
    pub code: bool,
    pub link: bool,
}

/// Where a block stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// Name of the innermost block element.
    pub tag: &'a str,
    pub in_main: bool,
    /// Number of the outermost `<article>` around it, 0 outside of all.
    pub article: u32,
}

/// A run of text between two block borders.
#[derive(Debug, Default)]
pub struct Block<'a> {
    pub place: Place<'a>,
    pub text: String,
    /// Characters that are not white space, and those of them in links.
    pub chars: usize,
    link_chars: usize,
    /// A space or line that is due before the next character.
    due: Option<char>,
    begun: bool,
}

/// Links may be 4 of 5 characters of a block outside paragraphs and headings; above that it is taken for navigation.
const MOST_LINKS: (usize, usize) = (4, 5);
const PROSE: [&str; 13] = [
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "dt",
    "dd",
    "blockquote",
    "figcaption",
    "caption",
];
/// Blocks that follow each other without an empty line.
const TIGHT: [&str; 4] = ["li", "tr", "dt", "dd"];

impl Block<'_> {
    pub fn is_navigation(&self) -> bool {
        let (most, of) = MOST_LINKS;
        !PROSE.contains(&self.place.tag) && self.link_chars * of > self.chars * most
    }
}

/// The blocks so far and the one that is being written.
#[derive(Debug, Default)]
pub struct Blocks<'a> {
    done: Vec<Block<'a>>,
    now: Block<'a>,
    written: usize,
}

impl<'a> Blocks<'a> {
    /// Begins the block if nothing was written to it.
    fn begin(&mut self, place: Place<'a>) {
        if !self.now.begun {
            self.now.place = place;
            self.now.begun = true;
        }
    }

    pub fn write(&mut self, text: &str, place: Place<'a>, style: Style) {
        if style.verbatim {
            return self.write_verbatim(text, place, style);
        }
        for c in text.chars() {
            match c {
                '\u{ad}' => {}
                '\u{a0}' if style.code => self.put(' ', place, style),
                ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{a0}' => self.space(),
                c => self.put(c, place, style),
            }
        }
    }

    fn write_verbatim(&mut self, text: &str, place: Place<'a>, style: Style) {
        self.begin(place);
        // A line that was due before a text that begins with one is that line.
        if self
            .now
            .due
            .take()
            .is_some_and(|c| c != '\n' || !text.starts_with('\n'))
            && !text.is_empty()
        {
            self.now.text.push('\n');
        }
        self.now.text.push_str(text);
        self.count(text, style);
    }

    /// Something that is kept as it is, such as a formula.
    pub fn write_whole(&mut self, text: &str, place: Place<'a>, style: Style) {
        self.begin(place);
        if let Some(c) = self.now.due.take() {
            self.now.text.push(c);
        }
        self.now.text.push_str(text);
        self.count(text, style);
    }

    fn put(&mut self, c: char, place: Place<'a>, style: Style) {
        let mut bytes = [0; 4];
        self.write_whole(c.encode_utf8(&mut bytes), place, style);
    }

    fn count(&mut self, text: &str, style: Style) {
        let chars = text.chars().filter(|c| !c.is_whitespace()).count();
        self.now.chars += chars;
        self.written += chars;
        self.now.link_chars += if style.link { chars } else { 0 };
    }

    /// A space before what follows, unless a line begins or one is there.
    pub fn space(&mut self) {
        if !self.now.text.is_empty() && !self.now.text.ends_with('\n') {
            self.now.due = Some(' ');
        }
    }

    /// A line ends here.
    pub fn line(&mut self, place: Place<'a>) {
        self.begin(place);
        self.now.due = None;
        self.now.text.push('\n');
    }

    /// Inside verbatim text: what follows begins on a line of its own.
    pub fn fresh_line(&mut self) {
        if !self.now.text.is_empty() && !self.now.text.ends_with('\n') {
            self.now.due = Some('\n');
        }
    }

    pub fn end(&mut self) {
        let block = std::mem::take(&mut self.now);
        if !block.text.trim().is_empty() {
            self.done.push(block);
        }
    }

    /// Characters so far that are not white space.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Whether nothing stands in the block yet.
    pub fn is_fresh(&self) -> bool {
        self.now.text.is_empty()
    }

    pub fn finish(mut self) -> Vec<Block<'a>> {
        self.end();
        self.done
    }
}

/// The text of the blocks.
pub fn join<'a>(blocks: impl Iterator<Item = &'a Block<'a>>) -> String {
    let mut out = String::new();
    let mut before = None;
    for block in blocks {
        let tag = block.place.tag;
        if let Some(last) = before {
            out.push_str(if last == tag && TIGHT.contains(&tag) {
                "\n"
            } else {
                "\n\n"
            });
        }
        before = Some(tag);
        out.push_str(if tag == "pre" {
            &block.text
        } else {
            block.text.trim_matches(['\n', ' '])
        });
    }
    out
}
