"""Own rows bring their own suite and gate, in place of a preset's, where the config does not say otherwise."""

from __future__ import annotations

import json

import pytest

from llama3.evaluation.own_suite import SUITE
from llama3.preflight import load_config


@pytest.fixture
def rows(tmp_path):
    """A file of rows whose text depends on their number."""

    def make(row, count, held_out=20):
        path = tmp_path / "own.jsonl"
        sides = ["held_out"] * held_out + ["train"] * (count - held_out)
        lines = [json.dumps({**row, "prompt": f"Which is {n}?", "split": side}) for n, side in enumerate(sides)]
        path.write_text("\n".join(lines))
        return path

    return make


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """The preset `adopt`, or a config that extends it, with these rows."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("{}")

    def make(path, *overrides, source="adopt"):
        return load_config(source, [f"post_training.data={path}", f"model.path={tmp_path / 'model'}", *overrides])

    return make


DIALOG = {"completion": "blue"}


def suites(loaded):
    return [slot.label for slot in loaded.config.evaluation.tasks]


def test_dialogs_bring_a_suite_that_must_improve(loaded, rows):
    path = rows(DIALOG, 40)
    found = loaded(path)
    assert suites(found)[-1] == SUITE
    assert found.config.audit.must_improve == [SUITE]
    assert any("must_improve" in note and "20 held-out rows" in note for note in found.notes)
    again = loaded(path, source={**found.values, "model": {"path": "x"}})
    assert suites(again) == suites(found)
    assert again.config.audit.must_improve == [SUITE]


def test_few_held_out_rows_are_no_suite(loaded, rows):
    found = loaded(rows(DIALOG, 40, held_out=9))
    assert SUITE not in suites(found)
    assert any("9 of its dialogs are held out, 10 are needed" in note for note in found.notes)
    other = loaded(rows(DIALOG, 40, held_out=9), "audit.must_improve=[harmless]")
    assert any("9 of its dialogs are held out, 10 are needed" in note for note in other.notes)
    assert not any("needed to measure" in note for note in loaded(rows(DIALOG, 40)).notes)
    assert found.config.audit.must_improve == []


def test_what_the_user_says_stays(loaded, rows):
    path = rows(DIALOG, 40)
    found = loaded(path, "audit.must_improve=[trained]")
    assert found.config.audit.must_improve == ["trained"]
    mine = {"name": "answer_bits", "suite": SUITE, "path": str(path)}
    found = loaded(path, f"evaluation.tasks=[{json.dumps(mine)}]", "audit.must_improve=[own_rows]")
    assert suites(found) == [SUITE]


PREFERENCES = {
    "dpo": ({"chosen": "blue", "rejected": "grey"}, 36),
    "kto": ({"completion": "blue"}, 72),
}


@pytest.mark.parametrize("algorithm", PREFERENCES)
def test_preferences_bring_a_suite_that_must_not_get_worse(loaded, rows, algorithm):
    """36 pairs for ten points, or as many good labels and bad ones."""
    row, enough = PREFERENCES[algorithm]

    def made(held_out):
        path = rows(row, 100, held_out)
        if algorithm == "kto":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("\n".join(json.dumps({**line, "label": n % 2 == 0}) for n, line in enumerate(lines)))
        return loaded(path, f"post_training.algorithm={algorithm}")

    found = made(enough)
    assert found.config.evaluation.tasks[-1].name == "preference_accuracy"
    assert found.config.evaluation.tasks[-1].label == SUITE
    assert found.config.audit.must_improve == []
    assert SUITE not in suites(made(enough - 1))


def test_prompts_with_answers_are_a_suite_of_tasks(loaded, rows):
    grpo = "post_training.algorithm=grpo"
    found = loaded(rows({"answer": "blue"}, 60, held_out=40), grpo)
    assert suites(found)[-1] == SUITE
    assert found.config.evaluation.tasks[-1].name == "pass_rate"
    assert found.config.audit.must_improve == []
    assert SUITE not in suites(loaded(rows({"answer": "blue"}, 60, held_out=30), grpo))
    own = "post_training.rewards=[{name: jsonl_tasks, path: " + str(rows({"answer": "blue"}, 60)) + "}]"
    assert loaded(rows({"answer": "blue"}, 60), grpo, own).config.audit.must_improve == ["trained"]
