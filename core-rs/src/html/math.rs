//! Formulas as LaTeX: the author's own TeX where the page carries it (in MathML, in its text, as what stands for a
//! picture), else the presentation elements written out.

use super::dom::{Content, Element, NodeId, Tree};

const TEX: [&str; 5] = [
    "application/x-tex",
    "application/x-latex",
    "text/x-tex",
    "tex",
    "latex",
];
/// What is nested deeper is left out.
const MAX_DEPTH: usize = 200;

/// Classes of pictures that a program drew of a formula.
const PICTURES: [&str; 6] = [
    "mwe-math-fallback-image-inline",
    "mwe-math-fallback-image-display",
    "tex",
    "latex",
    "math",
    "mathtex",
];

/// Whether a picture shows a formula that its alternative text spells: by its class, or where the text has a command of
/// TeX and what none but TeX writes.
pub fn is_formula(class: &str, alt: &str) -> bool {
    let is_drawn = class
        .split_ascii_whitespace()
        .any(|name| PICTURES.contains(&name));
    let has_command = alt
        .as_bytes()
        .windows(2)
        .any(|pair| pair[0] == b'\\' && pair[1].is_ascii_alphabetic());
    let is_mixed = plain(alt).contains('$'); // words with formulas among them
    !is_mixed
        && (is_drawn || (has_command && alt.contains(['{', '^', '_']) && !alt.contains(":\\")))
}

/// TeX without the dollar signs around it, and without `{\displaystyle ...}`, which MediaWiki writes around every one.
pub fn plain(tex: &str) -> &str {
    let tex = tex.trim();
    let inner = ["$$", "$"]
        .iter()
        .find_map(|sign| tex.strip_prefix(sign)?.strip_suffix(sign))
        .filter(|inner| !inner.contains('$'))
        .unwrap_or(tex)
        .trim();
    let wrapped = ["{\\displaystyle ", "{\\textstyle "]
        .iter()
        .find_map(|start| inner.strip_prefix(start)?.strip_suffix('}'));
    match wrapped {
        Some(within) if is_balanced(within) => within.trim(),
        _ => inner,
    }
}

