"""Benchmarks are taken out of a corpus: the rule against its definition, and through a curation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_texts import prose
from hypothesis import given
from hypothesis import strategies as st

from llama3.config.schema import Config
from llama3.data import Decontaminator
from llama3.data.corpus import Corpus
from llama3.data.covering import ExampleNgrams
from llama3.data.curate import curate
from llama3.errors import ConfigError
from llama3.tasks.held_out import HeldOutTasks, corpus_options

words = st.lists(st.sampled_from(["a", "B", "c", "ä"]), max_size=25)


def naive(text: list[str], example: list[str], n: int) -> float:
    """The share of the example's words in an n-gram that the text has too."""
    text, example = [w.casefold() for w in text], [w.casefold() for w in example]
    grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    covered = {i + k for i in range(len(example) - n + 1) if tuple(example[i : i + n]) in grams for k in range(n)}
    return len(covered) / len(example) if len(example) >= n else 0.0


@given(
    text=words, examples=st.lists(words, max_size=4), n=st.integers(1, 4), threshold=st.sampled_from([0.2, 0.5, 1.0])
)
def test_what_is_found_is_what_the_definition_says(text, examples, n, threshold) -> None:
    finder = Decontaminator({"x": map(" ".join, examples)}, ngram=n, threshold=threshold)
    written = ", ".join(text).upper() + "."
    shares = {number: naive(text, example, n) for number, example in enumerate(examples)}
    found = {example.number: example.share for example in finder.find(written)}
    assert found == {number: share for number, share in shares.items() if share >= threshold}
    assert finder.coverage([written, ""]).get("x", []) == list(shares.values())
    masked = finder.masked(written)
    assert finder.find(masked) == []
    assert (masked == written) == (not found)
    left = iter(written)
    assert all(letter in left for letter in masked.replace("\n", ""))  # nothing is added or moved


def masked_by_turns(finder: Decontaminator, text: str, n: int, examples: list[list[str]]) -> str:
    """The definition: what lies in an n-gram of a covered example goes, and the rest is read anew."""
    while found := finder.find(text):
        grams = {
            tuple(map(str.casefold, examples[one.number][i : i + n]))
            for one in found
            for i in range(len(examples[one.number]) - n + 1)
        }
        spans = [(match.start(), match.end()) for match in re.finditer(r"\w+", text)]
        same = [text[a:b].casefold() for a, b in spans]
        starts = [i for i in range(len(same) - n + 1) if tuple(same[i : i + n]) in grams]
        pieces, end, at = [], 0, 0
        while at < len(starts):
            stop = starts[at] + n
            pieces.append(text[end : spans[starts[at]][0]])
            while at < len(starts) and starts[at] <= stop:
                stop = starts[at] + n
                at += 1
            end = spans[stop - 1][1]
        text = "\n".join([*pieces, text[end:]])
    return text


nested = st.recursive(
    st.lists(st.sampled_from(["a", "B", "c", "ä"]), max_size=4),
    lambda inner: st.tuples(st.sampled_from([["a", "B"], ["a", "a", "c"], ["c"]]), inner, inner).map(
        lambda part: part[0] + part[1] + ["B", "c"] + part[2]
    ),
    max_leaves=12,
)


@given(
    text=st.one_of(words, nested),
    examples=st.lists(words, min_size=1, max_size=4),
    n=st.integers(1, 4),
    threshold=st.sampled_from([0.2, 0.5, 1.0]),
)
def test_what_is_masked_is_what_reading_anew_would_mask(text, examples, n, threshold) -> None:
    finder = Decontaminator({"x": map(" ".join, examples)}, ngram=n, threshold=threshold)
    written = ", ".join(text).upper() + "."
    assert finder.masked(written) == masked_by_turns(finder, written, n, examples)


