"""The loop: it learns, and neither accumulation, repetition, interruption nor damage changes what it learns."""

import json
import logging
import os
import signal
from dataclasses import asdict

import pytest
import torch
from training_toys import Counting, Recorder, options, schedule, toy_model, weights

from llama3.errors import CheckpointError, Interrupted, LlamaError, PluginError
from llama3.model.batch import Batch, Segment, Tree
from llama3.training.algorithm import Algorithm, Plan, Term
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import MAX_BAD_UPDATES, train
from llama3.training.metrics import Loggers, Reporter
from llama3.training.placed import PlacedModel
from llama3_plugins.algorithms.next_token import NextToken


def run(
    model, dataset=None, *, steps=10, anneal=0, algorithm=None, store=None, changes=None, collate=Batch.concat, **more
):
    """Train and return (progress, rows logged)."""
    section = options(**(changes or {}))
    recorder, algorithm = Recorder(), algorithm or NextToken()
    progress = train(
        PlacedModel(model),
        algorithm,
        dataset or Counting(),
        options=section,
        schedule=schedule(section, steps, anneal),
        seed=3,
        collate=algorithm.collate or Batch.concat,
        store=store,
        reporter=Reporter("toy", Loggers([("recorder", recorder)])),
        **more,
    )
    return progress, recorder


def assert_equal(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_falls_on_a_toy_corpus(precision):
    _, rows = run(toy_model(), steps=40, changes={"precision": precision, "warmup": 5, "lr": 2e-2})
    loss = rows.column("loss")
    assert loss[0] > 3.9  # a uniform guess costs ln 61 = 4.11 nats
    assert sum(loss[-5:]) / 5 < 1.2


def test_the_logged_loss_and_norm_are_those_of_the_mean_over_all_targets():
    model = toy_model()
    batch = Batch.concat(Counting().examples(0))
    logits_TV = model.logits(model.hidden(batch)).float()
    loss = torch.nn.functional.cross_entropy(logits_TV[batch.source_M], batch.target_ids_M)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    progress, rows = run(toy_model(), steps=1)
    assert rows.column("loss")[0] == pytest.approx(loss.item(), abs=1e-6)
    assert rows.column("grad_norm")[0] == pytest.approx(norm.item(), rel=1e-5)
    assert progress.tokens == batch.num_tokens == rows.column("tokens")[0]


def test_one_step_is_torch_adamw_with_clipping_and_no_decay_on_norms():
    ours, theirs = toy_model(), toy_model()
    run(ours, steps=3, changes={"clip": 0.1, "weight_decay": 0.5, "warmup": 0, "final_lr": 1.0, "eps": 1e-4})
    norms = [p for p in theirs.parameters() if p.ndim < 2]
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-4, foreach=False)
    for step in range(3):
        batch = Batch.concat(Counting().examples(step))
        logits_TV = theirs.logits(theirs.hidden(batch)).float()
        torch.nn.functional.cross_entropy(logits_TV[batch.source_M], batch.target_ids_M).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    assert_equal(weights(ours), weights(theirs), 2e-6)


def test_accumulation_leaves_the_gradient_as_it_is():
    whole, cut = toy_model(), toy_model()
    _, one = run(whole, steps=1, changes={"microbatch_tokens": 8 * 24, "warmup": 0})
    _, eight = run(cut, steps=1, changes={"microbatch_tokens": 24, "warmup": 0})
    assert one.column("loss")[0] == pytest.approx(eight.column("loss")[0], abs=1e-6)
    assert one.column("grad_norm")[0] == pytest.approx(eight.column("grad_norm")[0], abs=1e-6)
    gradients = [{n: p.grad for n, p in model.named_parameters()} for model in (whole, cut)]
    assert_equal(*gradients, 2e-7)


def test_the_same_run_twice_is_equal_to_the_bit():
    models = toy_model(), toy_model()
    rows = [run(model, changes={"precision": "bf16"})[1] for model in models]
    assert_equal(weights(models[0]), weights(models[1]))
    assert rows[0].column("loss") == rows[1].column("loss")


# -- interruption --------------------------------------------------------------------------------


class Stops(Counting):
    """Raises, or signals the process, when the examples of a step are asked for."""

    def __init__(self, at, action):
        super().__init__()
        self.at, self.action = at, action

    def examples(self, step):
        if step == self.at:
            self.action()
        return super().examples(step)


def crash():
    raise RuntimeError("power cut")


