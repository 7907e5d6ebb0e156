"""The bytes that one rank needs for training, from the model's shape and what the strategies of its layout leave to it.

Weights, gradients, their sums over microbatches and AdamW's two moments are float32, whatever the products are computed
in; a copy of the weights in the type of the products stands beside them. What a layer keeps for the backward pass is
counted tensor by tensor (`llama3.model.activations.Kept`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llama3.model.activations import FLOAT
from llama3.model.config import ModelConfig
from llama3.training.estimate import Cost, StepShape


@dataclass(frozen=True, slots=True)
class RankBytes:
    """Of the fullest rank, at the moment of a step at which it needs the most.

    weights: its own in float32
    gathered: weights of others, sums of whole gradients, or a copy of its weights for products
    keys: keys and values, of all ranks' tokens where they are gathered
    head: scores over the vocabulary and the gradient of the output matrix, while they are made
    """

    weights: float
    gathered: float
    gradients: float
    optimizer: float
    activations: float
    keys: float
    head: float

    @property
    def total(self) -> float:
        states = self.weights + self.gathered + self.gradients + self.optimizer
        return states + self.activations + self.keys + self.head


def rank_bytes(
    model: ModelConfig, step: StepShape, cost: Cost, *, chunk_logits: float, kept_logits: float
) -> RankBytes:
    """What a rank needs where `cost` is what all strategies of its layout leave to it.

    chunk_logits, kept_logits: how many scores over the vocabulary are computed at once, and up to how many of a
    microbatch are kept for the backward pass (llama3.model.score)
    """
    own, tokens = model.num_params() * cost.weights, step.tokens
    kept, layers = step.kept(model), model.n_layers * tokens
    rows = cost.rows * (step.stream * kept.rows + FLOAT * kept.norms)
    rows += step.width * (cost.inputs * kept.inputs + cost.channels * kept.channels)
    # Of one microbatch only, whatever else is alive: the last hidden states, normed and picked, and the scores.
    ends = cost.logits * tokens * model.dim * (step.stream + 2 * step.width)
    scores = cost.logits * tokens * model.vocab_size
    at_once = min(scores, chunk_logits) * (FLOAT + step.width * (step.width < FLOAT))
    kept_scores = scores * step.width * (scores <= kept_logits)
    copy = cost.gathered or (own * step.width if step.width < FLOAT else 0.0)
    found = RankBytes(
        weights=FLOAT * own * cost.states,
        gathered=copy,
        gradients=FLOAT * own * cost.states,
        optimizer=2 * FLOAT * own * cost.states,
        activations=layers * rows + ends,
        keys=layers * cost.keys * kept.keys * step.width,
        head=kept_scores + at_once + 2 * FLOAT * model.vocab_size * model.dim * cost.logits,
    )
    if step.microbatches > 1:
        return found
    # A single microbatch's gradients come as what was kept for them goes.
    return replace(found, gradients=max(0.0, found.gradients - found.activations - found.keys))
