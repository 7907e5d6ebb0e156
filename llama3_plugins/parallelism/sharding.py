"""What sharding weights, gradients and moments over ranks costs (ZeRO-3; Rajbhandari et al. 2020)."""

from __future__ import annotations

from llama3.parallelism import Cost, Dims, ModelConfig, StepShape


def sharded(
    model: ModelConfig, dims: Dims, step: StepShape, *, reshard: bool, replicas: int = 1, width: int = 2
) -> Cost:
    """Of ranks along dp and cp that share everything they keep; with `replicas` in so many whole copies.

    A rank gathers weights in `width` bytes a number: for every forward and every
    backward (`reshard`), where the ends of the model and two blocks stand whole at a time, or once an update, where all
    do. Gradients are added up whole over the microbatches and handed on once.
    """
    ranks, of_parts = dims.dp * dims.cp // replicas, dims.tp * dims.pp
    if dims.dp * dims.cp == 1:
        return Cost()
    own, away = model.num_params() / of_parts, 1 - 1 / ranks
    embedding = model.vocab_size * model.dim
    ends = embedding * (1 if model.tied or dims.pp > 1 else 2) / dims.tp
    block = (model.num_params() - embedding * (1 if model.tied else 2)) / model.n_layers / dims.tp
    at_once = min(own, ends + 2 * block)
    gradients = 4 * (own if step.microbatches > 1 else at_once)
    gathers = 2 * step.microbatches if reshard else 1
    copies = 2 * 4 * own / ranks * (1 - 1 / replicas)
    return Cost(
        states=1 / ranks,
        gathered=width * (at_once if reshard else own) + gradients,
        behind=away * own * (gathers * width + 4) + copies,
        messages_behind=(gathers + 1) * (model.n_layers / dims.pp + 1),
    )
