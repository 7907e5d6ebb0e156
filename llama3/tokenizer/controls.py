"""What the files beside a vocabulary say about it: control tokens by role, chat template, ends of generation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3.tokenizer import problems

CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
_SPECIALS_NAME = "special_tokens_map.json"
_GENERATION_NAME = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Controls:
    """Control tokens by role (names), and how texts and dialogs use them. None: nothing is said."""

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    chat_template: str | None = None
    stop_ids: tuple[int, ...] = ()
    """Ids at which generation ends besides EOS."""
    max_length: int | None = None


def read_controls(folder: Path) -> Controls:
    """The controls that a directory in Hugging Face's layout states. Raises DataError for a damaged file."""
    config, specials = _object(folder / CONFIG_NAME), _object(folder / _SPECIALS_NAME)
    names = {role: _name(config.get(f"{role}_token")) or _name(specials.get(f"{role}_token")) for role in _ROLES}
    longest = config.get("model_max_length")
    return Controls(
        **names,
        chat_template=_template(folder, config),
        stop_ids=tuple(
            sorted({*_ids(config.get("stop_ids")), *_ids(_object(folder / _GENERATION_NAME).get("eos_token_id"))})
        ),
        max_length=longest if isinstance(longest, int) and longest < 1 << 40 else None,
    )


_ROLES = ("bos", "eos", "pad", "unk")


def _object(path: Path) -> dict[str, Any]:
    """Content of a JSON file that holds one object; nothing where there is no such file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise problems.UNREADABLE(path, reason=error) from error
    except (ValueError, RecursionError) as error:
        raise problems.DAMAGED(path, detail=f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise problems.DAMAGED(path, detail="it does not hold a JSON object")
    return content


def _name(token: object) -> str | None:
    """`"<s>"`, or `{"content": "<s>", ...}` in older files."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The file of its own goes first, as in transformers; of several named templates, the one named "default"."""
    path = folder / TEMPLATE_NAME
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise problems.UNREADABLE(path, reason=error) from error
    stated = config.get("chat_template")
    if isinstance(stated, list):
        named = {entry.get("name"): entry.get("template") for entry in stated if isinstance(entry, dict)}
        stated = named.get("default")
    return stated if isinstance(stated, str) else None


def _ids(value: object) -> Iterator[int]:
    for id in value if isinstance(value, list) else [value]:
        if isinstance(id, int) and not isinstance(id, bool):
            yield id
