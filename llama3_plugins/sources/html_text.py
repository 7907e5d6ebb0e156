"""From markup to plain text (paper 3.1.1: structure of code and math is kept, image `alt` too, no markdown marks).

The parser walks the page once and collects blocks. `<pre>` keeps its bytes; formulas become LaTeX between `$`;
navigation and blocks that are nearly all links are left out; with a `<main>` or `<article>` the rest of the page is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser

from llama3_plugins.sources.mathml import MathNode, latex_of

SKIPPED = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "nav",
        "header",
        "footer",
        "aside",
        "form",
        "button",
        "select",
        "option",
        "svg",
        "canvas",
        "iframe",
        "object",
        "head",
    ]
)
VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
INLINE = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "ins",
        "kbd",
        "label",
        "mark",
        "q",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "img",
        "math",
        "wbr",
        "big",
    ]
)
CELLS = frozenset({"td", "th"})
MAIN = frozenset({"main", "article"})
MAX_LINK_SHARE = 0.8
"""Of the characters of a block outside paragraphs and headings; above it the block is taken for navigation."""
PROSE_BLOCKS = frozenset(
    ["p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "dt", "dd", "blockquote", "figcaption", "caption"]
)


@dataclass
class Block:
    """A run of text between two block borders."""

    tag: str = ""
    in_main: bool = False
    parts: list[str] = field(default_factory=list)
    link_chars: int = 0

    def text(self) -> str:
        joined = "".join(self.parts)
        return joined if self.tag == "pre" else _collapse(joined)

    def is_navigation(self) -> bool:
        if self.tag in PROSE_BLOCKS:
            return False
        chars = len("".join("".join(self.parts).split()))
        return self.link_chars > MAX_LINK_SHARE * chars


def main_text(page: str) -> str:
    """The main text of an HTML page; "" where there is none. Never raises on malformed markup."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    parser.end_block()
    blocks = [block for block in parser.blocks if block.in_main] or parser.blocks
    texts = [(block, block.text()) for block in blocks if not block.is_navigation()]
    kept = [(block, text) for block, text in texts if text.strip()]
    out: list[str] = []
    for n, (block, text) in enumerate(kept):
        tight = n > 0 and block.tag in TIGHT and kept[n - 1][0].tag == block.tag
        out.append(("" if n == 0 else "\n" if tight else "\n\n") + text)
    return "".join(out)


TIGHT = frozenset({"li", "tr", "dt", "dd"})
"""Blocks that follow each other without an empty line."""


def is_block(tag: str) -> bool:
    """Whether the element begins a block of its own."""
    return tag not in INLINE and tag not in CELLS


def _collapse(text: str) -> str:
    """Whitespace as a browser shows it: runs are one space, lines broken by <br> stay."""
    lines = (" ".join(line.split()) for line in text.split(BREAK))
    return "\n".join(lines).strip("\n")


BREAK = "\x00"
"""Stands for <br> while a block is collected: no text can hold it (readers reject NUL)."""


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self.block = Block()
        self.stack: list[str] = []  # open elements, outermost first
        self.block_stack: list[str] = [""]  # those of them that are blocks
        self.open: Counter[str] = Counter()  # how many of each, so that no event walks the stack
        self.skipping = 0  # open elements that hide their text
        self.links = 0
        self.mains = 0
        self.tex_script: str | None = None  # "" inline, "display"
        self.math: list[MathNode] = []  # open MathML elements, outermost first
        self.math_open: Counter[str] = Counter()
        self.last_formula = ""

    # -- blocks ------------------------------------------------------------------------------------

    def end_block(self) -> None:
        if self.block.parts:
            self.blocks.append(self.block)
        self.block = Block(self.block_stack[-1], self.mains > 0)

    def _write(self, text: str) -> None:
        if not self.block.parts:
            self.block.tag, self.block.in_main = self.block_stack[-1], self.mains > 0
        if self.links:
            self.block.link_chars += len("".join(text.split()))
        self.block.parts.append(text)

    def _formula(self, latex: str, display: bool) -> None:
        latex = latex.strip()
        if latex:
            self.last_formula = " ".join(latex.split())
            mark = "$$" if display else "$"
            self._write(f"{mark}{latex}{mark}")

    # -- events of the parser ----------------------------------------------------------------------

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if self.math or tag == "math":
            self._open_math(tag, given)
            return
        if tag == "script" and given.get("type", "").startswith("math/tex") and not self.skipping:
            self.tex_script = "display" if "mode=display" in given["type"].replace(" ", "") else ""
            return
        if tag in VOID:
            self._void(tag, given)
            return
        self.stack.append(tag)
        self.open[tag] += 1
        self.skipping += tag in SKIPPED
        if is_block(tag):
            self.block_stack.append(tag)
            self.end_block()
        elif tag in CELLS and self.block.parts:
            self._write("\t" if self.open["pre"] else " ")
        self.links += tag == "a"
        if tag in MAIN:
            self.mains += 1
            self.end_block()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def _void(self, tag: str, given: dict[str, str]) -> None:
        if self.skipping:
            return
        if tag == "br":
            self._write("\n" if self.open["pre"] else BREAK)
        elif tag == "hr":
            self.end_block()
        elif tag == "img":
            alt = given.get("alt", "").strip()
            # A picture of a formula often follows the formula itself, as its fallback.
            if alt and " ".join(alt.split()) != self.last_formula:
                self._write(f" {alt} ")

    def handle_endtag(self, tag: str) -> None:
        if self.math:
            self._close_math(tag)
            return
        if tag == "script" and self.tex_script is not None:
            self.tex_script = None
            return
        if not self.open[tag]:
            return
        closed = ""
        while closed != tag:
            closed = self.stack.pop()
            self._close(closed)

    def _close(self, tag: str) -> None:
        self.open[tag] -= 1
        self.skipping -= tag in SKIPPED
        self.links -= tag == "a"
        if is_block(tag):
            self.block_stack.pop()
            self.mains -= tag in MAIN
            self.end_block()

    def handle_data(self, data: str) -> None:
        if self.math:
            self.math[-1].add_text(data)
        elif self.tex_script is not None:
            self._formula(data, self.tex_script == "display")
        elif not self.skipping and (data.strip() or self.block.parts):
            self._write(data.replace(BREAK, ""))
        elif not self.skipping and self.open["pre"]:
            self._write(data)

    # -- formulas ----------------------------------------------------------------------------------

    def _open_math(self, tag: str, given: dict[str, str]) -> None:
        node = MathNode(tag, given)
        if self.math:
            self.math[-1].children.append(node)
        self.math.append(node)
        self.math_open[tag] += 1

    def _close_math(self, tag: str) -> None:
        if not self.math_open[tag]:
            return
        node = self.math.pop()
        self.math_open[node.tag] -= 1
        while node.tag != tag:
            node = self.math.pop()
            self.math_open[node.tag] -= 1
        if not self.math and tag == "math" and not self.skipping:
            self._formula(latex_of(node), node.given.get("display") == "block")
