"""`torchft` along dp: runs that train one model together, and go on when one of them is killed.

A lighthouse and every run are forks of this process. The oracle is a run that nothing disturbs.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from training_toys import CONFIG, Counting, Recorder, options, schedule

from llama3.config import load
from llama3.config.schema import ParallelismSection
from llama3.errors import ConfigError, LlamaError
from llama3.model.batch import Batch
from llama3.plugins.registry import discover
from llama3.training import loop
from llama3.training.checkpoint import CheckpointStore
from llama3.training.effective_time import accounts, summary
from llama3.training.ledger import rows_of_rank
from llama3.training.loop import train
from llama3.training.metrics import Loggers, Reporter
from llama3.training.parallel import Dims, start
from llama3.training.placed import PlacedModel
from llama3.training.reliability import Reliability
from llama3_plugins.algorithms.next_token import NextToken
from llama3_plugins.parallelism.options import TorchftOptions
from llama3_plugins.parallelism.torchft import Torchft

torchft = pytest.mark.skipif(find_spec("torchft") is None, reason="torchft is not installed (the extra torchft)")
FORK = multiprocessing.get_context("fork")
LIMIT = 120
"""Seconds after which a process that does not end has failed its test."""


class Watched(Counting):
    """Calls `seen(step)` when the data of a step is read."""

    def __init__(self, seen):
        super().__init__(rows=7)
        self.seen = seen

    def examples(self, step):
        self.seen(step)
        return super().examples(step)


def learn(run: Path, mesh: dict, steps: int, *, seed=5, seen=lambda step, groups: None):
    """One run; losses, gradient norms and weights."""
    parallel = start(ParallelismSection.model_validate(mesh), CONFIG, torch.device("cpu"), discover())
    others = parallel.context.replicas
    model, section, recorder = PlacedModel.drawn(CONFIG, 0, parallel), options(checkpoint_every=2), Recorder()
    train(
        model,
        NextToken(),
        Watched(lambda step: seen(step, 1 if others is None else others.count)),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, steps),
        seed=seed,
        store=CheckpointStore(run / "checkpoints"),
        reporter=Reporter("toy", Loggers([("recorder", recorder)])),
        reliability=Reliability(run=run, artifact="toy", rank=parallel.context.rank),
    )
    found = {"loss": recorder.column("loss"), "grad_norm": recorder.column("grad_norm")}
    return found | {f"weight {name}": tensor.clone() for name, tensor in model.weights()}


def account(run):
    (found,) = accounts(rows_of_rank(run))
    return found


def groups_of(run):
    """How many groups took part, from change to change."""
    return [row["count"] for row in rows_of_rank(run) if row["kind"] == "groups"]


def weights(found):
    return {name: x for name, x in found.items() if name.startswith("weight")}


def assert_equal(one, other):
    assert weights(one).keys() == weights(other).keys() != set()
    assert all(torch.equal(x, other[name]) for name, x in weights(one).items())


def began(work, *arguments):
    """A fork that does `work`."""

    def run():
        torch.set_num_threads(1)
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    return process


class Herd:
    """A lighthouse and the runs that ask it."""

    def __init__(self, folder: Path, least: int, seconds: float) -> None:
        self.seconds = seconds
        self.folder, told = folder, folder / "address"
        self.processes = [began(_lighthouse, told, least)]
        wait_for(told.exists)
        self.address = told.read_text()

    def start(self, name: str, steps: int, **given):
        process = began(self._run, name, steps, given)
        self.processes.append(process)
        return process

    def _run(self, name, steps, given):
        mesh = {"dp": {"name": "torchft", "lighthouse": self.address, "seconds": self.seconds, "host": "localhost"}}
        try:
            found = learn(self.folder / name, mesh, steps, **given)
            torch.save(found, self.folder / f"{name}.pt")
        except LlamaError as error:
            (self.folder / f"{name}.txt").write_text(str(error))

    def result(self, name: str, process):
        process.join(LIMIT)
        told = self.folder / f"{name}.txt"
        assert (self.folder / f"{name}.pt").exists(), told.read_text() if told.exists() else "it did not end"
        return torch.load(self.folder / f"{name}.pt", weights_only=True)

    def end(self):
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _lighthouse(told: Path, least: int) -> None:
    os.environ["RUST_LOG"] = "error"
    from torchft.coordination import LighthouseServer

    server = LighthouseServer(bind="[::]:0", min_replicas=least, quorum_tick_ms=10, heartbeat_timeout_ms=2000)
    told.with_suffix(".tmp").write_text(server.address())
    told.with_suffix(".tmp").rename(told)
    while True:
        signal.pause()


def wait_for(condition):
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


@pytest.fixture
def herd(tmp_path):
    made = []

    def make(least, seconds=30.0):
        made.append(Herd(tmp_path, least, seconds))
        return made[0]

    yield make
    for each in made:
        each.end()


def in_company(step, groups):
    """Whoever is alone takes its time, so that others find it there."""
    if groups == 1:
        time.sleep(0.4)


@torchft
def test_two_runs_train_as_two_ranks_do(herd, tmp_path):
    both = herd(least=2)
    runs = {name: both.start(name, 6) for name in ("a", "b")}
    found = [both.result(name, process) for name, process in runs.items()]
    ddp = run_ranks(tmp_path / "ranks", 2, lambda: learn(tmp_path / "ddp", {"dp": {"name": "ddp", "size": 2}}, 6))[0]
    assert_equal(*found)
    for one in found:
        for figure in ("loss", "grad_norm"):
            assert one[figure] == pytest.approx(ddp[figure], abs=2e-6)
        torch.testing.assert_close(weights(one), weights(ddp), atol=2e-6, rtol=0)
    for name in runs:
        assert account(tmp_path / name).content == account(tmp_path / "ddp").content
        assert account(tmp_path / name).problems() == []


@torchft
def test_a_run_that_is_killed_comes_back_and_heals_while_the_other_goes_on(herd, tmp_path):
    steps, seen_together = 40, []

    def dies(step, groups):
        in_company(step, groups)
        seen_together.extend([step] * (groups == 2))
        if len(seen_together) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    alone = learn(tmp_path / "alone", {}, steps)
    both = herd(least=1)
    stays = both.start("a", steps, seen=in_company)
    wait_for(lambda: groups_of(tmp_path / "a") == [1])
    killed = both.start("b", steps, seen=dies)
    killed.join(LIMIT)
    assert killed.exitcode == -signal.SIGKILL
    wait_for(lambda: groups_of(tmp_path / "a")[-1:] == [1])
    back = both.start("b", steps, seen=in_company)
    one, other = both.result("a", stays), both.result("b", back)

    assert_equal(one, other)
    torch.testing.assert_close(weights(one), weights(alone), atol=1e-3, rtol=0)
    assert len(one["loss"]) == steps
    assert all(map(math.isfinite, one["loss"] + other["loss"]))
    ours, theirs, planned = (account(tmp_path / name) for name in ("a", "b", "alone"))
    assert ours.content == planned.content, "every sample of every step, each once"
    assert ours.problems() == theirs.problems() == []
    assert theirs.content.items() <= planned.content.items()
    assert ours.interruptions == []
    assert [hit.cause for hit in theirs.interruptions] == ["no witness"]
    assert theirs.healed
    assert theirs.healed | theirs.data.keys() == set(range(1, steps + 1))
    assert groups_of(tmp_path / "a")[-3:] == [2, 1, 2], "it went on alone"
    (told,) = summary(tmp_path / "b")["stages"]
    assert (told["finished"], told["done"]) == (steps, True)


@torchft
def test_groups_that_did_a_step_apart_are_made_equal(herd, tmp_path):
    """Each had lost the other, or so it seemed: both have finished as many steps, with other weights."""

    def half(name, more):
        def stop(step, groups):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        set_lr = loop.set_lr
        loop.set_lr = lambda optimizer, lr: set_lr(optimizer, lr * more)
        with pytest.raises(LlamaError, match="L3-TRN-001"):
            learn(tmp_path / name, {}, 6, seen=stop)

    for name, more in (("a", 1.0), ("b", 1.001)):
        began(half, name, more).join(LIMIT)
    stored = [CheckpointStore(tmp_path / name / "checkpoints").load().tensors("model") for name in ("a", "b")]
    assert not torch.equal(*(tensors["norm.weight"] for tensors in stored))
    both = herd(least=2)
    runs = {name: both.start(name, 6) for name in ("a", "b")}
    found = [both.result(name, process) for name, process in runs.items()]
    assert_equal(*found)
    assert [account(tmp_path / name).problems() for name in runs] == [[], []]


@torchft
def test_a_run_that_trains_something_else_is_turned_away(herd, tmp_path):
    steps, told = 20, tmp_path / "b.txt"
    both = herd(least=1)
    stays = both.start("a", steps, seen=lambda step, groups: told.exists() or time.sleep(0.4))
    wait_for(lambda: (tmp_path / "a" / "reliability" / "reached-0").exists())
    stranger = both.start("b", steps, seed=6)
    stranger.join(LIMIT)
    assert "L3-PAR-025" in told.read_text()
    both.result("a", stays)
    learn(tmp_path / "alone", {}, steps)
    assert account(tmp_path / "a").content == account(tmp_path / "alone").content
    assert account(tmp_path / "a").problems() == []


@torchft
def test_without_a_lighthouse_it_says_so(tmp_path):
    mesh = {"dp": {"name": "torchft", "lighthouse": "http://localhost:9", "seconds": 1, "patience": 1}}

    def work():
        with pytest.raises(LlamaError, match="L3-PAR-024"):
            learn(tmp_path, mesh, 3)
        (tmp_path / "told").write_text(json.dumps(True))

    began(work).join(LIMIT)
    assert (tmp_path / "told").exists()


@pytest.mark.skipif(find_spec("torchft") is not None, reason="torchft is installed")
def test_what_to_install_is_said():
    with pytest.raises(LlamaError, match=r"llama3\[torchft\]"):
        discover().build("parallelism", "torchft", {})


def test_a_group_is_a_run_of_its_own():
    (problem,) = Torchft(TorchftOptions()).check(CONFIG, Dims(dp=2))
    assert problem.code == "L3-PAR-023"
    assert Torchft(TorchftOptions()).check(CONFIG, Dims(tp=2)) == []


@torchft
@pytest.mark.slow
def test_a_run_that_is_frozen_is_left_behind_and_heals(herd, tmp_path):
    """Nothing of it breaks: only its silence tells."""
    steps, seen_together = 40, []

    def freezes(step, groups):
        in_company(step, groups)
        seen_together.extend([step] * (groups == 2))
        if len(seen_together) == 5 and groups == 2:
            os.kill(os.getpid(), signal.SIGSTOP)

    both = herd(least=1, seconds=3)
    stays = both.start("a", steps, seen=in_company)
    wait_for(lambda: groups_of(tmp_path / "a") == [1])
    frozen = both.start("b", steps, seen=freezes)
    wait_for(lambda: groups_of(tmp_path / "a")[-2:] == [2, 1])
    os.kill(frozen.pid, signal.SIGCONT)
    assert_equal(both.result("a", stays), both.result("b", frozen))
    learn(tmp_path / "alone", {}, steps)
    ours, theirs, planned = (account(tmp_path / name) for name in ("a", "b", "alone"))
    assert ours.content == planned.content
    assert ours.problems() == theirs.problems() == []
    assert theirs.healed
    assert ours.interruptions == theirs.interruptions == []


@torchft
@pytest.mark.slow
def test_groups_whose_model_is_cut_heal_part_by_part(herd, tmp_path):
    """Two groups of two ranks along tp; the second comes when the first has done some steps."""
    both, steps = herd(least=1), 20
    mesh = {"tp": 2, "dp": {"name": "torchft", "lighthouse": both.address, "seconds": 30, "host": "localhost"}}

    def group(name):
        ranks = tmp_path / f"ranks-{name}"
        found = run_ranks(ranks, 2, lambda: learn(tmp_path / name, mesh, steps, seen=in_company))
        torch.save(found[0], tmp_path / f"{name}.pt")

    first = FORK.Process(target=group, args=("a",))
    first.start()
    both.processes.append(first)
    wait_for(lambda: groups_of(tmp_path / "a") == [1])
    group("b")
    one, other = both.result("a", first), torch.load(tmp_path / "b.pt", weights_only=True)
    assert_equal(one, other)
    alone = learn(tmp_path / "alone", {}, steps)
    torch.testing.assert_close(weights(one), weights(alone), atol=1e-3, rtol=0)
    assert account(tmp_path / "b").healed
    for name in ("a", "b"):
        assert account(tmp_path / name).problems() == []
    assert account(tmp_path / "a").content == account(tmp_path / "alone").content


def test_an_address_without_a_scheme_is_refused_before_work():
    with pytest.raises(ConfigError, match="lighthouse"):
        load({"extends": "quickstart", "parallelism": {"dp": {"name": "torchft", "lighthouse": "localhost:29510"}}})
