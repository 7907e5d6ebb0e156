"""`llama3 quantize`: a model of any layout as one with fewer bits, and what that did to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel

from llama3.artifacts.files import write_json_atomic
from llama3.artifacts.new_directory import new_directory, require_new
from llama3.checkpoints.companions import carry_policy
from llama3.checkpoints.convert import facts_of
from llama3.checkpoints.formats import load_tokenizer, open_weights
from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import TensorError, quantize_model
from llama3.checkpoints.scheme import QuantizationScheme
from llama3.config.slot_types import Slot
from llama3.errors import ConfigError
from llama3.inference.llama import Llama, find_model
from llama3.model.build import empty_model
from llama3.model.config import ModelConfig
from llama3.model.device import device_of
from llama3.plugins.registry import discover
from llama3.posttraining.sampling import reward_of
from llama3.release.fidelity import Dialog, Fidelity
from llama3.release.quantize import FACTS_FILE, scheme_on, summarize, write_quantized
from llama3.tasks.families import tasks
from llama3.tasks.rewards import CombinedReward, build_rewards
from llama3.tasks.user_data import read_lines

NO_SWITCHES = ConfigError.declare(
    "L3-REL-009", "the scheme {scheme!r} has nothing that can be switched off", fix="leave out --ablate"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the quantized model is compared with the original.

    prompts: how many are answered; 0: none
    data: a file of rows with prompts (as `post_training.data` takes them); None: our own tasks
    reward_model: a folder with a reward model that a run trained
    ablate: compare also with every combination of the scheme's switches turned off
    """

    prompts: int = 32
    max_tokens: int = 64
    seed: int = 0
    data: Path | None = None
    reward_model: Path | None = None
    ablate: bool = False


def quantize_to(model: Path, out: Path, slot: Slot, asked: Comparison, device: str = "auto") -> dict[str, Any]:
    """Write the quantized model into the new directory `out`; what changed and how it compares, as plain data, which
    `quantization.json` beside the weights says too.

    Raises ConfigError where `out` holds something or an option is wrong, PluginError where the scheme cannot run here,
    CheckpointError where the model is damaged or quantized already: all before anything is written.
    """
    require_new(out)
    where = str(device_of(device))
    scheme = scheme_on(where, slot)
    path = find_model(model)
    variants = list(_ablations(slot)) if asked.ablate else []
    if asked.ablate and not variants:
        raise NO_SWITCHES("--ablate", scheme=slot.name)
    reward = (
        None if asked.reward_model is None else CombinedReward(build_rewards([reward_of(asked.reward_model)], where))
    )
    dialogs = _dialogs(asked)
    with new_directory(out) as folder:
        source = open_weights(path)
        errors = write_quantized(path, folder, slot.name, scheme, device=where, facts=facts_of(source))
        carry_policy(path, folder)
        report: dict[str, Any] = {
            "scheme": slot.name,
            "options": scheme.metadata(),
            **summarize(errors),
            "skipped": sorted(_matrices(source.config) - {error.name for error in errors}),
            "model_bytes_bf16": 2 * source.config.num_params(),
            "model_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            "layers": _by_layer(errors),
            "tensors": [asdict(error) for error in errors],
        }
        if dialogs:
            original = Llama(load_model(path, device=where), load_tokenizer(path))
            answers = Fidelity(original, dialogs, max_tokens=asked.max_tokens, seed=asked.seed, reward=reward)
            del original
            report["answers"] = answers.compare(Llama.load(folder, device=where))
            report["ablation"] = [
                {"options": slot.options, **answers.compare(_in_memory(path, scheme_on(where, slot), where))}
                for slot in variants
            ]
        write_json_atomic(folder / FACTS_FILE, report)
    return report


def _in_memory(path: Path, scheme: QuantizationScheme, device: str) -> Llama:
    model = load_model(path, device=device)
    quantize_model(model, scheme)
    return Llama(model, load_tokenizer(path))


def _dialogs(asked: Comparison) -> list[Dialog]:
    if asked.data is None:
        return [task.messages for task in tasks("held_out", asked.prompts, asked.seed)] if asked.prompts else []
    return [line.row.prompt for line in read_lines(asked.data)[: asked.prompts]]


def _ablations(slot: Slot) -> Iterator[Slot]:
    """The scheme with each combination of its switches off."""
    options = discover().options("quantization", slot.name, slot.options)
    off = {} if options is None else _switched_off(options)
    for count in range(1, len(off) + 1):
        for names in itertools.combinations(off, count):
            assert options is not None
            changed = {**options.model_dump(), **{name: off[name] for name in names}}
            yield Slot.model_validate({"name": slot.name, **changed})


def _switched_off(options: BaseModel) -> dict[str, Any]:
    """What turns off each option that is on: one that is true, or one with a value that may be none."""
    off: dict[str, Any] = {}
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if value is True:
            off[name] = False
        elif value is not None and NoneType in get_args(field.annotation):
            off[name] = None
    return off


def _matrices(config: ModelConfig) -> set[str]:
    """The matrices that multiply hidden states, by our names."""
    parameters = empty_model(config, ()).named_parameters()
    return {name.removesuffix(".weight") for name, x in parameters if x.dim() == 2 and name != "embed.weight"}


def _by_layer(errors: list[TensorError]) -> list[dict[str, Any]]:
    """The figures of `summarize` for each layer that has a quantized matrix."""
    layer_of = lambda error: int(error.name.split(".")[1])
    return [
        {"layer": layer, **summarize(list(group))}
        for layer, group in itertools.groupby(sorted(errors, key=layer_of), key=layer_of)
    ]
