"""Dialogs as ids by a model's own chat template.

A template writes one text from many messages. What of it is whose is derived, and then checked:

    layout   the template runs with a sentinel in place of each text: what stands between them is its own
    match    it runs with the contents: the same words must stand around them, else it rewrites them
    cuts     where the prompt for an assistant's answer ends: what follows is the assistant's to write
    ids      only the template's own words can be control tokens; what stands between two of those, words and
             contents, is encoded together as in the whole text, but cut where an assistant begins

Words are the text that a template writes by itself. A message has one text, or one for each of its parts; a template
that knows no parts is given them joined. Texts are counted in UTF-8 bytes where tokens are concerned.
"""

from __future__ import annotations

import bisect
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import accumulate
from typing import Any

import numpy as np

from llama3.errors import DataError
from llama3.tokenizer.chat_layout import DIALOG, Layout, Turns, read_layout, sentinels
from llama3.tokenizer.chat_sandbox import ChatProgram, TemplateFailed, compile_template
from llama3.tokenizer.chat_tokens import Edges, Spelling, size_of, spelling_of
from llama3.tokenizer.llama3_chat import TOOL
from llama3.tokenizer.messages import Message, Rendered, Role, name_of, texts_of
from llama3.tokenizer.tokenizer import Ids, Tokenizer, _without_surrogates

NO_TEMPLATE = DataError.declare(
    "L3-CHT-002",
    "this tokenizer has no chat template, so there is no telling how a dialog is written",
    fix="use a model trained for chat, or put its chat_template.jinja beside its tokenizer.json",
)
FAILS = DataError.declare(
    "L3-CHT-003",
    "the chat template fails",
    why="{error}",
    fix="leave out what the template does not allow, or correct the template",
)
OTHER_PROMPT = DataError.declare(
    "L3-CHT-006",
    "the text up to this message is not the prompt that an answer is generated from",
    why="a model would learn to go on from a text that it never meets",
    fix="use a template whose add_generation_prompt writes what it writes before an assistant's content",
)
NO_END = DataError.declare(
    "L3-CHT-007",
    "no control token ends this message, so a model could not learn to stop",
    fix="write {{{{ eos_token }}}} after the assistant's content in the template",
)
CONTROL_IN_TOOLS = DataError.declare(
    "L3-CHT-011", "the tools hold the name of the control token {name!r}", fix="leave it out of them"
)
BROKEN = DataError.declare(
    "L3-CHT-008", "the chat template cannot be used", why="{error}", fix="correct the chat template"
)

EXACT_TURNS = 64
"""Up to so many turns the prompt of each answer is rendered and compared."""
RENDERINGS = 16
"""Of longer dialogs so many, as far as the words before an answer differ."""
_PROBES: tuple[tuple[tuple[Role, ...], bool], ...] = (
    (("user",), True), (("system", "user"), True), (("user", "assistant", "user"), True),
    (("user", "assistant", "tool"), True), (("user", "assistant", "ipython"), True),
    (("system",), False), (("user",), False), (("assistant",), False), (("tool",), False), (("ipython",), False),
    (("user", "assistant"), False), (("system", "user", "assistant", "user"), False),
    (("user", "assistant", "tool", "assistant"), False), (("user", "assistant", "ipython", "assistant"), False),
)  # fmt: skip
"""Dialogs for which any template writes what it writes: roles, and whether a prompt is asked for."""

_NO_TIME = datetime(2000, 1, 1)  # for templates that do not ask: their layouts are kept


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], generation_prompt: bool, tools: Sequence[Mapping[str, Any]] = ()
) -> Rendered:
    """Ids of a dialog; see `llama3.tokenizer.chat.render`."""
    dialect = _dialect(tokenizer)
    if tools:
        # What a template writes of them counts as its own words, in which control tokens are what they say.
        said = json.dumps(tools, ensure_ascii=False)
        names = [name for name in (*tokenizer.special_tokens, *dialect.control) if name in said]
        if names:
            raise CONTROL_IN_TOOLS("tools", name=names[0])
        dialect = dialect.with_tools(tools)
    return dialect.render(messages, generation_prompt)


def end_id(tokenizer: Tokenizer) -> int:
    """The control token that ends an assistant's message. Raises DataError where there is none."""
    dialect = _dialect(tokenizer)
    layout = dialect.layout((("user", 0), ("assistant", 0)), False, datetime.now())
    return dialect.end_token(layout, 1)


def _dialect(tokenizer: Tokenizer) -> Dialect:
    return tokenizer.keep("dialect", lambda: _new_dialect(tokenizer))


def _new_dialect(tokenizer: Tokenizer) -> Dialect:
    if tokenizer.chat_template is None:
        raise NO_TEMPLATE("tokenizer")
    try:
        return Dialect(tokenizer, compile_template(tokenizer.chat_template))
    except TemplateFailed as error:
        raise BROKEN("tokenizer", error=error) from None


