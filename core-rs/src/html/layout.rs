//! What of a page is read: blocks without navigation, forms and what a browser hides; formulas; one region where the
//! page says which holds its text.

use super::blocks::{Block, Blocks, Place, Style, join};
use super::dom::{Content, DOCUMENT, Element, NodeId, Tree};
use super::math::{Piece, Pieces, is_formula, latex, one_line, plain};

/// Elements that begin a block of their own.
const BLOCKS: [&str; 54] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "center",
    "dd",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "frameset",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hgroup",
    "hr",
    "html",
    "legend",
    "li",
    "listing",
    "main",
    "menu",
    "nav",
    "ol",
    "optgroup",
    "option",
    "p",
    "plaintext",
    "pre",
    "search",
    "section",
    "summary",
    "table",
    "tbody",
    "tfoot",
    "thead",
    "title",
    "tr",
    "ul",
    "xmp",
];
/// Elements whose content is no text of the page.
const NO_TEXT: [&str; 23] = [
    "audio", "button", "canvas", "datalist", "embed", "frameset", "head", "iframe", "meter",
    "noembed", "noframes", "noscript", "object", "optgroup", "option", "progress", "script",
    "select", "style", "template", "textarea", "title", "video",
];
/// What MathJax 2 shows beside the script that holds the formula.
const RENDERED: [&str; 7] = [
    "MathJax",
    "MathJax_CHTML",
    "MathJax_Display",
    "MathJax_Preview",
    "MathJax_SVG",
    "MathJax_SVG_Display",
    "MJXc-display",
];
const CONTROLS: [&str; 4] = ["button", "input", "select", "textarea"];
/// Characters beside its controls from which a form is a page that was put into a form.
const FORM_TEXT: usize = 200;
/// Characters that the page must have where all of it stands in what is taken for navigation.
const LEAST_LOOSE: usize = 140;

/// How much is left out, for pages that would be empty otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strictness {
    /// Everything, even navigation but for its links.
    Nothing,
    /// Forms and headers are read.
    Navigation,
    All,
}

/// What holds for all inside an element.
#[derive(Clone, Copy, Default)]
struct Inside<'a> {
    place: Place<'a>,
    style: Style,
    /// Only formulas are read: what is hidden is often their source.
    hidden: bool,
    display: bool,
    /// In a section, whose header and footer are its own.
    section: bool,
    quote: bool,
    form: bool,
}

/// The page as it is read.
pub struct Layout<'a> {
    tree: &'a Tree,
    strictness: Strictness,
    blocks: Blocks<'a>,
    articles: u32,
    /// The only `<h1>`, if there is one.
    headline: Option<NodeId>,
    /// The formula written last, in one line, and how much was written with it.
    formula: (String, usize),
}

impl<'a> Layout<'a> {
    pub fn of(tree: &'a Tree) -> Self {
        let mut headlines = tree.descendants(DOCUMENT).filter(|&id| {
            tree.element(id)
                .is_some_and(|element| element.html() == "h1")
        });
        let headline = headlines.next().filter(|_| headlines.next().is_none());
        Self {
            tree,
            strictness: Strictness::All,
            blocks: Blocks::default(),
            articles: 0,
            headline,
            formula: Default::default(),
        }
    }

    /// The main text; leaves less and less out while that is nothing.
    pub fn text(mut self) -> String {
        for strictness in [Strictness::All, Strictness::Navigation, Strictness::Nothing] {
            self.strictness = strictness;
            self.children(DOCUMENT, Inside::default());
            let mut blocks = std::mem::take(&mut self.blocks).finish();
            blocks.retain(|block| !block.is_navigation());
            let chars: usize = blocks.iter().map(|block| block.chars).sum();
            if chars > 0 && (strictness != Strictness::Nothing || chars >= LEAST_LOOSE) {
                return join(region(&blocks).into_iter());
            }
            (self.articles, self.formula) = Default::default();
        }
        String::new()
    }

    fn children(&mut self, id: NodeId, inside: Inside<'a>) {
        let tree = self.tree;
        for child in tree.children(id) {
            match tree.content(child) {
                Content::Text(text) if !inside.hidden => self.write(text, inside),
                Content::Element(element) => self.element(child, element, inside),
                _ => {}
            }
        }
    }

    /// Text, and the formulas that an author wrote into it for a script such as MathJax to find.
    fn write(&mut self, text: &str, inside: Inside<'a>) {
        if inside.style.verbatim || inside.style.code {
            return self.blocks.write(text, inside.place, inside.style);
        }
        for piece in Pieces::of(text) {
            match piece {
                Piece::Words(words) => self.blocks.write(words, inside.place, inside.style),
                Piece::Formula { tex, display } => self.write_formula(tex, display, inside),
            }
        }
    }

