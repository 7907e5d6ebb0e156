"""Coverage by n-grams against the definition, and held-out tasks planted in training data."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from llama3.artifacts import Stage
from llama3.artifacts.run import RunDir
from llama3.config.schema import Config
from llama3.data.covering import ExampleNgrams
from llama3.errors import GateFailed
from llama3.evaluation.contamination import contaminated_share, own_share, require_clean
from llama3.evaluation.stages import ContaminationOptions, contamination
from llama3.tasks.families import tasks

ids = st.lists(st.integers(0, 3), max_size=30)


def covered_places(rows, tokens, n):
    grams = {tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)}
    return {i + k for i in range(len(tokens) - n + 1) if tuple(tokens[i : i + n]) in grams for k in range(n)}


def naive_coverage(rows, tokens, n):
    return len(covered_places(rows, tokens, n)) / len(tokens) if len(tokens) >= n else 0.0


def naive_longest(rows, tokens, n):
    covered = covered_places(rows, tokens, n)
    signs = "".join("x" if i in covered else " " for i in range(len(tokens)))
    return max(map(len, signs.split()), default=0) / max(len(tokens), 1)


@given(st.lists(ids, max_size=4), st.lists(ids, max_size=3), ids, st.integers(1, 5))
def test_coverage_is_the_share_of_tokens_in_a_known_ngram(rows, others, tokens, n):
    examples = ExampleNgrams([np.array(row, np.uint32) for row in [*others, tokens]], n)
    found_G = examples.found_in(np.array(row, np.uint32) for row in rows)
    asked = [*others, tokens]
    assert examples.coverage(found_G).tolist() == [naive_coverage(rows, one, n) for one in asked]
    assert examples.longest(found_G).tolist() == [naive_longest(rows, one, n) for one in asked]
    for row in rows:
        by_one = examples.covered_by(examples.find(np.array(row, np.uint32))[1], np.full(len(asked), 0.5))
        shares = {e: naive_coverage([row], one, n) for e, one in enumerate(asked)}
        assert by_one == {e: share for e, share in shares.items() if share >= 0.5}


def test_a_planted_leak_is_found():
    rng = np.random.default_rng(0)
    text = rng.integers(0, 4096, 5000).astype(np.uint32)
    leaked, fresh = text[100:140], rng.integers(0, 4096, 40).astype(np.uint32)
    examples = ExampleNgrams([leaked, fresh, fresh[:5]])
    figures = contaminated_share(examples, examples.found_in([text]))
    assert (figures["n"], figures["contaminated"], figures["too_short"]) == (3, 1, 1)
    assert figures["max_coverage"] == 1.0


@given(st.lists(ids, max_size=4), st.lists(ids, max_size=4), st.integers(1, 4))
def test_own_ngrams_are_those_of_one_task_only(rows, asked, n):
    examples = ExampleNgrams([np.array(a, np.uint32) for a in asked], n)
    figures = own_share(examples, examples.found_in(np.array(row, np.uint32) for row in rows))
    known = {tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)}
    grams = [{tuple(task[i : i + n]) for i in range(len(task) - n + 1)} for task in asked]
    own = [gram - set().union(*grams[:i], *grams[i + 1 :]) for i, gram in enumerate(grams)]
    shares = [len(gram & known) / len(gram) if gram else 0.0 for gram in own]
    assert figures["max_coverage"] == pytest.approx(max(shares, default=0.0))
    assert figures["too_short"] == sum(not gram for gram in own)
    assert figures["contaminated"] == sum(share >= 0.8 for share in shares)


class Files(BaseModel):
    """Rows of the files that a stage writes."""

    rows: dict[str, list]


@pytest.fixture
def searched(corpus, tokenizer, tmp_path):
    """What the stage finds in files of dialogs and preferences; the tokenizer is in a checkpoint's directory."""

    def write(options, out):
        for name, rows in options.rows.items():
            (out.path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def save(out):
        tokenizer.save(out.path)

    def search(suites=(), **data):
        section = {"tasks": list(suites), "limit": 20}
        options = ContaminationOptions.of(Config.model_validate({"evaluation": section}))
        with RunDir(tmp_path / "run") as run:
            inputs = {kind: run.execute(Stage(f"make-{kind}", write, kind), {}, Files(rows=rows))
                      for kind, rows in data.items()}  # fmt: skip
            base = run.execute(Stage("adopt", save, "checkpoint"), {})
            inputs |= {"corpus": corpus, "tokenizer": base}
            return run.execute(contamination, inputs, options)

    return search


def dialog(task):
    return {"messages": [{"role": "user", "content": task.prompt}, {"role": "assistant", "content": task.reference}]}


def test_training_tasks_are_clean_and_a_planted_one_is_named(searched):
    held_out, train = tasks("held_out", 20, seed=1), tasks("train", 40, seed=1)
    rows = [dialog(task) for task in train]
    pairs = [{"messages": dialog(task)["messages"][:1], "chosen": "1", "rejected": "2"} for task in train]
    found = searched(dialogs={"dialogs.jsonl": rows}, preferences={"preferences.jsonl": pairs})
    assert found.metrics["dialogs"]["contaminated"] == found.metrics["preferences"]["contaminated"] == 0
    require_clean(found)

    leak = {"messages": [{"role": "user", "content": held_out[3].prompt.upper()}], "chosen": "1", "rejected": "2"}
    found = searched(dialogs={"dialogs.jsonl": rows}, preferences={"preferences.jsonl": [*pairs, leak]})
    assert found.metrics["dialogs"]["contaminated"] == 0
    assert found.metrics["preferences"]["leaks"] == [{"id": held_out[3].id, "prompt": held_out[3].prompt}]
    with pytest.raises(GateFailed, match=held_out[3].id):
        require_clean(found)


def test_prompts_and_tasks_of_further_suites_are_searched_too(searched):
    held_out = tasks("held_out", 40, seed=1)
    later = next(task for task in held_out[20:] if len(task.prompt) > 20)
    suite = {"name": "pass_rate", "suite": "more", "rewards": ["verifiable"], "limit": 40}
    prompts = {"prompts.jsonl": [later.to_json()]}
    assert searched(preferences=prompts).metrics["preferences"]["contaminated"] == 0
    assert searched([suite], preferences=prompts).metrics["preferences"]["leaks"][0]["id"] == later.id


def test_a_task_in_other_words_shows_in_its_own_ngrams(searched):
    longest = max(tasks("held_out", 20, seed=1), key=lambda task: len(task.prompt))
    text = f"Please tell me: {longest.prompt} Thank you."
    found = searched(dialogs={"dialogs.jsonl": [{"messages": [{"role": "user", "content": text}]}]})
    assert found.metrics["dialogs"]["contaminated"] == 0
    assert found.metrics["dialogs"]["ngrams"]["contaminated"] == 1
