"""Capability recipes in a round, without the training around them: what is told, refused, resumed. A whole run is
followed in tests/test_capabilities_docs.py."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import pytest
import yaml
from skilled import config_of, practise, served

from llama3.cli import main
from llama3.errors import DataError, LlamaError, PluginError
from llama3.making.joining import within
from llama3.making.verdicts import points, verdict
from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.tasks.rows import read_rows


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(map(str, arguments)))
    return int(done.value.code or 0)


def even(dialog) -> str:
    """Right but for numbers that end in 7; a judge who finds a step wrong where the number ends in 3."""
    said = dialog[-1]["content"]
    number = int(said.split("Is ")[1].split(" ")[0])
    if "Check every step" in said:
        return "no" if number % 10 == 3 else "It is sound.\nyes"
    is_even = (number % 2 == 0) != (number % 10 == 7)
    return f"{number} ends in {number % 10}.\nAnswer: {'yes' if is_even else 'no'}"


# Without the training around them -------------------------------------------------------------------------------------


def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(home, tmp_path):
    skill = {"name": "math_steps", "prompts": 30, "samples": 2}
    with served(even) as server:
        for name in ("whole", "killed"):
            (tmp_path / name).mkdir()
        whole, _ = practise(config_of(home, tmp_path / "whole", [{**skill, "model": server.url}]))
        needed, server.seen = len(server.seen), []
        place = config_of(home, tmp_path / "killed", [{**skill, "model": server.url}])
        for kill in range(2):
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException), open(os.devnull, "w") as nowhere:
                    sys.stderr = sys.stdout = nowhere
                    practise(place)
                os._exit(0)
            deadline = time.monotonic() + 240
            while len(server.seen) < 20 * (kill + 1) and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        server.most = len(server.seen) + 10  # and a server that falls silent
        with pytest.raises(DataError, match="does not answer"):
            practise(place)
        server.most = 10**9
        found, _ = practise(place)
    for name in ("dialogs", "made", "preferences"):
        files = [made["math_steps"].file(f"{name}.jsonl").read_bytes() for made in (whole, found)]
        assert files[0] == files[1]
    assert len(server.seen) <= needed + 4 * 16, "at most what was under way is asked again"


def test_a_recipe_that_keeps_nothing_warns_and_adds_nothing(home, tmp_path):
    """A served model that babbles, and the round's own model, which knows nothing: the run goes on."""
    with served(lambda dialog: "wibble") as server:
        skills = [
            {"name": "math_steps", "prompts": 4, "samples": 1, "model": server.url},
            {"name": "math_python", "prompts": 3, "samples": 1, "max_tokens": 8},
            {"name": "code_translation", "prompts": 3, "model": server.url},
        ]
        made, told = practise(config_of(home, tmp_path, skills))
    assert [artifact.metrics["kept"] for artifact in made.values()] == [0, 0, 0]
    assert "capability math_steps: nothing of 4 dialogs is kept (wrong_result 4)" in told
    assert "capability code_translation: nothing of " in told
    assert [list(read_rows(artifact.file("dialogs.jsonl"))) for artifact in made.values()] == [[], [], []]


BROKEN = """
from llama3.capabilities import Made
from llama3.plugins import CapabilitySpec, hookimpl

SAID = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


@hookimpl
def llama3_capabilities():
    names = ("fails", "odd", "mixed", "tells", "half", "number")
    return [CapabilitySpec(name=name, factory=f"broken:{name.title()}") for name in names]


class Fails:
    def dialogs(self, shop, count, seed):
        yield Made(SAID, True, "said")
        raise RuntimeError("out of ideas")


class Odd:
    def dialogs(self, shop, count, seed):
        yield Made(SAID[:1], True, "said")


class Half:
    def dialogs(self, shop, count, seed):
        yield Made([SAID[0], {**SAID[1], "content": "\\ud83d"}], True, "said")


class Number:
    def dialogs(self, shop, count, seed):
        yield Made(SAID, True, 7)


class Tells:
    def dialogs(self, shop, count, seed):
        for weight in ({}, {"weight": 0}):
            first = {"role": "assistant", "content": "xyzzy", **weight}
            yield Made([SAID[0], first, {"role": "user", "content": "Oh."}, SAID[1]], True, "said")


class Mixed:
    def dialogs(self, shop, count, seed):
        yield Made(SAID, True, "said", rejected="Go away.", steps=(("Hel", "Go"),))
        yield Made(SAID, True, "said")
        yield Made([SAID[0], {**SAID[1], "content": "Hello. " * 400}], True, "said")
        yield Made([*SAID, {**SAID[1], "weight": 0}], True, "said")
        yield Made([{"role": "user", "content": "Hm?"}, {**SAID[1], "weight": 0}], True, "said")
        yield Made(SAID[:1], False, "dropped", steps=(("a", "b"), ("same", "same")))
"""


