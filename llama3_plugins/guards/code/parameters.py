"""Names that any function of a piece of code takes: what they are set to elsewhere says nothing of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llama3_plugins.guards.code.tokens import Token

_SAYS_FUNCTION = frozenset(("function", "func", "fn", "fun", "def", "catch"))
_ALWAYS_SAID = frozenset(("go", "rust"))
"""Languages in which every function with a name is called one by its keyword: `if ok(x) {` is none."""
_NO_FUNCTION = frozenset(
    ["if", "for", "while", "switch", "match", "foreach", "elif", "with", "use", "using", "lock", "synchronized", "new"]
)
_BEGINS_A_BODY = frozenset(("{", "=>", "throws", "const", "override", "noexcept"))


def parameters(tokens: Sequence[Token], partner: Mapping[int, int], language: str | None) -> set[str]:
    """All names in lists of parameters, those of types and defaults too. `partner`: each bracket's other one."""
    return {name for at in range(len(tokens)) for name in _taken(tokens, partner, language, at)}


def _taken(tokens: Sequence[Token], partner: Mapping[int, int], language: str | None, at: int) -> Iterator[str]:
    token, before, after = tokens[at], _text(tokens, at - 1), _text(tokens, at + 1)
    if token.kind == "name" and (after == "=>" or (before in ("|", ",") and after == "|") or before == after == "|"):
        yield token.text
    elif token.text == "(" and at in partner and _takes(tokens, partner, language, at):
        yield from (inner.text for inner in tokens[at + 1 : partner[at]] if inner.kind == "name")


def _takes(tokens: Sequence[Token], partner: Mapping[int, int], language: str | None, at: int) -> bool:
    """Whether a bracket opens a list of parameters."""
    before, first, after = _text(tokens, at - 1), _text(tokens, at - 2), _text(tokens, partner[at] + 1)
    if first == ")" and _text(tokens, partner.get(at - 2, 0) - 1) == "func":  # func (receiver) name(...)
        return True
    if before in _SAYS_FUNCTION or first in _SAYS_FUNCTION:
        return True
    if before in _NO_FUNCTION or first == "new":
        return False
    has_name = at > 0 and (tokens[at - 1].kind == "name" or before in (")", "]", ">"))
    if not has_name:
        return after in ("=>", "->", ":") and (after != ":" or _has_types(tokens[at : partner[at]]))
    if language in _ALWAYS_SAID:
        return False
    return after in _BEGINS_A_BODY or (after == ":" and _has_types(tokens[at : partner[at]]))


def _has_types(tokens: Sequence[Token]) -> bool:
    """Whether what stands between brackets is `name: type`: else `?` and `:` may choose here."""
    return any(token.text == ":" for token in tokens)


def _text(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].text if 0 <= at < len(tokens) else ""