class Dialect:
    """A chat template with the tokenizer it was written for."""

    def __init__(
        self, tokenizer: Tokenizer, program: ChatProgram, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self._tokenizer, self._program, self._tools = tokenizer, program, tools
        self._tokens = _variables(tokenizer)
        self._layout: Callable[[Turns, bool, datetime], Layout] = functools.lru_cache(maxsize=256)(self._new_layout)

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> Dialect:
        """The same template where these can be called."""
        return Dialect(self._tokenizer, self._program, tools)

    @property
    def control(self) -> Mapping[str, int]:
        """Ids of the control tokens by their names."""
        return self._spelling.ids

    @functools.cached_property
    def _spelling(self) -> Spelling:
        """Found out from what the template writes for dialogs of all kinds."""
        dialogs: list[str] = []
        prompts: list[str] = []
        for roles, is_prompt in _PROBES:
            with suppress(DataError):
                turns: Turns = tuple((role, 0) for role in roles)
                words = self.layout(turns, is_prompt, datetime.now()).words
                (prompts if is_prompt else dialogs).extend(words)
        return spelling_of(self._tokenizer, [self._program.source, *dialogs], prompts)

    def render(self, messages: Sequence[Message], generation_prompt: bool) -> Rendered:
        """Ids of a dialog."""
        now = datetime.now() if self._program.tells_time else _NO_TIME
        parts = [texts_of(message.content) for message in messages]
        turns: Turns = tuple(
            (message.role, 0 if isinstance(message.content, str) else len(texts))
            for message, texts in zip(messages, parts, strict=True)
        )
        if any(number for _, number in turns) and not self._takes_parts(turns, generation_prompt, now):
            turns, parts = tuple((role, 0) for role, _ in turns), [["".join(texts)] for texts in parts]
        contents = [_without_surrogates(text) for texts in parts for text in texts]
        layout = self.layout(turns, generation_prompt, now)
        written = layout.match(self._text(turns, contents, generation_prompt, now), contents, turns)
        cuts = self._cuts(layout, turns, generation_prompt, now)
        ids, edges = self._ids(layout, written, cuts, turns)
        learnt = [] if generation_prompt else [k for k, i in enumerate(layout.owners) if turns[i][0] == "assistant"]
        ends = {place: self.end_of(layout, place).end() for place in learnt if layout.ends(place)}
        return self._rendered(ids, edges, layout, written, cuts, ends)

    def _takes_parts(self, turns: Turns, generation_prompt: bool, now: datetime) -> bool:
        """Whether the template writes the text of every part."""
        try:
            self.layout(turns, generation_prompt, now)
        except DataError:
            return False
        return True

    # -- what the template writes --------------------------------------------------------------

    def layout(self, turns: Turns, generation_prompt: bool, now: datetime) -> Layout:
        """Raises DataError where the template refuses, drops, repeats or moves a message."""
        return self._layout(turns, generation_prompt, now if self._program.tells_time else _NO_TIME)

    def _new_layout(self, turns: Turns, generation_prompt: bool, now: datetime) -> Layout:
        return read_layout(self._text(turns, sentinels(turns), generation_prompt, now), turns)

    def _text(self, turns: Turns, contents: Sequence[str], generation_prompt: bool, now: datetime) -> str:
        messages = _messages(turns, contents, self._program.knows_ipython_only)
        try:
            return self._write(messages, generation_prompt, now)
        except TemplateFailed as error:
            where = self._refused(messages, generation_prompt, now, str(error))
            raise FAILS(where, error=error) from None

    def _write(self, messages: Sequence[Mapping[str, Any]], generation_prompt: bool, now: datetime) -> str:
        return self._program.text(
            messages, generation_prompt=generation_prompt, tokens=self._tokens, now=now, tools=self._tools
        )

    def _refused(
        self, messages: Sequence[Mapping[str, Any]], generation_prompt: bool, now: datetime, reason: str
    ) -> str:
        """Name of the message with which the template begins to fail for this reason."""

        def fails(length: int) -> bool:
            try:
                self._write(messages[:length], generation_prompt, now)
            except TemplateFailed as error:
                return str(error) == reason
            return False

        length = bisect.bisect_left(range(1, len(messages) + 1), True, key=fails) + 1
        return (
            name_of(length - 1, messages[length - 1]["role"]) if length <= len(messages) and fails(length) else DIALOG
        )

    def _cuts(self, layout: Layout, turns: Turns, generation_prompt: bool, now: datetime) -> dict[int, int]:
        """Where in the words before an assistant's content the prompt ends: place in the text -> characters.

        A template may write earlier turns in another way than when they were answered (without their reasoning, say):
        there the prompt ends where the content begins. The last turn is what is to be answered: it must not differ.

        Each prompt is rendered and compared, while they are short; of a long dialog, those that follow other words than
        the ones before. So a dialog takes time in proportion to its length.
        """
        cuts: dict[int, int] = {}
        known: dict[str, int] = {}  # words before an answer -> where in them the prompt ended
        effort = EXACT_TURNS * EXACT_TURNS + RENDERINGS * len(turns)
        for place, index in enumerate(layout.owners):
            role, _ = turns[index]
            if role != "assistant" or not layout.begins(place):
                continue
            words = layout.words[place]
            is_last = index == len(turns) - 1 and not generation_prompt
            if not is_last and ((words in known and index > EXACT_TURNS) or index > effort):
                cuts[place] = known.get(words, len(words))
                continue
            effort -= index
            prompt = self._prompt(turns[:index], now)
            cuts[place] = len(words)
            if prompt is not None and layout.begins_with(prompt):
                cuts[place] = len(prompt.words[-1])
            elif is_last:
                raise OTHER_PROMPT(name_of(index, role))
            known[words] = cuts[place]
        return cuts

    def _prompt(self, turns: Turns, now: datetime) -> Layout | None:
        try:
            return self.layout(turns, True, now)
        except DataError:
            return None

    def end_of(self, layout: Layout, place: int) -> re.Match[str]:
        """The control token that ends a content, in the words after it. Raises DataError where there is none."""
        found = self._spelling.control.search(layout.words[place + 1])
        if found is None:
            raise NO_END(name_of(layout.owners[place], "assistant"))
        return found

    def end_token(self, layout: Layout, place: int) -> int:
        """The id of it."""
        return self._spelling.ids[self.end_of(layout, place).group()]

    # -- ids -----------------------------------------------------------------------------------

    def _ids(self, layout: Layout, written: Sequence[str], cuts: dict[int, int], turns: Turns) -> tuple[Ids, Edges]:
        """Ids of the whole text, and where each token begins in the text and the last one ends."""
        runs = self._spelling.runs()
        for place, words in enumerate(layout.words):
            cut = cuts.get(place, len(words))
            runs.add_words(words[:cut])
            if place in cuts:
                runs.begin_answer()
                runs.add_words(words[cut:])
            if place < len(written):
                runs.add_content(written[place], turns[layout.owners[place]][0] == "assistant")
        return runs.encoded()

    def _rendered(
        self,
        ids: Ids,
        edges: Edges,
        layout: Layout,
        written: Sequence[str],
        cuts: dict[int, int],
        ends: dict[int, int],
    ) -> Rendered:
        """Say of each token whose it is, from its place among the bytes of the text."""
        sizes = [size_of(text) for pair in zip(layout.words, [*written, ""], strict=True) for text in pair]
        offsets = [0, *accumulate(sizes)]  # of the words (even) and the contents (odd)
        is_format, is_target = np.ones(len(ids), bool), np.zeros(len(ids), bool)
        message_starts = [0] * (max(layout.owners, default=-1) + 1)
        learnt_from = 0
        for place, index in enumerate(layout.owners):
            words, content, after = offsets[2 * place : 2 * place + 3]
            if content < after:
                first, last = np.searchsorted(edges, content, "right") - 1, np.searchsorted(edges, after)
                is_format[first:last] = False
            if place in cuts:
                learnt_from = words + size_of(layout.words[place][: cuts[place]])
            if place in ends:
                end = after + size_of(layout.words[place + 1][: ends[place]])
                is_target[np.searchsorted(edges, learnt_from) : np.searchsorted(edges, end)] = True
            if place > 0 and layout.begins(place):
                begin = min(self._end_of_message(layout.words[place]), cuts.get(place, len(layout.words[place])))
                start = words + size_of(layout.words[place][:begin])
                message_starts[index] = int(np.searchsorted(edges, start))
        return Rendered(ids, is_target, is_format, message_starts)

    def _end_of_message(self, words: str) -> int:
        """Of the words between two contents, those that belong to the first: its end token and the space after it."""
        control = self._spelling.control.search(words)
        if control is None:
            return 0
        rest = words[control.end() :]
        return control.end() + len(rest) - len(rest.lstrip())


def _messages(turns: Turns, contents: Sequence[str], knows_ipython_only: bool) -> list[dict[str, Any]]:
    """As templates are given them; `contents` are the texts of all messages."""
    rest = iter(contents)
    called = {"tool": TOOL} if knows_ipython_only else {}
    return [
        {
            "role": called.get(role, role),
            "content": [{"type": "text", "text": next(rest)} for _ in range(parts)] if parts else next(rest),
        }
        for role, parts in turns
    ]


def _variables(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token` and so on, as far as the tokenizer has them."""
    ids = {"bos_token": tokenizer.bos_id, "pad_token": tokenizer.pad_id}
    with suppress(DataError):  # no end of a text is named
        ids["eos_token"] = tokenizer.eos_id
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    return {role: names[id] for role, id in ids.items() if id is not None}
