"""Answers that other processes draw: bit for bit those of this one, whoever is lost on the way."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import started
import torch

from llama3.config.rollouts import RolloutsSection
from llama3.errors import ConfigError, DoesNotFit, LlamaError
from llama3.inference import fleet
from llama3.inference.sampling import Sampling
from llama3.inference.shared_model import SharedModel
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.training.elsewhere import generator
from llama3.training.placed import PlacedModel

CONFIG = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=128, vocab_size=300, max_seq_len=128, rope_theta=1e4, tied=True
)
SAMPLING = Sampling(12, 1.0, n=3, seed=5, stop_ids=frozenset(range(40)))
PIECE = 4


@pytest.fixture(autouse=True)
def one_thread():
    """As many as each worker has: rounding follows from it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> PlacedModel:
    return PlacedModel(init_weights(Transformer(CONFIG, value_head=True), seed=1))


@pytest.fixture
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(40, 300, rng.integers(2, 30)).tolist() for _ in range(11)]


def section(where: str, workers: int = 2) -> RolloutsSection:
    return RolloutsSection(where=where, workers=workers, threads=1, piece=PIECE)


def flat(completions):
    return [[(one.ids, one.logps, one.finish_reason) for one in row] for row in completions]


def drawn(model, prompts, placing, precision="bf16", changed: bool = False):
    """Answers before and, with `changed`, after an update of the weights."""
    with ExitStack() as closing:
        drawing = generator(model, precision, placing, closing)
        found = [flat(drawing.generate(prompts, SAMPLING))]
        if changed:
            with torch.no_grad():
                for parameter in model.module.parameters():
                    parameter.mul_(1.05)
            found.append(flat(drawing.generate(prompts, SAMPLING)))
            with torch.no_grad():
                for parameter in model.module.parameters():
                    parameter.div_(1.05)
    return found


@pytest.mark.parametrize(("precision", "workers"), [("fp32", 1), ("bf16", 2)])
def test_workers_say_what_this_process_says(model, prompts, precision, workers):
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    expected = drawn(model, prompts, section("here"), precision, changed=True)
    assert expected[0] != expected[1], "the update changes nothing: the test would not see old weights"
    model.module.load_state_dict(state)
    assert drawn(model, prompts, section("processes", workers), precision, changed=True) == expected


def test_actors_of_ray_say_the_same(model, prompts):
    pytest.importorskip("ray")
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    expected = drawn(model, prompts, section("here"), changed=True)
    model.module.load_state_dict(state)
    with ExitStack() as closing:
        drawing = generator(model, "bf16", section("ray"), closing)
        assert flat(drawing.generate(prompts, SAMPLING)) == expected[0]
        hands = drawing._hands
        assert sum(hand is not None for hand in hands) == 2, "both actors had work"
        hands[0]._crew.kill(hands[0]._actor)
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter.mul_(1.05)
        assert flat(drawing.generate(prompts, SAMPLING)) == expected[1], "new weights, and an actor lost"


def test_the_pieces_of_a_killed_worker_are_drawn_again(model, prompts, monkeypatch, caplog):
    """Killed while it computes: after it was told, before it answers."""
    expected = drawn(model, prompts, section("here"))
    killed = kill_after_telling(monkeypatch, most=1)
    assert drawn(model, prompts, section("processes", workers=1)) == expected
    assert len(killed) == 1
    assert "ended with code -9; piece" in caplog.text


def test_where_workers_keep_dying_the_call_ends(model, prompts, monkeypatch):
    kill_after_telling(monkeypatch, most=100)
    with pytest.raises(LlamaError, match=r"3 workers.*code -9.*L3-ROL-004"):
        drawn(model, prompts, section("processes"))


def kill_after_telling(monkeypatch, most: int) -> list[int]:
    """The first `most` workers that get work are killed."""
    ask, killed = fleet._Process.ask, []

    def dies(self, asked: bytes) -> bytes:
        if len(killed) < most:
            killed.append(self._process.pid)
            os.kill(self._process.pid, signal.SIGSTOP)  # it does not answer before the kill
            fleet.send(self._socket, asked)
            os.kill(self._process.pid, signal.SIGKILL)
        return ask(self, asked)

    monkeypatch.setattr(fleet._Process, "ask", dies)
    return killed


@pytest.mark.parametrize("where", ["here", "processes"])
def test_what_no_engine_takes_is_refused_alike(model, where):
    with pytest.raises(ConfigError, match=r"outside the model's vocabulary.*L3-GEN-004"):
        drawn(model, [[1, 2], [1, 999]], section(where, workers=1))
    assert drawn(model, [], section(where)) == [[]]


def test_nothing_is_left_in_memory(model, prompts):
    open_before = set(os.listdir("/proc/self/fd")) if Path("/proc").is_dir() else set()
    with ExitStack() as closing:
        drawing = generator(model, "bf16", section("processes", workers=1), closing)
        drawing.generate(prompts, SAMPLING)
        pids = [hand._process.pid for hand in drawing._hands]
    assert not any(is_there(pid) for pid in pids)
    del drawing
    gc.collect()  # the last that maps the file
    assert not open_before or set(os.listdir("/proc/self/fd")) <= open_before
    shared = Path("/dev/shm")
    assert not shared.is_dir() or not list(shared.glob("llama3-*")), "the file has no name"


def test_where_memory_has_no_room_weights_are_temporary_files(monkeypatch):
    """Many containers have 64 MB of it: a file that is only made long would end the process that writes it."""
    reserve, refused = os.posix_fallocate, []

    def full(descriptor, start, size):
        if len(refused) < most:
            refused.append(size)
            raise OSError(28, "No space left on device")
        reserve(descriptor, start, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    most = 1
    model = SharedModel(CONFIG, torch.float32)
    assert refused == [len(model.bytes)]
    model.close()
    most = 3
    with pytest.raises(DoesNotFit, match="L3-ROL-006"):
        SharedModel(CONFIG, torch.float32)


def test_workers_end_with_the_process_that_they_draw_for():
    """Killed with -9, it can tell nobody."""
    code = """
import time, torch
from test_fleet import CONFIG, SAMPLING
from llama3.inference.fleet import Fleet, ProcessCrew
drawing = Fleet(ProcessCrew(CONFIG, torch.float32, 1, 1), lambda: None)
drawing.generate([[1, 2]], SAMPLING)
print(drawing._hands[0]._process.pid, flush=True)
time.sleep(60)
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with started.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        assert is_there(worker)
        trainer.kill()
    for _ in range(500):
        if not is_there(worker):
            break
        time.sleep(0.02)
    assert not is_there(worker)


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"where": "processes"}, r"do not go with a model on cuda.*L3-ROL-002"),
        ({"where": "ray"}, r"do not go with a model on cuda.*L3-ROL-002"),
    ],
)
def test_a_model_on_a_gpu_is_refused(model, changes, what):
    model.context = model.context.__class__(torch.device("cuda"))
    with pytest.raises(ConfigError, match=what), ExitStack() as closing:
        generator(model, "bf16", RolloutsSection(**changes), closing)
