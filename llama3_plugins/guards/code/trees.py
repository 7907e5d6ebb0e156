"""Code as tokens, by the parsers of tree-sitter (the extra `code-guard`): they know where strings and comments are, and
what of a string is code. Broken code is parsed as far as it goes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

from llama3_plugins.guards.code.tokens import Kind, Token, takes, tokens_of

GRAMMARS = {
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "php": ("tree_sitter_php", "language_php_only"),
    "php_in_html": ("tree_sitter_php", "language_php"),
    "c_sharp": ("tree_sitter_c_sharp", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "go": ("tree_sitter_go", "language"),
}
"""The module of each language's parser, and what it calls it."""
_LITERAL = re.compile(r"string|char_literal|character_literal|rune_literal|regex$|heredoc|nowdoc|shell_command")
_PART = re.compile(r"fragment|content|escape|start|end|encoding|text|body|delimiter|flags|pattern|quote|^character$")


def missing() -> list[str]:
    """The modules that cannot be imported."""
    absent = []
    for name in ("tree_sitter", *(module for module, _ in GRAMMARS.values())):
        try:
            importlib.import_module(name)
        except ImportError:
            absent.append(name)
    return absent


def parsers() -> dict[str, Any]:
    """A parser of each language of which the module is here. For one thread: parsers keep what they are doing."""
    absent = missing()
    if "tree_sitter" in absent:
        return {}
    tree_sitter = importlib.import_module("tree_sitter")
    return {
        language: tree_sitter.Parser(tree_sitter.Language(getattr(importlib.import_module(module), name)()))
        for language, (module, name) in GRAMMARS.items()
        if module not in absent
    }


def parsed_tokens(code: str, language: str, parser_of: Mapping[str, Any]) -> Iterator[Token]:
    """Everything but white space, in order. `parser_of` is what `parsers` gave, and has the language."""
    parser = parser_of["php_in_html" if language == "php" and "<?" in code else language]
    source = code.encode("utf-8", "surrogatepass")
    place = _places(code, source)
    before = -1
    for kind, start, end, is_joined in _leaves(parser.parse(source).root_node):
        first, last = place(start), place(end)
        if last <= first:
            continue
        is_line = before < 0 or "\n" in code[before:first]
        before = last
        if kind == "raw":
            yield from (replace(token, start=token.start + first) for token in tokens_of(code[first:last], language))
        else:
            yield Token(kind, code[first:last], first, is_line, is_joined)


def _places(code: str, source: bytes) -> Any:
    """From places in bytes to places in characters."""
    if len(code) == len(source):
        return lambda place: place
    table = [
        index for index, character in enumerate(code) for _ in range(len(character.encode("utf-8", "surrogatepass")))
    ]
    table.append(len(code))
    return table.__getitem__


@cache
def _is_literal(kind: str) -> bool:
    return bool(_LITERAL.search(kind))


@cache
def _is_part(kind: str) -> bool:
    return bool(_PART.search(kind))


def _leaves(root: Any) -> Iterator[tuple[Kind | Literal["raw"], int, int, bool]]:
    """Kind, from, to in bytes, whether something is put into it; `raw` is what the grammar leaves unread (macros)."""
    stack = [root]
    while stack:
        node = stack.pop()
        kind, children = node.type, node.children
        if not node.is_named:  # keywords and signs
            if not children:
                yield _kind_of(node.text), node.start_byte, node.end_byte, False
            stack.extend(reversed(children))
        elif "comment" in kind:
            yield "comment", node.start_byte, node.end_byte, False
        elif not children and _is_text(node):
            yield "string", node.start_byte, node.end_byte, True
        elif kind == "shell_command_expression":
            yield "string", node.start_byte, node.end_byte, _has_code(node)
        elif _is_literal(kind) and not _has_code(node):
            yield "string", node.start_byte, node.end_byte, kind.startswith("here") and takes(f'"{node.text}')
        elif kind == "preproc_arg":
            yield "raw", node.start_byte, node.end_byte, False
        elif kind == "variable_name":
            yield "name", node.start_byte, node.end_byte, False
        elif children:
            stack.extend(reversed(children))
        else:
            yield _kind_of(node.text), node.start_byte, node.end_byte, False


def _has_code(node: Any) -> bool:
    """Whether something but text stands in a literal: what is interpolated, or other literals."""
    return any(not _is_part(child.type) for child in node.named_children)


def _is_text(node: Any) -> bool:
    """Whether a leaf is a piece of a literal into which something is put."""
    return _is_part(node.type) and node.parent is not None and _is_literal(node.parent.type)


def _kind_of(text: bytes) -> Kind:
    first = text[:1]
    if first.isdigit():
        return "number"
    if text == b"${":
        return "sign"
    return "name" if first.isalpha() or first in (b"_", b"$") or first >= b"\x80" else "sign"