@pytest.fixture
def broken(site):
    site.add("broken", BROKEN)
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_what_a_recipe_makes_is_checked(broken, home, tmp_path):
    with pytest.raises(PluginError, match=r"capabilities.fails: failed. RuntimeError: out of ideas.*L3-CAP-001"):
        practise(config_of(home, tmp_path, ["fails"]))
    with pytest.raises(PluginError, match=r"does not end with the assistant.*L3-CAP-002"):
        practise(config_of(home, tmp_path, ["odd"]))
    with pytest.raises(PluginError, match=r"capabilities.half: .*half of a surrogate pair.*L3-CAP-002"):
        practise(config_of(home, tmp_path, ["half"]))
    with pytest.raises(PluginError, match=r"capabilities.number: .*reason is no text.*L3-CAP-002"):
        practise(config_of(home, tmp_path, ["number"]))
    made, _ = practise(config_of(home, tmp_path, ["mixed"]))
    artifact = made["mixed"]
    metrics = artifact.metrics
    assert (metrics["made"], metrics["kept"], metrics["turns"]) == (6, 2, 5)
    assert metrics["dropped"] == {"does_not_fit": 1, "dropped": 1, "made_twice": 1, "refused_by_template": 1}
    (pair,) = read_rows(artifact.file("preferences.jsonl"))
    assert (pair["chosen"], pair["rejected"], len(pair["messages"])) == ("Hello.", "Go away.", 1)
    assert [(row["chosen"], row["rejected"]) for row in read_rows(artifact.file("steps.jsonl"))] == [
        ("Hel", "Go"), ("a", "b"),
    ]  # fmt: skip


# What cannot work -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "post", "code", "where"),
    [
        (["math_stepz"], {}, "L3-PLG", "capabilities"),
        ([{"name": "math_steps", "sample": 3}], {}, "L3-", "capabilities.0.sample"),
        (["math_steps", "math_steps"], {}, "L3-CAP-003", "capabilities.1"),
        (["math_steps"], {"rounds": 0}, "L3-CAP-004", "capabilities"),
        (["math_steps"], {"rewards": []}, "L3-CAP-005", "capabilities.0"),
        ([{"name": "math_steps", "judge": "nowhere"}], {}, "L3-CAP-006", "capabilities.0.judge"),
        ([{"name": "math_steps", "model": "http://"}], {}, "L3-EVL-060", "capabilities.0.model"),
        (
            [{"name": "math_steps", "share": 0.5}, {"name": "factuality", "share": 0.5}],
            {},
            "L3-CAP-007",
            "capabilities",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_work(home, tmp_path, capabilities, post, code, where):
    with pytest.raises(LlamaError) as refused:
        load_config(config_of(home, tmp_path, capabilities, **post))
    assert any(problem.code.startswith(code) and where in problem.where for problem in refused.value.problems)


def test_a_server_that_is_not_there_is_told_before_work(home, tmp_path, capsys):
    with served(even) as server:
        url = server.url
    place = config_of(home, tmp_path, [{"name": "math_steps", "model": url}])
    assert exit_code("run", place) == 1
    assert "post_training.capabilities.0: server" in capsys.readouterr().err
    assert not (tmp_path / "s").exists(), "before anything is made"


# Joining --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1, 10, 999])
@pytest.mark.parametrize("shares", [{}, {"a": 0.1}, {"a": 0.2, "b": 0.5}, {"a": 0.001, "b": 0.01, "c": 0.5}])
def test_no_recipe_has_more_than_its_share(others, shares):
    there = {"a": 50, "b": 100, "c": 7}
    taken = within(there, shares, others)
    total = others + sum(taken.values())
    for name, count in there.items():
        share = shares.get(name, 1)
        assert taken[name] <= min(count, share * total)
        if name not in shares:
            assert taken[name] == count
        elif taken[name] < count:  # one more would be too many, but for rounding where several are cut
            assert taken[name] + len(shares) > share * (total + len(shares))


def test_a_judge_is_read_or_not():
    assert [verdict(text) for text in ("yes", "Well.\n**No**.", "Verdict: yes", "No, step 2 is wrong.\nSo there.")] == [
        True, False, True, False,
    ]  # fmt: skip
    assert [verdict(text) for text in ("", "nothing", "I say yes", "yesterday", "know")] == [None] * 5
    given = ("3", "Good.\n5/5", "Points: 0", "4 out of 5", "6", "3/4", "-1", "a 3", "")
    assert [points(text, 5) for text in given] == [3, 5, 0, 4, None, None, None, None, None]


def test_guards_judge_every_answer_that_would_be_learnt(broken, home, tmp_path):
    """With `safety.rollouts`: a word in a first answer is refused, unless that one is only seen."""
    place = config_of(home, tmp_path, ["tells"])
    config = yaml.safe_load(place.read_text())
    word = {"name": "regex", "patterns": [{"category": "word", "pattern": "xyzzy"}]}
    config["safety"] = {"rollouts": True, "policy": {"output": {"guard": word}}}
    config["post_training"]["algorithm"] = "dpo"
    place.write_text(yaml.safe_dump(config))
    made, _ = practise(place)
    assert made["tells"].metrics["dropped"] == {"refused_by_guards": 1}
    assert made["tells"].metrics["kept"] == 1
