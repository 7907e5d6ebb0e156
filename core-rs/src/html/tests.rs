//! What must hold of any page; what pages mean is tested from Python.

use super::dom::{Content, DOCUMENT};
use super::layout::Layout;
use super::{main_text, page_text, parse};
use proptest::prelude::*;
use std::cell::Cell;

thread_local! {
    static WORK: Cell<usize> = const { Cell::new(0) };
}

/// Counts work: nodes that are looked at, bytes that are read.
pub fn work(amount: usize) {
    WORK.set(WORK.get() + amount);
}

/// The work of reading a page.
fn work_of(page: &str) -> usize {
    WORK.set(0);
    let _ = main_text(page);
    WORK.get()
}

const PIECES: [&str; 30] = [
    "<p>",
    "</p>",
    "<div>",
    "</div>",
    "<a href=x>",
    "</a>",
    "<b>",
    "</b>",
    "<table>",
    "<tr>",
    "<td>",
    "</table>",
    "<math>",
    "<mi>",
    "</math>",
    "<svg>",
    "<template>",
    "</template>",
    "<form>",
    "</form>",
    "<script>",
    "</script>",
    "<select>",
    "<pre>",
    "<!--",
    "-->",
    "<",
    "</>",
    "&am",
    "p;",
];

fn soup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned),
        2 => "[a-z<>&\"'=/! \\n-]{0,6}",
        1 => "\\PC{0,4}",
        1 => Just("\0".to_owned()),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn text_in_one_piece(page: &str) -> String {
    Layout::of(&parse::parse_in_one_piece(page)).text()
}

proptest! {
    #[test]
    fn any_page_is_read(page in soup()) {
        let text = main_text(&page);
        prop_assert!(!text.contains('\0'));
        prop_assert_eq!(main_text(&page), text);
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let page = page_text(&bytes);
        prop_assert!(page.undecodable <= page.characters);
    }

    /// Where nothing is cut, the page is the one that the tokenizer reads in one piece.
    #[test]
    fn reading_in_pieces_changes_nothing(page in soup()) {
        prop_assert_eq!(main_text(&page), text_in_one_piece(&page));
    }
}

#[test]
fn what_is_not_fed_ends_the_text_before_it() {
    let pages = [
        "<</>/&",
        "<</>b>c",
        "a&am</>p;",
        "<svg><text>a<<![CDATA[x]]>y",
        "<svg><text>a&<![CDATA[x]]>y",
        "<svg><text>a&am<![CDATA[x]]>p;",
        "<math><mi>a<</mi><<![CDATA[x]]></math>",
    ];
    for page in pages {
        assert_eq!(main_text(page), text_in_one_piece(page), "{page}");
    }
    assert_eq!(main_text("<</>/&"), "</&");
}

#[test]
fn an_end_tag_that_is_text_is_read_once() {
    let page = "<math><mi><script><!--<script></script>";
    assert_eq!(main_text(page), text_in_one_piece(page));
    assert!(main_text(page).contains("</script>$"));
}

fn deepest(page: &str) -> usize {
    let tree = parse::parse(page);
    tree.descendants(DOCUMENT)
        .filter(|&id| matches!(tree.content(id), Content::Element(_)))
        .map(|mut id| {
            let mut depth = 0;
            while let Some(parent) = tree.parent(id) {
                (id, depth) = (parent, depth + 1);
            }
            depth
        })
        .max()
        .unwrap_or(0)
}

#[test]
fn depth_is_bounded_however_it_is_reached() {
    for open in [
        "<div>",
        "<div></x>",
        "<span><div>",
        "<table><td>",
        "<template>",
        "<math><mrow>",
        "<b>",
        "<a>",
        "<form><div></form>",
        "<svg><g>",
        "<ruby><rb>",
    ] {
        assert!(deepest(&open.repeat(5000)) <= 2 * 256 + 10, "{open}");
    }
}

/// Nodes are what work is done for: there are at most a few for each tag.
#[test]
fn nodes_are_bounded_by_the_tags() {
    let formatting: String = (0..300)
        .map(|n| format!("<b id=x{n}><font color={n}>"))
        .collect();
    let page = format!("<p>{formatting}</p>{}", "<p>x</p>".repeat(300));
    let tree = parse::parse(&page);
    assert!(tree.descendants(DOCUMENT).count() < 3000);
}

#[test]
fn attributes_are_bounded() {
    let many: String = (0..40_000).map(|n| format!(" a{n}")).collect();
    for page in [
        format!("<p{many}>text"),
        format!("<p>text</p{many}>"),
        format!("<script></script{many}>text"),
        format!("<!-- <b \" --><p{many}>text"),
        format!("<svg><![CDATA[x]]></svg><p{many}>text"),
        format!("<title><b \"</title><p{many}>text"),
    ] {
        let tree = parse::parse(&page);
        let most = tree
            .descendants(DOCUMENT)
            .filter_map(|id| tree.element(id))
            .map(|e| e.attributes.len())
            .max();
        assert!(most <= Some(256));
        assert_eq!(main_text(&page), "text");
    }
}

/// Twice the page is at most little more than twice the work, in whatever it repeats: one line, nesting, nothing closed.
#[test]
fn work_is_linear_in_the_page() {
    for piece in [
        "word ",
        "<p>x",
        "<div>",
        "<div></x>",
        "<b>",
        "<p><b id=x>",
        "<a href=x>",
        "<table><td>",
        "<td>x",
        "<ul><li>",
        "<span><div>",
        "<form><div></form>",
        "<form><input>",
        "<header><h2>",
        "<section><header>x</header>",
        "<math><mi>",
        "<math><mrow>",
        "<svg><g>",
        "<template>",
        "<select><option>",
        "<script>",
        "<textarea>",
        "<!--",
        "<!-- -->",
        "<![CDATA[",
        "<a ",
        "<a x='",
        "</",
        "<?",
        "&#",
        "&amp",
        "\\(",
        "\\(\\[",
        "\\)",
        "\\\\(",
        "$$",
        "\0",
        "<img alt='\\frac{' class=tex>",
        "<script type=math/tex>x</script>",
        "<pre>",
        "<pre>\n</pre>",
        "<h1>",
        "<ruby><rb>",
        "<aside hidden>",
        "\u{5d0}",
        "\u{4e00}",
    ] {
        let page = |bytes: usize| piece.repeat(bytes / piece.len());
        let (once, twice) = (work_of(&page(60_000)), work_of(&page(120_000)));
        assert!(
            twice * 10 <= once * 21 + 50_000,
            "{piece:?}: {once} and {twice}"
        );
        assert!(twice <= 600 * 120_000, "{piece:?}: {twice}");
    }
}

#[test]
fn formulas_in_text_are_found_without_searching_twice() {
    let shown = |text: &str| main_text(&format!("<p>{text}</p>"));
    assert_eq!(shown("a \\(x\\) b \\[y\\]"), "a $x$ b $$y$$");
    assert_eq!(shown("\\( x \\[ y \\) z"), "$x \\[ y$ z");
    assert_eq!(shown("\\\\(x\\) and \\(y"), "\\\\(x\\) and \\(y");
    assert_eq!(shown("\\) \\(é\\)\\(\\)"), "\\) $é$\\(\\)");
    assert_eq!(shown("[\\[\\]] \\(x\\) \\(x\\)"), "[\\[\\]] $x$ $x$");
    assert_eq!(shown("<code>\\(x\\)</code>"), "\\(x\\)");
}
