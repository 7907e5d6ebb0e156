"""`llama3 audit-reward`: a planted love of length is caught, a fair reward passes, figures are as they are defined."""

from __future__ import annotations

import json
import math
import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny import put, put_checkpoint, tiny_model

from llama3.cli import app as cli
from llama3.config.schema import RewardSection
from llama3.evaluation.preferred_rows import PreferredPair
from llama3.evaluation.reward_audit import FEATURES, RewardLimits, audited, best_temperature, drift
from llama3.plugins.registry import discover
from llama3.posttraining.finetune import RewardOptions, reward
from llama3.tasks.rows import write_rows

JUDGES = """
import random
from llama3.plugins import RewardSpec, hookimpl


@hookimpl
def llama3_rewards():
    names = ("fair", "longer", "drawn", "same", "none")
    return [RewardSpec(name=name, factory=f"judges:{name.title()}") for name in names]


class Fair:
    def score(self, prompts, answers, examples):
        return [3.0 * ("good" in answer) for answer in answers]


class Longer:
    def score(self, prompts, answers, examples):
        return [float(len(answer.split())) + ("good" in answer) for answer in answers]


class Drawn:
    def score(self, prompts, answers, examples):
        return [random.Random(answer).random() for answer in answers]


class Same:
    def score(self, prompts, answers, examples):
        return [0.5 for _ in answers]


class None_:
    def score(self, prompts, answers, examples):
        return [None for _ in answers]
"""
JUDGES = JUDGES.replace('"none")', '"none_")')


@pytest.fixture(scope="module", autouse=True)
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "judges.py").write_text(JUDGES)
    info = folder / "judges-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: judges\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama3.plugins]\njudges = judges\n")
    sys.path.insert(0, str(folder))
    discover.cache_clear()
    yield
    sys.path.remove(str(folder))
    discover.cache_clear()


def preferred(count, seed=0):
    """Rows whose better answer says `good`; which one is longer is drawn."""
    draw = random.Random(seed)
    for number in range(count):
        words = lambda: " ".join(draw.choices(["blue", "river", "stone", "tree"], k=draw.randint(3, 30)))
        yield {"prompt": f"Say {number}.", "chosen": f"{words()} good", "rejected": words(),
               "strength": draw.choice(["much", "slightly"]), "category": "talk"}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferred(160)))
    return path


