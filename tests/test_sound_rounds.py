"""Planted failures of a round: each ends the run with exit code 5 and its name, and each control passes."""

import json
import sys

import numpy as np
import pytest
import yaml
from test_recipe import COIN, write_config, write_text

from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.config.round_audit import RoundAuditSection
from llama3.evaluation.audit_remedies import remedy
from llama3.evaluation.round_audit import Answered, hacking, objections
from llama3.plugins.registry import discover

PLANTED = (
    COIN.replace(
        "[RewardSpec(",
        "[*(RewardSpec(name=n, factory=f'coin:{n.title()}', options=OPTIONS, has_tasks=n != 'longest'"
        " and n != 'dice') for n in ('leaky', 'liar', 'easy', 'longest', 'dice')), RewardSpec(",
    ).replace("@hookimpl", "OPTIONS = 'llama3_plugins.rewards.verifiable:VerifiableOptions'\n\n\n@hookimpl")
    + """

import re  # noqa: E402
from zlib import crc32  # noqa: E402


class Leaky(Coin):
    def tasks(self, split, count, seed):
        return super().tasks("held_out", count, 1)


class Liar(Coin):
    def score(self, prompts, answers, examples):
        return [1 - score for score in super().score(prompts, answers, examples)]


class Easy(Coin):
    def score(self, prompts, answers, examples):
        return [float(len(answer) % 7 > 0) for answer in answers]


class Longest:
    verifies = False

    def __init__(self, options): ...

    def score(self, prompts, answers, examples):
        return [float(len(re.findall(r'[^\\W_]+', answer))) for answer in answers]


class Dice(Longest):
    def score(self, prompts, answers, examples):
        return [float(crc32(answer.encode()) % 7) for answer in answers]
"""
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    site = folder / "site"
    site.mkdir()
    (site / "coin.py").write_text(PLANTED)
    info = site / "coin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama3.plugins]\ncoin = coin\n")
    write_text(folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        discover.cache_clear()
        sys.modules.pop("coin", None)  # of other tests
        yield folder / "text"
        sys.modules.pop("coin", None)
    discover.cache_clear()


def audited_run(folder, text, capfd, *, rewards=("coin",), reject=(), sizes=None, **audit):
    """`llama3 run` of one audited round: its exit code, what it said, and the audit."""
    path = write_config(folder, data__sources=[{"name": "files", "path": str(text)}])
    config = yaml.safe_load(path.read_text())
    config["quantization"] = []
    config["sizes"] = sizes or {}
    config["pretrain"] |= {"steps": 2, "phases": [{}]}
    post = config["post_training"]
    post |= {"rewards": list(rewards), "audit": {"prompts": 150, "samples": 4, **audit}}
    post["reject"] |= dict(reject)
    post["prefer"] |= {"prompts": 12, "samples": 4}
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(path)])
    made = RunDir(folder / "runs" / "small").current()
    return ended.value.code, capfd.readouterr().err, made


def test_a_sound_round_passes(tmp_path, text, capfd):
    code, said, made = audited_run(tmp_path, text, capfd)
    assert (code, made["audit-1"].metrics["passed"]) == (0, True), said
    assert made["audit-1"].metrics["preferences"]["mislabelled"]["rate"] == 0
    with pytest.raises(SystemExit) as told:
        main(["audit-reward", str(tmp_path / "runs" / "small"), "--json"])
    assert told.value.code == 0
    assert json.loads(capfd.readouterr().out)["audit-1"]["passed"] is True


def test_sizes_are_audited_and_a_twin_that_only_measures_a_teacher_is_not(tmp_path, text, capfd):
    sizes = {"flagship": {}, "small": {"teacher": "flagship", "control": True}}
    code, said, made = audited_run(tmp_path, text, capfd, sizes=sizes)
    assert code == 0, said
    assert {"flagship-audit-1", "small-audit-1", "small-alone-prefer-1"} <= made.keys()
    assert "small-alone-audit-1" not in made


def test_a_leak_of_held_out_tasks_ends_the_run(tmp_path, text, capfd):
    code, said, made = audited_run(tmp_path, text, capfd, rewards=["leaky"])
    assert code == 5
    assert "L3-EVL-030" in said
    assert "release" not in made


