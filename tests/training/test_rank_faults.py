"""Faults of one rank among several: who is named, and that the samples stay the planned ones."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from faulty_stage import LIMIT
from forked import run_ranks
from torch.optim.optimizer import register_optimizer_step_post_hook
from training_toys import CONFIG, Counting, options, schedule

from llama3.artifacts import stage
from llama3.artifacts.run import RunDir
from llama3.config.reliability import ReliabilitySection
from llama3.config.schema import ParallelismSection
from llama3.errors import LlamaError
from llama3.model.batch import Batch
from llama3.plugins.registry import discover
from llama3.training.causes import HANG_EXIT
from llama3.training.checkpoint import CheckpointStore
from llama3.training.effective_time import accounts, rank_times, summary
from llama3.training.flight import FLIGHT, FlightRecorder, behind
from llama3.training.integrity import suspects
from llama3.training.leaving_out import ask
from llama3.training.ledger import rows_of_rank
from llama3.training.loop import train
from llama3.training.messages import broadcast
from llama3.training.parallel import ParallelContext, start
from llama3.training.placed import PlacedModel
from llama3.training.ranks import Ranks
from llama3.training.reliability import Reliability, content_of
from llama3_plugins.algorithms.next_token import NextToken

STEPS = 6


class Faulty(Counting):
    """Does something on one rank when the data of a step is read."""

    def __init__(self, faults=None):
        super().__init__(rows=7)
        self.faults = faults or {}

    def examples(self, step):
        self.faults.get(step, lambda: None)()
        return super().examples(step)


def learn(run: Path, mesh: dict, faults=None, *, hang=0.0, hash_every=0):
    """Train a toy on this rank; `faults` of it by step."""
    parallel = start(ParallelismSection.model_validate(mesh), CONFIG, torch.device("cpu"), discover())
    model, section = PlacedModel.drawn(CONFIG, 0, parallel), options(checkpoint_every=2)
    rank = parallel.context.rank
    watched = ReliabilitySection(hang_seconds=hang, hash_every=hash_every)
    train(
        model,
        NextToken(),
        Faulty(faults),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, STEPS),
        seed=5,
        store=CheckpointStore(run / "checkpoints"),
        reliability=Reliability(watched, run, "toy", rank),
    )
    return {name: tensor.clone() for name, tensor in model.weights()}


def account(run):
    (found,) = accounts(rows_of_rank(run))
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process that nothing disturbs."""
    run = tmp_path_factory.mktemp("alone")
    learn(run, {})
    return run


