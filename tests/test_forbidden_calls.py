"""What no code of the product does: run what it reads, or measure durations by a clock that may jump."""

from __future__ import annotations

import ast

import pytest
from test_imports import MODULES, ROOT

RUNS_WHAT_IT_READS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
"""Modules that are not imported."""
CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "numpy.load", "np.load",
}  # fmt: skip
EXCEPTIONS = {
    ("llama3/tasks/sandbox_worker.py", "exec"): "answers of models run there, fenced in, and nowhere else",
    ("llama3/tasks/sandbox_worker.py", "compile"): "the same",
    ("llama3/tasks/sandbox_worker.py", "__import__"): "modules by names that the worker has in itself",
    ("llama3/data/arrays.py", "np.load"): "arrays that a curation wrote, without pickle",
    ("llama3/quality/embedding.py", "np.load"): "embeddings that the stage itself wrote, without pickle",
    ("llama3/quality/selecting.py", "np.load"): "the same, mapped",
    ("llama3/tasks/families/functions.py", "eval"): "a formula that the family has made of its own numbers",
}
"""(file, call) and why it may stand."""
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now", "date.today"}
"""Clocks of the wall. Durations and deadlines are told by `time.monotonic` and the event loop's time."""
CREATED = {
    "llama3/serving/record.py": "when an answer was made, as OpenAI's clients read it",
    "llama3/serving/annotation_desk.py": "when somebody said it, as the files of annotations tell",
    "llama3/serving/telemetry.py": "when a request ended, which traces tell by the wall's clock",
    "llama3/serving/served.py": "since when a model is served, the same",
    "llama3/safety/audit.py": "when a decision was made, for whoever reads the log",
}
"""Files that may ask what time it is, and what for."""
TIMED = ("llama3/serving/", "llama3/safety/", "llama3/inference/")


def calls(path):
    """The names of all that a module calls, as they are written, and of modules it imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
            for word in node.keywords:
                if word.arg == "shell" and not (isinstance(word.value, ast.Constant) and word.value.value is False):
                    yield "shell=True"
                if word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and not word.value.value):
                    yield "allow_pickle=True"
        elif isinstance(node, ast.Import):
            yield from (f"import {alias.name.partition('.')[0]}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield f"import {node.module.partition('.')[0]}"


FORBIDDEN = CALLS | {f"import {name}" for name in RUNS_WHAT_IT_READS} | {"shell=True", "allow_pickle=True"}


def found(forbidden, paths=MODULES):
    named = {(str(path.relative_to(ROOT)), name) for path in paths for name in calls(path)}
    return {(path, name) for path, name in named if name in forbidden}


def test_nothing_that_is_read_is_run():
    assert found(FORBIDDEN) == EXCEPTIONS.keys(), "a reason for each, and none for what is not there"


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "torch.load(x)", "eval(x)", "subprocess.run(x, shell=True)",
     "run(x, shell=y)", "np.load(x, allow_pickle=True)", "os.system(x)", "import marshal, json"],
)  # fmt: skip
def test_it_would_be_found(source, tmp_path):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert FORBIDDEN & set(calls(file))


def test_no_duration_is_told_by_a_clock_that_may_jump():
    paths = [path for path in MODULES if str(path.relative_to(ROOT)).startswith(TIMED)]
    assert len(paths) > 20
    assert {path for path, _ in found(CLOCKS, paths)} <= CREATED.keys()
    created = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}
    for name in CREATED:
        lines = [line.strip() for line in created[name].splitlines() if "time.time(" in line]
        assert lines, "a reason for each, and none for what is not there"
        assert all(line.startswith(("created", '"ended"')) for line in lines), "and for nothing else"