def test_resume_is_equal_to_the_bit(tmp_path):
    recipe = {"steps": 6, "anneal": 4, "snapshots": frozenset({8, 10})}
    straight = toy_model()
    whole, whole_rows = run(straight, store=CheckpointStore(tmp_path / "a"), **recipe)

    store = CheckpointStore(tmp_path / "b")
    for at in (2, 6, 9):  # before the first checkpoint, after it, and between two snapshots of the average
        with pytest.raises(RuntimeError, match="power cut"):
            run(toy_model(), Stops(at, crash), store=store, **recipe)
    resumed = toy_model(seed=99)  # whatever it starts from, the checkpoint decides
    progress, rows = run(resumed, store=store, **recipe)

    assert progress == whole
    assert_equal(weights(straight), weights(resumed))
    for group in ("model", "optimizer", "average"):
        assert_equal(CheckpointStore(tmp_path / "a").load().tensors(group), store.load().tensors(group))
    assert timeless(rows) == timeless(whole_rows)[-len(rows.rows) :]
    assert rows.rows[0][0] == 9


def timeless(recorder):
    return [(step, {**metrics, "tokens_per_second": None}) for step, metrics in recorder.rows]


def test_a_finished_run_has_nothing_to_do(tmp_path):
    store, models = CheckpointStore(tmp_path), (toy_model(), toy_model(seed=1))
    recipe = {"steps": 4, "anneal": 2, "snapshots": frozenset({5, 6})}
    first, _ = run(models[0], store=store, **recipe)
    again, rows = run(models[1], Stops(0, crash), store=store, **recipe)
    assert again == first
    # In the same order too: a stage that is killed right after its last step makes the same bytes of it.
    assert json.dumps(asdict(again)) == json.dumps(asdict(first))
    assert rows.rows == []
    assert_equal(weights(models[0]), weights(models[1]))  # the average, not the last weights


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_stops(tmp_path, number):
    straight, resumed = toy_model(), toy_model()
    run(straight)
    store = CheckpointStore(tmp_path)
    with pytest.raises(Interrupted, match="stopped after step 7 of 10"):
        run(resumed, Stops(6, lambda: os.kill(os.getpid(), number)), store=store)
    assert store.steps()[-1] == 7
    run(resumed, store=store)
    assert_equal(weights(straight), weights(resumed))
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_a_second_signal_stops_at_once():
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(toy_model(), Stops(1, twice))


def test_another_runs_checkpoints_are_refused(tmp_path):
    store = CheckpointStore(tmp_path)
    run(toy_model(), store=store, identity={"tokenizer": "a"})
    before = store.steps()
    with pytest.raises(CheckpointError, match=r"tokenizer was 'a' and is now 'b'.*L3-TRN-014"):
        run(toy_model(), store=store, identity={"tokenizer": "b"})
    assert store.steps() == before


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    store = CheckpointStore(tmp_path)
    run(toy_model(), store=store)
    other = toy_model()
    other.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(CheckpointError, match="'extra' is missing"):
        run(other, store=store)


# -- averaging -----------------------------------------------------------------------------------


def test_the_final_weights_are_the_mean_of_the_snapshots():
    snapshots = []

    class Watching(Counting):
        def examples(self, step):  # called before step `step` (0-based): the weights after `step` steps
            snapshots.append(weights(model))
            return super().examples(step)

    model = toy_model()
    run(model, Watching(), steps=4, anneal=6, snapshots=frozenset({6, 8, 10}), changes={"final_lr": 0.5})
    # after steps 6, 8 and 10; the last step has a learning rate of 0 and leaves the weights of step 9
    mean = {name: (snapshots[6][name] + snapshots[8][name] + snapshots[9][name]) / 3 for name in snapshots[0]}
    assert_equal(weights(model), mean, 1e-7)
    assert not torch.equal(snapshots[6]["embed.weight"], snapshots[9]["embed.weight"])


# -- broken numbers ------------------------------------------------------------------------------


class Breaking(NextToken):
    """NaN losses while `broken` says so."""

    def __init__(self, broken):
        self.broken, self.calls = broken, 0

    def loss(self, scored, batch):
        self.calls += 1
        factor = float("nan") if self.broken(self.calls) else 1.0
        return {"next_token": Term(-scored.logps_M.sum() * factor, per="target")}


