"""Quantized models written in the layout `fbgemm_fp8`, in which Meta released 405B: FP8 (E4M3) matrices with a scale
for each row, and one cap on the largest element of an input, by which each token is scaled as it comes (paper 6.2).

    X.weight             FP8 [R, C]
    X.weight_scale       float32 [R, 1]
    config.json          quantization_config: {quant_method: fbgemm_fp8, activation_scale_ub: the cap,
                         modules_to_not_convert: the linear modules that are not quantized}

vLLM and transformers read it (with FBGEMM, on a GPU that multiplies FP8); `compressed_tensors.py` does here.
"""

from __future__ import annotations

from pathlib import Path

import torch

from llama3.checkpoints.compressed_tensors import NO_FORM, coded, require_quantized, rounds_inputs, write_coded
from llama3.checkpoints.source import WeightSource
from llama3.tokenizer import Tokenizer

METHOD = "fbgemm_fp8"
"""Its value of quant_method."""
NO_CAP = torch.finfo(torch.float32).max
"""What the layout says of a scheme without a cap: there is no larger element."""


def write_fbgemm_fp8(source: WeightSource, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> list[str]:
    """A model that one of our schemes quantized, as FBGEMM's FP8; what of it the layout cannot say: nothing.

    Codes and scales are taken as they are and read back to be the same numbers. dtype: of what is not quantized.
    Raises CheckpointError where a matrix is kept in another form, or inputs are not rounded.
    """
    source = require_quantized(source)
    made = coded(source, dtype, METHOD, packed=False)
    if made.weights.get("type") != "float" or not rounds_inputs(source):
        raise NO_FORM(source.path, scheme=source.scheme, layout=METHOD, why="its matrices and inputs are FP8 by rows")
    cap = source.options.get("cap")
    said = {
        "quant_method": METHOD,
        "activation_scale_ub": NO_CAP if cap is None else cap,
        "modules_to_not_convert": list(made.ignored),
    }
    write_coded(source, tokenizer, folder, dtype, made.tensors, said)
    return []
