"""Loss spikes: what is one, and that training goes back, leaves out its data, and says by name what that was."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_pretrain import config, inputs  # noqa: F401
from test_training_loop import Breaking, run
from training_toys import CONFIG, Counting, toy_model, weights

from llama3.artifacts.run import RunDir
from llama3.errors import LlamaError
from llama3.model.batch import Batch
from llama3.training.checkpoint import CheckpointStore
from llama3.training.effective_time import accounts
from llama3.training.ledger import data_step, rows_of_rank
from llama3.training.pretrain import PretrainOptions, TokenDataset, pretrain
from llama3.training.reliability import Reliability
from llama3.training.spikes import ENOUGH, WINDOW, find_spike, remember


class Poisoned(Counting):
    """Random tokens in the data of some steps: the loss of a model that has learnt to count leaps."""

    def __init__(self, *poisoned):
        super().__init__()
        self.poisoned, self.read = poisoned, []

    def examples(self, step):
        self.read.append(step)
        if step not in self.poisoned:
            return super().examples(step)
        rng = np.random.default_rng(step)
        return [Batch.of_documents(rng.integers(CONFIG.vocab_size, size=24), [0]) for _ in range(self.rows)]

    def documents(self, step):
        return [f"document {step}"]


RECIPE = {"steps": 60, "changes": {"spike": 6.0, "checkpoint_every": 5, "lr": 2e-2, "warmup": 5}}


def account(folder):
    (found,) = accounts(rows_of_rank(folder))
    return found


@pytest.fixture(scope="module")
def spiked(tmp_path_factory):
    """A run with a spike: its folder, progress, weights, and the steps whose data was read."""
    folder, data, model = tmp_path_factory.mktemp("spiked"), Poisoned(43), toy_model()
    store, records = CheckpointStore(folder / "checkpoints"), Reliability(run=folder, artifact="toy")
    progress, _ = run(model, data, store=store, reliability=records, **RECIPE)
    return folder, progress, weights(model), data.read


def test_a_spike_goes_back_and_leaves_out_its_data_by_name(spiked):
    folder, progress, learnt, read = spiked
    # The step before it may have caused it: its loss was measured before its update.
    assert progress.left_out == [42, 43]
    assert read[:44] == list(range(44))
    assert read[44:] == [40, 41, *range(44, 62)]
    found = account(folder)
    assert found.left_out == {42: ["document 42"], 43: ["document 43"]}
    assert [(hit.cause, hit.step, hit.lost_steps) for hit in found.interruptions] == [("loss spike", 43, 3)]
    assert found.problems() == []

    # As if that data had never been there.
    class Without(Counting):
        def examples(self, step):
            return super().examples(data_step(step, [42, 43]))

    clean = toy_model()
    run(clean, Without(), **RECIPE)
    for name, weight in weights(clean).items():
        assert np.array_equal(weight.numpy(), learnt[name].numpy()), name


def test_killed_after_it_went_back_it_goes_on_the_same_way(spiked, tmp_path):
    learnt, parts = spiked[2], toy_model(seed=5)

    class Killed(Poisoned):
        def examples(self, step):
            if step == 44:
                raise RuntimeError("power cut")
            return super().examples(step)

    store = CheckpointStore(tmp_path / "parts")
    with pytest.raises(RuntimeError):
        run(toy_model(), Killed(43), store=store, **RECIPE)
    assert store.steps()[-1] <= 42, "no checkpoint of the way that was left"
    progress, _ = run(parts, Poisoned(43), store=store, **RECIPE)
    assert progress.left_out == [42, 43]
    for name, weight in learnt.items():
        assert np.array_equal(weight.numpy(), weights(parts)[name].numpy()), name


def test_without_the_option_nothing_is_left_out():
    recipe = {**RECIPE, "changes": {**RECIPE["changes"], "spike": None}}
    progress, rows = run(toy_model(), Poisoned(43), **recipe)
    assert progress.left_out == []
    loss = rows.column("loss")
    assert loss[43] > 2 * loss[42]


def test_a_spike_without_a_checkpoint_is_the_end():
    with pytest.raises(LlamaError, match=r"cannot go back.*the loss is.*L3-TRN-053"):
        run(toy_model(), Poisoned(43), **RECIPE)


def test_broken_numbers_leave_out_their_data_too(tmp_path):
    """Where spikes are left out, five updates in a row without a number are one."""
    store, data = CheckpointStore(tmp_path), Poisoned()
    algorithm = Breaking(lambda call: 24 <= call < 29)
    progress, _ = run(toy_model(), data, algorithm=algorithm, store=store, **{**RECIPE, "steps": 32})
    assert progress.left_out == [23, 24, 25, 26, 27]
    assert progress.step == 32


def test_going_back_again_and_again_is_given_up(tmp_path):
    algorithm = Breaking(lambda call: call > 20)
    with pytest.raises(LlamaError, match=r"went back to a checkpoint 5 times.*L3-TRN-051"):
        run(toy_model(), Poisoned(), algorithm=algorithm, store=CheckpointStore(tmp_path), **RECIPE)


def test_what_is_a_spike():
    calm = [2.0 + 0.01 * (i % 3) for i in range(20)]
    assert find_spike(calm, 2.05, 6, 21, 1, []) is None
    order = find_spike(calm, 3.0, 6, 21, 1, [])
    assert order is not None
    assert (order.at_most, order.left_out) == (19, [19, 20])
    every_ten = find_spike(calm, 3.0, 6, 210, 10, [])
    assert (every_ten.at_most, every_ten.left_out) == (199, list(range(199, 210)))
    shifted = find_spike(calm, 3.0, 6, 21, 1, [3, 4])
    assert shifted.left_out == [21, 22]
    assert find_spike(calm[: ENOUGH - 1], 9.0, 6, 9, 1, []) is None
    assert find_spike(calm, float("nan"), 6, 21, 1, []) is None
    assert find_spike([2.0] * 20, 2.02, 6, 21, 1, []) is None  # a flat loss may move a little
    kept = list(range(100))
    remember(kept, 7.0)
    assert kept[-1] == 7.0
    assert len(kept) == WINDOW
    remember(kept, float("inf"))
    assert len(kept) == WINDOW


@pytest.mark.parametrize("left_out", [[], [0], [2, 3], [0, 1, 5, 9]])
def test_data_is_passed_over_and_nothing_else(left_out):
    read = [data_step(step, left_out) for step in range(12)]
    assert read == [data for data in range(12 + len(left_out)) if data not in left_out][:12]


def test_pretraining_names_the_documents_of_a_step(inputs, tmp_path):  # noqa: F811
    """As the corpus names them: by the beginning of their ids."""
    data = PretrainOptions.of(config())
    from llama3.config.phases import phases_of
    from llama3.data.plan import TokenPlan

    named = TokenDataset(TokenPlan.load(inputs["shards"].path), phases_of(data.pretrain), data.seed).documents(3)
    assert named
    assert len(set(named)) == len(named)
    assert all(len(name) == 16 and int(name, 16) < 80 for name in named)  # the toy's ids are numbers


def test_a_spike_in_pretraining_stands_in_the_ledger(inputs, tmp_path, monkeypatch):  # noqa: F811
    from llama3.training import loop

    def spike_once(losses, loss, factor, step, every, left_out, find=loop.find_spike):
        wanted = step == 14 and not left_out
        return find([2.0] * 8, 9.0, factor, step, every, left_out) if wanted else None

    monkeypatch.setattr(loop, "find_spike", spike_once)
    run_dir = RunDir(tmp_path)
    run_dir.execute(pretrain, inputs, PretrainOptions.of(config(spike=8.0, log_every=2)))
    rows = [row for row in rows_of_rank(tmp_path) if row["kind"] == "left_out"]
    assert [row["data"] for row in rows] == [11, 12, 13]
    assert all(row["documents"] for row in rows)
    assert json.loads(json.dumps(rows)) == rows