def test_mislabelled_preferences_end_the_run(tmp_path, text, capfd):
    code, said, made = audited_run(tmp_path, text, capfd, rewards=["liar"], verifiers=["coin"])
    assert code == 5
    assert "mislabelled preferences" in said
    assert "raise post_training.audit.most_mislabelled" in said
    assert made["audit-1"].metrics["preferences"]["mislabelled"]["rate"] == 1
    assert "release" not in made


def test_a_self_fed_round_ends_the_run(tmp_path, text, capfd):
    fed = {"demonstrations": 0, "prompts": 24}
    code, said, made = audited_run(tmp_path, text, capfd, rewards=["easy"], reject=fed)
    assert code == 5
    assert "self-fed: 100.0 %" in said or "self-fed: 100.0%" in said
    assert "raise post_training.audit.most_own" in said
    assert made["audit-1"].metrics["collapse"]["own"] == 1


def test_a_reward_that_loves_length_ends_the_run(tmp_path, text, capfd):
    code, said, made = audited_run(tmp_path, text, capfd, rewards=["coin", "longest"])
    assert code == 5
    assert "it loves length" in said
    assert made["audit-1"].metrics["policy"]["features"]["length"]["correlation"] > 0.9
    with pytest.raises(SystemExit) as told:
        main(["audit-reward", str(tmp_path / "runs" / "small")])
    assert told.value.code == 5
    told = capfd.readouterr()
    assert "correlation with the reward" in told.out
    assert "it loves length" in told.err
    assert "prefer the answer with less of it" in told.err


def test_a_reward_that_loves_nothing_passes(tmp_path, text, capfd, monkeypatch):
    code, said, _ = audited_run(tmp_path, text, capfd, rewards=["coin", "dice"])
    assert code == 0, said


class Length:
    def score(self, prompts, answers, examples):
        return [float(len(answer)) for answer in answers]


def answers(length, passing, n=40):
    """Prompts with four answers each, of which some pass."""
    rng = np.random.default_rng(length)
    rows = [["x " * int(rng.integers(length, length + 4)) for _ in range(4)] for _ in range(n)]
    return [
        Answered({"id": str(i), "prompt": "p", "family": "a.b"}, tuple(row), tuple(k < passing for k in range(4)))
        for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize(("length", "passing", "caught"), [(20, 1, True), (20, 3, False), (5, 1, False), (5, 2, False)])
def test_a_policy_hacks_its_reward_where_it_rises_and_right_answers_fall(length, passing, caught):
    policy = hacking(Length(), answers(5, 2), answers(length, passing))
    told = {"preferences": None, "judge": None, "drift": None, "policy": policy,
            "collapse": {"own": 0, "ratios": None, "self_bleu": None}}  # fmt: skip
    why = list(objections(told, RoundAuditSection()))
    assert [one.startswith("reward hacking") for one in why] == [True] * caught
    if caught:
        assert "length grew by" in why[0]
        json.dumps(policy)


def test_what_cannot_be_told_of_a_reward_model_is_an_objection():
    told = {"preferences": None, "drift": {"turned": 0.6, "pairs": 30}, "policy": None}
    told |= {"judge": {"scored": 10, "why": []}, "collapse": {"own": 0, "ratios": None, "self_bleu": None}}
    few, drifted = objections(told, RoundAuditSection())
    assert few == "reward model: 10 pairs of a right and a wrong answer are too few to audit it"
    assert drifted.startswith("reward drift")


def test_own_answers_that_are_all_alike_are_a_collapse():
    told = {"preferences": None, "judge": None, "drift": None, "policy": None,
            "collapse": {"own": 0.5, "ratios": {"dialogs": 0.2, "3-grams": 0.9}, "self_bleu": 0.6}}  # fmt: skip
    assert [one.partition(":")[0] for one in objections(told, RoundAuditSection())] == ["collapse", "collapse"]


def test_each_failure_has_its_own_remedy():
    judged = {"scored": 10, "why": [], "answers": {"right": 590, "n": 600}}
    told = {"preferences": None, "drift": None, "policy": None, "judge": judged,
            "collapse": {"own": 0, "ratios": None, "self_bleu": None}}  # fmt: skip
    (few,) = objections(told, RoundAuditSection())
    assert few.endswith("590 of 600 answers were right")
    assert "harder tasks" in remedy(few)
    assert "widen" not in remedy(few)
