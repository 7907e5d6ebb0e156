"""General dialogs that are mixed in so that a model keeps what it could do."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest
from tiny import put_checkpoint, tiny_model

from llama3.config.slot_types import Slot
from llama3.inference import Completion, FinishReason
from llama3.posttraining.rehearsal import HARMFUL, SOUND_WORSE, rehearsals
from llama3.posttraining.reject import RejectOptions, reject, whole_sentences
from llama3.safety.refusals import judge
from llama3.tasks.rows import read_rows
from llama3_plugins.evaluators.instructions import instructions

EVERYTHING = 10_000


def test_each_prompt_once_and_the_same_for_a_seed() -> None:
    found = rehearsals(EVERYTHING, seed=1)
    prompts = [row.prompt for row in found]
    assert len(set(prompts)) == len(prompts) > 150
    assert found == rehearsals(EVERYTHING, seed=1)
    assert prompts != [row.prompt for row in rehearsals(EVERYTHING, seed=2)]
    assert rehearsals(50, seed=1) == found[:50]
    assert {*SOUND_WORSE, *HARMFUL} <= set(prompts[: len(SOUND_WORSE) + len(HARMFUL)])


def test_only_what_is_harmful_is_refused() -> None:
    for row in rehearsals(EVERYTHING, seed=1):
        assert (row.answer is not None) == (row.prompt in HARMFUL)
        assert row.answer is None or judge(row.answer) == "refused"
    assert len(SOUND_WORSE) > 10 * len(HARMFUL)


def test_no_prompt_is_close_to_one_of_the_audit() -> None:
    folder = files("llama3_plugins.evaluators") / "prompts"
    lines = [line for name in ("harmful", "harmless") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    audited = {json.loads(line)["prompt"] for line in lines} | {row.prompt for row in instructions(400, seed=1)}
    rehearsed = {row.prompt for row in rehearsals(EVERYTHING, seed=1)}
    assert audited.isdisjoint(rehearsed)
    for mine in SOUND_WORSE + HARMFUL:
        close = [theirs for theirs in audited if overlap(mine, theirs) > 0.4]
        assert not close, mine


def overlap(a: str, b: str) -> float:
    """Shared stems of content words over all of them."""
    first, second = (
        {word[:4] for word in re.findall(r"[a-z]+", text.lower()) if word not in COMMON} for text in (a, b)
    )
    return len(first & second) / len(first | second)


COMMON = frozenset("a an and are can do does for how i in is it mean my of on or the to what when".split())  # noqa: SIM905


def test_only_whole_answers_are_learnt(run, tokenizer) -> None:
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    options = RejectOptions(
        prompts=2, samples=1, temperature=1.0, top_p=1.0, max_tokens=2, rewards=(Slot(name="verifiable"),), seed=1,
        demonstrations=4, rehearsal=80, rehearsal_tokens=2,
    )  # fmt: skip
    dialogs = run.execute(reject, {"checkpoint": base}, options)
    rows = [row for row in read_rows(dialogs.file("dialogs.jsonl")) if row["source"] == "rehearsal"]
    prompts = [row["messages"][0]["content"] for row in rows]
    # An untrained model ends none of its answers within two tokens; what is given is kept.
    assert set(prompts) == set(HARMFUL)
    assert dialogs.metrics["dialogs"]["rehearsal"] == len(rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is hot. It is", "It is hot."),
        ("Here are 2 ways:\n1. Run.\n2. Walk slowly and", "Here are 2 ways:\n1. Run."),
        ("Why? Because 3.5 is", "Why?"),
        ("no end at all 1. and", ""),
    ],
)
def test_an_answer_that_is_cut_ends_with_a_sentence(tokenizer, text, expected) -> None:
    ids = tokenizer.encode(text).tolist()
    assert whole_sentences(tokenizer, Completion(ids, [0.0] * len(ids), FinishReason.LENGTH)) == expected
    assert whole_sentences(tokenizer, Completion(ids, [0.0] * len(ids), FinishReason.STOP)) == text
