"""Programs in another language, proved by the way back (paper 4.3.1, "programming language translation").

A Python function of the corpus is translated, and the translation alone is translated back. Kept is what comes back
doing what the original does, call by call, in the sandbox: a translation that lost something cannot give it back.
"""

from __future__ import annotations

from collections.abc import Iterator

from llama3.capabilities import Made, Workshop
from llama3_plugins.capabilities.options import CodeTranslationOptions
from llama3_plugins.capabilities.python_source import faults, parsed
from llama3_plugins.capabilities.same_calls import drawn_functions, name_of, results, tell_apart, written_calls
from llama3_plugins.capabilities.turns import assistant, blocks, fenced, firsts, user

FORTH = (
    "Translate this Python function into {language}, as its programmers write it, with the same behaviour in every "
    "case. Give the program in one fenced block.\n\n{code}"
)
BACK = (
    "Translate this {language} program into Python, with the same behaviour in every case. The function is to be "
    "called {name}. Give the program in one ```python block.\n\n{code}"
)
BRACKETS = {")": "(", "]": "[", "}": "{"}


class CodeTranslation:
    """From Python, which the sandbox runs, to languages that it does not."""

    def __init__(self, options: CodeTranslationOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        functions = drawn_functions(shop, count, seed)
        calls = written_calls(shop, functions, self.options.calls)
        before = results(shop, list(zip(functions, calls, strict=True)))
        languages = [self.options.to[place % len(self.options.to)] for place in range(len(functions))]
        asked = [
            user(FORTH.format(language=language, code=fenced(one)))
            for language, one in zip(languages, functions, strict=True)
        ]
        said = firsts(shop.ask([[one] for one in asked]))
        forth = [next(iter(blocks(text)), "") for text in said]
        questions = [
            [user(BACK.format(language=language, name=name_of(one), code=fenced(code, "")))]
            for language, one, code in zip(languages, functions, forth, strict=True)
        ]
        back = [next(iter(blocks(text)), "") for text in firsts(shop.ask(questions))]
        after = results(shop, list(zip(back, calls, strict=True)))
        for place, question in enumerate(asked):
            reason = _reason(languages[place], forth[place], back[place], before[place], after[place])
            messages = [question, assistant(said[place])]
            yield Made(messages, reason == "round_trip", reason, "code")


def _reason(language: str, forth: str, back: str, before: list[str] | None, after: list[str] | None) -> str:
    if not forth:
        return "no_code"
    if not tell_apart(before):
        return "no_calls_that_tell"
    if not isinstance(parsed(forth), str):
        return "not_translated"  # it still is Python
    if not is_balanced(forth, language):
        return "unbalanced"
    if faults(back):
        return "no_way_back"
    return "round_trip" if before == after else "does_something_else"


def is_balanced(code: str, language: str) -> bool:
    """Whether brackets outside of strings and comments close each other: what a parser of any of these languages asks
    first."""
    is_rust = language.casefold() == "rust"
    open_ones: list[str] = []
    at, end = 0, len(code)
    while at < end:
        char = code[at]
        if char in '"`' or (char == "'" and not (is_rust and _is_lifetime(code, at))):
            at = _after_string(code, at)
            continue
        if code.startswith("//", at):
            at = end if (line := code.find("\n", at)) < 0 else line
            continue
        if code.startswith("/*", at):
            at = end if (close := code.find("*/", at + 2)) < 0 else close + 2
            continue
        if char in BRACKETS.values():
            open_ones.append(char)
        elif char in BRACKETS and (not open_ones or open_ones.pop() != BRACKETS[char]):
            return False
        at += 1
    return not open_ones


def _is_lifetime(code: str, at: int) -> bool:
    """Whether an apostrophe begins the name of a lifetime and not a character, which another one closes at once."""
    return code[at + 1 : at + 2] != "\\" and code[at + 2 : at + 3] != "'"


def _after_string(code: str, at: int) -> int:
    sign, at = code[at], at + 1
    while at < len(code) and code[at] != sign:
        at += 2 if code[at] == "\\" else 1
    return at + 1
