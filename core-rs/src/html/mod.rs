//! From an HTML page to its main text (paper 3.1.1): the structure of code and formulas is kept, alternative texts of
//! pictures too; markup, navigation and what a browser hides go.
//!
//! [`charset`] decodes as browsers do, [`parse`] builds the tree by the HTML standard, [`layout`] decides what is shown
//! and in which blocks, [`math`] writes formulas as LaTeX, [`blocks`] joins it all. Time and memory are linear in the
//! page: depth, attributes and nodes are bounded, and no state of the parser is walked more often than that.

mod blocks;
pub mod charset;
mod dom;
mod layout;
mod math;
mod parse;
#[cfg(test)]
mod tests;

/// The text of a page and how it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The main text; empty where the page has none.
    pub text: String,
    /// The name of the encoding, as the encoding standard spells it.
    pub encoding: &'static str,
    /// Characters of the page, and those among them that no text has: undecodable bytes and control characters.
    pub characters: usize,
    pub undecodable: usize,
}

/// The main text of the bytes of a page.
#[must_use]
pub fn page_text(bytes: &[u8]) -> Page {
    let decoded = charset::decode(bytes);
    Page {
        text: main_text(&decoded.text),
        encoding: decoded.encoding,
        characters: decoded.text.chars().count(),
        undecodable: decoded.undecodable(),
    }
}

/// The main text of a page; empty where there is none.
#[must_use]
pub fn main_text(page: &str) -> String {
    layout::Layout::of(&parse::parse(page)).text()
}
