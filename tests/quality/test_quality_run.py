"""Data quality control as a step of a run: what is labelled, what goes and why, and what is told of it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from labelled_dialogs import config_of, dialog, dialogs

import llama3
from llama3.artifacts import Stage
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.config.data_quality import QualitySection
from llama3.config.schema import Config
from llama3.errors import DataError
from llama3.plugins.registry import discover
from llama3.quality.checks import quality_problems
from llama3.quality.scoring import ScoreOptions, score_dialogs
from llama3.quality.selecting import SelectOptions, select_dialogs
from llama3.tasks.rows import read_rows, write_rows

NO_DEDUP = {"dedup": None, "cleaning": {}}
LENGTH = """
from llama3.plugins import RewardSpec, hookimpl


@hookimpl
def llama3_rewards():
    return [RewardSpec(name="length", factory="length:Length", summary="the longer the better")]


class Length:
    verifies = False

    def score(self, prompts, answers, examples):
        return [None if "mumble" in answer else float(len(answer)) for answer in answers]
"""


@pytest.fixture
def length(site):
    """A third party's reward that ranks answers."""
    site.add("length", LENGTH)
    discover.cache_clear()
    yield
    discover.cache_clear()


@pytest.fixture
def command(home, tmp_path, capsys):
    """`llama3 run` on rows with a section; gives the exit code, the run directory and what was told."""

    def run(rows, section):
        with pytest.raises(SystemExit) as done:
            main(["run", str(config_of(home, tmp_path, rows, section, "q"))])
        return int(done.value.code or 0), tmp_path / "q" / "q", capsys.readouterr().err

    return run


def labelled() -> list[dict]:
    return [
        dialog("Write code.", "Here:\n```python\nx = 1\n```\nDone with the code.", "code-good"),
        dialog("Write code.", "Here:\n```python\nx = 2\n```\nA bad one of the code.", "code-bad"),
        dialog("Tell of the sea. wish wish", "The sea is wide and the hard wind is there.", "sea-hard"),
        dialog("Tell of the ship.", "A bad answer of a ship.", "ship-bad"),
        dialog("Tell of the rope. wish", "mumble mumble of the rope", "rope-mumble"),
        dialog("Tell of a storm.", "The storm is over in the morning, says the captain of the ship.", "storm"),
    ]


def test_a_run_learns_what_was_chosen_and_tells_why(command, labeller):
    code, run, told = command(labelled(), {"labeller": {"model": labeller.url, "parallel": 3}, **NO_DEDUP})
    assert code == 0, told
    made = {key: json.loads((run / "artifacts" / key / "manifest.json").read_text()) for key in ("quality", "sft")}
    assert made["quality"]["type"] == "dialogs"
    assert {"role": "dialogs", "hash": json.loads((run / "report.json").read_text())["artifacts"]["quality"]} in made[
        "sft"
    ]["parents"]
    assert "quality: 4 of 6 dialogs stay; low_quality 2" in told
    assert "labeller-1 said nothing that can be read as topic of 1 of 6 dialogs" in told

    report = json.loads((run / "report.json").read_text())["dialogs"]["quality"]
    assert report["removed"] == {"low_quality": 2}
    assert report["not_applied"] == {"reward": "no reward model is named", "dedup": "it is switched off"}
    assert {row["id"] for row in report["samples"]} == {"code-bad", "ship-bad"}
    page = (run / "report.html").read_text()
    for shown in ("Dialogs that were learnt: quality", "coding: writing code", "A bad answer of a ship.", "labeller-1"):
        assert shown in page


def test_a_labeller_tells_topic_intentions_difficulty_and_quality(choose, labeller):
    chosen = choose(labelled(), {"labeller": {"model": labeller.url, "parallel": 3}, **NO_DEDUP})
    found = chosen.decisions
    assert [found[name]["topic"] for name in ("code-good", "storm")] == [
        ["coding", "writing code"],
        ["knowledge", "history and geography"],
    ]
    assert {name: len(row["intents"]) for name, row in found.items() if row["intents"]} == {
        "code-good": 1, "code-bad": 1, "sea-hard": 3, "ship-bad": 1, "storm": 1,
    }  # fmt: skip
    assert (found["sea-hard"]["difficulty"], found["storm"]["difficulty"]) == (3, 1)
    assert found["code-good"]["points"] == [True, True], "two points for code"
    assert found["storm"]["points"] == [True] * 3, "three for prose"
    assert found["sea-hard"]["hardness"] == 1
    assert {name for name, row in found.items() if row["reason"]} == {"code-bad", "ship-bad"}
    assert {row["reason"] for row in found.values()} == {"", "low_quality"}
    assert sorted(chosen.learnt) == ["code-good", "rope-mumble", "sea-hard", "storm"]

    mumbled = found["rope-mumble"]
    assert [mumbled[name] for name in ("topic", "intents", "difficulty", "points", "high")] == [None] * 5
    told = {"who": "labeller-1", "of": 6, "told": 5}
    assert chosen.metrics["asked"] == dict.fromkeys(("topic", "intents", "difficulty", "points"), told)
    assert {row["is"]: (row["before"], row["kept"]) for row in chosen.metrics["tables"]["topic"]} == {
        "coding: writing code": (2, 1), "knowledge: history and geography": (3, 2), "not known": (1, 1),
    }  # fmt: skip
    assert [(row["is"], row["before"]) for row in chosen.metrics["tables"]["quality"]] == [
        ("high", 3), ("low", 2), ("not known", 1),
    ]  # fmt: skip


