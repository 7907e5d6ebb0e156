"""`fbgemm_fp8`: FP8 by rows in the layout of Meta's release of 405B, which vLLM and `transformers` load."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pydantic import Field

from llama3_plugins.exporters.compressed_tensors import CompressedTensorsExporter, CompressedTensorsOptions


class FbgemmFp8Options(CompressedTensorsOptions):
    """Options of the exporter."""

    scheme: str = Field("fp8_rowwise", description="how a model is quantized that is not quantized yet")


class FbgemmFp8Exporter(CompressedTensorsExporter):
    """The exporter (`llama3.release.exporter.Exporter`): codes, scales and the cap as they are."""

    layout: ClassVar[str] = "fbgemm_fp8"

    def _writer(self) -> Callable[..., list[str]]:
        from llama3.exporters import write_fbgemm_fp8

        return write_fbgemm_fp8
