"""Insecure code in what a model writes: rules with CWE numbers (llama3_plugins.guards.code.rules) for what code calls.

Python is read by `ast`, other languages by tree-sitter where the extra `code-guard` is installed, else by a lexer of
our own, as is all that does not parse or whose language is not known: that is judged by the rules of all languages. It
finds calls and settings, and follows no data through a program: it is no proof that code is secure.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from llama3.errors import PluginError
from llama3.guards import Action, GuardInput, Span, Verdict
from llama3_plugins.guards.code.blocks import LANGUAGES, CodeBlock, blocks_of, blocks_of_call
from llama3_plugins.guards.code.calls import TokenUses
from llama3_plugins.guards.code.ipython import shell_and_rest
from llama3_plugins.guards.code.python import PythonUses, UnparsableError, parse_python
from llama3_plugins.guards.code.rules import (
    CATEGORIES,
    RULES,
    SHELL_LINES,
    Alarm,
    Category,
    CodeRule,
    alarms,
    may_alarm,
)
from llama3_plugins.guards.code.semgrep import Semgrep
from llama3_plugins.guards.code.tokens import Token, tokens_of, without_open_end
from llama3_plugins.guards.code.trees import missing, parsed_tokens, parsers
from llama3_plugins.guards.secrets import secrets_in

NO_PARSERS = PluginError.declare(
    "L3-SAF-040",
    "code_shield has no parsers: {modules} cannot be imported",
    why="without_parser is `error`, which lets no code pass that is not parsed",
    fix="pip install 'llama3[code-guard]', or write without_parser: lexer",
)
NOT_PARSED = PluginError.declare(
    "L3-SAF-041",
    "there is no parser for code in {language!r}",
    why="without_parser is `error`, which lets no code pass that is not parsed",
    fix="write without_parser: lexer to judge it by its tokens",
)

_ACTIONS: tuple[Action, ...] = get_args(Action)
_ALL = frozenset(language for rule in RULES for language in rule.languages)
_SECRET = CodeRule("secrets", 798, "block", _ALL, ())
_REASONS = 4
"""Findings that a reason names."""
_REMEMBERED = 256
"""Blocks of code of which it is known what semgrep said."""
_UNFINISHED = 30
"""Lines at the end of code that goes on which may not parse yet."""


class CodeShieldOptions(BaseModel):
    """Options of the guard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    actions: Mapping[Category, Literal["allow", "flag", "review", "block"]] = Field(
        default_factory=dict, description="what is done with a category, in place of what its rules say"
    )
    language: str = Field("", description="of code that does not say its own")
    without_parser: Literal["lexer", "error"] = Field(
        "lexer", description="what judges code in a language without a parser: our lexer, or nothing (it is blocked)"
    )
    backend: Literal["rules", "semgrep"] = Field("rules", description="semgrep: our rules, and semgrep with yours")
    executable: str = Field("semgrep", description="semgrep, or what answers as it does")
    rules: tuple[str, ...] = Field((), description="files of rules for semgrep")
    seconds: float = Field(30.0, gt=0, le=600, description="how long semgrep may take for a block of code")