/// TeX as [`plain`] gives it, in one line: two ways to offer a formula differ by spaces.
pub fn one_line(tex: &str) -> String {
    plain(tex).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_balanced(tex: &str) -> bool {
    let (mut depth, mut escaped) = (0i64, false);
    for byte in tex.bytes() {
        depth += match byte {
            b'{' if !escaped => 1,
            b'}' if !escaped => -1,
            _ => 0,
        };
        escaped = byte == b'\\' && !escaped;
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// A piece of text with formulas in it.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'t> {
    Words(&'t str),
    Formula { tex: &'t str, display: bool },
}

/// Text cut at the formulas that stand in it as `\(...\)` or `\[...\]`. No byte is searched twice.
pub struct Pieces<'t> {
    rest: &'t str,
    /// Where the last `\)` and the last `\]` of the text begin, counted from its end: no opening behind it has a close.
    closes: [Option<usize>; 2],
    found: Option<Piece<'t>>,
}

const SIGNS: [(&str, &str); 2] = [("\\(", "\\)"), ("\\[", "\\]")];

impl<'t> Pieces<'t> {
    pub fn of(text: &'t str) -> Self {
        let closes = SIGNS.map(|(_, close)| text.rfind(close).map(|at| text.len() - at));
        Self {
            rest: text,
            closes,
            found: None,
        }
    }

    /// The next formula of the rest: where it begins and ends, signs included, and whether it stands alone.
    fn formula(&self) -> Option<(usize, usize, bool)> {
        if self.closes == [None, None] {
            return None;
        }
        let mut at = 0;
        loop {
            at += self.rest[at..].find('\\')?;
            let here = &self.rest[at..];
            if let Some(kind) = SIGNS.iter().position(|(open, _)| here.starts_with(open)) {
                let reach = self.closes[kind].map_or(0, |from_end| {
                    (self.rest.len() - at).saturating_sub(from_end)
                });
                if reach >= 2 {
                    let end = here[2..].find(SIGNS[kind].1)? + 4;
                    if !here[2..end - 2].trim().is_empty() {
                        return Some((at, at + end, kind == 1));
                    }
                    at += end;
                    continue;
                }
            }
            // Whatever follows a backslash belongs to it: `\\(` opens nothing.
            at += 1 + here[1..].chars().next().map_or(0, char::len_utf8);
        }
    }
}

impl<'t> Iterator for Pieces<'t> {
    type Item = Piece<'t>;

    fn next(&mut self) -> Option<Piece<'t>> {
        if let Some(found) = self.found.take() {
            return Some(found);
        }
        if self.rest.is_empty() {
            return None;
        }
        let Some((start, end, display)) = self.formula() else {
            return Some(Piece::Words(std::mem::take(&mut self.rest)));
        };
        let (before, tex) = (&self.rest[..start], &self.rest[start + 2..end - 2]);
        self.rest = &self.rest[end..];
        let formula = Piece::Formula { tex, display };
        if before.is_empty() {
            return Some(formula);
        }
        self.found = Some(formula);
        Some(Piece::Words(before))
    }
}

/// The formula of a `<math>` element as LaTeX, without dollar signs and on one line where the author's is not.
pub fn latex(tree: &Tree, math: NodeId) -> String {
    if let Some(tex) = annotation(tree, math) {
        return tex;
    }
    let given = tree
        .element(math)
        .and_then(|element| element.get("alttext"))
        .unwrap_or_default()
        .trim();
    if given.is_empty() {
        write(tree, math, 0)
    } else {
        given.to_owned()
    }
}

fn annotation(tree: &Tree, math: NodeId) -> Option<String> {
    let is_tex = |element: &Element| {
        let encoding = element.get("encoding").unwrap_or_default();
        &*element.name == "annotation" && TEX.iter().any(|tex| tex.eq_ignore_ascii_case(encoding))
    };
    let found = tree
        .descendants(math)
        .find(|&id| tree.element(id).is_some_and(is_tex))?;
    let tex = own_text(tree, found).trim().to_owned();
    (!tex.is_empty()).then_some(tex)
}

fn own_text(tree: &Tree, id: NodeId) -> String {
    tree.children(id)
        .filter_map(|child| match tree.content(child) {
            Content::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// All text in a token element, HTML that stands in it included, in one line and without the signs that are not seen.
fn token(tree: &Tree, id: NodeId) -> String {
    let seen = |c: &char| !matches!(c, '\u{2061}'..='\u{2064}' | '\u{200b}');
    let mut text = String::new();
    for below in tree.descendants(id) {
        if let Content::Text(piece) = tree.content(below) {
            text.extend(piece.chars().filter(seen));
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn write(tree: &Tree, id: NodeId, depth: usize) -> String {
    let Some(element) = tree.element(id) else {
        return String::new();
    };
    let name = &*element.name;
    match name {
        "annotation" | "annotation-xml" => return String::new(),
        "mi" | "mn" | "mo" | "ms" => return token(tree, id),
        "mtext" => return format!("\\text{{{}}}", token(tree, id)),
        "mspace" => return " ".to_owned(),
        _ if depth > MAX_DEPTH => return String::new(),
        _ => {}
    }
    let parts: Vec<String> = tree
        .children(id)
        .filter(|&child| tree.element(child).is_some())
        .map(|child| write(tree, child, depth + 1))
        .collect();
    match (name, parts.as_slice()) {
        ("mfrac", [above, below]) => format!("\\frac{{{above}}}{{{below}}}"),
        ("msqrt", _) => format!("\\sqrt{{{}}}", parts.join(" ")),
        ("mroot", [inside, degree]) => format!("\\sqrt[{degree}]{{{inside}}}"),
        ("msub" | "munder", [base, below]) => format!("{base}_{{{below}}}"),
        ("msup" | "mover", [base, above]) => format!("{base}^{{{above}}}"),
        ("msubsup" | "munderover", [base, below, above]) => {
            format!("{base}_{{{below}}}^{{{above}}}")
        }
        ("mtr" | "mlabeledtr", _) => parts.join(" & "),
        ("mtable", _) => format!("\\begin{{matrix}} {} \\end{{matrix}}", parts.join(" \\\\ ")),
        ("mfenced", _) => fenced(element, &parts),
        _ => parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn fenced(element: &Element, parts: &[String]) -> String {
    let (open, close) = (
        element.get("open").unwrap_or("("),
        element.get("close").unwrap_or(")"),
    );
    format!("{open}{}{close}", parts.join(", "))
}
