"""One placed model: a network laid over the ranks of a run, and all that others want of it.

Training, scoring, sampling, checkpoints and the final weights ask it, and nobody else knows who holds which part.
It is built without storage, cut by the strategies, and only then filled, each rank with what it holds: none ever has or
reads the whole of a sharded model, but for the copy it samples with.

Legend: T tokens, D model dim, M targets of a batch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from llama3.checkpoints.adapter import base_tensors, weights_hash
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.load import check_shapes, read_parameter
from llama3.checkpoints.weights import write_model
from llama3.config.precision import AutoPrecision
from llama3.config.schema import LoRASection
from llama3.errors import CheckpointError, ConfigError, Problem
from llama3.inference.completion import Completion, Generator
from llama3.inference.engine import throughput_engine
from llama3.inference.sampling import Sampling
from llama3.inference.working_copy import sampling_dtype, weight_of
from llama3.model.batch import Batch
from llama3.model.build import HEADS, draw_weight, empty_model
from llama3.model.config import ModelConfig
from llama3.model.lora import MergeError, adapter_tensors, draw_adapter, merge, place_lora, without_adapters
from llama3.model.precision import autocast
from llama3.model.score import Microbatch, score_stage, top_stage
from llama3.model.shards import like, local, whole
from llama3.model.transformer import Transformer
from llama3.training.agreement import refuse_together
from llama3.training.messages import broadcast_tensor
from llama3.training.microbatch import cut
from llama3.training.parallel import Columns, Parallel, ParallelContext, Read
from llama3.training.sampler import ShardedSampler

if TYPE_CHECKING:
    import numpy.typing as npt


class PlacedModel:
    """A `Transformer` after the strategies were applied (`module`), and the strategies (`parallel`)."""

    def __init__(self, module: Transformer, parallel: Parallel | None = None) -> None:
        """`module` as it is; by default it is whole, in this process."""
        self.module, self.config = module, module.config
        self.parallel = parallel or Parallel(ParallelContext(next(module.parameters()).device))
        self.context = self.parallel.context
        self.runner = self.parallel.runner(module)

    @classmethod
    def drawn(cls, config: ModelConfig, seed: int, parallel: Parallel) -> Self:
        """A new model. Its weights depend on the seed and their names only, not on how it is placed."""

        def fill(name: str, parameter: Tensor) -> None:
            parameter.copy_(like(parameter, draw_weight(config, seed, name, parameter.shape)))

        return cls._filled(empty_model(config, ()), parallel, fill)

    @classmethod
    def undrawn(cls, config: ModelConfig, parallel: Parallel) -> Self:
        """A model whose weights are whatever memory holds, until those of a training's checkpoint take their place."""
        return cls._filled(empty_model(config, ()), parallel, lambda name, parameter: None)

    @classmethod
    def loaded(
        cls,
        folder: str | Path,
        parallel: Parallel,
        *,
        heads: Iterable[str] = (),
        lora: LoRASection | None = None,
        seed: int = 0,
        config: ModelConfig | None = None,
    ) -> Self:
        """A checkpoint of any layout, in float32.

        Args:
            config: in place of the checkpoint's own, with another context or other rotary frequencies.
            heads: scalar heads ("value_head") that it gets where it lacks them: of zeros, so that they say 0 until
                they have learnt.
            lora: with new adapters, drawn by `seed`; all else is frozen.

        Raises CheckpointError naming every tensor that is missing, extra, misshapen or not finite, ConfigError where
        the layout has no place for adapters.
        """
        if lora is not None and (refused := parallel.adapter_problems("lora")):
            raise ConfigError.of(refused)
        source = open_weights(folder)
        check_shapes(source)
        module = empty_model(config or source.config, {*source.shapes, *(f"{head}.weight" for head in heads)})
        if lora is not None:
            place_lora(module, lora)
        problems: list[Problem] = []

        def fill(name: str, parameter: Tensor) -> None:
            if ".lora_" in name:
                parameter.copy_(like(parameter, draw_adapter(seed, name, parameter.shape)))
            elif name in HEADS and name not in source.shapes:
                local(parameter).zero_()
            else:
                problems.extend(read_parameter(source, name.replace(".base.", "."), parameter))

        model = cls._filled(module, parallel, fill)
        # A rank has read what it holds, and all ranks must stop together.
        refuse_together(problems, parallel.context, CheckpointError)
        return model

    @classmethod
    def _filled(cls, module: Transformer, parallel: Parallel, fill: Callable[[str, Tensor], None]) -> Self:
        """A model without storage, placed; then `fill` gives each parameter its values, or this rank's part of them."""
        parallel.apply(module)
        buffers = list(module.named_buffers())
        module.to_empty(device=parallel.context.device)
        if module.config.tied and None not in (module.embed, module.lm_head):
            module.lm_head.weight = module.embed.weight
        with torch.no_grad():
            for name, buffer in buffers:
                module.get_buffer(name).copy_(buffer)
            for name, parameter in module.named_parameters():
                fill(name, parameter)
        return cls(module, parallel)

    def frozen(self) -> Self:
        """This model, never to be trained: a reference, a teacher."""
        self.module.requires_grad_(False)
        return self

    # -- computing -------------------------------------------------------------------------------

    def scorer(
        self,
        *,
        microbatch_tokens: int = 8192,
        precision: AutoPrecision = "fp32",
        temperature: float = 1.0,
        adapters: bool = True,
    ) -> ModelScorer:
        """Reads log-probs and values. Without `adapters` it is the model that they were added to."""
        return ModelScorer(self, microbatch_tokens, precision, temperature, adapters)

    def generator(self, precision: AutoPrecision = "auto") -> Generator:
        """Samples, in a precision of its own, with the weights as they are at each call.

        Every rank must call it together, each with prompts of its own, or none. Where the model is sharded its weights
        are first gathered, one at a time, into a copy for the engine; where its matrices are cut (tp), each rank keeps
        its own part of them only.
        """
        if self.context.dims.tp > 1:
            dtype = sampling_dtype(self.module, precision)
            return ShardedSampler(self.config, self.parallel, dtype, self.weights)
        return _Gathering(self, precision) if self.is_sharded else throughput_engine(self.module, precision)

    @cached_property
    def stages(self) -> Mapping[str, int]:
        """How many stages of a pipeline have each parameter. Every rank must ask together, the first time."""
        names = [name for name, _ in self.module.named_parameters()]
        counts = Counter(name for held in self.context.gather(names, "model") for name in held)
        dims = self.context.dims
        return {name: count // (dims.tp * dims.cp) for name, count in counts.items()}

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds less than the whole model. The same on every rank."""
        return self.context.dims.pp > 1 or any(isinstance(x, DTensor) for x in self.module.parameters())

    # -- tensors ---------------------------------------------------------------------------------

    def gathered(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Named tensors of all ranks, one at a time, each whole on every rank. All must iterate it, to its end."""
        return self._gathered({name: partial(_itself, tensor) for name, tensor in tensors.items()})

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """As `gathered`: every weight of the plain model (adapters merged) in the model's order."""
        names = [name for name, _ in self._plain().named_parameters()]
        held = ((name, partial(weight_of, self.module, name)) for name in names)
        return self._gathered({name: make for name, make in held if _holds(self.module, name)}, names)

    def _gathered(
        self, makers: Mapping[str, Callable[[], Tensor]], order: Sequence[str] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """In the given order. A tensor that only some ranks have (a pipeline's) comes from the first of them."""
        owners: dict[str, int] = {}
        for rank, names in enumerate(self.context.gather(list(makers), "world")):
            owners |= {name: rank for name in names if name not in owners}
        for name in order or owners:
            owner = owners[name]
            tensor = whole(makers[name]().detach()) if name in makers else None
            if self.context.dims.pp > 1 or tensor is None:
                tensor = broadcast_tensor(tensor, owner, self.context.device)
            yield name, tensor

    def _plain(self) -> Transformer:
        """The model without adapters and storage."""
        heads = {name for stage in self.context.gather(self._heads(), "world") for name in stage}
        return empty_model(self.config, heads)

    def _heads(self) -> list[str]:
        return [name for name, _ in self.module.named_parameters() if name in HEADS]

    # -- what training ends with -----------------------------------------------------------------

    def adapter(self) -> dict[str, Tensor]:
        """The adapters by the names that `peft` gives them, whole, on the CPU. Every rank must call it."""
        return {name: tensor.cpu() for name, tensor in self.gathered(adapter_tensors(self.module))}

    def base_hash(self) -> str:
        """The hash of the weights without adapters (llama3.checkpoints.adapter). Every rank must call it."""
        return weights_hash(self.gathered(base_tensors(self.module)))

    def merge(self) -> list[MergeError]:
        """Add the adapters into the weights and take them away. Every rank must call it; each has its own errors."""
        return merge(self.module)

    def save(self, folder: Path, *, without: Iterable[str] = (), extra: Mapping[str, Any] | None = None) -> None:
        """Write `config.json` and the weights into `folder` in a layout that `transformers` loads.

        Every rank must call it; rank 0 writes, with one file in memory. `without`: heads to leave out ("value_head");
        `extra`: further keys of config.json.
        """
        left_out = {f"{head}.weight" for head in without}
        shapes = {name: x.shape for name, x in self._plain().named_parameters() if name not in left_out}
        weights = ((name, weight) for name, weight in self.weights() if name not in left_out)
        if self.context.is_main:
            write_model(self.config, shapes, weights, folder, dtype=torch.float32, extra=extra)
        deque(weights, maxlen=0)


class ModelScorer:
    """What a model as it stands says of given answers, without gradient: `Scorer` and `ValueModel` of the algorithms.

    Ranks may be given batches that are cut into different numbers of microbatches: all make as many forwards as the one
    with the most, because strategies communicate within each.
    """

    def __init__(
        self, model: PlacedModel, microbatch_tokens: int, precision: AutoPrecision, temperature: float, adapters: bool
    ) -> None:
        self.model, self.microbatch_tokens = model, microbatch_tokens
        self.precision, self.temperature, self.adapters = precision, temperature, adapters

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the targets at `temperature`, fp32."""
        (logps_M,) = self._read(batch, self._column("logps"))
        return logps_M

    def values(self, batch: Batch) -> Tensor:
        """The value head (M,) at the token before each target, fp32."""
        (values_M,) = self._read(batch, self._column("values"))
        return values_M

    def top(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest tokens (M, k) at each target and their log-probs (M, k) at `temperature`, fp32."""

        def stage(microbatch: Microbatch, x_TD: Tensor | None) -> Tensor | Columns:
            return top_stage(self.model.module, microbatch, k, self.temperature, x_TD)

        ids_Mk, logps_Mk = self._read(batch, stage)
        return ids_Mk, logps_Mk

    def _column(self, name: Literal["logps", "values"]) -> Read:
        def stage(microbatch: Microbatch, x_TD: Tensor | None) -> Tensor | Columns:
            scored = score_stage(self.model.module, microbatch, {name}, self.temperature, x_TD)
            return scored if isinstance(scored, Tensor) else (scored.logps_M if name == "logps" else scored.values_M,)

        return stage

    @torch.no_grad()
    def _read(self, batch: Batch, stage: Read) -> Columns:
        """Columns of each target, in the order of the batch."""
        numbers_M = torch.arange(batch.num_targets, device=batch.tokens_T.device)
        parts = cut(batch.with_(per_target={"number": numbers_M}), self.microbatch_tokens)
        # At least one, which says what an empty column is.
        (passes,) = self.model.context.reduce([max(len(parts), 1)], "max", "loss")
        padded = [*parts, *[batch.select([])] * (int(passes) - len(parts))]
        base = nullcontext() if self.adapters else without_adapters(self.model.module)
        with base, autocast(self.precision, batch.tokens_T.device):
            multiple = self.model.module.multiple
            found = self.model.runner.forward([Microbatch.of(part, multiple=multiple) for part in padded], stage)
        order = torch.cat([numbers_M[:0], *(part.per_target["number"] for part in parts)]).argsort()
        return tuple(torch.cat(column)[order] for column in zip(*found, strict=True))


class _Gathering:
    """Samples from a sharded model: a `Generator` over a whole copy, which each call brings up to date."""

    def __init__(self, model: PlacedModel, precision: AutoPrecision) -> None:
        self._model = model
        copy = empty_model(model.config, ()).to(sampling_dtype(model.module, precision))
        copy = copy.to_empty(device=model.context.device).requires_grad_(False)
        if model.config.tied:
            copy.lm_head.weight = copy.embed.weight
        self._weights = dict(copy.named_parameters())
        self._engine = throughput_engine(copy, precision)

    @torch.no_grad()
    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        for name, weight in self._model.weights():
            if name in self._weights:
                self._weights[name].copy_(weight)
        return self._engine.generate(prompts, sampling)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _holds(module: Transformer, name: str) -> bool:
    """Whether the layer of a weight stands on this rank."""
    try:
        module.get_submodule(name.rpartition(".")[0])
    except AttributeError:
        return False
    return True
