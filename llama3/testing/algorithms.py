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

from llama3.config.schema import OptimizerSection
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.score import Scored, score
from llama3.model.transformer import Transformer
from llama3.plugins.specs import AlgorithmSpec
from llama3.testing.conformance import Conformance
from llama3.testing.toys import ToyData, ToyServices, expected_toy_reward, toy_examples, toy_model
from llama3.training.algorithm import Algorithm
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train, wants
from llama3.training.microbatch import UNITS, count_units, drop_unscorable
from llama3.training.schedule import Schedule


class AlgorithmConformance(Conformance):
    """Checks of an algorithm on a toy model. Override `examples` where your `collate` reads another type."""

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
        algorithm, batch, scored = self._scored()
        batch = _as_double(batch)
        names = [name for name, value in vars(scored).items() if value is not None]
        values = [getattr(scored, name).detach().double().requires_grad_() for name in names]

        def loss(*inputs: Tensor) -> Tensor:
            return self._total(algorithm, Scored(**dict(zip(names, inputs, strict=True))), batch)

        torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-5, rtol=1e-4)

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

    def test_metrics_are_scalars(self) -> None:
        algorithm, batch, scored = self._scored()
        for name, value in algorithm.metrics(scored, batch).items():
            assert torch.as_tensor(value).numel() == 1, f"{name} is no scalar"

    def test_loss_falls_on_a_toy_task(self) -> None:
        """Where answers are sampled, every step has a loss of its own: there the policy's expected reward must rise."""
        algorithm, model, batch = self._prepared()
        rollouts = "rollouts" in self._spec().needs

        @torch.no_grad()
        def measure() -> float:
            if rollouts:
                return -expected_toy_reward(model, batch)
            return float(self._total(algorithm, score(model, batch, self._want()), batch))

        before = measure()
        self._train(model, algorithm, self.steps)
        after = measure()
        assert math.isfinite(after)
        what = "minus the expected reward" if rollouts else "the loss"
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

    def _want(self) -> Any:
        return wants(self._spec().needs)

    def _prepared(self) -> tuple[Algorithm, Transformer, Batch]:
        """The algorithm, a toy model and a prepared batch, as the loop hands it to the loss.

        The reference is another model than the policy, so that ratios between them are not all 1.
        """
        algorithm, model = self.build(), toy_model()
        with torch.no_grad():
            batch = algorithm.prepare(algorithm.collate(self.examples()), ToyServices(toy_model(seed=1)))
        kept, _ = drop_unscorable(batch)
        assert kept.num_targets, "nothing to learn in the prepared batch"
        return algorithm, model, kept

    def _scored(self) -> tuple[Algorithm, Batch, Scored]:
        algorithm, model, batch = self._prepared()
        with torch.no_grad():
            return algorithm, batch, score(model, batch, self._want(), algorithm.plan.scored_at(1.0))

    def _total(self, algorithm: Algorithm, scored: Scored, batch: Batch, counts: list[int] | None = None) -> Tensor:
        """The loss of a whole update: each term over the number of its units, as the loop does."""
        counts = counts or count_units(batch)
        terms = algorithm.loss(scored, batch).values()
        return torch.stack([term.sum * term.weight / max(counts[UNITS.index(term.per)], 1) for term in terms]).sum()

    def _assert_same_gradient(
        self, algorithm: Algorithm, model: Transformer, one: list[Batch], other: list[Batch]
    ) -> None:
        names = [name for name, _ in model.named_parameters()]
        first, second = (self._gradients(algorithm, model, parts) for parts in (one, other))
        named = [dict(zip(names, gradients, strict=True)) for gradients in (first, second)]
        torch.testing.assert_close(*named, rtol=1e-4, atol=1e-6)

    def _gradients(self, algorithm: Algorithm, model: Transformer, parts: list[Batch]) -> list[Tensor]:
        counts = [sum(column) for column in zip(*map(count_units, parts), strict=True)]
        model.zero_grad()
        for part in parts:
            scored = score(model, part, self._want(), algorithm.plan.scored_at(1.0))
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
                model,
                algorithm,
                _StopAfter(self.examples(), stop),
                options=options,
                schedule=Schedule(peak=options.lr, final=1.0, warmup=0, steps=total or stop),
                seed=0,
                needs=self._spec().needs,
                services=ToyServices(model),
                store=CheckpointStore(store) if store else None,
            )


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
    return score(model, Batch.of_trees(trees), want)


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