# -- samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh", [{"dp": "fsdp"}, {"tp": 2}, {"pp": 2}], ids=lambda mesh: "-".join(mesh))
def test_every_layout_reads_the_same_samples(alone, tmp_path, mesh):
    """Half of the steps by two ranks, and the rest by one: the ledger is that of one process."""
    shared = tmp_path / "shared"

    def half():
        stop = {4: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        with pytest.raises(Exception, match="L3-TRN-001"):
            learn(shared, mesh, stop)
        return {}

    run_ranks(tmp_path / "ranks", 2, half)
    learn(shared, {})
    one, many = account(alone), account(shared)
    assert many.content == one.content
    assert many.problems() == one.problems() == []
    assert [hit.cause for hit in many.interruptions] == ["stopped"]
    assert many.interruptions[0].lost_steps == 0


def test_data_that_is_left_out_when_a_run_goes_on_is_the_same_on_any_number_of_ranks(tmp_path):
    """Finished on two ranks or one, it is told to leave out a step: it goes back, and on."""
    for world in (1, 2):
        run = tmp_path / str(world)
        for _ in range(2):
            if world == 1:
                learn(run, {})
            else:
                run_ranks(tmp_path / f"ranks-{len(list(tmp_path.iterdir()))}", world, lambda run=run: learn(run, {}))
            ask(run, "toy", [4], "a bad page")
    one, two = account(tmp_path / "1"), account(tmp_path / "2")
    assert one.data == two.data == {1: 0, 2: 1, 3: 2, 4: 3, 5: 5, 6: 6}
    assert one.content == two.content
    assert one.problems() == two.problems() == []
    for found in (one, two):
        (hit,) = found.interruptions
        assert (hit.cause, hit.about.planned, hit.lost_steps) == ("data left out", True, 2)


def test_content_is_of_the_samples_and_their_order_within():
    rows = Counting().examples(0)
    whole, parts = Batch.concat(rows), [Batch.concat(rows[i::3]) for i in range(3)]
    assert sum(map(content_of, parts)) % (1 << 32) == content_of(whole)
    assert content_of(Batch.concat(rows[::-1])) == content_of(whole)
    swapped = whole.tokens_T.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    other = Batch(swapped, whole.starts_S1, whole.parents_S, whole.targets_M)
    assert content_of(other) != content_of(whole)
    assert content_of(whole.select([])) == 0


def test_every_rank_writes_into_the_run_directory(tmp_path):
    """Rank 0 executes a stage; the other is told where the records of the run go."""

    @stage(output="report", every_rank=True)
    def measured(*, out):
        (out.logs / f"rank-{os.environ['RANK']}").touch()
        (out.path / "report.json").write_text("{}")

    def work():
        ranks = Ranks()
        if ranks.leads:
            ranks.lead(measured, lambda told: RunDir(tmp_path / "run").execute(told, {}))
        else:
            ranks.follow(measured, {}, None)
        return {}

    run_ranks(tmp_path / "ranks", 2, work)
    assert {path.name for path in (tmp_path / "run").glob("rank-*")} == {"rank-0", "rank-1"}


# -- a rank that hangs -----------------------------------------------------------------------------


def as_ranks(folder: Path, world: int, work) -> list[int]:
    """Exit codes of `work(rank)` on forked ranks, of which one may stop for ever: it is killed in the end."""
    folder.mkdir(parents=True)
    pids = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            try:
                os.environ |= {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
                torch.set_num_threads(1)
                meeting = f"file://{folder}/meeting"
                dist.init_process_group("gloo", meeting, timedelta(seconds=LIMIT), rank=rank, world_size=world)
                work(rank)
            finally:
                os._exit(0)
        pids.append(pid)
    codes: dict[int, int] = {}
    deadline = time.monotonic() + LIMIT
    while len(codes) < world - 1 and time.monotonic() < deadline:
        for rank, pid in enumerate(pids):
            if rank not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    grace = time.monotonic() + 5
    for rank, pid in enumerate(pids):
        while rank not in codes:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[rank] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > grace:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    return [codes[rank] for rank in range(world)]


@pytest.mark.parametrize("stopped", [1, 0])
def test_a_frozen_rank_is_named_by_the_others(alone, tmp_path, stopped):
    """A rank that is stopped can say nothing; the other waits for it in a collective, and says so. It was noticed when
    the time-out of a step was over, not when the rows before it were written."""
    run, other = tmp_path / "run", 1 - stopped

    def work(rank):
        frozen = {5: lambda: os.kill(os.getpid(), signal.SIGSTOP)} if rank == stopped else {}
        learn(run, {"dp": "fsdp"}, frozen, hang=1.0)

    codes = as_ranks(tmp_path / "ranks", 2, work)
    assert (codes[other], codes[stopped]) == (HANG_EXIT, -signal.SIGKILL)
    assert summary(run)["behind"] == f"no word of rank {stopped}: stopped, frozen or gone"
    assert "all_reduce" in (run / "reliability" / f"stacks-{other}.txt").read_text()

    learn(run, {})
    (hit,) = summary(run)["interruptions"]
    assert (hit["cause"], hit["step"]) == ("hang", 5)
    assert hit["detect"] >= 1.0
    assert account(run).content == account(alone).content
    assert account(run).problems() == []


def test_a_signal_to_all_ranks_is_a_stop_whoever_leaves_first(tmp_path):
    """Rank 0 cannot tell a rank that is gone already; what becomes of that does not take the place of the stop."""
    told, gone = tmp_path / "told", tmp_path / "gone"

    @stage(output="report")
    def stopped(*, out):
        while not gone.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    def work(rank):
        if rank == 1:
            broadcast(None)  # that there is a stage to run
            gone.touch()
            return
        try:
            Ranks().lead(stopped, lambda announced: RunDir(tmp_path / "run").execute(announced, {}))
        except Exception as error:
            told.write_text(f"{type(error).__name__}: {error}")

    as_ranks(tmp_path / "ranks", 2, work)
    assert told.read_text().startswith("Interrupted: ")


def test_a_rank_that_is_killed_is_no_fault_of_the_others(tmp_path):
    """Whoever waits for it ends with an error that says so, not with what a library says of its socket."""
    run, told = tmp_path / "run", tmp_path / "told"

    def work(rank):
        killed = {4: lambda: os.kill(os.getpid(), signal.SIGKILL)} if rank == 1 else {}
        try:
            learn(run, {"dp": "fsdp"}, killed)
        except LlamaError as error:
            told.write_text(str(error))

    assert as_ranks(tmp_path / "ranks", 2, work)[1] == -signal.SIGKILL
    assert "another rank is gone" in told.read_text()
    assert "L3-TRN-054" in told.read_text()
    assert [hit.cause for hit in account(run).interruptions] == ["lost a rank"]


def test_a_rank_that_does_not_come_to_a_collective_is_named(tmp_path):
    """Ranks call the same collectives in the same order: one that stays away lets all wait for ever."""
    run = tmp_path / "run"

    def work(rank):
        stuck = {4: threading.Event().wait} if rank == 1 else {}
        learn(run, {"dp": "fsdp"}, stuck, hang=1.0)

    assert as_ranks(tmp_path / "ranks", 2, work) == [HANG_EXIT, HANG_EXIT]
    told = summary(run)
    assert told["behind"].startswith("rank 1 is behind: at collective ")
    assert "in examples" in (run / "reliability" / "stacks-1.txt").read_text()
    assert any(line.startswith("rank 1: hang") for line in told["other_ranks"])


def test_the_recorder_keeps_the_last_collectives(tmp_path):
    recorder = FlightRecorder(size=3)
    for number in range(5):
        with recorder.collective("reduce", "batch", [number]):
            pass
    recorder.dump(tmp_path / "flight-0.json", 0, 1, 7)
    text = (tmp_path / "flight-0.json").read_text()
    assert [f'"number": {n}' in text for n in range(1, 6)] == [False, False, True, True, True]
    assert "test_rank_faults.py" in text


def test_who_is_behind():
    def dump(rank, **reached):
        return {"rank": rank, "attempt": 1, "step": 3, "reached": reached, "collectives": [{"collective": "reduce"}]}

    assert behind([], 4) == ""
    assert "rank 2, 3" in behind([dump(0, world=5), dump(1, world=5)], 4)
    assert behind([dump(0, world=5), dump(1, world=4)], 2) == (
        "rank 1 is behind: at collective 4 of group world, others at 5"
    )
    assert "same collective (reduce)" in behind([dump(0, world=5), dump(1, world=5)], 2)


# -- a rank that computes nonsense ----------------------------------------------------------------------


def test_a_rank_that_computed_otherwise_is_named(alone, tmp_path):
    """Under cp alone both ranks hold all weights. One update of one of them comes out wrong in one bit: its own memory
    is as it left it, so only the other's copy tells."""

    def work():
        steps = []

        def wrong(optimizer, args, kwargs):
            steps.append(1)
            if len(steps) == 4:
                with torch.no_grad():
                    optimizer.param_groups[0]["params"][0].view(torch.int32).view(-1)[5] ^= 1 << 12

        if os.environ["RANK"] == "1":
            register_optimizer_step_post_hook(wrong)
        return learn(tmp_path / "run", {"cp": 2}, hash_every=1)

    faulty = run_ranks(tmp_path / "ranks", 2, work)
    sound = run_ranks(tmp_path / "sound", 2, lambda: learn(tmp_path / "other", {"cp": 2}))
    for name, weight in sound[0].items():
        assert torch.equal(weight, faulty[0][name])
        assert torch.equal(weight, faulty[1][name])
    (hit,) = account(tmp_path / "run").interruptions
    assert hit.cause == "bit flip"
    assert "rank 0, 1" in hit.what  # of two copies nobody knows which is right
    assert account(tmp_path / "run").content == account(alone).content


def test_the_minority_is_suspected():
    def told(*sums, kept=True):
        return [{"kept": kept, "sums": {"whole": number}} for number in sums]

    assert suspects(told(7, 7, 7)) == []
    assert suspects(told(7, 8, 7)) == [1]
    assert suspects(told(7, 8)) == [0, 1]
    assert suspects([*told(7, 7), *told(7, kept=False)]) == [2]
    parts = [{"kept": True, "sums": {f"tp {rank % 2}": rank % 2, "whole": 5}} for rank in range(6)]
    assert suspects(parts) == []
    parts[4]["sums"]["tp 0"] = 9
    assert suspects(parts) == [4]


# -- a rank that is slow ---------------------------------------------------------------------------


def test_a_slow_rank_is_ranked_first(tmp_path):
    """Told by each rank's own clock: what it did not wait for others in."""
    run = tmp_path / "run"

    def work():
        slow = {step: lambda: time.sleep(0.1) for step in range(STEPS)} if os.environ["RANK"] == "1" else {}
        before = FLIGHT.waited
        learn(run, {"dp": "fsdp"}, slow)
        return {"waited": FLIGHT.waited - before}

    run_ranks(tmp_path / "ranks", 2, work)
    assert [time.rank for time in rank_times(run)] == [1, 0]
    assert summary(run)["ranks"][0]["rank"] == 1


def test_ranking_needs_no_collective_of_its_own(tmp_path, monkeypatch):
    """As many as without the records."""
    calls = []
    monkeypatch.setattr(ParallelContext, "reduce", lambda self, x, op, group="batch": calls.append(op) or list(x))
    section = options(log_every=100)
    for records in (None, tmp_path):
        calls.append("begin")
        model = PlacedModel.drawn(CONFIG, 0, start(ParallelismSection(), CONFIG, torch.device("cpu"), discover()))
        train(model, NextToken(), Counting(), collate=Batch.concat, options=section, schedule=schedule(section, 3),
              seed=1, reliability=Reliability(run=records))  # fmt: skip
    one, two = " ".join(calls).split("begin")[1:]
    assert one.split() == two.split() != []
