"""Rewards that have no prompts: what misses some is refused before work starts, and what needs none goes on."""

import json

import pytest
import yaml
from test_recipe import write_config, write_text

from llama3.cli import main
from llama3.plugins.registry import discover

LENGTH = """
from llama3.plugins import RewardSpec, hookimpl


@hookimpl
def llama3_rewards():
    return [RewardSpec(name="length", factory="lengths:Length", has_tasks=False)]


class Length:
    def score(self, prompts, answers, examples):
        return [float(len(answer)) for answer in answers]
"""


@pytest.fixture(autouse=True)
def length(site):
    """A third party's reward that has no tasks, installed while a test runs."""
    site.add("lengths", LENGTH)
    discover.cache_clear()
    yield
    discover.cache_clear()


@pytest.fixture
def write(tmp_path):
    def make(**post):
        write_text(tmp_path / "text")
        path = write_config(tmp_path)
        config = yaml.safe_load(path.read_text())
        config["quantization"] = []
        config["post_training"] |= {"rewards": ["length"], **post}
        path.write_text(yaml.safe_dump(config))
        return path

    return make


def told(capfd, *command):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in command])
    said = capfd.readouterr()
    return ended.value.code, said.out, said.err


@pytest.mark.parametrize("command", [("config", "validate"), ("plan",), ("run",)])
def test_rounds_without_prompts_are_refused_with_all_that_is_wrong(command, write, capfd):
    code, _, err = told(capfd, *command, write(), "--set", "audit.must_improve=[perplexity]")
    assert (code, "L3-CFG-044" in err, "L3-CFG-061" in err) == (2, True, True), err
    assert "length has none of its own" in err


@pytest.mark.parametrize(
    ("post", "code"),
    [
        ({"rounds": 0}, 0),
        ({"rewards": ["length", "verifiable"]}, 0),
        ({"rewards": []}, 2),
        ({"algorithm": "grpo"}, 2),
    ],
)
def test_only_rounds_that_have_no_prompts_are_refused_and_once(post, code, write, capfd):
    found, _, err = told(capfd, "config", "validate", write(**post))
    assert found == code, err
    assert err.count("error:") == (1 if code else 0)


def test_an_audit_of_what_cannot_be_measured_is_refused(write, capfd):
    asked = ("--set", "audit.must_improve=[pass_rate]")
    code, _, err = told(capfd, "config", "validate", write(rounds=0), *asked)
    assert (code, "audit.must_improve.0" in err, "L3-CFG-045" in err) == (2, True, True), err
    assert told(capfd, "config", "validate", write(rounds=0, rewards=["verifiable"]), *asked)[0] == 0


def test_a_pass_rate_without_tasks_is_told_before_and_the_run_goes_on(write, tmp_path, capfd):
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"Is {n} even?"}) for n in range(24)))
    path = write(data=str(rows), algorithm="grpo")
    code, out, err = told(capfd, "config", "validate", path)
    note = "suite pass_rate will not be measured: length has no tasks to ask"
    assert (code, note in out + err) == (0, True)
    code, _, err = told(capfd, "run", path)
    assert code == 0, err
    assert note in err
    assert "L3-RWD-003" not in err
    run = tmp_path / "runs" / "small"
    for model in ("base", "final"):
        found = json.loads((run / "artifacts" / f"evaluate-{model}" / "results.json").read_text())
        assert found["pass_rate"] == {"not_measured": "length has no tasks to ask"}
        assert found["bits_per_byte"]["bits_per_byte"] > 0
    assert "not measured: length has no tasks to ask" in (run / "report.html").read_text()
    code, _, err = told(capfd, "run", path)  # nothing is measured again
    assert (code, "evaluate" in err and "▸ evaluate" in err) == (0, False)


def test_a_suite_that_is_asked_for_by_name_must_be_measurable(write, tmp_path, capfd):
    code, _, err = told(capfd, "run", write(rounds=0))
    assert code == 0, err
    command = ("evaluate", tmp_path / "runs" / "small", "--config", write(rounds=0), "--out", tmp_path / "out")
    code, _, err = told(capfd, *command, "--suite", "pass_rate")
    assert (code, "L3-EVL-085" in err) == (1, True), err
    assert told(capfd, *command)[0] == 0
