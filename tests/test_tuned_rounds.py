"""Two rounds whose mix follows what the model can do, whose reward model goes on learning within a round, and whose
answers people check."""

from collections import Counter

import pytest
import yaml
from test_recipe import install_coin, write_config, write_text

from llama3.annotating.folder import ANNOTATIONS, Opened
from llama3.annotating.items import texts_of_run
from llama3.annotating.judgements import Annotation
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.plugins.registry import discover
from llama3.tasks.rows import read_rows


def tuned_config(folder):
    """Two rounds with all of it."""
    path = write_config(folder)
    config = yaml.safe_load(path.read_text())
    config["quantization"], config["evaluation"]["tasks"] = [], ["bits_per_byte"]
    config["pretrain"] |= {"steps": 2, "phases": [{}]}
    fast = {"precision": "fp32", "warmup": 1, "microbatch_tokens": 8192, "log_every": 100, "checkpoint_every": 1000}
    post = config["post_training"]
    lenient = {"least_accuracy": 0, "most_ece": 1, "most_drift": 1, "most_excess": 1}
    post |= {
        "rounds": 2, "algorithm": "grpo", "retune": {"by": ["family"], "least": 0.5, "most": 2.0},
        "reward": {"updates": 1, "batch": 16, **fast},
        "audit": {"prompts": 40, "samples": 4, **lenient, "human": {"most_wrong": 0.3}},
    }  # fmt: skip
    post["reject"] |= {"prompts": 80, "demonstrations": 60, "earlier": True}
    post["sft"] |= {"batch": 32, **fast}
    post["prefer"] |= {"prompts": 32, "samples": 4, "batch": 16, **fast}
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of a finished run, while the coin reward is installed."""
    folder = tmp_path_factory.mktemp("tuned")
    write_text(folder / "text", documents=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(install_coin(folder)))
        discover.cache_clear()
        assert run(folder) == 0
        yield folder
    discover.cache_clear()


def run(folder, *options):
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tuned_config(folder)), *options])
    return ended.value.code


@pytest.fixture
def made(home):
    return RunDir(home / "runs" / "small").current()


def parents(artifact):
    return {parent.role: parent.hash for parent in artifact.manifest.parents}


def rows(artifact, file="preferences.jsonl"):
    return list(read_rows(artifact.file(file)))


def test_a_reward_model_goes_on_with_pairs_that_the_policy_draws_within_the_round(made):
    for n in (1, 2):
        first, last = f"-{n}-part1", f"-{n}"
        assert parents(made[f"reward{first}"])["checkpoint"] == made["pretrain"].hash
        assert parents(made[f"prefer{first}"])["reward"] == made[f"reward{first}"].hash
        # The policy that the first part made draws the pairs of the second.
        assert parents(made[f"preferences{last}"])["checkpoint"] == made[f"prefer{first}"].hash
        assert parents(made[f"reward{last}"])["checkpoint"] == made[f"reward{first}"].hash
        assert parents(made[f"reward{last}"])["preferences"] == made[f"preferences{last}"].hash
        assert parents(made[f"prefer{last}"]).items() >= {
            "checkpoint": made[f"prefer{first}"].hash, "reward": made[f"reward{last}"].hash,
            "preferences": made[f"preferences{last}"].hash,
        }.items()  # fmt: skip


def test_the_parts_of_a_round_share_its_prompts(made):
    asked = [{row["id"] for row in rows(made[f"preferences{part}"], "prompts.jsonl")} for part in ("-1-part1", "-1")]
    assert [len(one) for one in asked] == [16, 16]
    assert len(asked[0] & asked[1]) < 8, "other prompts"
    of_round = rows(made["of-round-1"])
    assert of_round == [*rows(made["preferences-1-part1"]), *rows(made["preferences-1"])]
    assert rows(made["gathered-2-part1"]) == [*of_round, *rows(made["preferences-2-part1"])]
    assert {row["id"] for row in rows(made["of-round-1"], "prompts.jsonl")} == asked[0] | asked[1]
    assert parents(made["leaks-1"])["preferences"] == made["of-round-1"].hash


def test_the_mix_of_a_round_follows_what_the_last_model_could_do(made):
    assert "retuned-1" not in made, "no round came before"
    told = made["retuned-2"].metrics
    before = Counter(row.get("family") for row in rows(made["earlier-2"], "dialogs.jsonl"))
    after = Counter(row.get("family") for row in rows(made["retuned-2"], "dialogs.jsonl"))
    groups = told["groups"]["family"]
    assert groups.keys() == before.keys()
    rates = made["reject-2"].metrics["pass_rate"]
    needs = {family: 1 - rates[family] for family in groups if family in rates}
    mean = sum(need * before[family] for family, need in needs.items()) / sum(before[family] for family in needs)
    for family, row in groups.items():
        assert row["solved"] == pytest.approx(rates.get(family), abs=1e-3)
        assert row["factor"] == pytest.approx(min(max(needs[family] / mean, 0.5), 2.0), abs=1e-2)
        assert after[family] == pytest.approx(before[family] * row["factor"], abs=0.51)
    assert len({row["factor"] for row in groups.values()}) > 3
    assert told["before"].keys() == {str(family).partition(".")[0] for family in before}
    assert parents(made["sft-2"])["dialogs"] == made["retuned-2"].hash


def test_collapse_is_looked_for_in_embeddings_too(made):
    for n in (1, 2):
        ratios = made[f"audit-{n}"].metrics["collapse"]["ratios"]
        told = made[f"meanings-{n}"].metrics
        assert told["texts"] >= 50
        assert ratios["embeddings"] == pytest.approx(2.718281828 ** (told["own"] - told["shown"]), rel=1e-4)


def test_a_sample_of_each_rounds_answers_is_written_for_people(made):
    for n in (1, 2):
        told, sheet = made[f"check-{n}"].metrics, rows(made[f"check-{n}"], "check.jsonl")
        own = [row for row in rows(made[f"reject-{n}"], "dialogs.jsonl") if row["source"] != "demonstration"]
        assert (told["texts"], told["sample"], told["checked"]) == (len(own), -(-len(own) // 10), 0)
        assert (told["open"], told["passed"]) == (True, True)
        texts = {row["messages"][-1]["content"] for row in own}
        assert all(row["text"] in texts for row in sheet)
        assert len(sheet) == told["sample"]


def test_what_people_find_ends_the_run(home, capfd):
    folder = home / "runs" / "small"
    assert run(home, "--set", "post_training.audit.human.required=true") == 5
    said = capfd.readouterr().err
    assert "L3-PST-203" in said
    assert "round 1" in said
    assert "release" not in RunDir(folder).current()

    def judge(verdict):
        items = [item for _, items in texts_of_run(RunDir(folder)).values() for item in items]
        (folder / ANNOTATIONS).mkdir(exist_ok=True)
        opened = Opened(folder / ANNOTATIONS, "check", ["ann"], items)
        for item in items:
            before = opened.latest("ann").get(item.id)
            number = 0 if before is None else before.number + 1
            opened.say("ann", Annotation(item.id, number, verdict, "2026-01-01T00:00:00Z", reason=""))
        opened.close()

    judge("keep")
    assert run(home, "--set", "post_training.audit.human.required=true") == 0
    made = RunDir(folder).current()
    assert (made["check-2"].metrics["open"], made["check-2"].metrics["wrong"]["count"]) == (False, 0)
    assert "release" in made
    capfd.readouterr()
    judge("reject")
    assert run(home) == 5
    assert "answers for wrong, 100.0%" in capfd.readouterr().err


def test_an_audit_that_is_not_asked_for_any_more_tells_nothing(home, capfd):
    folder = home / "runs" / "small"
    assert run(home, "--set", "post_training.audit=null") == 0
    assert not {"audit-1", "audit-2", "check-1"} & RunDir(folder).current().keys()
    with pytest.raises(SystemExit) as ended:
        main(["audit-reward", str(folder)])
    assert ended.value.code == 2
    assert "L3-RWA-012" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["post_training.retune.by=[topic]"], "L3-PST-202", "labeller"),
        (["post_training.rounds=1"], "L3-PST-201", "no round has one before it"),
        (["post_training.prefer.prompts=1"], "L3-PST-200", "1 prompts make no 2 parts"),
        (["post_training.rounds=0"], "L3-PST-200", "there are no rounds"),
        (["post_training.sft.neftune=5", "parallelism.tp=2"], "L3-CFG-091", "parallelism.tp is 2"),
    ],
)
def test_what_has_no_effect_is_refused_before_work(home, capfd, options, code, told):
    sets = [word for option in options for word in ("--set", option)]
    with pytest.raises(SystemExit) as ended:
        main(["config", "validate", str(tuned_config(home)), *sets])
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert code in said
    assert told in said