def test_an_update_that_is_not_finite_is_left_out_and_counted(caplog):
    seen = []

    class Watching(Counting):
        def examples(self, step):
            seen.append(weights(model))
            return super().examples(step)

    model = toy_model()
    progress, rows = run(model, Watching(), steps=4, algorithm=Breaking(lambda call: call == 2))
    assert progress.skipped == 1
    assert "step 2: the gradient norm is nan; update skipped" in caplog.text
    assert_equal(seen[1], seen[2])
    assert not torch.equal(seen[2]["embed.weight"], seen[3]["embed.weight"])
    assert all(p.isfinite().all() for p in model.parameters())
    assert rows.column("skipped") == [0, 1, 1, 1]


def test_training_stops_when_nothing_is_finite_any_more(tmp_path):
    store = CheckpointStore(tmp_path)
    with pytest.raises(LlamaError, match=r"step 10: 5 updates in a row.*L3-TRN-002"):
        run(toy_model(), steps=20, store=store, algorithm=Breaking(lambda call: call > 5))
    assert store.load().step == 8  # the last that was due; its weights are those of step 5


@pytest.mark.parametrize(("steps", "told"), [(3, 3), (20, MAX_BAD_UPDATES)])
def test_training_that_has_no_finite_gradient_at_all_fails(tmp_path, steps, told):
    store = CheckpointStore(tmp_path)
    with pytest.raises(LlamaError, match=rf"none of {told} updates by .*Breaking had a finite gradient.*L3-TRN-005"):
        run(toy_model(), steps=steps, store=store, algorithm=Breaking(lambda call: True))
    assert (store.load() is None) == (steps == 3), "a last step that is refused is not saved"
    run(toy_model(), steps=3, algorithm=Breaking(lambda call: call > 1))


def test_scattered_bad_updates_do_not_stop_training():
    progress, _ = run(toy_model(), steps=12, algorithm=Breaking(lambda call: call % MAX_BAD_UPDATES == 0))
    assert progress.skipped == 2
    assert progress.step == 12


class Rewarded(Algorithm):
    """Reward-weighted likelihood of answers that share a prompt."""

    plan = Plan(samples=3)

    def collate(self, examples):
        return Batch.of_trees(examples)

    def prepare(self, batch, services):
        return batch

    def loss(self, scored, batch):
        weighted_S = batch.mean_by_segment(scored.logps_M) * batch.per_segment["reward"].nan_to_num()
        return {"likelihood": Term(-weighted_S.sum(), per="segment")}


class Answers:
    def __init__(self, rewards):
        self.rewards = rewards

    def examples(self, step):
        return [
            Tree(
                [
                    Segment([1, 2, tree]),
                    *(Segment([3 + k, 4, 5], 0, True, per_segment={"reward": reward}) for k, reward in enumerate(row)),
                ]
            )
            for tree, row in enumerate(self.rewards)
        ]


def test_segments_without_a_reward_are_dropped_and_counted():
    nan = float("nan")
    with_gaps, without = toy_model(), toy_model()
    progress, _ = run(with_gaps, Answers([[1.0, nan, 0.5], [nan, nan], [2.0]]), steps=1, algorithm=Rewarded())
    run(without, Answers([[1.0, 7.0, 0.5], [], [2.0]]), steps=1, algorithm=OnlyScored())
    assert progress.dropped == {"no_reward": 3}
    assert_equal(*({n: p.grad for n, p in m.named_parameters()} for m in (with_gaps, without)), 1e-7)


class OnlyScored(Rewarded):
    """Takes by hand what the loop should have kept of `test_segments_without_a_reward...`."""

    def collate(self, examples):
        return Batch.of_trees(examples).keep([1, 3, 6])


def test_a_step_without_anything_to_train_on_is_skipped(caplog):
    model = toy_model()
    before = weights(model)
    progress, _ = run(model, Answers([[float("nan")] * 2]), steps=2, algorithm=Rewarded())
    assert (progress.skipped, progress.dropped, progress.bad_in_a_row) == (2, {"no_reward": 4}, 0)
    assert "nothing to train on" in caplog.text
    assert_equal(before, weights(model))


def test_epochs_and_minibatches_visit_every_tree_once_per_epoch():
    seen = []

    class Passes(Rewarded):
        plan = Plan(epochs=2, minibatches=2)

        def loss(self, scored, batch):
            seen.append(sorted(batch.tokens_T[batch.starts_S1[batch.roots_R].long() + 2].tolist()))
            return super().loss(scored, batch)

    run(toy_model(), Answers([[1.0]] * 6), steps=1, algorithm=Passes())
    assert [len(part) for part in seen] == [3, 3, 3, 3]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(6))


