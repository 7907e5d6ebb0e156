"""Pairs and rankings: which of several answers to a prompt is better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from llama3.data_kinds import (
    AnswerTokens,
    DataKind,
    Message,
    Row,
    UserRow,
    Writer,
    answer_example,
    read_answer,
    read_prompt,
)
from llama3.errors import DataError
from llama3_plugins.data_kinds.labels import label_row
from llama3_plugins.data_kinds.prompts import task_rows

if TYPE_CHECKING:
    from llama3.data_kinds import Batch, Tokenizer

SAME_TOKENS = DataError.declare("L3-DLG-003", "two answers are the same", fix="drop the pair, or the edit")
SAME_ANSWERS = DataError.declare(
    "L3-OWN-005", "two answers are the same", why="they cannot be told apart", fix="drop the row"
)
MORE_ANSWERS = DataError.declare("L3-OWN-021", "a ranking holds all answers", fix="remove chosen, rejected and edited")
NO_RANKING = DataError.declare("L3-OWN-022", "a ranking is a list of at least two answers, best first")
NOT_ALIKE = DataError.declare("L3-OWN-023", "chosen and rejected must both be text or both be messages")
NO_PROMPT = DataError.declare(
    "L3-OWN-024",
    "chosen and rejected have no common beginning",
    why="it would be the prompt",
    fix="add the column prompt",
)
ODD_SCORE = DataError.declare("L3-OWN-025", "{column} is {score}", fix="give a number, or remove the column")
ODD_MARGIN = DataError.declare(
    "L3-OWN-029", "the margin is {margin}", fix="give a number, 0 or above, or remove the column"
)
OTHER_ORDER = DataError.declare(
    "L3-OWN-026",
    "the rejected answer has the higher score ({rejected} against {chosen})",
    fix="swap the two, or remove the scores",
)
OTHER_MESSAGES = DataError.declare(
    "L3-OWN-027", "messages are not the chosen dialog", why="one row holds one pair", fix="remove the column"
)
OTHER_PROMPT = DataError.declare(
    "L3-OWN-028", "the prompt does not stand in what chosen and rejected begin with", fix="remove the column prompt"
)


@dataclass(frozen=True, slots=True)
class PairExample:
    """A prompt with a better and a worse answer, and perhaps an edited one above both (paper 4.2.1), or with a longer
    ranking. Preference losses compare each answer with the next, but the edited one; a reward model learns it whole."""

    prompt: np.ndarray
    chosen: AnswerTokens
    rejected: AnswerTokens
    edited: AnswerTokens | None = None
    worse: tuple[AnswerTokens, ...] = ()
    """Those that a longer ranking puts below, best first."""
    margin: float = 0.0
    """By which the score of the last answer must lie below the others'."""

    @property
    def ranking(self) -> tuple[AnswerTokens, ...]:
        """The answers, best first."""
        return (*([self.edited] if self.edited is not None else []), self.chosen, self.rejected, *self.worse)

    @property
    def num_tokens(self) -> int:
        """Of the longest path."""
        return len(self.prompt) + max(len(answer.ids) for answer in self.ranking)


class Pairs(DataKind[PairExample]):
    """Rows `{chosen, rejected}`, perhaps with `prompt` and `edited`, or `{prompt, ranking}`, best first; the file has
    `{id, messages, chosen, rejected, edited}` or `{id, messages, ranking}`. Whole dialogs may stand in `chosen` and
    `rejected` beside the prompt, and their scores, which must not say the contrary. `margin` is TRL's, for reward
    models; `strength`, `category` and `lang` group pairs where a reward is audited.

    [prompt] <- [chosen], [rejected]: the prompt is computed once; child(0) is chosen, child(1) rejected.
    """

    required = (("chosen", "rejected"), ("prompt", "ranking"))
    optional = frozenset({"edited", "messages", "prompt_id", "score_chosen", "score_rejected"})
    aside = frozenset({"margin", "strength", "category", "lang"})

    @property
    def stored(self) -> Mapping[str, Writer]:
        return {"pairs": _pair_rows, "labels": _label_rows, "prompts": task_rows}

    def parse(self, row: Row, where: str) -> UserRow:
        margin = _margin(row, where)
        if "ranking" in row:
            return _distinct(read_prompt(row, where), _ranking(row, where), where, edited=False, margin=margin)
        _check_copies(row, where)
        prompt, better, worse = _sides(row, where)
        answers = [read_answer(better, where, "chosen"), read_answer(worse, where, "rejected")]
        edited = row.get("edited") is not None
        if edited:
            answers.insert(0, read_answer(row["edited"], where, "edited"))
        return _distinct(prompt, answers, where, edited=edited, margin=margin)

    def example(self, tokenizer: Tokenizer, row: Row, where: str) -> PairExample:
        edited, ranking = row.get("edited"), row.get("ranking") or [row["chosen"], row["rejected"]]
        pair = pair_example(tokenizer, row["messages"], *ranking, where=where, edited=edited)
        return replace(pair, margin=float(row.get("margin", 0.0)))

    def collate(self, examples: Sequence[PairExample]) -> Batch:
        """One tree per pair, chosen before rejected; of a longer ranking each answer with the next one. Column:
        per_target["is_format"]."""
        from llama3.data_kinds import pack_answers

        return pack_answers(
            [
                (pair.prompt, list(two))
                for pair in examples
                for two in pairwise((pair.chosen, pair.rejected, *pair.worse))
            ]
        )

    def toy(self, rng: np.random.Generator) -> PairExample:
        from llama3.testing.toys import toy_answer, toy_ids

        return PairExample(toy_ids(rng), toy_answer(rng), toy_answer(rng))


