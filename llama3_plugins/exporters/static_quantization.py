"""Static quantization for graphs that other programs run: feed-forward matrices in int8 or fp8, as Q/DQ operators.

As in the Llama 3 paper's fp8 (6.2), the first and the last layer are left alone, and so is all but the feed-forward
networks. Unlike there, the scale of an input is fixed beforehand: TensorRT has no row-wise fp8, only one static scale
per tensor. So fp8 has one scale per matrix and one per input, int8 one per row of the matrix and one per input. The
largest input is the largest that was seen while the model wrote a few texts of its own, at most 1200.

Legend: T tokens, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama3.exporters import Engine, Sampling, Transformer

Quantized = Literal["int8", "fp8"]
DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST = {"int8": 127.0, "fp8": 448.0}
CAP = 1200.0
"""Bound of an input's largest value, as in Meta's fp8 recipe: what is larger saturates."""
TEXTS, TOKENS = 8, 64
"""How many texts the model writes to measure its inputs by, and how long they are at most."""


class StaticLinear(nn.Module):
    """x @ W.T, both rounded to 8 bits. `scale` is one number, or one per row of W. Scales are float16 numbers, so that
    a graph in float16 has the same."""

    scale: Tensor
    input_scale: Tensor

    def __init__(self, linear: nn.Linear, kind: Quantized, input_max: float) -> None:
        super().__init__()
        self.kind = kind
        weight_OI = linear.weight.detach().float()
        largest = weight_OI.abs().amax(1) if kind == "int8" else weight_OI.abs().amax()
        self.register_buffer("scale", _scale(largest, kind))
        self.register_buffer("input_scale", _scale(torch.tensor(min(input_max, CAP)), kind))
        # No buffers: another precision of the model must not change them.
        self.codes_OI = _rounded(weight_OI / self.scale[..., None], kind)
        self.zero = torch.zeros(self.scale.shape, dtype=DTYPES[kind])
        self.input_zero = torch.zeros((), dtype=DTYPES[kind])

    def forward(self, x_TI: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return F.linear(self._input_in_graph(x_TI), self._weight_in_graph())
        inputs = _rounded(x_TI / self.input_scale, self.kind).to(x_TI.dtype) * self.input_scale
        return F.linear(inputs, self.codes_OI.to(x_TI.dtype) * self.scale[..., None])

    def _input_in_graph(self, x_TI: Tensor) -> Tensor:
        return _dequantize(
            torch.onnx.ops.symbolic(
                "QuantizeLinear", (x_TI, self.input_scale, self.input_zero), dtype=DTYPES[self.kind], shape=x_TI.shape
            ),
            self.input_scale,
            self.input_zero,
        )

    def _weight_in_graph(self) -> Tensor:
        return _dequantize(self.codes_OI, self.scale, self.zero)


def quantize_feed_forward(model: Transformer, kind: Quantized, start: int) -> tuple[str, ...]:
    """Replace the feed-forward matrices of all layers but the first and the last; what the user should know of it.

    start: the id that the texts begin with, by which inputs are measured
    """
    layers = [model.layers[str(index)] for index in range(1, model.config.n_layers - 1)]
    matrices = [(layer.ffn, name, getattr(layer.ffn, name)) for layer in layers for name in ("gate_up", "down")]
    largest = _input_maxima(model, [linear for _, _, linear in matrices], start)
    for ffn, name, linear in matrices:
        setattr(ffn, name, StaticLinear(linear, kind, largest[linear]))
    scales = "one static scale per tensor (no row-wise scales)" if kind == "fp8" else "static scales of inputs"
    return (
        f"{len(matrices)} feed-forward matrices in {kind}, {scales}, measured on {TEXTS} texts of the model's own; "
        "the first and the last layer are as they were",
    )


@torch.no_grad()
def _input_maxima(model: Transformer, linears: list[nn.Linear], start: int) -> dict[nn.Module, float]:
    """The largest absolute input of each while the model writes texts."""
    largest: dict[nn.Module, float] = dict.fromkeys(linears, 0.0)

    def measure(linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[linear] = max(largest[linear], float(inputs[0].abs().max()))

    handles = [linear.register_forward_pre_hook(measure) for linear in linears]
    try:
        count = min(TOKENS, model.config.max_seq_len - 1)
        Engine(model).generate([[start]], Sampling(count, temperature=1.0, n=TEXTS, seed=0))
    finally:
        for handle in handles:
            handle.remove()
    return largest


def _scale(largest: Tensor, kind: Quantized) -> Tensor:
    """A float16 number, no subnormal one, as float32."""
    return (largest / LARGEST[kind]).clamp(min=2**-14).half().float()


def _rounded(x: Tensor, kind: Quantized) -> Tensor:
    """The nearest codes; what is too large saturates."""
    bounded = x.clamp(-LARGEST[kind], LARGEST[kind])
    return (bounded.round() if kind == "int8" else bounded).to(DTYPES[kind])


def _dequantize(codes: Tensor, scale: Tensor, zero: Tensor, axis: int = 0) -> Tensor:
    """`axis`: of the codes along which the scales lie, where there are several."""
    attributes: dict[str, Any] = {"axis": axis} if scale.dim() else {}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", (codes, scale, zero), attributes, dtype=scale.dtype, shape=codes.shape
    )