    fn element(&mut self, id: NodeId, element: &'a Element, mut inside: Inside<'a>) {
        let name = element.html();
        match name {
            "" if &*element.name == "math" => {
                let display = element
                    .get("display")
                    .is_some_and(|value| value.eq_ignore_ascii_case("block"));
                return self.formula(&latex(self.tree, id), display, inside);
            }
            "script" => return self.script(id, element, inside),
            "br" if !inside.hidden => return self.blocks.line(inside.place),
            "img" => return self.picture(element, inside),
            "header" if self.leaves_out(Strictness::All) && !inside.section => {
                return self.header(id, inside);
            }
            "template" if element.get("shadowrootmode").is_some() => {}
            _ if self.is_no_text(id, element, inside) => return,
            _ => {}
        }
        inside.hidden |= is_hidden(element, name);
        inside.display |= has_class(element, &["katex-display"]);
        match name {
            "link-text" => {
                // An anchor that is only named is a place, not a link.
                inside.style.link |= element.get("href").is_some() || element.get("name").is_none();
            }
            "code-text" | "kbd" | "samp" => inside.style.code = true,
            "main" => inside.place.in_main = true,
            "article" if inside.place.article == 0 => {
                self.articles += 1;
                inside.place.article = self.articles;
            }
            "blockquote" => inside.quote = true,
            "form" => inside.form = true,
            _ => {}
        }
        inside.place.in_main |= element
            .get("role")
            .is_some_and(|role| role.eq_ignore_ascii_case("main"));
        inside.section |= matches!(name, "main" | "article" | "section");
        if BLOCKS.contains(&name) {
            self.block(id, element, name, inside);
        } else if matches!(name, "td" | "th") {
            self.cell(id, inside);
        } else if name.contains('-')
            && !matches!(name, "link-text" | "code-text")
            && !name.starts_with("mjx-")
        {
            self.blocks.space(); // an element of the page's own may be a block
            self.children(id, inside);
            self.blocks.space();
        } else {
            self.children(id, inside);
        }
    }

    fn block(&mut self, id: NodeId, element: &Element, name: &'a str, mut inside: Inside<'a>) {
        if inside.style.verbatim {
            self.blocks.fresh_line();
            self.children(id, inside);
            return self.blocks.fresh_line();
        }
        let verbatim = matches!(name, "pre" | "xmp" | "listing" | "plaintext")
            || style_says(element, &["white-space:pre"]);
        inside.style.verbatim = verbatim;
        inside.place.tag = if verbatim { "pre" } else { name };
        self.blocks.end();
        self.children(id, inside);
        self.blocks.end();
    }

    fn cell(&mut self, id: NodeId, inside: Inside<'a>) {
        if inside.style.verbatim && !self.blocks.is_fresh() {
            self.blocks.write_whole("\t", inside.place, inside.style);
        } else {
            self.blocks.space();
        }
        self.children(id, inside);
    }

    fn leaves_out(&self, strictness: Strictness) -> bool {
        self.strictness >= strictness
    }

    fn is_no_text(&self, id: NodeId, element: &Element, inside: Inside<'a>) -> bool {
        let name = element.html();
        let role = element.get("role").unwrap_or_default();
        let is_navigation = matches!(name, "nav" | "aside")
            || (name == "footer" && !inside.quote)
            || role.eq_ignore_ascii_case("navigation")
            || role.eq_ignore_ascii_case("contentinfo");
        NO_TEXT.contains(&name)
            || (name.is_empty() && &*element.name == "svg")
            || (is_navigation && self.leaves_out(Strictness::Navigation))
            || (name == "label" && inside.form)
            || (name == "form" && self.leaves_out(Strictness::All) && self.is_controls(id))
            || (matches!(name, "span" | "div") && has_class(element, &RENDERED))
    }

    /// The header of the page is left out, but for the headline that may stand in it.
    fn header(&mut self, id: NodeId, mut inside: Inside<'a>) {
        let Some(headline) = self.headline else {
            return;
        };
        let mut above = Some(headline);
        while above.is_some_and(|node| node != id) {
            above = above.and_then(|node| self.tree.parent(node));
        }
        if let (Some(_), Content::Element(element)) = (above, self.tree.content(headline)) {
            inside.section = true;
            self.blocks.end();
            self.element(headline, element, inside);
            self.blocks.end();
        }
    }

    /// Whether a form is one to fill in, not a page that was put into a form.
    fn is_controls(&self, form: NodeId) -> bool {
        let (mut controls, mut chars) = (false, 0);
        for id in self.tree.descendants(form) {
            match self.tree.content(id) {
                Content::Text(text) if self.is_prose_of_form(id) => {
                    chars += text.chars().filter(|c| !c.is_whitespace()).count();
                }
                Content::Element(element) => {
                    let name = element.html();
                    let unseen = element
                        .get("type")
                        .is_some_and(|kind| kind.eq_ignore_ascii_case("hidden"));
                    controls |= CONTROLS.contains(&name) && !unseen;
                    if matches!(name, "main" | "article" | "h1") {
                        return false;
                    }
                }
                _ => {}
            }
            if chars >= FORM_TEXT {
                return false;
            }
        }
        controls
    }