def test_half_a_character_of_a_labeller_is_no_fault(choose, labeller):
    rows = [*labelled(), dialog("Tell of a sail.", "It is torn, and the ship is slow in the wind.", "torn")]
    chosen = choose(rows, {"labeller": {"model": labeller.url, "parallel": 3}, **NO_DEDUP})
    assert chosen.decisions["torn"]["intents"] == ["tag 0?"]


def test_a_stopped_labelling_goes_on_and_thresholds_ask_nobody_again(choose, labeller):
    section = {"labeller": {"model": labeller.url, "parallel": 1}, "topics": {"a": ["b"]}, **NO_DEDUP}
    rows = dialogs(40)
    start = len(labeller.seen)
    labeller.most = start + 100
    with pytest.raises(DataError, match=r"the labeller at .* does not answer"):
        choose(rows, section)
    labeller.most = 10**9
    first = choose(rows, section)
    # Six questions a dialog: topic, intentions, difficulty and three points. What was asked of a chunk that was cut
    # off, here 20 dialogs, is asked again; the server may have got one more than it answered.
    assert 40 * 6 + 21 <= len(labeller.seen) - start <= 40 * 6 + 23
    before = len(labeller.seen)
    again = choose(rows, {**section, "top_share": 0.5, "cleaning": {"opening": 0.5}})
    assert len(labeller.seen) == before
    assert again.scores.hash == first.scores.hash
    assert again.artifact.hash != first.artifact.hash
    assert (
        choose(rows, {**section, "labeller": {"model": labeller.url, "parallel": 2}}).artifact.hash
        == first.artifact.hash
    )
    choose(rows, {**section, "topics": {"a": ["c"]}})
    assert len(labeller.seen) > before, "other topics are another question"


def test_high_is_what_the_top_quartile_or_all_points_say(choose, labeller, length):
    rows = [dialog(f"Say {n}.", " ".join(["ship"] * n) + (" bad." if n % 2 else "."), f"r{n}") for n in range(1, 9)]
    both = choose(rows, {"labeller": {"model": labeller.url}, "rewards": ["length"], **NO_DEDUP})
    assert sorted(both.learnt) == ["r2", "r4", "r6", "r7", "r8"], "even ones by points, the longest two by reward"
    assert both.decisions["r7"]["points"] == [False] * 3
    assert both.decisions["r2"]["quality"] == 1
    assert both.metrics["asked"]["reward"] == {"who": "length", "of": 8, "told": 8}
    assert [plugin.name for plugin in both.scores.manifest.plugins] == ["length"]
    alone = choose(rows, {"rewards": ["length"], "top_share": 0.5, **NO_DEDUP}, "alone")
    assert sorted(alone.learnt) == ["r5", "r6", "r7", "r8"]
    assert "quality: topic was not applied, no labeller is named" in alone.told
    equal = choose(
        [dialog(f"Say {n}.", "the same", f"e{n}") for n in range(4)], {"rewards": ["length"], **NO_DEDUP}, "e"
    )
    assert len(equal.learnt) == 4
    assert "quality: reward was not applied, all rewards are equal" in equal.told


def alike() -> list[dict]:
    """Dialogs of which some are near to others, but for their last sign."""
    rows = dialogs(30)
    ends = (row["messages"][1]["content"][:-1] + "!" for row in rows)
    return [*rows, *(dialog(f"Question {n}?", end, f"near-{n}") for n, end in zip(range(8), ends, strict=False))]


