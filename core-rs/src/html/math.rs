//! MathML to LaTeX: the author's own TeX where the page carries it, else the presentation elements written out.

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
