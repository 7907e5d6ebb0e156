"""Pages as the web has them: whatever a browser shows of one is read, and no page takes another with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.data.html import main_text, read_page

BODY = "The real text of the page stands here and a browser shows all of it. " * 3
TEXT = BODY.strip()


@pytest.mark.parametrize(
    ("page", "also"),
    [
        (f"<!doctype html><html><head><title>T</title><body><p>{BODY}</body></html>", ""),
        (f"<title>T</title><p>{BODY}", ""),
        (f"<head><style>p {{}}</style><p>{BODY}", ""),
        (f"<body><form id=aspnetForm><div><p>{BODY}</p></div></form></body>", ""),
        (f"<form><input type=hidden value=x><input name=q><div>{BODY}</div></form>", ""),
        (f"<body><div><h1>H</h1><p>{BODY}</p></div><article><h3>Related one</h3></article></body>", "H"),
        (f"<div><p>{BODY}</p></div>" + "<article><p>Another page with a long teaser text</p></article>" * 9, "Another"),
        (f"<main></main><div><p>{BODY}</p></div>", ""),
        (f"<main><p>Skip</p></main><div><p>{BODY}</p></div>", ""),
        (f"<p>Before</p><math><mi>x</mi><p>{BODY}</p>", "Before"),
        (f"<p>Before</p><svg><g><p>{BODY}</p>", "Before"),
        (f"<p>{BODY}</p><![FOR[x]]><p>after</p>", "after"),
        (f"<p>{BODY}</p><![dsgvo_control]><p>after</p>", "after"),
        (f"<p>{BODY}</p><!unknown><?php echo 1 ?><p>after</p>", "after"),
        (f"<table><tr><td>{BODY}<td>second</table>", "second"),
        (f"<table><p>{BODY}</p><tr><td>cell</table>", "cell"),
        (f"<select><option>x</select><p>{BODY}", ""),
        (f"<nav><ul><li><a href=x>Home</a></ul><div><p>{BODY}</p></div>", ""),
        (f"<header><h1>Title</h1></header><p>{BODY}</p>", "Title"),
        (f"<div><h1>Title</h1></div><main><p>{BODY}</p></main>", "Title"),
        (f"<body style='display: none'><p>{BODY}</p>", ""),
        (f"<body hidden><p>{BODY}</p>", ""),
        (f"<div><template shadowrootmode=open><p>{BODY}</p></template></div>", ""),
        (f"<b><i>bold<p>{BODY}</b></i>", "bold"),
        (f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><script src="x"/><title/></head>'
         f"<body><div/><p>{BODY}</p></body></html>", ""),
        (f"<p>a &lt b &amp;amp; c &unknown; &#x1F600; {BODY}</p>", "a < b &amp; c &unknown; 😀"),
        (f"<p>{BODY}</p><script>if (a < b) document.write('<p>no</p>')</script>", ""),
        (f"<p>{BODY}</p><textarea><p>no</p></textarea>", ""),
        (f"<noscript><p>no</p></noscript><p>{BODY}</p>", ""),
    ],
)  # fmt: skip
def test_no_page_is_lost_whole(page: str, also: str) -> None:
    text = main_text(page)
    assert TEXT in text
    assert also in text
    assert "no" not in text.replace("now", "").split()


def test_what_is_hidden_is_not_read() -> None:
    page = (
        "<p>seen</p><p hidden>a</p><div style='color: red; Display : NONE'>b</div><p aria-hidden=true>c</p>"
        "<dialog>d</dialog><template><p>e</p></template><span style=visibility:hidden>f</span>"
        "<p hidden=until-found>found</p><dialog open>asked</dialog><button>g</button><video>h</video>"
    )
    assert main_text(page) == "seen\n\nfound\n\nasked"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>foo <nobr>no break</nobr> <acronym>AC</acronym> <svg><title>t</title></svg> y</p>", "foo no break AC y"),
        ("<p>ex<wbr>am&shy;ple</p>", "example"),
        ("<p>x&nbsp;y   z<br>\n next</p>", "x y z\nnext"),
        ("<article><header><h1>The headline</h1></header><p>Text.</p></article>", "The headline\n\nText."),
        ("<blockquote><p>To be</p><footer>Hamlet</footer></blockquote>", "To be\n\nHamlet"),
        ("<p>one <my-tag>two</my-tag><my-tag>three</my-tag> four</p>", "one two three four"),
        ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>", "漢(kan)"),
        ("<dl><dt>a<dd>1<dt>b<dd>2</dl>", "a\n\n1\n\nb\n\n2"),
        ("<p>a<p>b<ul><li>x<li>y</ul>c", "a\n\nb\n\nx\ny\n\nc"),
        ("<div>a<div>b</div>c</div>", "a\n\nb\n\nc"),
        ('<p><a name="top">Anchors are no links</a></p><div><a name=x>neither here</a></div>',
         "Anchors are no links\n\nneither here"),
    ],
)  # fmt: skip
def test_text_stands_as_a_browser_shows_it(page: str, text: str) -> None:
    assert main_text(page) == text


# -- code --------------------------------------------------------------------------------------------

LISTING = "def f():\n    return 1"


@pytest.mark.parametrize(
    "page",
    [
        '<pre><code><div class="line">def f():</div><div class="line">    return 1</div></code></pre>',
        '<pre><div class="line">def f():</div>\n<div class="line">    return 1</div></pre>',
        "<pre><span>def f():</span><br><span>    return 1</span></pre>",
        "<pre><ol><li>def f():</li><li>    return 1</li></ol></pre>",
        "<div style='white-space: pre'>def f():\n    return 1</div>",
        "<p><code>def f():<br>&nbsp;&nbsp;&nbsp;&nbsp;return 1</code></p>",
        "<xmp>def f():\n    return 1</xmp>",
        "<pre>def f():\r\n    return 1</pre>",
    ],
)
def test_code_keeps_its_lines_and_its_indentation(page: str) -> None:
    assert main_text(page).strip("\n") == LISTING


# -- formulas ----------------------------------------------------------------------------------------

MATH = '<math {}><semantics><mi>x</mi><annotation encoding="application/x-tex">x^2</annotation></semantics></math>'
KATEX = (
    f'<span class="katex"><span class="katex-mathml">{MATH.format("")}</span>'
    '<span class="katex-html" aria-hidden="true"><span>x</span><span>2</span></span></span>'
)


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (KATEX, "Let $x^2$ be"),
        (f'<span class="katex-display">{KATEX}</span>', "Let $$x^2$$ be"),
        (
            f'<span class="mwe-math-element"><span style="display: none;">{MATH.format("")}</span>'
            '<img alt="x^2" aria-hidden="true"></span>',
            "Let $x^2$ be",
        ),
        (f'{MATH.format("")}<img alt="x^2">', "Let $x^2$ be"),
        (
            '<span class="MathJax_Preview">x2</span><span class="MathJax"><math><mi>x</mi></math></span>'
            '<script type="math/tex">x^2</script>',
            "Let $x^2$ be",
        ),
        ('<script type="math/tex; mode=display">x^2</script>', "Let $$x^2$$ be"),
        (
            f'<mjx-container class="MathJax"><mjx-math aria-hidden="true"><mjx-mi>x</mjx-mi></mjx-math>'
            f"<mjx-assistive-mml>{MATH.format('')}</mjx-assistive-mml></mjx-container>",
            "Let $x^2$ be",
        ),
        ("\\(x^2\\)", "Let $x^2$ be"),
        ("\\[x^2\\]", "Let $$x^2$$ be"),
        ("<code>\\(x^2\\)</code>", "Let \\(x^2\\) be"),
        ("\\(x^2", "Let \\(x^2 be"),
        ('<img class="tex" alt="x^2">', "Let $x^2$ be"),
        ('<img alt="\\frac{1}{2}">', "Let $\\frac{1}{2}$ be"),
        ('<img alt="$x$ and $y$">', "Let $x$ and $y$ be"),
        ('<img alt="C:\\\\new_files">', "Let C:\\\\new_files be"),
        ('<img class="mwe-math-fallback-image-display" alt="{\\displaystyle {a}+{b}}">', "Let $${a}+{b}$$ be"),
        ('<img class="tex" alt="{\\displaystyle a} + {b}">', "Let ${\\displaystyle a} + {b}$ be"),
        ('<math alttext="y=1"><mi>y</mi></math>', "Let $y=1$ be"),
        ("<math><mi>x<![CDATA[ &lt; ]]></mi></math>", "Let $x &lt;$ be"),
    ],
)
def test_formulas_are_read_once(formula: str, text: str) -> None:
    assert main_text(f"<p>Let {formula} be</p>") == text


# -- encodings ---------------------------------------------------------------------------------------


def page(charset: str, text: str, encoding: str) -> bytes:
    return f'<meta charset="{charset}"><p>{text}</p>'.encode(encoding)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (page("utf-16", "plain ascii text here.", "ascii"), "plain ascii text here."),
        (page("iso-8859-1", "“curly” – €5", "cp1252"), "“curly” – €5"),
        (page("latin1", "“curly” – €5", "cp1252"), "“curly” – €5"),
        (page("us-ascii", "“curly” – €5", "cp1252"), "“curly” – €5"),
        (page("gb2312", "朱镕基", "gbk"), "朱镕基"),
        (page("shift_jis", "①番", "cp932"), "①番"),
        (page("euc-kr", "똠방각하", "cp949"), "똠방각하"),
        (page("tis-620", "ภาษาไทย…", "cp874"), "ภาษาไทย…"),
        (page("utf8mb4", "é text", "utf-8"), "é text"),
        (page("undefined", "é text", "utf-8"), "é text"),
        (page("none", "é text", "utf-8"), "é text"),
        (page(" UTF-8 ", "é text", "utf-8"), "é text"),
        (page("x-user-defined", "café", "cp1252"), "café"),
        (b"\xef\xbb\xbf" + page("iso-8859-1", "é text", "utf-8"), "é text"),
        ("\ufeff<p>é text</p>".encode("utf-16-le"), "é text"),
        ("\ufeff<p>é text</p>".encode("utf-16-be"), "é text"),
        ("<p>é text</p>".encode("utf-16-le"), "é text"),
        ("<meta http-equiv=Content-Type content='text/html; charset=cp1251'><p>Привет</p>".encode("cp1251"), "Привет"),
        ("<meta content='text/html;charset=koi8-r' http-equiv=content-type><p>Привет</p>".encode("koi8-r"), "Привет"),
        ("<meta content='charset=koi8-r'><p>é text</p>".encode(), "é text"),
        ("<!-- <meta charset=koi8-r> --><p>é text</p>".encode(), "é text"),
        ("<a title='<meta charset=koi8-r>'></a><p>é text</p>".encode(), "é text"),
        ('<?xml version="1.0" encoding="iso-8859-2"?><p>żółw</p>'.encode("iso-8859-2"), "żółw"),
        ((f"<!-- {'x' * 2000} -->" + "<meta charset=windows-1251><p>Привет</p>").encode("cp1251"), "Привет"),
        ("<p>é text</p>".encode(), "é text"),
        ("<p>Ein schöner Tag für Füße und Bäume, größer als gestern</p>".encode("cp1252"),
         "Ein schöner Tag für Füße und Bäume, größer als gestern"),
        ("<p>Съешь же ещё этих мягких французских булок, да выпей чаю</p>".encode("cp1251"),
         "Съешь же ещё этих мягких французских булок, да выпей чаю"),
        (b"<meta charset=utf-8><p>one bad \xff byte " + b"word " * 40 + b"</p>",
         "one bad \ufffd byte " + "word " * 39 + "word"),
    ],
)  # fmt: skip
def test_encodings_are_those_that_a_browser_finds(data: bytes, text: str) -> None:
    assert read_page(data).text == text


# -- neighbours --------------------------------------------------------------------------------------


def test_no_page_takes_its_neighbours(tmp_path: Path, curated: Callable) -> None:
    for n in range(300):
        (tmp_path / f"p{n:03}.html").write_text(f"<p>{prose(n)}</p>")
    odd = {
        "p100.html": b'<meta charset="undefined"><p>' + prose(1000).encode() + b"</p>",
        "p101.html": b"<p>" + prose(1001).encode() + b"</p><![dsgvo_control]>",
        "p102.html": bytes(range(256)) * 40,
        "p103.html": b"",
        "p104.html": b"\x1f\x8b\x08" + b"\0" * 100,
        "p105.html": b"<nav>only</nav>",
        "p106.html": b"<div>" * 100_000 + prose(1006).encode(),
    }
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
    corpus, out = curated(sources=[{"name": "html", "path": str(tmp_path)}])
    assert len(corpus) == 296
    assert out.metrics["rejects"] == {"read.not_text": 2, "read.no_text": 2}


# -- any page ----------------------------------------------------------------------------------------

TAGS = "p div pre nav li a math mi main td tr table br script b i title textarea select svg template form h1 article"
tags = st.sampled_from(TAGS.split(" "))
soup = st.lists(
    tags.map(lambda t: f"<{t}>")
    | tags.map(lambda t: f"</{t}>")
    | tags.map(lambda t: f"<{t} href='x' a=b")
    | st.text(max_size=5)
    | st.sampled_from(["<!--", "-->", "<a b='", "<![CDATA[", "]]>", "<!doctype", "<?", "</", "\0", "&amp", "&#"]),
    max_size=30,
).map("".join)


@settings(max_examples=300)
@given(soup)
def test_any_markup_is_read(page: str) -> None:
    text = main_text(page)
    assert "\0" not in text
    assert read_page(page.encode("utf-8", "replace")).text == text or "\ufeff" in page


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    read_page(data)


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<![CDATA[", "<a ", "</", "<?", "&#", "<div>", "<p></div>", "<script>", "<math><mi>", "<a x='", "<td>x",
     "<b>", "<p><b id=x>", "<table><td>", "<template>", "<svg><g>", "<form><div></form>", "<div></x>", "<ul><li>"],
)  # fmt: skip
def test_repeated_markup_is_read_in_bounded_memory(piece: str) -> None:
    """A third of a megabyte of each: what is not linear does not end (the core's tests count nodes and depth)."""
    main_text(piece * (300_000 // len(piece)))


def test_attributes_without_end() -> None:
    many = "".join(f" a{n}" for n in range(100_000))
    assert main_text(f"<p{many}>text") == "text"
    assert main_text(f"<script></script{many}>text") == "text"


def test_half_a_surrogate_pair_is_no_reason_to_fail() -> None:
    assert main_text("<p>a\ud800b</p>") == "a?b"
    with pytest.raises(TypeError):
        _core.html_page_text("no bytes")  # type: ignore[arg-type]
