"""The built-in loggers, found by name as a config names them, and what they leave behind."""

import json
import math

import pytest

from llama3.artifacts import Stage
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.plugins.registry import discover
from llama3.training.metrics import Loggers

METRICS = {"loss": 2.5, "grad_norm": math.nan, "tokens": 4096}


@pytest.fixture(params=["jsonl", "console", "tensorboard"])
def name(request):
    if request.param == "tensorboard":
        pytest.importorskip("tensorboard")
    return request.param


def test_every_logger_takes_everything_and_never_fails(name, tmp_path, caplog):
    loggers = Loggers([(name, discover().build("loggers", name))])
    loggers.open(tmp_path / "new", "toy")
    loggers.log(1, METRICS)
    loggers.sample(1, {"prompt": "2 + 2 =", "answer": "4"})
    loggers.close()
    assert caplog.text == ""


def test_jsonl_is_one_strict_object_per_line(tmp_path):
    for step in (1, 2):  # a second process appends
        logger = discover().build("loggers", "jsonl")
        logger.open(tmp_path, "toy")
        logger.log(step, METRICS)
        logger.sample(step, {"answer": "4"})
        logger.close()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").open()]
    assert rows == [{"stage": "toy", "step": step, "loss": 2.5, "grad_norm": None, "tokens": 4096} for step in (1, 2)]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    assert samples[0] == {"stage": "toy", "step": 1, "answer": "4"}


def test_console_prints_to_standard_error(capsys, tmp_path):
    logger = discover().build("loggers", "console")
    logger.open(tmp_path, "toy")
    logger.log(120, METRICS)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "toy 120  loss 2.5  grad_norm nan  tokens 4,096\n"


def test_console_shows_the_first_sample_of_a_step_in_short(capsys, tmp_path):
    logger = discover().build("loggers", "console")
    logger.open(tmp_path, "toy")
    for step in (1, 1, 2):
        logger.sample(step, {"answer": "a\nb" + "c" * 100, "reward": None, "length": 3})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"toy {step}  answer 'a b{'c' * 54}...'  reward unknown  length 3" for step in (1, 2)]


def test_tensorboard_files_are_read_back(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = discover().build("loggers", "tensorboard")
    logger.open(tmp_path, "toy")
    for step in (1, 2):
        logger.log(step, {"loss": 3.0 / step})
    logger.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard" / "toy"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 3.0), (2, 1.5)]


def test_tensorboard_has_a_folder_for_every_round(tmp_path):
    pytest.importorskip("tensorboard")

    def train(*, out):
        logger = discover().build("loggers", "tensorboard")
        logger.open(out.logs, "sft")
        logger.log(1, {"loss": 1.0})
        logger.close()
        (out.path / "weights").write_text("trained")

    with RunDir(tmp_path / "run", Display.silent()) as run:
        for n in (1, 2):
            run.execute(Stage("sft", train, "checkpoint"), {}, key=f"sft-{n}")
    folders = {path.name: list(path.iterdir()) for path in (tmp_path / "run" / "tensorboard").iterdir()}
    assert {name: len(files) for name, files in folders.items()} == {"sft-1": 1, "sft-2": 1}