def pair_example(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    chosen: str,
    rejected: str,
    *lower: str,
    where: str = "pair",
    edited: str | None = None,
) -> PairExample:
    """Tokenize a preference pair: `messages` are the prompt, the answers are the assistant's next message. `lower` are
    those that a longer ranking puts below."""
    answers = [*([] if edited is None else [edited]), chosen, rejected, *lower]
    examples = [answer_example(tokenizer, messages, answer, where) for answer in answers]
    if len({example.answer.ids.tobytes() for example in examples}) < len(answers):
        raise SAME_TOKENS(where)
    found = [example.answer for example in examples]
    best = None if edited is None else found.pop(0)
    return PairExample(examples[0].prompt, found[0], found[1], best, tuple(found[2:]))


def _ranking(row: Row, where: str) -> list[str]:
    if row.keys() & {"chosen", "rejected", "edited"}:
        raise MORE_ANSWERS(where)
    ranking = row["ranking"]
    if not isinstance(ranking, list) or len(ranking) < 2:
        raise NO_RANKING(where)
    return [read_answer(answer, where, f"ranking[{i}]") for i, answer in enumerate(ranking)]


def _margin(row: Row, where: str) -> float | None:
    """Of a row that says how much better the better answers are than the last one. Raises DataError."""
    margin = row.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise ODD_MARGIN(where, margin=repr(margin))
    return float(margin)


def _distinct(
    prompt: tuple[Message, ...], answers: Sequence[str], where: str, *, edited: bool, margin: float | None
) -> UserRow:
    if len(set(answers)) < len(answers):
        raise SAME_ANSWERS(where)
    return UserRow(prompt, tuple(answers), {"edited": edited} | ({} if margin is None else {"margin": margin}))


def _pair_rows(rows: Sequence[UserRow], stem: str) -> Iterator[dict[str, Any]]:
    """A pair, with its edit, or a whole ranking."""
    for row in rows:
        asked = {"id": row.id, "messages": list(row.prompt)}
        margin = {"margin": row.columns["margin"]} if "margin" in row.columns else {}
        if row.columns["edited"]:
            edited, chosen, rejected = row.answers
            yield {**asked, "chosen": chosen, "rejected": rejected, "edited": edited, **margin}
            continue
        if len(row.answers) > 2:
            yield {**asked, "ranking": list(row.answers), **margin}
            continue
        chosen, rejected = row.answers
        yield {**asked, "chosen": chosen, "rejected": rejected, **margin}


def _label_rows(rows: Sequence[UserRow], stem: str) -> Iterator[dict[str, Any]]:
    """Of a pair the last answer is bad and those above it are good, of a longer ranking only the first is good."""
    for row in rows:
        good = len(row.answers) - 1 if row.columns["edited"] else 1
        for i, answer in enumerate(row.answers):
            yield label_row(f"{row.id}.{i}" if i else row.id, row, answer, i < good)


def _check_copies(row: Row, where: str) -> None:
    """What a published set says twice must agree: scores with the order, `messages` with the chosen dialog."""
    better, worse = row.get("score_chosen"), row.get("score_rejected")
    for column, score in (("score_chosen", better), ("score_rejected", worse)):
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise ODD_SCORE(where, column=column, score=repr(score))
    if better is not None and worse is not None and worse > better:
        raise OTHER_ORDER(where, chosen=better, rejected=worse)
    if row.get("messages") is not None and row["messages"] != row["chosen"]:
        raise OTHER_MESSAGES(where)


def _sides(row: Row, where: str) -> tuple[tuple[Message, ...], Any, Any]:
    """Prompt, chosen and rejected; an implicit prompt is taken off both answers."""
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row and not _are_dialogs(chosen, rejected):
        return read_prompt(row, where), chosen, rejected
    if not isinstance(chosen, str | list) or type(chosen) is not type(rejected):
        raise NOT_ALIKE(where)
    cut = _common(chosen, rejected)
    begun, better, worse = chosen[:cut], chosen[cut:], rejected[cut:]
    if not begun:
        raise NO_PROMPT(where)
    if isinstance(better, str) and isinstance(worse, str):
        better, worse = better.strip(), worse.strip()
    prompt = read_prompt({"prompt": begun}, where)
    if "prompt" in row and not all(message in prompt for message in read_prompt(row, where)):
        raise OTHER_PROMPT(where)
    return prompt, better, worse


def _are_dialogs(*sides: Any) -> bool:
    """Whether both hold more than an answer."""
    return all(isinstance(side, list) and len(side) > 1 for side in sides)


def _common(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """The length of the common beginning of two texts or two dialogs. A space belongs to the word after it."""
    shorter = min(len(chosen), len(rejected))
    cut = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    return cut - 1 if 0 < cut < shorter and chosen[cut - 1] == " " else cut
