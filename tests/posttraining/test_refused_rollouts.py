"""`safety.rollouts`: what the policy refuses of a model's own answers is not learnt from."""

from __future__ import annotations

import pytest
from tiny import put_checkpoint, tiny_model

from llama3.config.slot_types import Slot
from llama3.errors import ConfigError
from llama3.posttraining.preferences import PreferencesOptions
from llama3.posttraining.reject import RejectOptions, reject
from llama3.preflight import load_config
from llama3.tasks.rows import read_rows

LETTER = {"name": "regex", "patterns": [{"category": "letter", "pattern": "e"}]}
POLICY = {"output": {"guard": LETTER}, "input": "prompt_injection"}
SAMPLING = {"prompts": 24, "samples": 6, "temperature": 1.0, "top_p": 1.0, "max_tokens": 6, "seed": 1,
            "rewards": (Slot(name="verifiable"),)}  # fmt: skip
CONFIG = {"extends": "quickstart", "safety": {"policy": POLICY, "rollouts": True}}


def drawn(made):
    return [row["answer"] for row in read_rows(made.file("samples.jsonl"))]


def test_refused_answers_are_not_learnt_from(run, tokenizer):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    free = run.execute(reject, {"checkpoint": base}, RejectOptions(**SAMPLING, demonstrations=8))
    refused = [answer for answer in drawn(free) if "e" in answer]
    kept = [answer for answer in drawn(free) if "e" not in answer]
    assert refused
    assert kept
    options = RejectOptions(**SAMPLING, demonstrations=8, policy=POLICY)
    guarded = run.execute(reject, {"checkpoint": base}, options)
    assert drawn(guarded) == kept
    assert guarded.metrics["refused_by_guards"] == len(refused)
    assert "refused_by_guards" not in free.metrics
    assert guarded.metrics["samples"] == len(kept)


def test_general_prompts_that_it_answers_itself_are_judged_too(run, tokenizer):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    found = {}
    for policy in ({}, {"output": {"guard": {**LETTER, "patterns": [{"category": "any", "pattern": "."}]}}}):
        options = RejectOptions(**SAMPLING, demonstrations=8, rehearsal=60, rehearsal_tokens=8, policy=policy)
        made = run.execute(reject, {"checkpoint": base}, options)
        found[bool(policy)] = {row["messages"][-1]["content"] for row in read_rows(made.file("dialogs.jsonl"))
                               if row["source"] == "rehearsal"}  # fmt: skip
    assert found[True] < found[False]


def test_a_config_says_so_and_is_refused_where_guards_cannot_stand():
    config = load_config(CONFIG).config
    for options in (RejectOptions, PreferencesOptions):
        assert options.of(config, 1).policy == POLICY
        assert options.of(load_config("quickstart").config, 1).policy == {}
    with pytest.raises(ConfigError, match=r"guards do not judge what grpo draws.*L3-CFG-054"):
        load_config(CONFIG | {"post_training": {"algorithm": {"name": "grpo"}}})


def test_a_policy_that_judges_no_answer_is_refused():
    for policy in ({"input": "pii"}, {"tool_call": "tool_calls", "output": {"unguarded": True}}):
        with pytest.raises(ConfigError, match=r"no guard that judges answers.*L3-CFG-075"):
            load_config({"extends": "quickstart", "safety": {"rollouts": True, "policy": policy}})
    for stage in ("output", "stream", "code"):
        load_config({"extends": "quickstart", "safety": {"rollouts": True, "policy": {stage: "code_shield"}}})
