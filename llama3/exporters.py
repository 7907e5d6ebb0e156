"""What authors of exporters need (hook `llama3_exporters`). Stable: names go only with a new version of the protocols.

Importing this module does not import torch; the names that read and write weights do, when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.gguf_file import GgufType
from llama3.checkpoints.layouts import CONFIG_FILE
from llama3.model.config import ModelConfig
from llama3.release.exporter import Exporter, ExportManifest, VerifyReport
from llama3.tokenizer import Tokenizer, stop_ids

if TYPE_CHECKING:
    from llama3.checkpoints.companions import stated_ids, write_companions
    from llama3.checkpoints.compressed_tensors import require_quantized, write_compressed
    from llama3.checkpoints.fbgemm_fp8 import write_fbgemm_fp8
    from llama3.checkpoints.formats import is_quantized, load_tokenizer, open_weights
    from llama3.checkpoints.gguf_writer import check_gguf, write_gguf
    from llama3.checkpoints.hf import read_raw_config
    from llama3.checkpoints.load import load_model
    from llama3.checkpoints.quantized import QuantizedWeights
    from llama3.checkpoints.weights import save_model
    from llama3.inference.engine import Engine
    from llama3.inference.sampling import Sampling
    from llama3.model.transformer import Transformer
    from llama3.release.decoder_step import check_step, export_step, input_names, output_names
    from llama3.release.probe import check_logps, check_probe, compare, make_probe, write_probe
    from llama3.release.quantize import quantize_checkpoint

__all__ = [
    "CONFIG_FILE",
    "Engine",
    "ExportManifest",
    "Exporter",
    "GgufType",
    "ModelConfig",
    "QuantizedWeights",
    "Sampling",
    "Tokenizer",
    "Transformer",
    "VerifyReport",
    "check_gguf",
    "check_logps",
    "check_probe",
    "check_step",
    "compare",
    "export_step",
    "input_names",
    "is_quantized",
    "load_model",
    "load_tokenizer",
    "make_probe",
    "open_weights",
    "output_names",
    "quantize_checkpoint",
    "read_raw_config",
    "require_quantized",
    "save_model",
    "stated_ids",
    "stop_ids",
    "write_companions",
    "write_compressed",
    "write_fbgemm_fp8",
    "write_gguf",
    "write_json_atomic",
    "write_probe",
]

_HOMES = {
    "stated_ids": "llama3.checkpoints.companions",
    "write_companions": "llama3.checkpoints.companions",
    "require_quantized": "llama3.checkpoints.compressed_tensors",
    "write_compressed": "llama3.checkpoints.compressed_tensors",
    "write_fbgemm_fp8": "llama3.checkpoints.fbgemm_fp8",
    "is_quantized": "llama3.checkpoints.formats",
    "load_tokenizer": "llama3.checkpoints.formats",
    "open_weights": "llama3.checkpoints.formats",
    "check_gguf": "llama3.checkpoints.gguf_writer",
    "write_gguf": "llama3.checkpoints.gguf_writer",
    "read_raw_config": "llama3.checkpoints.hf",
    "load_model": "llama3.checkpoints.load",
    "QuantizedWeights": "llama3.checkpoints.quantized",
    "save_model": "llama3.checkpoints.weights",
    "Engine": "llama3.inference.engine",
    "Sampling": "llama3.inference.sampling",
    "Transformer": "llama3.model.transformer",
    "check_step": "llama3.release.decoder_step",
    "export_step": "llama3.release.decoder_step",
    "input_names": "llama3.release.decoder_step",
    "output_names": "llama3.release.decoder_step",
    "quantize_checkpoint": "llama3.release.quantize",
    "check_logps": "llama3.release.probe",
    "check_probe": "llama3.release.probe",
    "compare": "llama3.release.probe",
    "make_probe": "llama3.release.probe",
    "write_probe": "llama3.release.probe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