class CodeShieldGuard:
    """Judges code in answers, in tool calls, and as it is handed to an interpreter (stage `code`)."""

    def __init__(self, options: CodeShieldOptions) -> None:
        self.options = options
        self._parsers: Mapping[str, Any] = {}
        self._semgrep: Semgrep | None = None
        self._judged: dict[bytes, tuple[Alarm, ...]] = {}

    async def open(self) -> None:
        """Load the parsers that are here. Raises PluginError where they, or semgrep, are missing and must not."""
        absent = missing()
        if absent and self.options.without_parser == "error":
            raise NO_PARSERS("code_shield", modules=", ".join(absent))
        self._parsers = parsers()
        if self.options.backend == "semgrep":
            self._semgrep = Semgrep(self.options.executable, self.options.rules)
            self._semgrep.require()

    async def close(self) -> None:
        """Nothing to release."""

    async def check(self, x: GuardInput) -> Verdict:
        """Raises PluginError for code in a language without a parser, where that must not pass, and for code that
        semgrep should judge and does not."""
        found = [(block, alarm) for block in self._blocks(x) for alarm in self._alarms(block, x)]
        acts = [self._action(alarm.rule) for _, alarm in found]
        actions: list[Action] = ["allow", *acts]
        told = [pair for pair, act in zip(found, acts, strict=True) if act != "allow"]
        scores = _scores(alarm for _, alarm in told)
        return Verdict(
            action=max(actions, key=_ACTIONS.index),
            p=max(scores.values()),
            categories=scores,
            spans=tuple(
                sorted({_span(*pair) for pair in told}, key=lambda span: (span.start, span.end, span.category))
            ),
            reason="; ".join(dict.fromkeys(map(_reason, (alarm for _, alarm in told[:_REASONS])))),
            version="1",
        )

    def _action(self, rule: CodeRule) -> Action:
        return self.options.actions.get(rule.category, rule.action)

    def _blocks(self, x: GuardInput) -> Iterator[CodeBlock]:
        if x.stage == "tool_call":
            yield from blocks_of_call(x.text)
            return
        blocks = blocks_of(x.text, begins=x.begins, ends=x.ends)
        if x.stage == "code":
            # All of it runs, whatever fences stand in it: they may be those of a text within the code.
            yield CodeBlock(x.text, 0, "", x.ends)
            blocks = (block for block in blocks if block.language)
        yield from blocks

    def _alarms(self, block: CodeBlock, x: GuardInput) -> Iterator[Alarm]:
        """Every alarm of a block, once."""
        called = block.language or (x.language or "").lower() or self.options.language.lower()
        known = LANGUAGES.get(called)
        if known is None and block.code.lstrip().startswith("<?php"):
            known = "php"
        # A carriage return ends a line, and so a comment.
        block = replace(block, code=_LONE_RETURN.sub("\n", block.code))
        seen: set[tuple[int, int, Category]] = set()
        further = self._further(block, known, x.deadline)
        for alarm in itertools.chain(*(self._found(part, of, called) for part, of in _parts(block, known)), further):
            if (key := (alarm.start, alarm.end, alarm.rule.category)) not in seen:
                seen.add(key)
                yield alarm

    def _found(self, block: CodeBlock, language: str | None, called: str) -> Iterator[Alarm]:
        yield from self._uses(block, language, called)
        yield from _written(block.code, language)

    def _further(self, block: CodeBlock, language: str | None, deadline: float | None) -> Iterator[Alarm]:
        """What semgrep finds in code that is complete: what goes on may not parse yet."""
        if self._semgrep is None or not block.is_complete or not block.code.strip():
            return
        # A stream is judged window by window: a block that is closed is the same in all of them.
        key = hashlib.sha256(f"{language}\n{block.code}".encode("utf-8", "surrogatepass")).digest()
        found = self._judged.get(key)
        if found is None:
            left = self.options.seconds if deadline is None else deadline - time.monotonic()
            found = tuple(self._semgrep.alarms(block.code, language, max(0.0, min(left, self.options.seconds))))
            self._judged[key] = found
            if len(self._judged) > _REMEMBERED:
                self._judged.pop(next(iter(self._judged)))
        yield from found

    def _uses(self, block: CodeBlock, language: str | None, called: str) -> Iterator[Alarm]:
        is_strict = self.options.without_parser == "error"
        if language is not None and language in self._parsers:
            yield from _of_tokens(block, language, _rules_of(language), self._parsers)
            return
        found, parsed = _of_tree(block) if language in ("python", None) else ([], 0)
        yield from found
        rest = block.code[parsed:]
        is_unknown = language is None and bool(called)
        if is_strict and block.is_complete and (rest.strip() or is_unknown):
            raise NOT_PARSED("code_shield", language=called or "none that is named")
        if language == "python":
            yield from _of_rest(block, rest, parsed)
        elif language is not None:
            yield from _of_tokens(block, language, _rules_of(language))
        else:
            yield from _of_tokens(block, None, _ALL)