def test_fewer_trees_than_minibatches_leaves_updates_out():
    class Passes(Rewarded):
        plan = Plan(minibatches=3)

    progress, _ = run(toy_model(), Answers([[1.0], [1.0]]), steps=1, algorithm=Passes())
    assert progress.skipped == 1


# -- the rest ------------------------------------------------------------------------------------


def test_terms_are_divided_by_the_count_of_their_unit():
    class Units(Rewarded):
        def loss(self, scored, batch):
            one = scored.logps_M.sum() * 0 + 1.0
            return {
                "a": Term(one * batch.num_targets, per="target"),
                "b": Term(one * 4, per="segment", weight=2.0),
                "c": Term(one * batch.num_trees * 3, per="tree"),
            }

    _, rows = run(toy_model(), Answers([[1.0, 1.0], [1.0, 1.0]]), steps=1, algorithm=Units())
    (metrics,) = (metrics for _, metrics in rows.rows)
    assert (metrics["loss/a"], metrics["loss/b"], metrics["loss/c"]) == (1.0, 2.0, 3.0)
    assert metrics["loss"] == 6.0


def test_an_algorithms_state_travels_with_the_checkpoint(tmp_path):
    class Counter(NextToken):
        def __init__(self):
            self.prepared = 0

        def prepare(self, batch, services):
            self.prepared += 1
            return batch

        def state_dict(self):
            return {"prepared": self.prepared}

        def load_state_dict(self, state):
            self.prepared = state["prepared"]

    store = CheckpointStore(tmp_path)
    run(toy_model(), steps=4, algorithm=Counter(), store=store)
    again = Counter()
    run(toy_model(), steps=4, algorithm=again, store=store)
    assert again.prepared == 4


class Looks(NextToken):
    """Remembers which columns the loss and the metrics were given."""

    def __init__(self):
        self.seen = []

    def loss(self, scored, batch):
        self.seen.append({name for name, column in vars(scored).items() if column is not None})
        return super().loss(scored, batch)


def test_a_column_that_only_metrics_read_is_computed_on_logged_steps():
    looks = Looks()
    run(toy_model(), steps=4, algorithm=looks, changes={"log_every": 2}, want_logged=frozenset({"entropy"}))
    assert looks.seen == [{"logps_M"}, {"logps_M", "entropy_M"}] * 2


def test_metrics_do_not_depend_on_how_a_step_is_cut():
    class Measured(NextToken):
        def metrics(self, scored, batch):
            lengths = batch.lengths_S.double()
            return {"logp": Term(scored.logps_M.sum(), per="target"), "length": Term(lengths.sum(), per="tree")}

    whole, cut = (
        run(toy_model(), steps=1, algorithm=Measured(), changes={"microbatch_tokens": n})[1] for n in (8 * 24, 24)
    )
    for name in ("logp", "length"):
        assert whole.column(name)[0] == pytest.approx(cut.column(name)[0], rel=1e-6)
    assert whole.column("logp")[0] == pytest.approx(-whole.column("loss")[0], rel=1e-6)


@pytest.mark.parametrize("which", ["loss", "metrics"])
def test_a_loss_or_a_metric_that_is_no_term_is_refused_by_name(which):
    class First(NextToken):
        """As plugins of the first api may be."""

    setattr(First, which, lambda self, scored, batch: {"logp": scored.logps_M.mean()})
    with pytest.raises(PluginError, match=r"logp: a Tensor in place of a Term.*L3-TRN-003"):
        run(toy_model(), steps=1, algorithm=First())


def test_throughput_uses_the_given_clock():
    ticks = iter(range(100))
    _, rows = run(toy_model(), steps=3, clock=lambda: float(next(ticks)))
    assert rows.column("tokens_per_second") == [8 * 24.0] * 3


def test_loggers_fail_open(caplog):
    class Broken(Recorder):
        def log(self, step, metrics):
            raise OSError("disk full")

    good = Recorder()
    section = options()
    loggers = Loggers([("broken", Broken()), ("good", good)])
    with caplog.at_level(logging.WARNING):
        train(
            PlacedModel(toy_model()),
            NextToken(),
            Counting(),
            collate=Batch.concat,
            options=section,
            schedule=schedule(section, 3),
            seed=0,
            reporter=Reporter("toy", loggers),
        )
    assert len(good.rows) == 3
    assert caplog.text.count("logger 'broken' failed in log()") == 1