@pytest.mark.parametrize("layers", [50, 400])
def test_layers_in_each_other_are_not_read_anew_each(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    find = ExampleNgrams.find

    def counted(self: ExampleNgrams, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal read
        read += len(ids)
        return find(self, ids)

    monkeypatch.setattr(ExampleNgrams, "find", counted)
    first, second = "alpha beta gamma delta ", "epsilon zeta eta theta "
    finder = Decontaminator({"x": [first + second]})
    assert finder.masked("Before. " + first * layers + second * layers + "after").split() == ["Before.", "after"]
    assert read <= 4 * 8 * layers


def test_words_are_the_same_in_any_case_form_and_punctuation() -> None:
    finder = Decontaminator({"x": ["Où est la bibliothèque, s'il vous plaît, mon ami?", "図書館はどこですか"]})
    plain = Decontaminator({"x": ["What_is the 1st sum of 2 and 3, and A?"]}, ngram=2)
    assert (
        plain.find("what IS the 1ST sum_of 2 and 3 and a") == plain.find("what IS the 1ST sum_of 2 and 3 and a é") != []
    )
    for text in ("OU\u0300 EST LA BIBLIOTHE\u0300QUE s il vous plai\u0302t mon AMI", "あの図書館はどこですか。"):
        assert len(finder.find(text)) == 1
    assert finder.find("Où est la bibliothèque, s'il vous") == []


def test_a_benchmark_has_a_threshold_of_its_own() -> None:
    text = prose(1, 40)
    finder = Decontaminator({"strict": [text], "mild": [text]}, thresholds={"strict": 0.1})
    assert [found.benchmark for found in finder.find(" ".join(text.split()[:12]))] == ["strict"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six documents, of which two hold examples of a benchmark, one word for word and one in part."""
    rows = [{"question": prose(50 + n, 30), "answer": str(n), "id": n} for n in range(3)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts").mkdir()
    for n in range(6):
        planted = {1: rows[0]["question"], 4: " ".join(rows[2]["question"].split()[:15])}.get(n, "")
        (tmp_path / "texts" / f"{n}.txt").write_text(f"{prose(n)}\n{planted.upper()}\n{prose(n + 20)}\n")
    return tmp_path


def section(folder: Path, **decontaminate: object) -> dict[str, object]:
    benchmark = {"path": str(folder / "sums.jsonl"), "keys": ["question"]}
    return {
        "sources": [{"name": "files", "path": str(folder / "texts")}],
        "filters": [],
        "held_out": 0.001,
        "decontaminate": {"benchmarks": {"sums": benchmark}, **decontaminate},
    }


def documents(corpus: Corpus) -> dict[str, str]:
    return {Path(url).name: text for b in corpus.documents(None) for url, text in
            zip(b.column("url"), b.texts, strict=True)}  # fmt: skip


def test_documents_that_cover_an_example_go(folder: Path, curated: Callable) -> None:
    corpus, out = curated(**section(folder))
    assert sorted(documents(corpus)) == ["0.txt", "2.txt", "3.txt", "4.txt", "5.txt"]
    (row,) = (r for r in corpus.rejects().to_pylist() if r["stage"] == "decontaminate")
    assert (row["reason"], row["score"], row["detail"]) == ("sums", 1.0, "covers example 0")
    report = out.metrics["decontamination"]["sums"]
    assert report == {
        "examples": 3, "too_short": 0, "found": 1, "documents": 1, "action": "drop", "left": 0,
        "samples": [{"document": row["id"], "example": 0, "coverage": 1.0}],
    }  # fmt: skip
    assert corpus.funnel["decontaminate"]["files"]["documents"] == 5
    corpus, _ = curated(**section(folder, threshold=0.4))
    assert sorted(documents(corpus)) == ["0.txt", "2.txt", "3.txt", "5.txt"]


def test_what_several_documents_cover_together_is_told(folder: Path, curated: Callable) -> None:
    """None of two halves covers the example, so both stay: the report says that it is still there."""
    words = json.loads((folder / "sums.jsonl").read_text().splitlines()[1])["question"].split()
    (folder / "texts" / "2.txt").write_text(f"{prose(2)} {' '.join(words[:18])}")
    (folder / "texts" / "3.txt").write_text(f"{prose(3)} {' '.join(words[11:])}")
    corpus, out = curated(**section(folder))
    assert {"2.txt", "3.txt"} <= documents(corpus).keys()
    report = out.metrics["decontamination"]["sums"]
    assert (report["found"], report["left"]) == (1, 1)
    finder = Decontaminator({"sums": [" ".join(words)]})
    assert finder.coverage(documents(corpus).values()) == {"sums": [1.0]}


def test_or_lose_those_words_only(folder: Path, curated: Callable) -> None:
    whole, _ = curated(**section(folder, benchmarks={}))
    assert "decontaminate" not in whole.funnel
    corpus, out = curated(**section(folder, action="mask", threshold=0.4))
    texts = documents(whole)
    texts["1.txt"] = f"{prose(1)}\n\n.\n{prose(21)}\n"
    assert documents(corpus)["1.txt"] == texts["1.txt"]
    before, after = texts.pop("4.txt"), documents(corpus).pop("4.txt")
    assert after.startswith(f"{prose(4)}\n\n") and after.endswith(f"\n{prose(24)}\n")  # noqa: PT018
    assert len(after) < len(before) - 60
    assert {name: documents(corpus)[name] for name in texts} == texts
    assert out.metrics["rejects"]["decontaminate.sums"] == 2
    assert {r["detail"] for r in corpus.rejects().to_pylist()} == {
        "masked: covers example 0",
        "masked: covers example 2",
    }


def test_benchmarks_that_cannot_be_used_are_refused_before_any_work(folder: Path, curated: Callable) -> None:
    (folder / "bad.jsonl").write_text('{"question": "what"}\n{"question": 5}\nnonsense\n')
    benchmarks = {
        "gone": {"path": str(folder / "gone.jsonl")},
        "bad": {"path": str(folder / "bad.jsonl"), "keys": ["question"]},
    }
    with pytest.raises(ConfigError) as caught:
        curated(**section(folder, benchmarks=benchmarks))
    assert [problem.code for problem in caught.value.problems] == ["L3-DAT-120", "L3-DAT-121", "L3-DAT-121"]
    (folder / "bad.jsonl").write_text('{"question": "what is this"}\n')
    with pytest.raises(ConfigError, match="L3-DAT-122"):
        curated(**section(folder, benchmarks={"bad": benchmarks["bad"]}))


def test_another_benchmark_is_another_corpus(folder: Path) -> None:
    from llama3.config.schema import Config
    from llama3.data.curate import CurateOptions

    def found() -> str:
        return CurateOptions.of(Config.model_validate({"data": section(folder)})).found

    before = found()
    path = folder / "sums.jsonl"
    path.write_text(path.read_text().replace('"id": 1', '"id": 7'))
    assert found() != before


def test_the_tasks_that_models_are_measured_on_go_where_that_is_asked(folder: Path, new_output: Callable) -> None:
    asked = {"evaluation": {"limit": 40}, "run": {"seed": 7}}
    told = [task.prompt for task in HeldOutTasks.of(Config.model_validate(asked)).tasks()]
    leak = next(prompt for prompt in told if len(prompt.split()) > 10)
    (folder / "texts/leak.txt").write_text(f"{prose(50)}\n{leak}\n{prose(51)}")
    for tasks, seed, gone in ((True, 7, 1), (True, 8, 0), (False, 7, 0)):
        config = {**asked, "run": {"seed": seed}, "data": section(folder, benchmarks={}, tasks=tasks)}
        options, out = corpus_options(Config.model_validate(config)), new_output()
        curate(options=options, out=out)
        assert out.metrics["rejects"].get("decontaminate.held_out_tasks", 0) == gone
        report = out.metrics["decontamination"]
        assert report.keys() == ({"held_out_tasks"} if tasks else set())
        if tasks:
            assert report["held_out_tasks"]["examples"] == 40
            assert report["held_out_tasks"]["found"] == gone
    again = Config.model_validate({**config, "run": {"seed": 7}, "data": section(folder, benchmarks={}, tasks=True)})
    fewer = again.model_copy(update={"evaluation": again.evaluation.model_copy(update={"limit": 39})})
    assert corpus_options(fewer) != corpus_options(again), "other tasks are another corpus"
