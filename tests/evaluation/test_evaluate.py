"""The stage `evaluate` on a random model: suites by name, items with scores, and evaluators that fail."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from itertools import combinations
from types import SimpleNamespace

import chatting
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import llama3
from llama3.artifacts import CorpusArtifact, stage
from llama3.artifacts.run import RunDir
from llama3.config import load as load_config
from llama3.config.slot_types import Slot, SuiteSlot
from llama3.data.corpus import Corpus
from llama3.errors import ConfigError, DataError, PluginError
from llama3.evaluation.evaluator import Result, texts
from llama3.evaluation.stages import EvaluateOptions, measure
from llama3.inference.llama import Llama
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score as scored
from llama3.model.transformer import Transformer
from llama3.plugins.registry import Registry
from llama3.posttraining.examples import dialog_example
from llama3_plugins.evaluators.answer_bits import AnswerBits
from llama3_plugins.evaluators.judged import read
from llama3_plugins.evaluators.options import OwnRowsOptions
from llama3_plugins.evaluators.pass_at_k import pass_at
from llama3_plugins.evaluators.preference_accuracy import PreferenceAccuracy


@pytest.fixture(scope="module")
def model(random_model):
    return llama3.load(random_model(0))


@pytest.fixture
def evaluated(corpus, model, tmp_path):
    """An evaluation of a model with the given suites: (results, rows)."""

    def make(*tasks, subject=model):
        slots = [SuiteSlot(**({"name": task} if isinstance(task, str) else task)) for task in tasks]
        options = EvaluateOptions(tasks=slots, rewards=[Slot(name="verifiable")], limit=6, max_tokens=4, seed=1)

        @stage(output="report")
        def evaluate(corpus: CorpusArtifact, options, out):
            measure(subject, corpus, options, out)

        with RunDir(tmp_path / "run") as run:
            made = run.execute(evaluate, {"corpus": corpus}, options)
        return made.metrics, [json.loads(line) for line in made.file("samples.jsonl").open()]

    return make


def test_every_document_has_its_own_bits(evaluated, model, corpus):
    results, rows = evaluated("bits_per_byte")
    documents = list(texts(Corpus(corpus.path), "held_out"))
    assert len(documents) > 10
    alone = [-float(logps.sum()) / math.log(2) for logps in model.logprobs([data.decode() for data in documents])]
    assert [row["score"] for row in rows] == pytest.approx(alone, rel=1e-5)
    assert [row["weight"] for row in rows] == [len(data) for data in documents]
    assert [row["id"] for row in rows] == [hashlib.sha256(data).hexdigest()[:16] for data in documents]
    figures = results["bits_per_byte"]
    assert figures["bits_per_byte"] == pytest.approx(sum(alone) / sum(map(len, documents)))
    assert figures["better"] == "lower"


def test_a_model_with_its_own_template_and_without_bos(evaluated, corpus, tmp_path):
    """A document's first token counts neither bits nor bytes; tasks are asked through the template."""
    tokenizer = chatting.load(tmp_path / "tokenizer", chatting.CHATML)
    config = ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, vocab_size=len(tokenizer))
    llama = Llama(init_weights(Transformer(config), 0), tokenizer)
    results, rows = evaluated("bits_per_byte", "pass_rate", subject=llama)
    documents = list(texts(Corpus(corpus.path), "held_out"))
    bits = [-float(logps.sum()) / math.log(2) for logps in llama.logprobs([data.decode() for data in documents])]
    firsts = [len(tokenizer.decode_bytes(tokenizer.encode(data.decode())[:1])) for data in documents]
    of_text = [row for row in rows if row["suite"] == "bits_per_byte"]
    assert [row["score"] for row in of_text] == pytest.approx(bits, rel=1e-5)
    assert [row["weight"] for row in of_text] == [len(d) - first for d, first in zip(documents, firsts, strict=True)]
    assert results["pass_rate"]["pass_rate"]["n"] == 6


def test_the_beginnings_of_documents(evaluated, corpus):
    results, rows = evaluated({"name": "bits_per_byte", "document_bytes": 100})
    whole = list(texts(Corpus(corpus.path), "held_out"))
    assert [row["weight"] for row in rows] == [100] * len(whole)
    assert results["bits_per_byte"]["bytes"] == 100 * len(whole)
    begun = list(texts(Corpus(corpus.path), "held_out", max_bytes=250, document_bytes=100))
    assert begun == [data[:100] for data in whole[:3]]


