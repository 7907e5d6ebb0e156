"""Dialogs and preference pairs as training examples, and examples as packed trees.

    dialog:  [prompt] <- [answers]                targets are what the assistant wrote, in every turn
    pair:    [prompt] <- [chosen], [rejected]     the prompt is computed once; child(0) is chosen, child(1) rejected
    ranking: [prompt] <- [best] ... [worst]       only the last token of each answer is a target

A prompt is everything up to and including the header of an assistant's message, just as generation begins; an answer
is that message's content and its end token. Where a dialog has several, the messages between them stand among the
answers and are no targets. `is_format` marks control tokens among the targets (paper 4.1.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from llama3.errors import DataError, Problem
from llama3.model.batch import Batch, Segment, Tree
from llama3.tokenizer.chat import Message, Rendered, Role, render

if TYPE_CHECKING:
    from llama3.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Tokens of an answer, or of several with what stands between them, with flags per token."""

    ids: np.ndarray
    is_format: np.ndarray
    is_target: np.ndarray | bool = True


@dataclass(frozen=True, slots=True)
class DialogExample:
    """A prompt and the answer to learn; of several answers, the prompt of the first."""

    prompt: np.ndarray
    answer: AnswerTokens

    @property
    def num_tokens(self) -> int:
        """Of the longest path."""
        return len(self.prompt) + len(self.answer.ids)


@dataclass(frozen=True, slots=True)
class PairExample:
    """A prompt with a better and a worse answer, and perhaps an edited one above both (paper 4.2.1).
    Preference losses compare the first two; a reward model learns the whole ranking."""

    prompt: np.ndarray
    chosen: AnswerTokens
    rejected: AnswerTokens
    edited: AnswerTokens | None = None

    @property
    def ranking(self) -> tuple[AnswerTokens, ...]:
        """The answers, best first."""
        return (*([self.edited] if self.edited is not None else []), self.chosen, self.rejected)

    @property
    def num_tokens(self) -> int:
        """Of the longest path."""
        return len(self.prompt) + max(len(answer.ids) for answer in self.ranking)


@dataclass(frozen=True, slots=True)
class LabelExample:
    """A prompt and one answer that is good or bad by itself."""

    prompt: np.ndarray
    answer: AnswerTokens
    desirable: bool

    @property
    def num_tokens(self) -> int:
        """Of the longest path."""
        return len(self.prompt) + len(self.answer.ids)


@dataclass(frozen=True, slots=True)
class PromptExample:
    """A prompt to be answered; `index` is its row in the rewarder's table of examples."""

    prompt: np.ndarray
    index: int

    @property
    def num_tokens(self) -> int:
        """Of the prompt alone."""
        return len(self.prompt)


def messages_of(messages: Sequence[Mapping[str, str]], where: str) -> list[Message]:
    """The messages of a row. Raises DataError for what is none."""
    try:
        return [Message(cast(Role, message["role"]), message["content"]) for message in messages]
    except (KeyError, TypeError) as error:
        raise DataError(
            Problem("L3-DLG-006", where, "messages must be objects with role and content", repr(error))
        ) from None


def dialog_example(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], where: str = "dialog") -> DialogExample:
    """Tokenize a dialog to learn all its answers; what follows the last is left out.

    Raises DataError when there is nothing to learn, or the chat template does not take the dialog.
    """
    rendered = _rendered(tokenizer, messages, where)
    targets = np.flatnonzero(rendered.is_target)
    if rendered.is_format[targets].all():
        what = "nothing in this dialog is a target" if len(targets) == 0 else "every answer in this dialog is empty"
        why = "targets are the contents of the assistant's messages"
        raise DataError(Problem("L3-DLG-001", where, what, why, "let the assistant answer, or drop the dialog"))
    start, end = int(targets[0]), int(targets[-1]) + 1
    return DialogExample(rendered.ids[:start], _span(rendered, start, end))


def answer_example(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], answer: str, where: str = "answer"
) -> DialogExample:
    """Tokenize a prompt and one answer to it, which alone is the target; it may be empty (but for its end token)."""
    prompt = _rendered(tokenizer, messages, where, generation_prompt=True).ids
    rendered = _rendered(tokenizer, [*messages, {"role": "assistant", "content": answer}], where)
    end = int(np.flatnonzero(rendered.is_target)[-1]) + 1
    return DialogExample(prompt, _span(rendered, len(prompt), end))


def pair_example(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    chosen: str,
    rejected: str,
    where: str = "pair",
    *,
    edited: str | None = None,
) -> PairExample:
    """Tokenize a preference pair: `messages` are the prompt, the answers are the assistant's next message."""
    answers = [chosen, rejected, *([] if edited is None else [edited])]
    examples = [answer_example(tokenizer, messages, answer, where) for answer in answers]
    if len({example.answer.ids.tobytes() for example in examples}) < len(answers):
        raise DataError(Problem("L3-DLG-003", where, "two answers are the same", fix="drop the pair, or the edit"))
    better, worse, *best = examples
    return PairExample(better.prompt, better.answer, worse.answer, best[0].answer if best else None)


