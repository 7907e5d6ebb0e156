"""MathML to LaTeX: the author's own TeX where the page carries it, else the presentation elements written out."""

from __future__ import annotations

from dataclasses import dataclass, field

TEX_ENCODINGS = frozenset({"application/x-tex", "application/x-latex", "text/x-tex", "tex", "latex"})
INVISIBLE = dict.fromkeys(map(ord, "\u2061\u2062\u2063\u2064\u200b"))
MAX_DEPTH = 200


@dataclass
class MathNode:
    """An element: its children are elements and pieces of text."""

    tag: str
    given: dict[str, str] = field(default_factory=dict)
    children: list[MathNode | str] = field(default_factory=list)

    def add_text(self, text: str) -> None:
        self.children.append(text)

    @property
    def elements(self) -> list[MathNode]:
        return [child for child in self.children if isinstance(child, MathNode)]


def latex_of(math: MathNode) -> str:
    """The formula of a <math> element as LaTeX without dollar signs."""
    return _annotation(math) or math.given.get("alttext", "").strip() or _write(math, 0)


def _annotation(node: MathNode) -> str:
    waiting = [node]
    while waiting:
        at = waiting.pop()
        if at.tag == "annotation" and at.given.get("encoding", "").lower() in TEX_ENCODINGS:
            return "".join(child for child in at.children if isinstance(child, str)).strip()
        waiting.extend(reversed(at.elements))
    return ""


def _write(node: MathNode, depth: int) -> str:
    if depth > MAX_DEPTH:
        return ""
    parts = [_write(child, depth + 1) for child in node.elements]
    match node.tag, parts:
        case ("annotation" | "annotation-xml", _):
            return ""
        case ("mi" | "mn" | "mo" | "ms", _):
            return _text(node)
        case ("mtext", _):
            return f"\\text{{{_text(node)}}}"
        case ("mspace", _):
            return " "
        case ("mfrac", [above, below]):
            return f"\\frac{{{above}}}{{{below}}}"
        case ("msqrt", _):
            return f"\\sqrt{{{' '.join(parts)}}}"
        case ("mroot", [inside, degree]):
            return f"\\sqrt[{degree}]{{{inside}}}"
        case ("msub" | "munder", [base, below]):
            return f"{base}_{{{below}}}"
        case ("msup" | "mover", [base, above]):
            return f"{base}^{{{above}}}"
        case ("msubsup" | "munderover", [base, below, above]):
            return f"{base}_{{{below}}}^{{{above}}}"
        case ("mtr" | "mlabeledtr", _):
            return " & ".join(parts)
        case ("mtable", _):
            return "\\begin{matrix} " + " \\\\ ".join(parts) + " \\end{matrix}"
        case ("mfenced", _):
            opening, closing = node.given.get("open", "("), node.given.get("close", ")")
            return f"{opening}{', '.join(parts)}{closing}"
        case _:
            return " ".join(part for part in parts if part)


def _text(node: MathNode) -> str:
    text = "".join(child for child in node.children if isinstance(child, str))
    return " ".join(text.translate(INVISIBLE).split())