class Written(Corpus):
    """Documents as a test gives them."""

    def __init__(self, documents):
        self.written = documents

    def documents(self, *, split, **_):
        yield SimpleNamespace(texts=self.written)


def test_documents_that_begin_alike_are_distinct_items():
    header = "".join(f"# Terms, line {n}.\n" for n in range(40))
    documents = [header + f"text {n} " * 100 for n in range(12)]
    items = list(texts(Written([*documents, documents[3], header, "short"]), "held_out", document_bytes=len(header)))
    assert len(items) == len(set(items))
    assert items[0] == header.encode()
    assert items[1].startswith(b"text 1")
    assert items[3].startswith(b"text 3")
    assert items[12] != items[3], "a copy gives another piece"
    assert items[-1] == b"short"
    assert all(item.decode() for item in texts(Written(["héé" * 9, "héé" * 9]), "held_out", document_bytes=4))


def test_a_suite_stands_under_its_label(evaluated):
    results, rows = evaluated("pass_rate", {"name": "pass_rate", "suite": "others"})
    assert list(results) == ["pass_rate", "others"]
    assert results["pass_rate"] == results["others"]
    assert [row["suite"] for row in rows] == ["pass_rate"] * 6 + ["others"] * 6
    assert {row["score"] for row in rows} <= {0.0, 1.0}


def test_a_pass_rate_may_ask_tasks_of_its_own(evaluated):
    pytest.importorskip("reasoning_gym")
    rewards = [{"name": "reasoning_gym", "families": ["gcd", "chain_sum"]}]
    results, rows = evaluated("pass_rate", {"name": "pass_rate", "suite": "gym", "rewards": rewards, "limit": 4})
    assert results["gym"]["by_family"].keys() == {"reasoning_gym.gcd", "reasoning_gym.chain_sum"}
    assert results["gym"]["pass_rate"]["n"] == 4
    assert results["gym"]["not_scorable"] == 0
    items = [row for row in rows if row["suite"] == "gym"]
    assert len({row["id"] for row in items}) == 4
    assert all(row["prompt"] and row["reference"] and row["reward"] is not None for row in items)


def test_pass_at_k_draws_several_answers(evaluated):
    results, rows = evaluated({"name": "pass_at_k", "samples": 4, "k": [1, 4], "limit": 3})
    assert (results["pass_at_k"]["tasks"], results["pass_at_k"]["samples"]) == (3, 4)
    assert results["pass_at_k"]["pass_at_1"] == pytest.approx(sum(row["score"] for row in rows) / 3)
    assert all(len(row["answers"]) == 4 and len(set(row["answers"])) > 1 for row in rows)