@pytest.fixture
def command(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(["audit-reward", *map(str, args)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_a_love_of_length_is_named_and_a_fair_reward_passes(command, rows):
    code, out, err = command("fair", rows, "--json")
    assert code == 0, err
    figures = json.loads(out)["rewards"]["fair"]
    assert figures["accuracy"]["rate"] == 1
    assert figures["by"] == {
        "strength": {name: {**figures["accuracy"], **figures["by"]["strength"][name]} for name in ("much", "slightly")},
        "category": {"talk": figures["accuracy"]},
    }
    assert abs(figures["features"]["length"]["excess"]) < 0.01
    code, out, err = command("longer", rows)
    assert code == 5
    assert "it loves length" in err
    assert "prefer the answer with less of it" in err
    assert "audit: FAILED" in out
    (length,) = [line.split() for line in out.splitlines() if line.startswith("length")]
    assert float(length[1].rstrip("%")) > 95
    assert command("longer", rows, "--most-excess", 1, "--least-accuracy", 0)[0] == 0


def test_a_reward_that_knows_nothing_fails_by_its_accuracy(command, rows):
    code, _, err = command("drawn", rows)
    assert (code, "an accuracy below 50.0% is not excluded" in err) == (5, True), err
    assert "or lower least_accuracy" in err
    assert "less of it" not in err
    code, _, err = command("same", rows)
    assert (code, "an accuracy below 50.0% is not excluded" in err) == (5, True), err
    code, _, err = command("none_", rows)
    assert (code, "no pair could be scored" in err) == (5, True), err


def test_few_scored_pairs_are_no_proof(command, tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferred(19)))
    code, _, err = command("fair", path)
    assert (code, "19 scored pairs (of 19) are too few" in err) == (5, True), err
    assert command("fair", path, "--least-accuracy", 0)[0] == 0
    path.write_text("".join(json.dumps(row) + "\n" for row in preferred(20)))
    assert command("fair", path)[0] == 0


def test_preferences_that_contradict_each_other_are_counted_and_named(command, tmp_path):
    rows = [{"prompt": f"Say {n}.", "chosen": "yes", "rejected": "no"} for n in range(12)]
    rows += [{"prompt": f"Say {n}.", "ranking": ["no", "or", "yes"]} for n in range(11)]
    rows += [{"prompt": [{"role": "system", "content": "Deny."}, {"role": "user", "content": "Say 11."}],
              "chosen": "no", "rejected": "yes"}, {"prompt": "Say 0.", "chosen": "yes", "rejected": "or"}]  # fmt: skip
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = command("fair", path, "--least-accuracy", 0)
    told = "two.jsonl: answers to 11 prompts are better than each other, both ways: two.jsonl:1 and two.jsonl:13; "
    assert (code, told in " ".join(err.split()), err.count(" and two.jsonl:"), "; ..." in err) == (0, True, 10, True), (
        err
    )
    found = json.loads(command("fair", path, "--least-accuracy", 0, "--json")[1])["contradictions"]
    assert found == [[f"two.jsonl:{n}", f"two.jsonl:{n + 12}"] for n in range(1, 12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    assert "both ways" not in "".join(map(str, command("fair", path, "--least-accuracy", 0)))


def test_bad_rows_and_rewards_are_told(command, rows, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "chosen": "b"}\n{"prompt": "a", "chosen": "b", "rejected": "c", "strength": [1]}\n')
    code, _, err = command("fair", bad)
    assert (code, "bad.jsonl:1" in err, "L3-RWA-002" in err) == (1, True, True), err
    bad.write_text("")
    assert "L3-RWA-001" in command("fair", bad)[2]
    assert "did you mean 'fair'" in command("fairr", rows)[2]
    assert command("fair", tmp_path / "none.jsonl")[0] == 1
    (tmp_path / "config.yaml").write_text("{}")
    assert "L3-RWA-011" in command(tmp_path, rows)[2]


def test_the_reward_models_of_a_run_are_held_against_each_other(command, run, tokenizer, rows, tmp_path):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    learnt = [
        {"id": str(n), "messages": [{"role": "user", "content": row["prompt"]}], "chosen": row["chosen"],
         "rejected": row["rejected"]}
        for n, row in enumerate(preferred(160, seed=1))
    ]  # fmt: skip
    pairs = put(run, "preferences", "pairs", lambda folder: write_rows(folder / "preferences.jsonl", learnt))
    for number, epochs in ((1, 1), (2, 6)):
        section = RewardSection(lr=2e-3, epochs=epochs, batch=16, precision="fp32", warmup=2, checkpoint_every=1000)
        run.execute(reward, {"checkpoint": base, "preferences": pairs}, RewardOptions(reward=section, seed=1),
                    key=f"reward-{number}")  # fmt: skip
    run.describe("{}", {}, [])
    code, out, _ = command(run.path, rows, "--json", "--most-excess", 1, "--least-accuracy", 0)
    found = json.loads(out)
    assert (code, list(found["rewards"])) == (0, ["reward-1", "reward-2"])
    first, last = found["rewards"].values()
    assert last["accuracy"]["rate"] > 0.9
    assert last["accuracy"]["rate"] >= first["accuracy"]["rate"]
    assert found["drift"]["reward-1"]["pairs"] == 160
    assert -1 <= found["drift"]["reward-1"]["correlation"] <= 1
    alone = json.loads(command(run.path / "artifacts" / "reward-2", rows, "--json", "--most-excess", 1)[1])
    assert alone["rewards"]["reward-2"]["brier"] == last["brier"]
    assert alone["drift"] == {}


# Figures against their definitions -----------------------------------------------------------------------------------

numbers = st.lists(st.floats(-8, 8).map(lambda x: round(x, 3)), min_size=2, max_size=60)


def pair(n):
    return PreferredPair((), "p", f"{'word ' * (n % 5)}a", "b", {"strength": str(n % 3)})


@given(numbers)
def test_accuracy_brier_and_calibration_error_are_what_they_are_called(margins):
    margin_P = np.array(margins)
    told = audited(margin_P, [pair(n) for n in range(len(margins))], RewardLimits())
    p = 1 / (1 + np.exp(-margin_P))
    right = (margin_P > 0) + 0.5 * (margin_P == 0)
    assert told["accuracy"]["rate"] == pytest.approx(right.mean())
    assert told["brier"]["rate"] == pytest.approx(((1 - p) ** 2).mean())
    sure, error = np.maximum(p, 1 - p), 0.0
    for k in range(10):
        within = (sure >= 0.5 + k / 20) & ((sure < 0.55 + k / 20) | (k == 9))
        error += abs((sure - right)[within].sum()) / len(margins)
    assert told["ece"]["rate"] == pytest.approx(error, abs=2e-2 if np.any(np.isclose(sure * 20 % 1, 0)) else 1e-9)
    assert sum(rate["n"] for rate in told["by"]["strength"].values()) == len(margins)


@given(numbers)
def test_the_best_temperature_has_the_least_loss(margins):
    margin_P = np.array(margins)
    found = best_temperature(margin_P)
    loss = lambda t: float(np.logaddexp(0, -margin_P / t).mean())
    if found is None:
        assert (margin_P >= 0).all() or margin_P.mean() <= 0
        return
    assert all(loss(found) <= loss(found * factor) + 1e-9 for factor in (0.5, 0.9, 1.1, 2))


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
@given(numbers, st.randoms())
def test_drift_is_spearmans_correlation(margins, draw):
    before, after = np.array(margins), np.array(draw.sample(margins, len(margins)))
    found, expected = drift(before, after), stats.spearmanr(before, after).statistic
    assert (math.isnan(expected) and math.isnan(found.correlation)) or found.correlation == pytest.approx(expected)
    assert found.turned == pytest.approx((np.sign(before) != np.sign(after)).mean())
    nowhere = drift(before, np.full(len(before), np.nan))
    assert (nowhere.pairs, math.isnan(nowhere.turned)) == (0, True)


def test_features_are_of_the_answer_alone():
    plain, marked = "It is a stone.", "- **It** is a `stone`\n- a stone\n"
    assert FEATURES["format"](marked) > FEATURES["format"](plain) == 0
    assert FEATURES["hedging"]("Perhaps it might be.") > FEATURES["hedging"](plain) == 0
    assert FEATURES["repetition"]("a b c a b c a b c") > 0 == FEATURES["repetition"](plain)
    assert FEATURES["flattery"]("Great question! Certainly!") > 0 == FEATURES["flattery"](plain)
    assert all(math.isfinite(of("")) for of in FEATURES.values())
