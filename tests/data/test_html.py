"""Main text of HTML pages: boilerplate goes; code, formulas and alternative texts stay."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.plugins.registry import discover
from llama3.sources import main_text, read_page

PRE = 'def f(x):\n\treturn x  # two  spaces\n\n\n  <indented> & "quoted"\n'
PAGE = f"""<!DOCTYPE html><html><head><title>T</title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About</a></li></ul></nav>
<div><a href=x>Log in</a> | <a href=y>Register</a></div>
<main>
<h1>A <em>heading</em></h1>
<p>First   paragraph with <b>bold</b>
text, a <a href="z">link</a> and <code>code</code>.<br>New line.</p>
<pre><code>{PRE.replace("&", "&amp;").replace("<", "&lt;")}</code></pre>
<ul><li>one<li>two</ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<p>Inline <math><semantics><mrow><mi>x</mi></mrow><annotation encoding="application/x-tex">x^2 + 1</annotation>
</semantics></math><img alt="x^2 + 1" class="fallback"> and <script type="math/tex">\\frac{{a}}{{b}}</script>
and <img src="g.png" alt="\\sqrt{{2}}"> end.</p>
<script type="math/tex; mode=display">E = mc^2</script>
<script>alert("no")</script>
<form><input value=q><button>Go</button></form>
</main>
<footer>Copyright</footer></body></html>"""

EXPECTED = f"""A heading

First paragraph with bold text, a link and code.
New line.

{PRE}

one
two

a b
1 2

Inline $x^2 + 1$ and $\\frac{{a}}{{b}}$ and $\\sqrt{{2}}$ end.

$$E = mc^2$$"""


def test_a_whole_page() -> None:
    assert main_text(PAGE) == EXPECTED


def test_every_trap_of_one_page() -> None:
    """Formulas in seven forms, code with tabs and blank lines, a list within the article, a table, pictures: what other
    extractors lose, print twice or mark up."""
    pages = Path(__file__).parent / "pages"
    page, text = (pages / "traps.html").read_bytes(), (pages / "traps.txt").read_text("utf-8")
    assert read_page(page).text == text
    code = page.split(b"<code>def", 1)[1].split(b"</code>", 1)[0].decode()
    assert f"def{unescape(code)}" in text


def test_pre_is_kept_to_the_byte() -> None:
    text = main_text(f"<p>before</p><pre>{PRE.replace('&', '&amp;').replace('<', '&lt;')}</pre><p>after</p>")
    assert text == f"before\n\n{PRE}\n\nafter"


def test_without_main_the_body_is_taken_and_link_lists_go() -> None:
    page = """<body><header>Site</header><div class=menu><a>News</a> <a>Sport</a> <a>Weather</a></div>
    <div>Real text with one <a href=x>link</a> in it.</div><p><a>A paragraph that is one link stays.</a></p>"""
    assert main_text(page) == "Real text with one link in it.\n\nA paragraph that is one link stays."


@pytest.mark.parametrize(
    ("markup", "latex"),
    [
        ("<mfrac><mi>a</mi><mn>2</mn></mfrac>", r"$\frac{a}{2}$"),
        ("<msup><mi>x</mi><mn>2</mn></msup><mo>+</mo><msub><mi>y</mi><mi>i</mi></msub>", "$x^{2} + y_{i}$"),
        ("<msqrt><mi>x</mi></msqrt>", r"$\sqrt{x}$"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", r"$\sqrt[3]{x}$"),
        ("<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover>", "$∑_{i}^{n}$"),
        ("<mrow><mtext>if </mtext><mi>f</mi><mo>&#x2061;</mo><mi>x</mi></mrow>", r"$\text{if} f x$"),
        (
            "<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr></mtable>",
            r"$\begin{matrix} 1 & 2 \end{matrix}$",
        ),
    ],
)
def test_mathml_without_tex(markup: str, latex: str) -> None:
    assert main_text(f"<p><math>{markup}</math></p>") == latex


def test_display_formulas_and_alttext() -> None:
    assert main_text('<p>a <math display="block" alttext="y=1"><mi>y</mi></math></p>') == "a $$y=1$$"


def test_no_markdown_marks() -> None:
    page = """<h2>Title</h2><ul><li><b>x</b></li></ul><blockquote><p>q</p></blockquote>
    <p><a href=u>t</a> <i>i</i> <img alt=pic src=s></p>"""
    assert main_text(page) == "Title\n\nx\n\nq\n\nt i pic"


tags = st.sampled_from(["p", "div", "pre", "nav", "li", "a", "math", "mi", "main", "td", "br", "script", "b", "/"])
soup = st.lists(
    tags.map(lambda t: f"<{t}>")
    | tags.map(lambda t: f"</{t}>")
    | st.text(max_size=5)
    | st.sampled_from(["<!--", "<a b='"]),
    max_size=30,
).map("".join)


@settings(max_examples=300)
@given(soup)
def test_never_fails_on_malformed_markup(page: str) -> None:
    assert "\x00" not in main_text(page)


def test_an_empty_end_tag_takes_no_text_with_it() -> None:
    assert main_text("<p>if a <</>b> then c</p>") == "if a <b> then c"
    assert main_text("<p>a&am</>p;</p>") == "a&amp;"


def test_deep_nesting_and_long_pages_are_linear() -> None:
    assert main_text("<div>" * 20_000 + "deep" + "</div>" * 20_000) == "deep"
    assert len(main_text("<p>word</p>" * 50_000)) == 50_000 * 6 - 2
    assert main_text("<b>" * 30_000 + "</i>" * 30_000 + "text" + "<p>x</p>" * 30_000).startswith("text\n\nx")
    # By the standard `</math>` does not end a formula from inside an unclosed `<mi>`: the text belongs to it.
    assert main_text("<math>" + "<mi>" * 5000 + "</mn>" * 30_000 + "</math>t") == "$t$"
    assert main_text("<math>" + "<mrow>" * 5000 + "<mi>x</mi>" + "</mrow>" * 5000 + "</math>t") == "t"


def test_source_reads_declared_encodings_and_rejects_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes('<meta charset="iso-8859-1"><p>café</p>'.encode("latin-1"))
    (tmp_path / "b.html").write_bytes("<p>naïve</p>".encode())
    (tmp_path / "c.html").write_bytes(b"<p>caf\xe9</p>")  # undeclared: as a browser takes it
    (tmp_path / "d.html").write_bytes(b'<meta charset="no-such"><p>x</p>')
    (tmp_path / "e.html").write_bytes(b"<nav>only</nav>")
    (tmp_path / "f.txt").write_bytes(b"not a page")
    (tmp_path / "g.html").write_bytes(b"<meta charset=utf-8><p>" + bytes(range(128, 256)) + b"</p>")
    source = discover().build("sources", "html", {"path": str(tmp_path)})
    (batch,) = [batch for shard in source.shards() for batch in source.read(shard)]
    assert batch.texts == ["café", "naïve", "café", "x"]
    assert [(Path(r.where).name, r.reason) for r in batch.rejects] == [("e.html", "no_text"), ("g.html", "not_text")]