def label_example(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], completion: str, label: Any, where: str = "label"
) -> LabelExample:
    """Tokenize a labelled answer: `messages` are the prompt, `completion` is the assistant's next message."""
    if not isinstance(label, bool):
        raise DataError(Problem("L3-DLG-008", where, f"the label is {label!r}", fix="give true or false"))
    dialog = answer_example(tokenizer, messages, completion, where)
    return LabelExample(dialog.prompt, dialog.answer, label)


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], where: str = "prompt") -> np.ndarray:
    """Token ids of a prompt, ending in the header of the assistant's message."""
    return _rendered(tokenizer, messages, where, generation_prompt=True).ids


def collate_dialogs(examples: Sequence[DialogExample]) -> Batch:
    """One tree per dialog. Column: per_target["is_format"]."""
    return Batch.of_trees([Tree([Segment(example.prompt), _answer(example.answer)]) for example in examples])


def collate_pairs(examples: Sequence[PairExample]) -> Batch:
    """One tree per pair, chosen before rejected. Column: per_target["is_format"]."""
    return Batch.of_trees(
        [Tree([Segment(pair.prompt), _answer(pair.chosen), _answer(pair.rejected)]) for pair in examples]
    )


def collate_rankings(examples: Sequence[PairExample]) -> Batch:
    """One tree per prompt with all its answers, best first. Only the last token of an answer is a target: where a score
    head reads the answer, and all that the output matrix need see. Column: per_segment["place"] (0 is best)."""
    return Batch.of_trees([answers_tree(pair.prompt, pair.ranking) for pair in examples])


def answers_tree(prompt: np.ndarray, answers: Sequence[AnswerTokens]) -> Tree:
    """A prompt and answers to be scored as a whole: as in `collate_rankings`."""
    return Tree([Segment(prompt), *(_whole(place, answer) for place, answer in enumerate(answers))])


def collate_labels(examples: Sequence[LabelExample]) -> Batch:
    """One tree per answer. Columns: per_target["is_format"], per_tree["desirable"] (0 or 1)."""
    return Batch.of_trees(
        [
            Tree([Segment(label.prompt), _answer(label.answer)], {"desirable": float(label.desirable)})
            for label in examples
        ]
    )


def collate_prompts(examples: Sequence[PromptExample]) -> Batch:
    """One root per prompt, without targets. Column: per_tree["example"]."""
    return Batch.of_trees([Tree([Segment(example.prompt)], {"example": example.index}) for example in examples])


class Epochs(Generic[T]):
    """Examples for the loop: each epoch is a permutation by (seed, epoch); a step reads the next `batch` of the stream.

    `examples(step)` is a pure function of the step. The last step may be smaller: each example is used `epochs` times.
    """

    def __init__(self, examples: Sequence[T], *, batch: int, epochs: int, seed: int) -> None:
        if not examples:
            raise DataError(
                Problem(
                    "L3-DLG-004",
                    "dataset",
                    "there are no examples to train on",
                    fix="raise the number of prompts, samples or demonstrations",
                )
            )
        self._examples, self._batch, self._epochs, self._seed = examples, batch, epochs, seed
        self.steps = -(-len(examples) * epochs // batch)

    def examples(self, step: int) -> list[T]:
        """The examples of one step."""
        count = len(self._examples)
        stream = range(step * self._batch, min((step + 1) * self._batch, count * self._epochs))
        orders = {epoch: self._order(epoch) for epoch in {position // count for position in stream}}
        return [self._examples[orders[position // count][position % count]] for position in stream]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))


def _answer(span: AnswerTokens) -> Segment:
    is_target = np.broadcast_to(span.is_target, len(span.ids))
    return Segment(span.ids, parent=0, is_target=is_target, per_target={"is_format": span.is_format[is_target]})


def _whole(place: int, span: AnswerTokens) -> Segment:
    is_last = np.arange(len(span.ids)) == len(span.ids) - 1
    return Segment(span.ids, parent=0, is_target=is_last, per_segment={"place": place})


def _span(rendered: Rendered, start: int, end: int) -> AnswerTokens:
    return AnswerTokens(rendered.ids[start:end], rendered.is_format[start:end], rendered.is_target[start:end])


def _rendered(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], where: str, *, generation_prompt: bool = False
) -> Rendered:
    """Raises DataError; its problems name the dialog too."""
    try:
        return render(tokenizer, messages_of(messages, where), generation_prompt=generation_prompt)
    except DataError as error:
        named = (p if p.where == where else replace(p, where=f"{where}, {p.where}") for p in error.problems)
        raise DataError(named) from None
