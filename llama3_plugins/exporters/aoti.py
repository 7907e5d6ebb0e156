"""`aoti`: the decoder step compiled ahead of time by torch's AOTInductor, one package that runs without Python."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from llama3.errors import PluginError
from llama3.exporters import ExportManifest, VerifyReport
from llama3_plugins.exporters.checkpoint import NOT_LOADED, read_language_model, write_beside, written

NO_COMPILER = PluginError.declare(
    "L3-EXP-004",
    "compiling needs a C++ compiler",
    why="torch finds none: {error}",
    fix="install g++, or say where one is by the variable CXX",
)

FILE = "model.pt2"
TOLERANCE = 1e-3
"""Nats: the order of summation."""


class AotiOptions(BaseModel):
    """Options of the exporter: none yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AotiExporter:
    """The exporter (`llama3.release.exporter.Exporter`)."""

    def __init__(self, options: AotiOptions) -> None:
        self.options = options

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """The package in float32 for this machine's CPU, config.json, the tokenizer's files, the probe."""
        from llama3.exporters import export_step

        _require_compiler()
        model, tokenizer = read_language_model(checkpoint)
        write_beside(folder, checkpoint, model, tokenizer)
        import torch._inductor as inductor

        inductor.aoti_compile_and_package(export_step(model), package_path=str(folder / FILE))
        return ExportManifest(layout="aoti", dtype="fp32", parameters=model.config.num_params(), files=written(folder))

    def verify(self, folder: Path) -> VerifyReport:
        """Load the package and compute the probe: a prompt, then token by token through the cache."""
        import torch
        import torch._inductor as inductor

        from llama3.exporters import check_step

        runtime = f"AOTInductor of torch {torch.__version__.partition('+')[0]} on the CPU"
        try:
            package = inductor.aoti_load_package(str(folder / FILE))
        except (RuntimeError, OSError) as error:
            raise NOT_LOADED(folder / FILE, runtime=runtime, error=error) from error
        return check_step(folder, lambda inputs: package(*inputs), TOLERANCE, runtime)


def _require_compiler() -> None:
    """Raise PluginError where torch finds no C++ compiler: before the model is read."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise NO_COMPILER("aoti", error=error) from error