def test_near_duplicates_go_whatever_the_order_of_the_rows(choose):
    section = {"dedup": {"threshold": 0.97}, "cleaning": {}}
    chosen = choose(alike(), section)
    found = chosen.decisions
    gone = {name: row for name, row in found.items() if row["reason"]}
    assert len(gone) == 8
    for n in range(8):
        pair = {f"d{n}", f"near-{n}"}
        (name,) = pair & gone.keys()
        assert (gone[name]["reason"], {gone[name]["of"]}) == ("near_duplicate", pair - {name})
        assert gone[name]["similarity"] >= 0.97
    moved = choose(random.Random(5).sample(alike(), 38), section, "moved")
    assert sorted(moved.learnt) == sorted(chosen.learnt)
    assert moved.decisions == found

    embeddings = np.load(chosen.scores.file("embeddings.npy"), allow_pickle=False)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(38), abs=1e-5)


@pytest.mark.parametrize(("sources", "count"), [(["a"], 4), (["b"], 4), (["a", "b"], 8), ([], 8)])
def test_near_duplicates_go_in_the_sources_that_are_named(choose, tmp_path, sources, count):
    section = {"dedup": {"threshold": 0.97, "sources": sources}, "cleaning": {}}
    options = SelectOptions.of(Config.model_validate({"post_training": {"quality": section}}))
    scores = choose(alike(), {"dedup": {"threshold": 0.97}, "cleaning": {}}).scores
    rows = [{**row, "source": "a" if n % 2 else "b"} for n, row in enumerate(alike())]
    with RunDir(tmp_path / "run") as run:
        given = run.execute(Stage("made", lambda out: write_rows(out.path / "dialogs.jsonl", rows), "dialogs"), {})
        chosen = run.execute(select_dialogs, {"dialogs": given, "scores": scores}, options)
    assert chosen.metrics["removed"] == {"near_duplicate": count}
    gone = {row["source"] for row in read_rows(chosen.file("quality/removed.jsonl"))}
    assert gone == {*(sources or ["a", "b"])}


def test_of_near_ones_the_better_and_harder_stays(choose, labeller):
    rows = dialogs(12)
    harder = [dialog(f"Question {n}? hard", rows[n]["messages"][1]["content"], f"hard-{n}") for n in range(4)]
    section = {"labeller": {"model": labeller.url}, "dedup": {"threshold": 0.3}, "cleaning": {}}
    found = choose([*rows, *harder], section).decisions
    assert found["hard-0"]["hardness"] > found["d0"]["hardness"]
    worth = {name: row["quality"] * row["hardness"] for name, row in found.items()}
    gone = {name: row for name, row in found.items() if row["reason"] == "near_duplicate"}
    assert any(worth[name] < worth[row["of"]] for name, row in gone.items())
    assert all(worth[name] <= worth[row["of"]] for name, row in gone.items())


def test_equal_dialogs_are_learnt_once_and_asked_about_once(tmp_path, labeller):
    """As two sources may bring them."""
    rows = [*dialogs(6), {**dialogs(6)[3], "id": "a", "source": "another"}]
    section = QualitySection.model_validate({"labeller": {"model": labeller.url}, **NO_DEDUP})
    config = Config.model_validate({"post_training": {"quality": section}})
    before = len(labeller.seen)
    with RunDir(tmp_path / "run") as run:
        made = Stage("made", lambda out: write_rows(out.path / "dialogs.jsonl", rows), "dialogs")
        given = run.execute(made, {})
        scores = run.execute(score_dialogs, {"dialogs": given}, ScoreOptions.of(config))
        chosen = run.execute(select_dialogs, {"dialogs": given, "scores": scores}, SelectOptions.of(config))
    assert len(labeller.seen) - before <= 6 * 6 + 1
    assert chosen.metrics["removed"] == {"equal": 1}
    assert [row["id"] for row in read_rows(chosen.file("quality/removed.jsonl"))] == ["d3"], (
        "of equals the first id stays"
    )
    with RunDir(tmp_path / "none") as run:
        given = run.execute(Stage("made", lambda out: write_rows(out.path / "dialogs.jsonl", []), "dialogs"), {})
        with pytest.raises(DataError, match="there are no dialogs"):
            run.execute(score_dialogs, {"dialogs": given}, ScoreOptions.of(config))


def test_tones_beyond_their_share_go(choose):
    rows = dialogs(40)
    for n in range(0, 40, 4):
        rows[n]["messages"][1]["content"] = "I apologize for that. " + rows[n]["messages"][1]["content"]
    chosen = choose(rows, {"dedup": None, "cleaning": {"apology": 0.1, "emoji": 0}})
    assert chosen.metrics["signs"]["apology"] == {
        "most": 0.1, "before": 10, "removed": 7, "after": 3, "share_before": 0.25, "share_after": round(3 / 33, 6),
    }  # fmt: skip
    assert chosen.metrics["removed"] == {"apology": 7}
    assert chosen.metrics["signs"]["emoji"]["before"] == 0