def _parts(block: CodeBlock, language: str | None) -> Iterator[tuple[CodeBlock, str | None]]:
    """A block with its language; of Python also what IPython hands to a shell, and the rest without that."""
    yield block, language
    if language == "python":
        commands, rest = shell_and_rest(block.code)
        if commands.strip():
            yield replace(block, code=commands), "bash"
            yield replace(block, code=rest), language


_LONE_RETURN = re.compile(r"\r(?!\n)")
_PYTHON = frozenset(("python",))
_ALSO = {"cpp": ("c",), "c": ("cpp",)}


def _of_rest(block: CodeBlock, rest: str, start: int) -> Iterator[Alarm]:
    """The alarms of what does not parse, by its tokens; if no more is to come by all rules, for what is called Python
    and does not parse may be another language."""
    if rest.strip() and (block.is_complete or rest.count("\n") > _UNFINISHED):
        rules = _ALL if block.is_complete else _PYTHON
        yield from (alarm for alarm in _of_tokens(block, "python", rules) if alarm.start >= start)


def _of_tree(block: CodeBlock) -> tuple[list[Alarm], int]:
    """The alarms of the beginning that parses as Python, and its length."""
    try:
        tree, lines_before, length = parse_python(block.code)
        uses = PythonUses(block.code, tree, lines_before).found
        return list(alarms(uses, _PYTHON, block.code, is_complete=block.is_complete)), length
    except (UnparsableError, RecursionError):
        return [], 0


def _rules_of(language: str) -> frozenset[str]:
    """Languages whose rules are asked of code in one."""
    return frozenset((language, *_ALSO.get(language, ())))


def _of_tokens(
    block: CodeBlock, language: str | None, rules: frozenset[str], parser_of: Mapping[str, Any] | None = None
) -> Iterator[Alarm]:
    if not may_alarm(block.code, rules):
        return
    code = block.code if block.is_complete else without_open_end(block.code, language)
    tokens: list[Token] = list(
        parsed_tokens(code, language, parser_of) if parser_of and language else tokens_of(code, language)
    )
    uses = TokenUses(code, tokens, language, is_complete=block.is_complete).uses()
    yield from alarms(uses, rules, code, is_complete=block.is_complete)


def _written(code: str, language: str | None) -> Iterator[Alarm]:
    """What is not called but written: secrets, lines of a shell."""
    for start, end, _ in secrets_in(code, nameless=False):
        yield Alarm(_SECRET, start, end, "a secret")
    if language in ("bash", None):
        said = _without_comments(code, language)
        for cwe, pattern in SHELL_LINES:
            for match in pattern.finditer(said):
                yield Alarm(CodeRule("shell", cwe, "block", _ALL, ()), *match.span(), match[0].split()[0])


def _without_comments(code: str, language: str | None) -> str:
    """The code with blanks in place of its comments."""
    pieces, end = [], 0
    for token in tokens_of(code, language):
        if token.kind == "comment":
            pieces += [code[end : token.start], " " * len(token.text)]
            end = token.end
    return "".join([*pieces, code[end:]])


def _scores(found: Iterable[Alarm]) -> dict[str, float]:
    """Of each category: 1 where a rule says `block`, 0.5 where it says `flag`."""
    scores: dict[str, float] = dict.fromkeys(CATEGORIES, 0.0)
    for alarm in found:
        scores[alarm.rule.category] = max(
            scores.get(alarm.rule.category, 0), 1.0 if alarm.rule.action == "block" else 0.5
        )
    return scores


def _span(block: CodeBlock, alarm: Alarm) -> Span:
    category = f"{alarm.rule.category} CWE-{alarm.rule.cwe}" if alarm.rule.cwe else alarm.rule.category
    if block.span is not None:
        return Span(start=block.span[0], end=block.span[1], category=category)
    return Span(start=block.start + alarm.start, end=block.start + alarm.end, category=category)


def _reason(alarm: Alarm) -> str:
    number = f" (CWE-{alarm.rule.cwe})" if alarm.rule.cwe else ""
    return f"{alarm.rule.category}{number}: {alarm.name}"
