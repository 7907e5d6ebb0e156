"""What code of any language calls and sets, read off its tokens: names with what stands before their dots, imports and
aliases resolved, and arguments with what their names were set to.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from llama3_plugins.guards.code.parameters import parameters
from llama3_plugins.guards.code.rules import ASKED, SET
from llama3_plugins.guards.code.tokens import Token
from llama3_plugins.guards.code.uses import Argument, Use

_DOTS = frozenset((".", "::", "->", "?.", "\\"))
_OPEN = {"(": ")", "[": "]", "{": "}", "${": "}"}
_CLOSE = frozenset(_OPEN.values())
_NO_CALL = frozenset(
    [
        "if",
        "for",
        "while",
        "switch",
        "catch",
        "function",
        "def",
        "return",
        "func",
        "fn",
        "match",
        "and",
        "or",
        "not",
        "in",
        "elif",
        "foreach",
    ]
)
_BEFORE_A_CALL = frozenset(
    [
        "return",
        "new",
        "await",
        "else",
        "throw",
        "in",
        "case",
        "do",
        "echo",
        "print",
        "go",
        "defer",
        "yield",
        "typeof",
        "unsafe",
        "not",
        "and",
        "or",
        "delete",
        "assert",
        "co_await",
        "raise",
        "from",
        "import",
        "lambda",
        "if",
        "while",
        "elif",
        "then",
        "sudo",
        "is",
        "as",
    ]
)
"""Names that may stand right before a call. Another one is a type, or says that something is defined here."""
_SPOKEN = frozenset(["echo", "print", "include", "include_once", "require", "require_once"])
"""What PHP calls without brackets."""
_CONSTANTS = frozenset(
    ["True", "False", "None", "true", "false", "null", "nil", "NULL", "nullptr", "undefined", "TRUE", "FALSE", "void"]
)
_LONGEST = 80
"""Tokens of a value that is set."""
_MOST = 600
"""Characters of an argument that rules see."""
_JOINS = frozenset(("+", ".", "%", "||", "&", "<<"))

_IMPORTS = (
    re.compile(r"\bimport\s+(?:(?:type|static)\s+)?(?:\*\s+as\s+)?(?P<name>\w+)\s+from\s+[\"'](?P<of>[^\"'\n]+)[\"']"),
    re.compile(r"\b(?:const|let|var)\s+(?P<name>\w+)\s*=\s*(?:await\s+)?(?:require|import)\s*\(\s*[\"'](?P<of>[^\"'\n]+)[\"']\s*\)(?P<part>\.\w+)?"),
    re.compile(r"\bimport\s*(?:\w+\s*,\s*)?\{(?P<names>[^{}]{1,400})\}\s*from\s*[\"'](?P<of>[^\"'\n]+)[\"']"),
    re.compile(r"\b(?:const|let|var)\s*\{(?P<names>[^{}]{1,400})\}\s*=\s*(?:await\s+)?(?:require|import)\s*\(\s*[\"'](?P<of>[^\"'\n]+)[\"']"),
    re.compile(r"^\s*(?:import\s+)?(?P<name>\w+)\s+\"(?P<of>[\w./-]+)\"\s*$", re.MULTILINE),
    re.compile(r"\buse\s+(?:function\s+)?(?P<of>[\w:\\]+?)(?:::|\\)?\{(?P<names>[^{}]{1,400})\}"),
    re.compile(r"\buse\s+(?:function\s+)?(?P<of>[\w:\\]+)\s+as\s+(?P<name>\w+)"),
    re.compile(r"\busing\s+(?P<name>\w+)\s*=\s*(?P<of>[\w.]+)\s*;"),
    re.compile(r"^[ \t]*#[ \t]*define[ \t]+(?P<name>\w+)(?:\([^()\n]*\))?[ \t]+(?P<of>\w+)\b", re.MULTILINE),
    re.compile(r"^[ \t]*import[ \t]+(?P<of>[\w.]+)[ \t]+as[ \t]+(?P<name>\w+)", re.MULTILINE),
    re.compile(r"^[ \t]*from[ \t]+(?P<of>[\w.]+)[ \t]+import[ \t]+\(?(?P<names>[^()#\n]{1,400})", re.MULTILINE),
)  # fmt: skip
"""How languages import: `name` is what `of` (or `part` of it) is called here; `names` lists several."""
_AS = re.compile(r"(\w+)\s*(?:\bas\b|:|=)\s*(\w+)|(\w+)")


class TokenUses:
    """Reads the uses off the tokens of a piece of code. Where it `is_complete`, what is said last ends with it."""

    def __init__(self, code: str, tokens: Sequence[Token], language: str | None, *, is_complete: bool) -> None:
        self._has_ticks = language == "php"
        self._is_complete = is_complete
        self.tokens = [token for token in tokens if token.kind != "comment"]
        self._partner = _partners(self.tokens)
        self._aliases: dict[str, set[str]] = defaultdict(set)
        self._values: dict[str, Argument] = {}
        self._varying: set[str] = set()
        """Names that are taken by a function, or set to what is no constant, wherever that is: they are none."""
        self._defined: set[str] = set()
        for name, meant in _imports(_without_comments(code, tokens)):
            self._aliases[name].add(meant)
        for at in range(len(self.tokens)):
            self._note_alias(at)
        self._varying = parameters(self.tokens, self._partner, language)
        for at, token in enumerate(self.tokens):
            if token.kind == "name":
                self._note_value(at)
                if token.text in self._values and not self._values[token.text].is_constant:
                    self._varying.add(token.text)
        self._values.clear()

    def uses(self) -> Iterator[Use]:
        """In order. Only what has come to its end."""
        for at, token in enumerate(self.tokens):
            if token.kind == "name":
                self._note_value(at)
                yield from self._set(at)
                yield from self._call(at)
            elif self._has_ticks and token.kind == "string" and token.text.startswith("`"):
                value = Argument(token.text, not token.is_joined, token.is_joined)
                yield Use(frozenset(("`",)), token.start, token.end, lambda value=value: (value,))  # type: ignore[misc]

    # -- names -------------------------------------------------------------------------------------

    def _chain(self, at: int) -> tuple[list[str], int]:
        """The parts of the dotted name that ends at a token, and where it begins."""
        parts, begin = [self.tokens[at].text.lstrip("$")], at
        while begin >= 2 and self.tokens[begin - 1].text in _DOTS:
            before = begin - 2
            while before > 0 and self.tokens[before].text in (")", "]", ">") and before in self._partner:
                before = self._partner[before] - 1
            if before < 0 or self.tokens[before].kind != "name":
                break
            parts.insert(0, self._named_by(before))
            begin = before
        if begin >= 1 and self.tokens[begin - 1].text in _DOTS:
            parts.insert(0, "?")
        return parts, begin

    def _named_by(self, at: int) -> str:
        """A part of a dotted name; where a module is imported right there, the module."""
        name, inside = self.tokens[at].text.lstrip("$"), self.tokens[at + 1 : at + 3]
        if name in ("require", "import") and len(inside) == 2 and inside[1].kind == "string":
            return _inner(inside[1].text).removeprefix("node:")
        return name

    def _names(self, parts: list[str]) -> frozenset[str]:
        """What a dotted name may mean."""
        if parts[0] == "std" and len(parts) > 1:
            parts = parts[1:]
        names, known = {".".join(parts)}, 4
        while known:
            known -= 1
            more = {
                f"{meant}{name[len(first) :]}"
                for name in names
                for first in (name.partition(".")[0],)
                for meant in self._aliases.get(first, ())
            }
            if more <= names:
                break
            names |= more
        return frozenset(name.rpartition("/")[2] for name in names)

    def _note_alias(self, at: int) -> None:
        """`name = a.b` gives a.b another name."""
        tokens, name = self.tokens, at - 1
        if tokens[at].text not in ("=", ":=") or not at or at + 1 >= len(tokens):
            return
        if tokens[name].text == ")":  # a pointer to a function: (*name)(...)
            name = self._partner.get(name, 0) - 2
        if name < 0 or tokens[name].kind != "name":
            return
        last = at + 1
        while last + 2 < len(tokens) and tokens[last + 1].text in _DOTS and tokens[last + 2].kind == "name":
            last += 2
        end = tokens[last + 1] if last + 1 < len(tokens) else None
        has_ended = end is not None and (end.text in (";", ",") or (end.is_line and end.text not in ("(", ".")))
        is_member = name and tokens[name - 1].text in _DOTS
        if tokens[at + 1].kind == "name" and has_ended and not is_member:
            parts, _ = self._chain(last)
            if parts[-1] in ASKED:
                self._aliases[tokens[name].text.lstrip("$")].add(".".join(parts))

    def _note_value(self, at: int) -> None:
        """What a name is set to, as far as that is a string."""
        tokens, name = self.tokens, self.tokens[at].text
        follows = tokens[at + 1].text if at + 1 < len(tokens) else ""
        if at and tokens[at - 1].text in _DOTS:
            return
        if follows in ("=", ":="):
            self._values[name] = self._value(at + 2)
        elif follows in ("+=", ".=") and name in self._values:
            self._values[name] = _joined(self._values[name], self._value(at + 2))

    def _value(self, at: int) -> Argument:
        return self._argument(self.tokens[at : self._end_of_value(at)])

    def _end_of_value(self, at: int) -> int:
        """Where a value that begins at a token ends: with its line, or before what closes or parts it."""
        begin = at
        while at < len(self.tokens) and at - begin < _LONGEST:
            token = self.tokens[at]
            if token.text in (";", ",") or token.text in _CLOSE:
                return at
            if token.is_line and at > begin and not (_goes_on(token) or _goes_on(self.tokens[at - 1])):
                return at
            at = self._partner.get(at, at) + 1
        return at

    def _has_ended(self, end: int) -> bool:
        """Whether no more text can make a value that ends there longer."""
        return end < len(self.tokens) or self._is_complete

    # -- uses --------------------------------------------------------------------------------------

    def _set(self, at: int) -> Iterator[Use]:
        token, follows = self.tokens[at], self.tokens[at + 1 : at + 2]
        if token.text.lstrip("$") not in SET or not follows or follows[0].text not in ("=", ":", "=>", "+="):
            return
        end = self._end_of_value(at + 2)
        if at + 2 < end and self._has_ended(end):
            parts, begin = self._chain(at)
            value = partial(self._arguments, [self.tokens[at + 2 : end]])
            yield Use(self._names(parts), self.tokens[begin].start, self.tokens[end - 1].end, value, is_set=True)

    def _call(self, at: int) -> Iterator[Use]:
        tokens, name = self.tokens, self.tokens[at].text
        if name not in ASKED and name.lstrip("$") not in self._aliases:
            return
        is_spoken = name in _SPOKEN and at + 1 < len(tokens) and tokens[at + 1].text != "("
        opened = at + 1 if is_spoken else self._opening(at)
        if opened is None or (name in _NO_CALL and not is_spoken):
            return
        closed = self._end_of_value(opened) if is_spoken else self._partner.get(opened)
        if closed is None or (is_spoken and not self._has_ended(closed)):
            return
        parts, begin = self._chain(at)
        if len(parts) == 1 and self._is_definition(at, closed):
            self._defined.add(name)
            return
        names = frozenset(n for n in self._names(parts) if n not in self._defined)
        if any(n.rpartition(".")[2] in ASKED for n in names):
            inside = tokens[opened:closed] if is_spoken else tokens[opened + 1 : closed]
            end = tokens[closed - 1].end if is_spoken else tokens[closed].end
            chained = self._chained(begin, at) if name in ("arg", "args") else []
            yield Use(names, tokens[begin].start, end, partial(self._arguments, [*chained, *_split(inside)]))

    def _chained(self, begin: int, at: int) -> list[list[Token]]:
        """The arguments of the calls before this one in its chain: a builder's command is all of them."""
        parts: list[list[Token]] = []
        while begin < at:
            if self.tokens[begin].text == "(" and begin in self._partner:
                parts += _split(self.tokens[begin + 1 : self._partner[begin]])
            begin = max(self._partner.get(begin, begin), begin) + 1
        return parts

    def _opening(self, at: int) -> int | None:
        """The bracket that opens the arguments of a call by the name at a token."""
        texts = [token.text for token in self.tokens[at + 1 : at + 12]]
        if texts[:1] == ["("]:
            return at + 1
        if texts[:2] in (["!", "("], ["?.", "("]):
            return at + 2
        skip = 1 if texts[:1] == ["::"] else 0
        if texts[skip : skip + 1] == ["<"] and ">" in texts:
            after = texts.index(">") + 1
            if texts[after : after + 1] == ["("] and all(t.isidentifier() or t in "<>,.?[]::&" for t in texts[:after]):
                return at + 1 + after
        return None

    def _is_definition(self, at: int, closed: int) -> bool:
        """Whether a function is defined here, and not called."""
        before = self.tokens[at - 1] if at else None
        after = self.tokens[closed + 1].text if closed + 1 < len(self.tokens) else ""
        if before is None or before.text in (";", "{", "}"):
            return after == "{"
        if before.kind == "name":
            return before.text not in _BEFORE_A_CALL and not self.tokens[at].is_line
        return before.text in ("*", "&") and after == "{"

    # -- arguments ---------------------------------------------------------------------------------

    def _arguments(self, parts: list[list[Token]]) -> list[Argument]:
        return [self._argument(part) for part in parts if part]

    def _argument(self, tokens: Sequence[Token]) -> Argument:
        if len(tokens) == 1 and tokens[0].kind == "name" and tokens[0].text in self._values:
            value = self._values[tokens[0].text]
            return replace(value, is_constant=False) if tokens[0].text in self._varying else value
        strings = [token for token in tokens if token.kind == "string"]
        plain = [token for token in tokens if token.kind in ("string", "number") or self._is_constant(token)]
        signs = [token for token in tokens if token.kind == "sign"]
        is_constant = len(plain) + len(signs) == len(tokens) and not any(token.is_joined for token in strings)
        values = [self._values.get(token.text) for token in tokens if token.kind == "name"]
        is_joined = any(token.is_joined for token in strings) or any(
            value is not None and value.is_joined for value in values
        )
        if strings and not is_constant and len(tokens) > 1:
            is_joined = True
        if (
            is_constant
            and strings
            and all(sign.text in _JOINS for sign in signs)
            and len(strings) + len(signs) == len(tokens)
        ):
            return Argument(f'"{"".join(_inner(string.text) for string in strings)}"', is_constant=True)
        meant = " ".join(value.text for value in values if value is not None and not value.is_constant)
        return Argument(f"{_source(tokens)} {meant}".rstrip()[:_MOST], is_constant, is_joined)

    def _is_constant(self, token: Token) -> bool:
        return token.text not in self._varying and _is_constant_name(token)