def test_sources_are_repeated_and_sampled_down(choose):
    twice = choose(dialogs(20), {**NO_DEDUP, "epochs": {"own_data": 2.5, "elsewhere": 3}})
    assert len(twice.learnt) == 50
    assert sorted({row["times"] for row in twice.decisions.values()}) == [2, 3]
    assert "quality: no dialog is of the source 'elsewhere'" in twice.told
    down = choose(dialogs(20), {**NO_DEDUP, "epochs": {"own_data": 0.3}}, "down")
    assert down.metrics["removed"] == {"downsampled": 14}
    with pytest.raises(DataError, match=r"none of 20 dialogs is left.*downsampled"):
        choose(dialogs(20), {**NO_DEDUP, "epochs": {"own_data": 0}}, "none")


def test_a_round_of_the_models_own_answers_is_chosen_from(home, tmp_path):
    """Before sft, from what `reject` made."""
    few = {"prompts": 2, "max_tokens": 4, "temperature": 1.0}
    config = {
        "run": {"name": "q", "dir": str(tmp_path), "device": "cpu", "threads": 1},
        "model": {"path": str(home / "my-model")},
        "data": {"sources": [{"name": "files", "path": str(home / "notes")}], "filters": [], "held_out": 0.3},
        "post_training": {
            "reject": {**few, "samples": 1, "demonstrations": 30, "rehearsal": 12, "precision": "fp32"},
            "sft": {"epochs": 1, "batch": 32, "precision": "fp32"},
            "algorithm": "online_dpo",
            "prefer": {**few, "samples": 2, "batch": 2, "precision": "fp32", "sampling_precision": "fp32"},
            "quality": {
                "dedup": {"threshold": 0.99, "sources": ["rehearsal"]},
                "cleaning": {},
                "epochs": {"demonstration": 2},
            },
        },
        "quantization": [],
        "evaluation": {"limit": 4, "max_tokens": 4, "tasks": ["bits_per_byte"]},
        "audit": {"margin": 0.9, "relative_margin": 0.99},
        "logging": ["jsonl"],
    }
    run = llama3.run(config)
    chosen = run.artifacts["quality-1"]
    assert {parent.role for parent in chosen.manifest.parents} == {"dialogs", "scores"}
    assert run.artifacts["reject-1"].hash in {parent.hash for parent in chosen.manifest.parents}
    assert chosen.hash in {parent.hash for parent in run.artifacts["sft-1"].manifest.parents}
    by_source = {row["is"]: row for row in chosen.metrics["tables"]["source"]}
    assert by_source["demonstration"]["kept"] == by_source["demonstration"]["before"]
    assert by_source["demonstration"]["learnt"] == 2 * by_source["demonstration"]["kept"]


def test_sources_that_no_round_makes_are_named():
    section = {"dedup": {"sources": ["rehearsal", "rehersal", "teecher"]}}
    config = Config.model_validate({"post_training": {"quality": section}})
    told = [f"{problem.where}: {problem.why}" for problem in quality_problems(config)]
    assert told == [
        "post_training.quality.dedup.sources[1]: did you mean 'rehearsal'?",
        "post_training.quality.dedup.sources[2]: did you mean 'teacher'?",
    ]


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"labeller": {"model": "nowhere"}}, "there is no model at 'nowhere'"),
        ({"labeller": {"model": "http://[half"}}, "no address of a server"),
        ({"labeller": {"model": "http://127.0.0.1:9/v1"}}, "the labeller at http://127.0.0.1:9/v1 does not answer"),
        ({"dedup": {"encoder": "nowhere"}}, "there is no sentence encoder at 'nowhere'"),
        (
            {"dedup": {"sources": ["own_dat"]}},
            "no dialog is of the source 'own_dat'. did you mean 'own_data'?",
        ),
        ({"dedup": {"threshold": 0}}, "post_training.quality.dedup.threshold"),
        ({"cleaning": {"emojis": 0.1}}, "post_training.quality.cleaning"),
        ({"topics": {"a": ["b"], "c": ["B"]}}, "stands there twice"),
        ({"rewards": ["no_such"]}, "no_such"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(command, section, told):
    code, run, said = command(dialogs(5), section)
    assert code in (1, 2, 4)
    assert told in said
    assert not (run / "artifacts/adopt").exists()


def test_rows_that_are_not_finetuned_on_are_refused(command):
    pairs = [{"prompt": f"Say {n}.", "chosen": "yes", "rejected": "no", "split": "train"} for n in range(5)]
    code, _, said = command(pairs, {})
    assert code == 2
    assert "rows of pairs are not finetuned on" in said
