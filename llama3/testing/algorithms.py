"""Conformance of training algorithms: pure losses whose gradient does not depend on how a batch is cut or packed."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llama3.config.schema import OptimizerSection
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.score import Scored, score
from llama3.model.transformer import Transformer
from llama3.plugins.specs import AlgorithmSpec, Need, Want
from llama3.tasks.data_kind import data_kind
from llama3.testing.conformance import Conformance
from llama3.testing.toys import ToyData, ToyServices, expected_toy_reward, toy_examples, toy_model, toy_rollouts
from llama3.training.algorithm import Algorithm, Collate
from llama3.training.asked_algorithm import shares
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.microbatch import UNITS, count_units
from llama3.training.placed import PlacedModel
from llama3.training.schedule import Schedule


class AlgorithmConformance(Conformance):
    """Checks of an algorithm on a toy model. Override `examples` where your `collate` reads another type.

    The model is scored for what the spec names under `want` (and `want_logged`, for metrics) and for nothing else.
    """

    family = "algorithms"
    steps = 30
    """Steps of the toy task on which the loss must fall."""
    lr = 3e-3

    def examples(self) -> list[Any]:
        """Eight examples of the kind that the spec declares."""
        return toy_examples(self._spec().data)

    # -- the loss as a function ------------------------------------------------------------------

    def test_loss_is_finite_and_its_units_are_known(self) -> None:
        algorithm, batch, scored = self._scored()
        terms = algorithm.loss(scored, batch)
        assert terms, "no loss term"
        for name, term in terms.items():
            assert term.sum.dim() == 0, f"{name} is no scalar"
            assert bool(torch.isfinite(term.sum)), f"{name} is {term.sum}"
            assert term.per in UNITS, f"{name} is per {term.per!r}, not one of {UNITS}"

    def test_loss_is_pure(self) -> None:
        algorithm, batch, scored = self._scored()
        before = [column.clone() for column in _columns(batch)]
        torch.manual_seed(0)
        first = self._total(algorithm, scored, batch)
        torch.manual_seed(1)
        again = self._total(algorithm, scored, batch)
        assert torch.equal(first, again), "two calls differ: randomness or state in the loss"
        assert all(map(_same, before, _columns(batch))), "the loss changed its batch"

    def test_gradient_is_that_of_the_loss(self) -> None:
        """By finite differences. Where answers are sampled, what a loss detaches is the policy that drew them: it stays
        as it was, while the policy that learns moves. So do weights that are made of what has no gradient."""
        algorithm, batch, scored = self._scored()
        batch = _as_double(batch)
        names = [name for name, value in vars(scored).items() if value is not None]
        values = [getattr(scored, name).detach().double().requires_grad_() for name in names]
        weighs = "rollouts" in self._spec().needs or "collision" in self._want()
        frozen = _Detached() if weighs else contextlib.nullcontext()

        def loss(*inputs: Tensor) -> Tensor:
            with frozen:
                return self._total(algorithm, Scored(**dict(zip(names, inputs, strict=True))), batch)

        loss(*values)
        right = torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-5, rtol=1e-4, raise_exception=False)
        assert right, "the gradient is not that of the loss: finite differences say otherwise"

    def test_heads_that_are_read_are_needed(self) -> None:
        spec = self._spec()
        heads: dict[Want, Need] = {"values": "value", "score": "score_head"}
        lacking = [f"{need} for {column}" for column, need in heads.items()
                   if column in spec.want | spec.want_logged and need not in spec.needs]  # fmt: skip
        assert not lacking, f"`needs` of the spec lacks {', '.join(lacking)}"

    def test_an_empty_batch_counts_for_nothing(self) -> None:
        """It is what a rank has without a share of the step, or where none of its answers has a reward."""
        algorithm, model = self.build(), toy_model()
        with torch.no_grad():
            batch = algorithm.prepare(self._drawn(algorithm, model).select([]), ToyServices(model))
            assert batch.num_trees == 0, "trees out of nothing"
            assert float(self._total(algorithm, score(model, batch, self._want()), batch)) == 0

    # -- the loss and how a batch is put together ------------------------------------------------

    def test_order_of_trees_does_not_matter(self) -> None:
        algorithm, model, batch = self._prepared()
        backwards = batch.select(torch.arange(batch.num_trees - 1, -1, -1))
        self._assert_same_gradient(algorithm, model, [batch], [backwards])

    def test_packing_does_not_matter(self) -> None:
        algorithm, model, batch = self._prepared()
        alone = [batch.select([tree]) for tree in range(batch.num_trees)]
        self._assert_same_gradient(algorithm, model, [batch], alone)

    def test_accumulation_does_not_matter(self) -> None:
        algorithm, model, batch = self._prepared()
        self._assert_same_gradient(algorithm, model, batch.split(2), batch.split(5))

    def test_a_shared_prompt_counts_as_a_repeated_one(self) -> None:
        algorithm, model, batch = self._prepared()
        shared = score(model, batch, self._want())
        repeated = _score_repeated(model, batch, self._want())
        totals = [self._total(algorithm, scored, batch) for scored in (shared, repeated)]
        torch.testing.assert_close(*totals, rtol=1e-5, atol=1e-6)

    # -- the algorithm in the loop ---------------------------------------------------------------

    def test_state_survives_json(self) -> None:
        algorithm = self.build()
        state = json.loads(json.dumps(algorithm.state_dict()))
        other = self.build()
        other.load_state_dict(state)
        assert other.state_dict() == algorithm.state_dict()

    def test_metrics_do_not_depend_on_how_a_step_is_cut(self) -> None:
        algorithm, model, batch = self._prepared()
        alone = [batch.select([tree]) for tree in range(batch.num_trees)]
        whole, cut = (self._metrics(algorithm, model, parts) for parts in ([batch], alone))
        assert whole.keys() == cut.keys(), "the names of the metrics follow the batch"
        for name, value in whole.items():
            assert math.isclose(value, cut[name], rel_tol=1e-4, abs_tol=1e-5), f"{name}: {value} and {cut[name]}"

    def test_loss_falls_on_a_toy_task(self) -> None:
        """Where answers are rewarded, each step has a loss of its own: there the policy's expected reward must rise."""
        algorithm, model, batch = self._prepared()
        rewarded = "reward" in self._spec().needs

        @torch.no_grad()
        def measure() -> float:
            if rewarded:
                return -expected_toy_reward(model, batch)
            return float(self._total(algorithm, score(model, batch, self._want()), batch))

        before = measure()
        self._train(model, algorithm, self.steps)
        after = measure()
        assert math.isfinite(after)
        what = "minus the expected reward" if rewarded else "the loss"
        assert after < before, f"{what} went from {before:.4f} to {after:.4f} in {self.steps} steps"

    def test_a_resumed_run_equals_an_uninterrupted_one(self) -> None:
        whole = toy_model()
        self._train(whole, self.build(), 6)
        with tempfile.TemporaryDirectory() as folder:
            self._train(toy_model(), self.build(), 3, total=6, store=Path(folder))
            resumed = toy_model()
            self._train(resumed, self.build(), 6, store=Path(folder))
        pairs = zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for (_, one), other in pairs), "resuming changed the weights"

    # -- helpers ---------------------------------------------------------------------------------

    def _spec(self) -> AlgorithmSpec:
        spec = self.spec
        assert isinstance(spec, AlgorithmSpec)
        return spec

    def _want(self) -> frozenset[Want]:
        return self._spec().want

    def _collate(self, algorithm: Algorithm) -> Collate:
        return algorithm.collate or data_kind(self._spec().data).collate

    def _draws(self, algorithm: Algorithm) -> bool:
        return "rollouts" in self._spec().needs and algorithm.plan.own > 0

    def _drawn(self, algorithm: Algorithm, model: Transformer) -> Batch:
        """The toy batch as the loop hands it to `prepare`."""
        batch = self._collate(algorithm)(self.examples())
        if self._draws(algorithm):
            numbered = batch.with_(per_tree={"number": torch.arange(batch.num_trees)})
            batch = toy_rollouts(model).draw(numbered, algorithm.plan.samples, seed=0, own=algorithm.plan.own)
        return batch

    def _prepared(self) -> tuple[Algorithm, Transformer, Batch]:
        """The algorithm, a toy model and a prepared batch, as the loop hands it to the loss.

        The reference is another model than the policy, so that ratios between them are not all 1.
        """
        algorithm, model = self.build(), toy_model()
        with torch.no_grad():
            other = toy_model(seed=1)
            batch = algorithm.prepare(self._drawn(algorithm, other), ToyServices(other))
        assert batch.num_targets, "nothing to learn in the prepared batch"
        return algorithm, model, batch

    def _scored(self) -> tuple[Algorithm, Batch, Scored]:
        algorithm, model, batch = self._prepared()
        with torch.no_grad():
            return algorithm, batch, score(model, batch, self._want())

    def _total(self, algorithm: Algorithm, scored: Scored, batch: Batch, counts: list[int] | None = None) -> Tensor:
        """The loss of a whole update: each term over the number of its units, as the loop does."""
        return torch.stack(list(shares(algorithm.loss(scored, batch), counts or count_units(batch)).values())).sum()

    @torch.no_grad()
    def _metrics(self, algorithm: Algorithm, model: Transformer, parts: list[Batch]) -> dict[str, float]:
        """The metrics of an update that is cut into `parts`."""
        counts, spec = _counts(parts), self._spec()
        found: dict[str, float] = {}
        for part in parts:
            terms = algorithm.metrics(score(model, part, spec.want | spec.want_logged), part)
            for name, value in shares(terms, counts).items():
                assert value.dim() == 0, f"{name} is no scalar"
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def _assert_same_gradient(
        self, algorithm: Algorithm, model: Transformer, one: list[Batch], other: list[Batch]
    ) -> None:
        names = [name for name, _ in model.named_parameters()]
        first, second = (self._gradients(algorithm, model, parts) for parts in (one, other))
        named = [dict(zip(names, gradients, strict=True)) for gradients in (first, second)]
        torch.testing.assert_close(*named, rtol=1e-4, atol=1e-6)

    def _gradients(self, algorithm: Algorithm, model: Transformer, parts: list[Batch]) -> list[Tensor]:
        counts = _counts(parts)
        model.zero_grad()
        for part in parts:
            scored = score(model, part, self._want())
            self._total(algorithm, scored, part, counts).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    def _train(
        self, model: Transformer, algorithm: Algorithm, stop: int, *, total: int = 0, store: Path | None = None
    ) -> None:
        """Train on the toy examples; with `total` above `stop` the run is cut short after a checkpoint."""
        options = OptimizerSection(
            lr=self.lr, warmup=0, precision="fp32", microbatch_tokens=64, checkpoint_every=3, log_every=10**9
        )
        with contextlib.suppress(_KilledError):
            train(
                PlacedModel(model),
                algorithm,
                _StopAfter(self.examples(), stop),
                options=options,
                schedule=Schedule.cosine(peak=options.lr, final=1.0, warmup=0, steps=total or stop),
                seed=0,
                collate=self._collate(algorithm),
                want=self._spec().want,
                want_logged=self._spec().want_logged,
                services=ToyServices(model),
                rollouts=toy_rollouts(model) if self._draws(algorithm) else None,
                store=CheckpointStore(store) if store else None,
            )