def _goes_on(token: Token) -> bool:
    """Whether a line that begins or ends with a token belongs to another one."""
    return token.kind == "sign" and token.text not in _CLOSE


def _is_constant_name(token: Token) -> bool:
    return token.kind == "name" and (
        token.text in _CONSTANTS or (token.text.isupper() and len(token.text) > 1 and token.text[0] != "$")
    )


def _joined(first: Argument, second: Argument) -> Argument:
    text = f"{first.text}+{second.text}"
    is_constant = first.is_constant and second.is_constant
    return Argument(text, is_constant, not is_constant and '"' in text)


def _source(tokens: Sequence[Token]) -> str:
    """Tokens as one text, strings in double quotes."""
    pieces: list[str] = []
    for number, token in enumerate(tokens):
        if number and token.kind == "name" and tokens[number - 1].kind in ("name", "number"):
            pieces.append(" ")
        text = f'"{_inner(token.text)}"' if token.kind == "string" else token.text
        pieces.append("." if text in ("::", "?.") else f"{text} " if text == "," else text)
    return "".join(pieces)


_QUOTES = re.compile(r"(?:[A-Za-z@$]{0,3})(\"\"\"|'''|[\"'`])([\s\S]*)\1")


def _inner(string: str) -> str:
    """A string without its quotes."""
    quoted = _QUOTES.fullmatch(string)
    return quoted[2] if quoted else string


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    """At the commas that stand in no bracket."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in _OPEN) - (token.text in _CLOSE) if token.kind == "sign" else 0
        if token.text == "," and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _partners(tokens: Sequence[Token]) -> dict[int, int]:
    """Each bracket with the one that belongs to it, both ways."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for at, token in enumerate(tokens):
        if token.kind != "sign":
            continue
        if token.text in _OPEN:
            opened.append(at)
        elif token.text in _CLOSE:
            while opened and _OPEN[tokens[opened[-1]].text] != token.text:
                opened.pop()
            if opened:
                partner[at] = opened.pop()
                partner[partner[at]] = at
    return partner


def _without_comments(code: str, tokens: Sequence[Token]) -> str:
    pieces, end = [], 0
    for token in tokens:
        if token.kind == "comment":
            pieces.append(code[end : token.start])
            end = token.end
    return "".join([*pieces, code[end:]])


def _imports(code: str) -> Iterator[tuple[str, str]]:
    """What is called how here, and what that is."""
    for pattern in _IMPORTS:
        for match in pattern.finditer(code):
            found = match.groupdict()
            module = found["of"].removeprefix("node:").replace("::", ".").replace("\\", ".").strip(".")
            if found.get("name"):
                yield found["name"], module + (found.get("part") or "")
            for item in _AS.finditer(found.get("names") or ""):
                meant, name = (item[1], item[2]) if item[1] else (item[3], item[3])
                yield name, f"{module}.{meant}"
