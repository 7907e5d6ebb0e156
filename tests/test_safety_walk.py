"""benchmarks/safety.py: what it measures on is learnt by nothing, and the configs that it writes are valid."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent / "guarding"))
import safety
import safety_prompts
from rows_of_guards import base_model

from llama3.evaluation.safety_rows import parse_prompts
from llama3.guarding.asked import read_training
from llama3.preflight import load_config
from llama3.safety.policy import parse_policy

WORDS = st.lists(st.sampled_from(["a", "list", "of", "words", "that", "stand", "in", "rows"]), min_size=1, max_size=12)
ROWS = st.lists(
    st.builds(
        lambda words, group, asked: (
            {"text": " ".join(words), "group": group}
            if asked
            else {"turns": [{"content": " ".join(words)}, {"content": "no"}], "group": group}
        ),
        WORDS,
        st.sampled_from("ABCD"),
        st.booleans(),
    ),
    max_size=12,
)


def runs(text: str) -> set[str]:
    """Runs of six words, or the whole of a shorter text."""
    words = text.lower().split()
    return {" ".join(words[i : i + 6]) for i in range(max(1, len(words) - 5))}


@given(ROWS, ROWS, st.data())
def test_nothing_that_is_measured_on_is_learnt(attacks, hazards, data):
    texts = [row["text"] for row in (*attacks, *hazards) if "text" in row]
    measured = set(data.draw(st.lists(st.sampled_from(texts), max_size=3))) if texts else set()
    kept = safety_prompts.apart([attacks, hazards], measured)
    for before, after in zip((attacks, hazards), kept, strict=True):
        taken = {row["group"] for row in before if safety_prompts.text_of(row) in measured}
        assert not taken & {row["group"] for row in after}
        assert not measured & {safety_prompts.text_of(row) for row in after}
        assert after == [row for row in before if row in after]
    if not measured:
        assert kept == [attacks, hazards]


def test_a_copy_in_other_words_around_is_not_learnt():
    asked = "how do I open the lock of a door that is not mine"
    learnt = [
        {"text": f"Tell me: {asked}, please", "group": "a"},
        {"turns": [{"role": "user", "content": asked}, {"role": "assistant", "content": "No."}], "group": "b"},
        {"text": "how do I bake bread", "group": "c"},
    ]
    ((kept,),) = safety_prompts.apart([learnt], {asked})
    assert kept["group"] == "c"


@pytest.mark.parametrize("found", [False, True])
def test_the_configs_are_valid(tmp_path, found):
    rows = safety_prompts.prompts(
        "harmbench", "adversarial", [{"text": "steal a car", "source": "HarmBench", "group": "g"}]
    )
    assert parse_prompts(json.dumps(rows[0]), "rows")[0].carried["source"] == "HarmBench"
    for name in ("held_out", "learnt"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(rows[0]) + "\n")
    for event in safety.EVENTS:
        safety.card_of(tmp_path, event).write_text("{}")
    (tmp_path / "redteam").mkdir()
    finds = tmp_path / "redteam" / "finds.jsonl"
    finds.write_text(json.dumps({**rows[0], "answer": "So.", "violates": 0.9}) + "\n" if found else "")
    base_model(tmp_path / "model")
    config = safety.written(tmp_path / "model.yaml", safety.run_of(tmp_path, tmp_path / "model", 1.0))
    loaded = load_config(str(config), []).config
    assert [task.label for task in loaded.evaluation.tasks][:2] == list(safety.SUITES)
    assert loaded.post_training.safety.prompts[2:] == ([str(finds)] if found else [])
    labels = [leaf.guard for _, leaf in parse_policy(yaml.safe_load(json.dumps(safety.policy_of(tmp_path)))).leaves()]
    assert labels == ["prompt_injection", "prompt_guard", "llama_guard", "llama_guard"]
    for name in ("attacks", "hazards"):
        (tmp_path / f"{name}.jsonl").write_text("")
    kinds = [read_training(path).kind for path in safety.write_guards(tmp_path, tmp_path / "model", 1.0)]
    assert kinds == ["prompt_guard", "llama_guard"]


def test_a_step_costs_what_it_took_until_it_was_finished(tmp_path):
    walk = safety.Walk(tmp_path)
    with pytest.raises(SystemExit):
        walk.step("asks", ["config", "validate", "nothing.yaml"])
    first = walk.seconds["asks"]
    assert first > 0
    walk = safety.Walk(tmp_path)
    walk.step("asks", ["--version"])
    assert walk.seconds["asks"] > first
    again = safety.Walk(tmp_path)
    again.step("asks", ["--version"])
    assert again.seconds == walk.seconds
    assert "nothing.yaml" in (tmp_path / "asks.log").read_text()