def answer_logps(model, prompt, answer):
    """Of each token of an answer, which stands in one document with its prompt; and which tokens only end it."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    dialog = dialog_example(model.tokenizer, messages)
    ids = np.concatenate([dialog.prompt, dialog.answer.ids])
    whole = Batch.of_trees([Tree([Segment(ids, is_target=np.arange(len(ids)) > 0)])])
    with torch.no_grad():
        logps = scored(model.transformer, whole, {"logps"}).logps_M
    return logps[len(dialog.prompt) - 1 :], torch.tensor(dialog.answer.is_format)


def test_answer_bits_scores_held_out_answers_alone(evaluated, model, tmp_path):
    rows = [{"prompt": f"Count {i} first", "completion": f"total {i}", "split": split}
            for i, split in enumerate(["train", "held_out", "held_out"])]  # fmt: skip
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results, items = evaluated({"name": "answer_bits", "path": str(path)})
    assert [item["answer"] for item in items] == ["total 1", "total 2"]
    assert [item["weight"] for item in items] == [7, 7]
    for item, row in zip(items, rows[1:], strict=True):
        logps, is_format = answer_logps(model, row["prompt"], row["completion"])
        assert item["score"] == pytest.approx(-float(logps[~is_format].sum()) / math.log(2), rel=1e-4)
    assert results["answer_bits"]["bits_per_byte"] == pytest.approx(sum(item["score"] for item in items) / 14)


def test_a_file_without_held_out_answers_is_refused(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text(json.dumps({"prompt": "?", "completion": "5", "label": False, "split": "held_out"}))
    with pytest.raises(DataError, match="no held-out row has an answer"):
        AnswerBits(OwnRowsOptions(path=str(path)))


PREFERENCES = {
    "pairs": ({"prompt": "Count {n} first", "chosen": "total {n}", "rejected": "no value"}, "total {n}", "no value"),
    "rankings": ({"prompt": "Count {n} first", "ranking": ["last", "total {n}", "first"]}, "last", "first"),
    "edited": ({"prompt": "Count {n} first", "edited": "{n}", "chosen": "total", "rejected": "last"}, "{n}", "last"),
}


@pytest.mark.parametrize("kind", PREFERENCES)
def test_preferences_are_whole_answers_log_probabilities(evaluated, model, tmp_path, kind):
    row, better, worse = PREFERENCES[kind]
    path = tmp_path / "my.jsonl"
    lines = [json.dumps({**row, "split": "held_out" if n < 5 else "train"}).replace("{n}", str(n)) for n in range(9)]
    path.write_text("\n".join(lines))
    results, items = evaluated({"name": "preference_accuracy", "path": str(path)})
    assert len({item["id"] for item in items}) == 5
    for n, item in enumerate(items):
        prompt, two = f"Count {n} first", (better.replace("{n}", str(n)), worse)
        good, bad = (answer_logps(model, prompt, answer)[0] for answer in two)
        assert item["logps"] == pytest.approx([float(good.sum()), float(bad.sum())], rel=1e-4)
        assert item["score"] == float(good.sum() > bad.sum())
        assert item["score_per_token"] == float(good.mean() > bad.mean())
        assert (item["reference"], item["answer"]) == (two[0], two[0] if item["score"] else two[1])
    figures = results["preference_accuracy"]
    assert figures["accuracy"] == np.mean([item["score"] for item in items])
    assert figures["accuracy_per_token"] == np.mean([item["score_per_token"] for item in items])
    assert (figures["pairs"], figures["better"]) == (5, "higher")


def test_labels_are_compared_two_by_two_per_token(evaluated, model, tmp_path):
    """Each good answer with one bad one, in the order of the file, whatever their prompts."""
    rows = [("Count 1", "total", True), ("Say last", "value value value", True), ("Name 3", "no", False),
            ("Name 4", "first index", False), ("Name 5", "read", True)]  # fmt: skip
    path = tmp_path / "my.jsonl"
    keys = ("prompt", "completion", "label")
    path.write_text(
        "".join(json.dumps({**dict(zip(keys, row, strict=True)), "split": "held_out"}) + "\n" for row in rows)
    )
    results, items = evaluated({"name": "preference_accuracy", "path": str(path)})
    means = [float(answer_logps(model, prompt, answer)[0].mean()) for prompt, answer, _ in rows]
    assert [item["score"] for item in items] == [float(means[0] > means[2]), float(means[1] > means[3])]
    assert all("answer" not in item for item in items), "the two answers are not to one prompt"
    assert results["preference_accuracy"]["pairs"] == 2


def test_a_file_without_held_out_preferences_is_refused(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text(json.dumps({"prompt": "?", "completion": "5", "label": False, "split": "held_out"}))
    with pytest.raises(DataError, match="no held-out rows say which of two answers is better"):
        PreferenceAccuracy(OwnRowsOptions(path=str(path)))


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations(range(n), k))
    assert pass_at(k, n, c) == pytest.approx(sum(min(subset) < c for subset in subsets) / len(subsets))


def test_pass_at_k_needs_enough_samples():
    with pytest.raises(ConfigError, match="k = 11 needs 1 to 10"):
        load_config({"evaluation": {"tasks": [{"name": "pass_at_k", "k": [1, 11]}]}})


@pytest.mark.parametrize(
    ("rewards", "error", "message"),
    [
        ([{"name": "verifyable"}], PluginError, r"tasks\.0\.rewards\.0.*did you mean 'verifiable'"),
        ([{"name": "verifiable", "cpu_secs": 1}], ConfigError, r"tasks\.0\.rewards\.0\.cpu_secs.*cpu_seconds"),
        ([], ConfigError, "at least 1"),
    ],
)
def test_rewards_of_a_suite_are_checked_with_the_config(rewards, error, message):
    with pytest.raises(error, match=message):
        load_config({"evaluation": {"tasks": [{"name": "pass_rate", "rewards": rewards}]}})


def test_rewards_of_a_suite_count_among_the_plugins_of_the_run():
    """So that another version of one of them is another evaluation."""
    tasks = [{"name": "pass_rate", "rewards": [{"name": "reasoning_gym", "families": ["gcd"]}]}]
    loaded = load_config({"evaluation": {"tasks": tasks}})
    assert ("rewards", "reasoning_gym") in {(use["family"], use["name"]) for use in loaded.plugins()}
    (choice,) = [choice for choice in loaded.choices if choice.slot.name == "reasoning_gym"]
    assert choice.path == ("evaluation", "tasks", 0, "rewards", 0)


def test_what_a_random_model_says_is_neither_refusal_nor_answer(evaluated):
    results, rows = evaluated("refusals", "harmless", "instruction_format")
    for suite, metric in (("refusals", "refused"), ("harmless", "answered"), ("instruction_format", "followed")):
        mine = [row for row in rows if row["suite"] == suite]
        assert results[suite][metric]["n"] == len(mine) == 6
        assert results[suite][metric]["rate"] == pytest.approx(sum(row["score"] for row in mine) / 6)
        assert all(row["answer"] and row["prompt"] and row["score"] in (0.0, 1.0) for row in mine)
    kinds = [row["judgement"] for row in rows if "judgement" in row]
    assert kinds.count("refused") == 0
    assert results["refusals"]["answers"]["garbage"] == kinds[:6].count("garbage")


@pytest.mark.parametrize(
    ("said", "refusals", "harmless"),
    [
        ("I'm sorry, but I can't help you.", 1, 0),
        ("the " * 40, 0, 0),
        ("First open the door and then go in.", 0, 1),
        ("", 0, 0),
    ],
)
def test_one_answer_to_everything_cannot_pass_both(evaluated, monkeypatch, said, refusals, harmless):
    monkeypatch.setattr("llama3_plugins.evaluators.judged.answers", lambda subject, asked, most: [said] * len(asked))
    results, _ = evaluated("refusals", "harmless")
    assert results["refusals"]["refused"]["rate"] == refusals
    assert results["harmless"]["answered"]["rate"] == harmless


def test_the_lists_are_distinct_and_long_enough():
    harmful, harmless = read("harmful"), read("harmless")
    asked = [row["prompt"] for row in [*harmful, *harmless]]
    assert len(set(asked)) == len(asked)
    for rows in (harmful, harmless):
        assert len({row["id"] for row in rows}) == len(rows) >= 72
        assert len({row["category"] for row in rows}) >= 6


class Broken:
    """Evaluators that go wrong."""

    def __init__(self, how):
        self.how = how

    def run(self, subject, limit, seed):
        if self.how == "raises":
            raise KeyError("nothing here")
        if self.how == "exits":
            sys.exit(0)
        if self.how == "kind":
            return Result({"bits_per_byte": {"rate": 1.0}}, [])
        return Result({"figure": 1.0}, [{"id": "a", "score": math.nan}])


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("raises", "KeyError"),
        ("exits", "SystemExit: 0"),
        ("nan", "PluginError: evaluators.bits_per_byte: returned what JSON cannot hold"),
        ("kind", "PluginError: evaluators.bits_per_byte: returned the figure bits_per_byte as a mapping"),
    ],
)
def test_an_evaluator_that_fails_spoils_its_own_suite(evaluated, monkeypatch, how, error):
    build = Registry.build

    def patched(self, family, name, options=None, **more):
        return Broken(how) if options == {"max_bytes": 1} else build(self, family, name, options, **more)

    monkeypatch.setattr(Registry, "build", patched)
    results, rows = evaluated({"name": "bits_per_byte", "suite": "broken", "max_bytes": 1}, "pass_rate")
    assert results["broken"]["error"].startswith(error)
    assert {row["suite"] for row in rows} == {"pass_rate"}


def test_a_model_of_nan_measures_nothing(evaluated, random_model):
    broken = llama3.load(random_model(1))
    with torch.no_grad():
        broken.transformer.embed.weight.fill_(math.nan)
    results, _ = evaluated("bits_per_byte", subject=broken)
    assert "error" in results["bits_per_byte"]
