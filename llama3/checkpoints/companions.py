"""What stands beside the weights of a model, and goes wherever they go: its tokenizer's files, templates, ends and
defaults of generation. Files of Hugging Face's layout are copied as they are, never written anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
from llama3.checkpoints.hf import HfWeights
from llama3.checkpoints.source import WeightSource
from llama3.errors import CheckpointError, ConfigError
from llama3.foreign import MAX_TABLE, UnusableFile, read_bytes
from llama3.safety.carried import POLICY_FILE, policy_of, with_models
from llama3.tokenizer import Tokenizer, stop_ids

NOT_A_FILE = CheckpointError.declare(
    "L3-CNV-005", "cannot be taken along", why="{reason}", fix="put the file itself there, or remove it"
)

NO_GUARD_MODEL = ConfigError.declare(
    "L3-SAF-016",
    "the guard {guard!r} names {path}, which cannot be carried along: {reason}",
    why="a model that is copied or released has its guards with it",
    fix="name the folder or file of a guard's model, such as RUN/artifacts/prompt_guard",
)

GUARDS_FOLDER = "guards"
"""Where the models of a carried policy lie."""
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
_TOKENIZER_FILES = (
    TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"
"""A folder of further templates, each for a purpose (tools, retrieval)."""
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def stated_ids(source: WeightSource, tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids of control tokens for config.json: those that the source's own states, else the tokenizer's."""
    raw = source.raw if isinstance(source, HfWeights) else {}
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": sorted(stop_ids(tokenizer)),
        "pad_token_id": tokenizer.pad_id,
        **{key: raw[key] for key in _IDS if key in raw},
    }


def carry_policy(source: Path, target: Path) -> None:
    """Give `target` the policy that the model `source` carries, if any: whoever copies a model copies its guards."""
    policy = policy_of(source)
    if policy is not None:
        carry(policy, target)


def carry(policy: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Write a policy beside a model, and what models its guards name below; the policy as it is written.

    Raises ConfigError for models that are not there.
    """
    places: dict[str, str] = {}

    def copied(guard: str, path: str) -> str:
        if path not in places:
            suffix = Path(path).suffix if Path(path).is_file() else ""
            places[path] = f"{GUARDS_FOLDER}/{len(places)}{suffix}"
            _copy_model(guard, Path(path), folder / places[path])
        return places[path]

    carried = with_models(policy, copied)
    write_json_atomic(folder / POLICY_FILE, carried)
    return carried


def _copy_model(guard: str, source: Path, target: Path) -> None:
    reason = "there is none" if not source.exists() else ""
    if (source / "artifacts").is_dir():
        reason = "it is a whole run"
    if reason:
        raise NO_GUARD_MODEL("safety.policy", guard=guard, path=source, reason=reason)
    target.parent.mkdir(exist_ok=True)
    try:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        raise NO_GUARD_MODEL("safety.policy", guard=guard, path=source, reason=error) from error


def write_companions(source: WeightSource, tokenizer: Tokenizer, folder: Path) -> None:
    """Put what belongs to a model of any layout beside its weights in Hugging Face's layout.

    Raises CheckpointError for a link that leads out of the model's folder and for what is no regular file.
    """
    found = {path.name: path for path in _files(source.path)} if isinstance(source, HfWeights) else {}
    for name, path in found.items():
        if name == GENERATION_FILE or TOKENIZER_FILE in found:
            _copy(path, folder / name)
    for path in sorted((source.path / TEMPLATES).glob("*.jinja")) if found else []:
        (folder / TEMPLATES).mkdir(exist_ok=True)
        _copy(path, folder / TEMPLATES / path.name)
    if GENERATION_FILE not in found:
        write_json_atomic(folder / GENERATION_FILE, stated_ids(source, tokenizer))
    if TOKENIZER_FILE not in found:
        tokenizer.save(folder)


def _files(folder: Path) -> Iterator[Path]:
    for name in (GENERATION_FILE, *_TOKENIZER_FILES):
        if (path := folder / name).is_symlink() or path.exists():
            yield path


def _copy(path: Path, target: Path) -> None:
    try:
        write_bytes_atomic(target, read_bytes(path, MAX_TABLE))
    except UnusableFile as error:
        raise NOT_A_FILE(path, reason=error) from error
