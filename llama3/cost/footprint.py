"""What a model takes in one format: bytes that are kept, bytes that a step reads, and what is multiplied in which type.

No weights are needed: a quantization scheme is asked for its parts of matrices without storage, so whatever a scheme
stores is counted as it stores it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from llama3.checkpoints.quantized import empty_parts
from llama3.checkpoints.scheme import Parts, QuantizationScheme
from llama3.config.serving import KvDtype
from llama3.cost.gpus import FactorType
from llama3.errors import PluginError
from llama3.inference.kv_codes import codes_of
from llama3.inference.paged_cache import PagedCache
from llama3.model.build import empty_model
from llama3.model.config import ModelConfig
from llama3.model.precision import DTYPES, ComputePrecision
from llama3.plugins.asking import FAILED, ODD_RESULT, called

NO_SIZE = PluginError.declare(
    "L3-CST-003",
    "{scheme} does not tell what it stores of matrices without storage",
    why="its `quantize` raised {error}",
    fix="its author finds what is wrong with: llama3 plugins check",
)

_FACTORS: Mapping[torch.dtype, FactorType] = {
    torch.int8: "int8",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
}
"""Types of codes that devices multiply as they are, where inputs are quantized too."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes in the format `name`.

    dtype: of the computation, of the cache (unless that holds codes) and of weights that are not quantized
    resident: bytes of all weights
    read: bytes of weights that a step reads: of an embedding that is not the output matrix too, it looks up rows only
    factors: how many weights of the layers' matrices are multiplied in which type
    head: weights of the output matrix, multiplied in `dtype`
    cache: bytes of the keys and values of one token
    quantized: weights that the scheme takes
    """

    name: str
    dtype: ComputePrecision
    resident: int
    read: int
    factors: Mapping[FactorType, int]
    head: int
    cache: int
    quantized: int = 0


def plain(config: ModelConfig, dtype: ComputePrecision, kv_dtype: KvDtype = "auto") -> Footprint:
    """The footprint of a model that is not quantized; `kv_dtype`: of its cache."""
    return _footprint(config, dtype, dtype, {}, {}, kv_dtype)


def quantized(
    config: ModelConfig, name: str, scheme: QuantizationScheme, *, inputs: bool, kv_dtype: KvDtype = "auto"
) -> Footprint:
    """The footprint under a scheme, the rest in bfloat16. `inputs`: it quantizes the inputs of a product too.

    Raises PluginError where the scheme does not tell, and what its `targets` raises.
    """
    try:
        parts = empty_parts(scheme, config)
    except PluginError as error:
        problem = error.problems[0]
        if problem.code not in (FAILED.code, ODD_RESULT.code):
            raise
        raise NO_SIZE(name, scheme=called(scheme), error=problem.why) from error
    codes = {matrix: max(stored.values(), key=lambda part: part.nbytes) for matrix, stored in parts.items()}
    factors = {matrix: _FACTORS[x.dtype] for matrix, x in codes.items() if inputs and x.dtype in _FACTORS}
    return _footprint(config, name, "bf16", parts, factors, kv_dtype)


def _footprint(
    config: ModelConfig,
    name: str,
    dtype: ComputePrecision,
    parts: Mapping[str, Parts],
    factors: Mapping[str, FactorType],
    kv_dtype: KvDtype,
) -> Footprint:
    """`factors`: the matrices that are multiplied in another type than `dtype`."""
    weights = _matrices(config)
    by_type = Counter[FactorType]()
    for matrix, count in weights.items():
        by_type[factors.get(matrix, dtype)] += count
    each, head = DTYPES[dtype].itemsize, config.vocab_size * config.dim
    taken = sum(weights[matrix] for matrix in parts)
    resident = each * (config.num_params() - taken)
    resident += sum(part.nbytes for stored in parts.values() for part in stored.values())
    return Footprint(
        name=name,
        dtype=dtype,
        resident=resident,
        read=resident if config.tied else resident - each * head,
        factors=dict(by_type),
        head=head,
        cache=PagedCache.block_bytes(config, 1, DTYPES[dtype], codes_of(kv_dtype)),
        quantized=taken,
    )


def _matrices(config: ModelConfig) -> dict[str, int]:
    """The layers' matrices by their modules' names, and how many weights each has."""
    modules = empty_model(config, ()).layers.named_modules(prefix="layers")
    return {name: module.weight.numel() for name, module in modules if isinstance(module, nn.Linear)}
