"""General dialogs that are mixed in so that a model keeps what it could do."""

from __future__ import annotations

import json
from importlib.resources import files

from tiny import open_generate, put_checkpoint, tiny_model

from llama3.config.schema import Slot
from llama3.posttraining.datasets import read_rows
from llama3.posttraining.rehearsal import HARMFUL, SOUND_WORSE, rehearsals
from llama3.posttraining.reject import RejectOptions
from llama3.posttraining.rounds import stages
from llama3.safety.refusals import judge
from llama3_plugins.evaluators.instructions import instructions

EVERYTHING = 10_000


def test_each_prompt_once_and_the_same_for_a_seed() -> None:
    found = rehearsals(EVERYTHING, seed=1)
    prompts = [row.prompt for row in found]
    assert len(set(prompts)) == len(prompts) > 150
    assert found == rehearsals(EVERYTHING, seed=1)
    assert prompts != [row.prompt for row in rehearsals(EVERYTHING, seed=2)]
    assert rehearsals(50, seed=1) == found[:50]
    assert {*SOUND_WORSE, *HARMFUL} <= set(prompts[:50])


def test_what_is_harmful_is_refused_and_what_sounds_so_is_answered() -> None:
    for row in rehearsals(EVERYTHING, seed=1):
        expected = "refused" if row.prompt in HARMFUL else "answered"
        assert (row.answer is not None) == (row.prompt in HARMFUL or row.prompt in SOUND_WORSE)
        assert row.answer is None or judge(row.answer) == expected
    assert len(SOUND_WORSE) > len(HARMFUL)


def test_no_prompt_of_the_audit_is_rehearsed() -> None:
    folder = files("llama3_plugins.evaluators") / "prompts"
    lines = [line for name in ("harmful", "harmless") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    audited = {json.loads(line)["prompt"] for line in lines} | {row.prompt for row in instructions(400, seed=1)}
    assert audited.isdisjoint(row.prompt for row in rehearsals(EVERYTHING, seed=1))


def test_only_whole_answers_are_learnt(run, tokenizer) -> None:
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    options = RejectOptions(
        prompts=2, samples=1, temperature=1.0, top_p=1.0, max_tokens=2, rewards=(Slot(name="verifiable"),), seed=1,
        demonstrations=4, rehearsal=60, rehearsal_tokens=2,
    )  # fmt: skip
    dialogs = run.execute(stages(open_generate).reject, {"checkpoint": base}, options)
    rows = [row for row in read_rows(dialogs.file("dialogs.jsonl")) if row["source"] == "rehearsal"]
    prompts = [row["messages"][0]["content"] for row in rows]
    # An untrained model ends none of its answers within two tokens; what is given is kept.
    assert set(HARMFUL) <= set(prompts)
    assert len(prompts) < 60
    assert dialogs.metrics["dialogs"]["rehearsal"] == len(rows)
