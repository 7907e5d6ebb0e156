"""`llama3 show`: what a model is and what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli.output import JsonOption, print_json, print_table


def show(
    path: Annotated[Path, typer.Argument(help="A model of any layout, a checkpoint, a release, or a run.")],
    json: JsonOption = False,
) -> None:
    """Show a model's architecture, precision, tokenizer, chat template, license and the memory it needs."""
    from llama3.checkpoints.describe import describe
    from llama3.inference.llama import find_model

    facts = describe(find_model(path))
    if json:
        print_json(facts)
    else:
        print_table(rows(facts))


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as lines for people."""
    from llama3.model.needs import size

    shape, weights, memory = facts["architecture"], facts["weights"], facts["memory"]
    scaling = shape["rope_scaling"]
    rope = f"base {shape['rope_theta']:g}" + (f", scaled by {scaling['factor']:g}" if scaling else "")
    types = ", ".join(f"{name} x {count}" for name, count in sorted(weights["types"].items()))
    heads = f"{shape['n_heads']} heads, {shape['n_kv_heads']} key-value heads of {shape['head_dim']}"
    return [
        ("model", f"{facts['name']} ({facts['path']}, layout {facts['layout']})"),
        ("architecture", f"{shape['family']}: {shape['n_layers']} layers, width {shape['dim']}, {heads}, "
                         f"FFN {shape['ffn_dim']}"),
        ("parameters", f"{facts['parameters']:,}{' (output matrix tied to the embedding)' if shape['tied'] else ''}"),
        ("vocabulary", f"{shape['vocab_size']:,}"),
        ("context", f"{shape['max_seq_len']:,} tokens, RoPE {rope}"),
        ("tensor types", types + (f" (scheme {weights['quantization']})" if weights["quantization"] else "")),
        ("on disk", size(weights["bytes"])),
        *_tokenizer_rows(facts["tokenizer"]),
        ("license", facts["license"] or "none stated"),
        ("memory to serve", f"{size(memory['serve'])} {'as quantized' if weights['quantization'] else 'in bfloat16'}, "
                            "with the cache of one full context"),
        ("memory to finetune", f"{size(memory['finetune'])} fully, {size(memory['lora'])} with LoRA, and activations"),
    ]  # fmt: skip


def _tokenizer_rows(tokenizer: dict[str, Any]) -> list[tuple[str, str]]:
    if "problem" in tokenizer:
        return [("tokenizer", tokenizer["problem"])]
    bos = "begins texts with BOS" if tokenizer["adds_bos"] else "no BOS"
    return [
        ("tokenizer", f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens, "
                      f"{tokenizer['special_tokens']} of them special, {bos}, ends at {', '.join(tokenizer['stops'])}"),
        ("split rule", tokenizer["split"]),
        ("chat template", tokenizer["template"] or "none"),
    ]  # fmt: skip