class _Detached(TorchFunctionMode):
    """What a function detaches at its first call is what it gets at every later one."""

    def __init__(self) -> None:
        super().__init__()
        self._first: list[Tensor] = []
        self._is_first, self._place = True, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") != "detach":
            return found
        if self._is_first:
            self._first.append(found.clone())  # the inputs are moved in place
            return found
        self._place += 1
        return self._first[self._place - 1]

    def __exit__(self, *error: Any) -> None:
        self._is_first, self._place = False, 0
        super().__exit__(*error)


class _KilledError(Exception):
    """Stands for the end of a process that was killed."""


class _StopAfter(ToyData):
    """Gives no examples for the steps from `stop` on: a run that was killed there."""

    def __init__(self, examples: list[Any], stop: int) -> None:
        super().__init__(examples)
        self._stop = stop

    def examples(self, step: int) -> Any:
        if step >= self._stop:
            raise _KilledError
        return super().examples(step)


def _score_repeated(model: Transformer, batch: Batch, want: Any) -> Scored:
    """Scores of a forest computed without sharing: every segment, behind a copy of its ancestors, is a document."""
    is_target_T = torch.zeros(batch.num_tokens, dtype=torch.bool)
    is_target_T[batch.targets_M] = True
    trees = []
    for segment in range(batch.num_segments):
        path = [segment]
        while (parent := int(batch.parents_S[path[0]])) >= 0:
            path.insert(0, parent)
        spans = [slice(*batch.starts_S1[part : part + 2].tolist()) for part in path]
        tokens_T = torch.cat([batch.tokens_T[span] for span in spans])
        mask_T = torch.cat([is_target_T[span] & (part == segment) for part, span in zip(path, spans, strict=True)])
        trees.append(Tree([Segment(tokens_T.numpy(), is_target=mask_T.numpy())]))
    return score(model, Batch.of_trees(trees).with_(per_target=batch.per_target), want)


def _counts(parts: list[Batch]) -> list[int]:
    """Units of an update that is cut into `parts`."""
    return [sum(column) for column in zip(*map(count_units, parts), strict=True)]


def _columns(batch: Batch) -> list[Tensor]:
    return [*batch.per_target.values(), *batch.per_segment.values(), *batch.per_tree.values(), batch.tokens_T]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal, NaN to NaN too."""
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def _as_double(batch: Batch) -> Batch:
    """Float columns in float64, so that finite differences are not lost in rounding."""

    def doubled(columns: Any) -> dict[str, Tensor]:
        return {name: column.double() if column.is_floating_point() else column for name, column in columns.items()}

    return batch.with_(
        per_target=doubled(batch.per_target),
        per_segment=doubled(batch.per_segment),
        per_tree=doubled(batch.per_tree),
    )
