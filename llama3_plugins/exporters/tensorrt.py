"""`tensorrt` and `tensorrt_rtx`: an engine of the decoder step, built from its ONNX graph.

One path for both builders, which share their interface: `tensorrt` builds for the GPU that is there (an H100, say),
`tensorrt_rtx` builds for GPUs that are not (compute capability 7.5 to 12.1, but not the H100's 9.0). The engine has two
profiles: 0 for prompts (nothing is past), 1 for single tokens. The graph that it is built of lies beside it and is what
is verified: the engine itself needs a GPU.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llama3.errors import CheckpointError, PluginError
from llama3.exporters import ExportManifest, VerifyReport
from llama3_plugins.exporters.checkpoint import written
from llama3_plugins.exporters.onnx import FILE as GRAPH
from llama3_plugins.exporters.onnx import OnnxExporter, OnnxOptions, Precision

if TYPE_CHECKING:
    from llama3.exporters import ModelConfig

NOT_PARSED = CheckpointError.declare(
    "L3-EXP-005",
    "the parser of {builder} refuses the graph",
    why="{errors}",
    fix="export it with --to onnx, and report this with the version of {builder}",
)
NOT_BUILT = CheckpointError.declare(
    "L3-EXP-006",
    "{builder} builds no engine of it",
    why="what it wrote above says why",
    fix="give it a smaller max_tokens or max_batch, or export it with --to onnx",
)
NO_BUILDER = PluginError.declare(
    "L3-EXP-020",
    "{builder} is installed and cannot be loaded",
    why="{error}",
    fix="install its libraries and a driver: pip install 'llama3[{extra}]' fetches them from NVIDIA's own index where "
    "PyPI has none; or export it with --to onnx",
)
OTHER_ENGINE = CheckpointError.declare("L3-EXP-008", "is not the engine that was built", fix="export it again")

FILE = "model.engine"
DIGEST = "model.engine.sha256"
"""As `sha256sum --check` reads it: without a GPU, that the bytes are the same is all that can be said of an engine."""
USUAL_TOKENS = 512
"""Tokens that the profiles are tuned for."""
Target = Literal["SM75", "SM80", "SM86", "SM89", "SM120", "SM121"]


class TensorRTOptions(OnnxOptions):
    """Options of `tensorrt`."""

    precision: Precision = Field("fp16", description="of weights, cache and logits")
    max_tokens: int = Field(4096, ge=2, description="longest sequence, answer included; at most the model's context")
    max_batch: int = Field(1, ge=1, description="sequences at once")


class TensorRTRTXOptions(TensorRTOptions):
    """Options of `tensorrt_rtx`."""

    targets: tuple[Target, ...] = Field(
        ("SM80", "SM86", "SM89", "SM120"), min_length=1, description="compute capabilities that the engine is for"
    )


class TensorRTExporter:
    """The exporter (`llama3.release.exporter.Exporter`) by the classic builder: for the GPU that is there."""

    builder: ClassVar[str] = "tensorrt"
    layout: ClassVar[str] = "tensorrt"

    def __init__(self, options: TensorRTOptions) -> None:
        self.options = options
        self.graph = OnnxExporter(options)

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """The engine, and beside it the graph that it is built of with all that belongs to it."""
        from llama3.exporters import ModelConfig, read_raw_config

        trt = self._load_builder()  # before any work
        made = self.graph.export(checkpoint, folder)
        config = ModelConfig.from_hf(read_raw_config(folder), str(folder))
        (folder / FILE).write_bytes(self._engine(trt, folder / GRAPH, config))
        (folder / DIGEST).write_text(f"{_sha256(folder / FILE)}  {FILE}\n")
        return replace(made, layout=self.layout, files=written(folder))

    def verify(self, folder: Path) -> VerifyReport:
        """The graph by onnxruntime; of the engine that it is the one that was built."""
        if (folder / DIGEST).read_text().split() != [_sha256(folder / FILE), FILE]:
            raise OTHER_ENGINE(folder / FILE)
        report = self.graph.verify(folder)
        return replace(
            report,
            runtime=f"{report.runtime}, from the graph that the engine was built of",
            not_verified=("the engine: it was built and not run",),
        )

    def _load_builder(self) -> Any:
        try:
            return importlib.import_module(self.builder)
        except (ImportError, OSError) as error:
            extra = self.layout.replace("_", "-")
            raise NO_BUILDER(self.layout, builder=self.builder, error=error, extra=extra) from error

    def _engine(self, trt: Any, graph: Path, config: ModelConfig) -> bytes:
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # where it is not the only way
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(graph)):
            errors = [str(parser.get_error(number)) for number in range(parser.num_errors)]
            raise NOT_PARSED(graph, builder=self.builder, errors=errors)
        _decompose_attention(trt, network)
        settings = builder.create_builder_config()
        self._aim(trt, settings)
        longest = min(self.options.max_tokens, config.max_seq_len)
        usual = min(USUAL_TOKENS, longest - 1)
        for new, past in (((1, usual, longest), (0, 0, 0)), ((1, 1, 1), (1, usual, longest - 1))):
            profile = builder.create_optimization_profile()
            for name, shapes in self._shapes(config, new, past):
                profile.set_shape(name, *shapes)
            settings.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, settings)
        if engine is None:
            raise NOT_BUILT(graph, builder=self.builder)
        return bytes(engine)

    def _aim(self, trt: Any, settings: Any) -> None:
        """Say what the engine is for: the GPU that is there, unless told otherwise."""

    def _shapes(
        self, config: ModelConfig, new: tuple[int, ...], past: tuple[int, ...]
    ) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
        """Smallest, usual and largest shape of each input for these numbers of new and past tokens."""
        from llama3.exporters import input_names

        tokens, mask, positions, *cache = input_names(config)
        batches = (1, 1, self.options.max_batch)
        yield tokens, list(zip(batches, new, strict=True))
        yield mask, [(batch, n + p) for batch, n, p in zip(batches, new, past, strict=True)]
        yield positions, list(zip(batches, new, strict=True))
        for name in cache:
            yield name, [(b, config.n_kv_heads, p, config.head_dim) for b, p in zip(batches, past, strict=True)]


class TensorRTRTXExporter(TensorRTExporter):
    """The exporter by TensorRT-RTX: for the GPUs that are named, none of which need be there."""

    builder: ClassVar[str] = "tensorrt_rtx_bindings"
    layout: ClassVar[str] = "tensorrt_rtx"
    options: TensorRTRTXOptions

    def _aim(self, trt: Any, settings: Any) -> None:
        settings.num_compute_capabilities = len(self.options.targets)
        for number, target in enumerate(self.options.targets):
            settings.set_compute_capability(getattr(trt.ComputeCapability, target), number)


def _sha256(file: Path) -> str:
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _decompose_attention(trt: Any, network: Any) -> None:
    """Let attention that no fused kernel fits be built of plain products; without this such a network is refused."""
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # how these bindings cast
            layer.attention.decomposable = True
