"""Replica groups in the loop, by a strategy of a few lines: two processes that are launches of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked import run_ranks
from training_toys import CONFIG, Counting, Recorder, options, schedule

from llama3.errors import ConfigError
from llama3.model.batch import Batch
from llama3.parallelism import ParallelContext, Replicas
from llama3.training.algorithm import Plan
from llama3.training.checkpoint import CheckpointStore
from llama3.training.effective_time import accounts
from llama3.training.ledger import rows_of_rank
from llama3.training.loop import train
from llama3.training.metrics import Loggers, Reporter
from llama3.training.parallel import Parallel, ParallelStrategy
from llama3.training.placed import PlacedModel
from llama3.training.reliability import Reliability
from llama3_plugins.algorithms.next_token import NextToken
from llama3_plugins.parallelism.collectives import sum_together

CPU = torch.device("cpu")
STEPS = 6


class Pair(Replicas):
    """Both groups are always there. The votes of these numbers fail on both."""

    def __init__(self, failing=()):
        self.place, self.count, self.votes, self.failing = 0, 1, 0, failing

    def meet(self, member):
        self.place, self.count = dist.get_rank(), 2
        told = [None, None]
        dist.all_gather_object(told, (member.step(), member.identity))
        assert told[0][1] == told[1][1]
        if told[0][0] != told[1][0]:
            ahead = max(range(2), key=lambda rank: told[rank][0])
            sent = [member.give() if self.place == ahead else None]
            dist.broadcast_object_list(sent, ahead)
            if self.place != ahead:
                member.take(sent[0])
        prints = [None, None]
        dist.all_gather_object(prints, member.fingerprint())
        assert prints[0] == prints[1], "weights and moments are equal to the bit whenever groups meet"

    def all_reduce(self, x, op="sum"):
        dist.all_reduce(x, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op])

    def commit(self):
        self.votes += 1
        self.place, self.count = 0, 1
        return self.votes not in self.failing

    def close(self):
        self.place, self.count = 0, 1


class Summing(ParallelStrategy):
    def sum_gradients(self, model, context):
        if context.replicas is not None:
            sum_together([parameter.grad for parameter in model.parameters()], context.replicas.all_reduce)


def learn(run: Path, others=None, algorithm=None, **changes):
    """One launch; what it logged, and its weights."""
    parallel = Parallel(ParallelContext(CPU, replicas=others), {"dp": Summing()})
    model, recorder = PlacedModel.drawn(CONFIG, 0, parallel), Recorder()
    section = options(checkpoint_every=2, **changes)
    progress = train(
        model,
        algorithm or NextToken(),
        Counting(rows=7),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, STEPS),
        seed=5,
        store=CheckpointStore(run / "checkpoints"),
        snapshots=frozenset({STEPS - 1, STEPS}),
        reporter=Reporter("toy", Loggers([("recorder", recorder)])),
        reliability=Reliability(run=run, artifact="toy"),
    )
    found = {"loss": recorder.column("loss"), "grad_norm": recorder.column("grad_norm"), "tokens": progress.tokens}
    return found | {f"weight {name}": tensor.clone() for name, tensor in model.weights()}


def account(run):
    (found,) = accounts(rows_of_rank(run))
    return found


def assert_equal(one, other):
    assert {name for name in one if name.startswith("weight")}
    assert all(torch.equal(x, other[name]) for name, x in one.items() if name.startswith("weight"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One launch, which is all there is."""
    run = tmp_path_factory.mktemp("alone")
    return run, learn(run)


def together(folder, **given):
    """Two launches, each with a run directory of its own."""
    return run_ranks(folder / "ranks", 2, lambda: learn(folder / f"run-{dist.get_rank()}", Pair(**given)))


def test_groups_share_the_examples_of_a_step(alone, tmp_path):
    run, one = alone
    two = together(tmp_path)
    assert_equal(*two)
    for rank, group in enumerate(two):
        assert group["tokens"] == one["tokens"]
        for figure in ("loss", "grad_norm"):
            assert group[figure] == pytest.approx(one[figure], abs=2e-6)
        ours = account(tmp_path / f"run-{rank}")
        assert ours.problems() == []
        assert ours.content == account(run).content


def test_a_step_that_is_not_committed_is_done_again(tmp_path):
    """Twice in a row, and the last one: nothing of it is left, neither in weights nor in any count."""
    calm, shaken = together(tmp_path / "calm"), together(tmp_path / "shaken", failing={3, 4, 8})
    assert_equal(calm[0], shaken[0])
    for figure in ("loss", "grad_norm", "tokens"):
        assert shaken[0][figure] == calm[0][figure]
    ours, theirs = account(tmp_path / "shaken" / "run-0"), account(tmp_path / "calm" / "run-0")
    assert ours.problems() == []
    assert ours.content == theirs.content
    assert ours.repeated == 0


@pytest.mark.parametrize("behind", [0, 1])
def test_a_group_that_is_behind_takes_over_the_state_of_another(alone, tmp_path, behind):
    """One has a checkpoint of step 4, the other begins anew."""
    run, one = alone
    ahead = tmp_path / f"run-{1 - behind}"
    shutil.copytree(run / "checkpoints" / "step-4", ahead / "checkpoints" / "step-4")
    two = together(tmp_path)
    assert_equal(*two)
    assert all(group["loss"] == pytest.approx(one["loss"][4:], abs=2e-6) for group in two)
    late = account(tmp_path / f"run-{behind}")
    assert late.healed == {1, 2, 3, 4}
    assert late.problems() == []
    assert sorted(late.data) == [5, 6]


class SeveralUpdates(NextToken):
    plan = Plan(epochs=2)


def test_what_cannot_be_done_again_is_refused_all_at_once(tmp_path):
    with pytest.raises(ConfigError) as told:
        learn(tmp_path, Pair(), SeveralUpdates(), spike=10)
    assert [problem.code for problem in told.value.problems] == ["L3-TRN-060"] * 2
    assert not (tmp_path / "checkpoints").exists()