    fn is_prose_of_form(&self, text: NodeId) -> bool {
        let parent = self
            .tree
            .parent(text)
            .and_then(|parent| self.tree.element(parent));
        parent.is_none_or(|parent| {
            let name = parent.html();
            !NO_TEXT.contains(&name) && !matches!(name, "label" | "legend")
        })
    }

    // -- formulas and pictures -----------------------------------------------------------------------

    fn formula(&mut self, tex: &str, display: bool, inside: Inside<'a>) {
        // A formula stands twice where a page offers it in two ways.
        let line = one_line(tex);
        if !line.is_empty() && self.formula != (line, self.blocks.written()) {
            self.write_formula(tex, display, inside);
        }
    }

    fn write_formula(&mut self, tex: &str, display: bool, inside: Inside<'a>) {
        let tex = plain(tex);
        if tex.is_empty() {
            return;
        }
        let mark = if display || inside.display { "$$" } else { "$" };
        self.blocks
            .write_whole(&format!("{mark}{tex}{mark}"), inside.place, inside.style);
        self.formula = (one_line(tex), self.blocks.written());
    }

    fn script(&mut self, id: NodeId, element: &'a Element, inside: Inside<'a>) {
        let kind = element.get("type").unwrap_or_default();
        if !kind.trim_start().starts_with("math/tex") {
            return;
        }
        let display = kind.replace(' ', "").contains("mode=display");
        let tree = self.tree;
        for child in tree.children(id) {
            if let Content::Text(tex) = tree.content(child) {
                self.formula(tex, display, inside);
            }
        }
    }

    fn picture(&mut self, element: &Element, inside: Inside<'a>) {
        let alt = element.get("alt").unwrap_or_default();
        if inside.hidden || alt.trim().is_empty() {
            return;
        }
        // A picture of a formula often follows the formula itself, as its fallback, and may be hidden then.
        if is_formula(element.get("class").unwrap_or_default(), alt) {
            let display = has_class(element, &["mwe-math-fallback-image-display"]);
            if !is_hidden(element, "img") {
                self.formula(alt, display, inside);
            }
            return;
        }
        let alt = alt.split_whitespace().collect::<Vec<_>>().join(" ");
        if is_hidden(element, "img") || alt == self.formula.0 {
            return;
        }
        let style = Style {
            verbatim: false,
            ..inside.style
        };
        self.blocks.space();
        self.blocks.write(&alt, inside.place, style);
        self.blocks.space();
    }
}

fn has_class(element: &Element, names: &[&str]) -> bool {
    let classes = element.get("class").unwrap_or_default();
    classes
        .split_ascii_whitespace()
        .any(|class| names.contains(&class))
}

fn style_says(element: &Element, what: &[&str]) -> bool {
    let Some(style) = element.get("style") else {
        return false;
    };
    let style: String = style
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_ascii_lowercase();
    what.iter().any(|words| style.contains(words))
}

/// Whether a browser shows nothing of it. A page that hides its whole body shows it by a script.
fn is_hidden(element: &Element, name: &str) -> bool {
    let hidden = element
        .get("hidden")
        .is_some_and(|value| !value.eq_ignore_ascii_case("until-found"));
    let aria = element
        .get("aria-hidden")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    !matches!(name, "html" | "body" | "main")
        && (hidden
            || aria
            || style_says(element, &["display:none", "visibility:hidden"])
            || (name == "dialog" && element.get("open").is_none()))
}

/// The blocks of the page's `<main>`, or of its only `<article>`, where most of the text stands there; else all. The
/// headline is taken along where it stands before.
fn region<'b, 'a>(blocks: &'b [Block<'a>]) -> Vec<&'b Block<'a>> {
    let size = |inside: &dyn Fn(&Place<'_>) -> bool| -> usize {
        blocks
            .iter()
            .filter(|block| inside(&block.place))
            .map(|block| block.chars)
            .sum()
    };
    let total = size(&|_| true);
    let articles = blocks
        .iter()
        .map(|block| block.place.article)
        .max()
        .unwrap_or(0);
    let chosen: &dyn Fn(&Place<'_>) -> bool = if 4 * size(&|place| place.in_main) >= total {
        &|place| place.in_main
    } else if articles == 1 && 2 * size(&|place| place.article == 1) >= total {
        &|place| place.article == 1
    } else {
        &|_| true
    };
    let first = blocks
        .iter()
        .position(|block| chosen(&block.place))
        .unwrap_or(0);
    let has_headline = blocks
        .iter()
        .any(|block| chosen(&block.place) && block.place.tag == "h1");
    let headline =
        |n: usize, block: &Block<'_>| !has_headline && n < first && block.place.tag == "h1";
    let kept = blocks
        .iter()
        .enumerate()
        .filter(|(n, block)| chosen(&block.place) || headline(*n, block));
    kept.map(|(_, block)| block).collect()
}
