"""What the files beside a vocabulary say about it: control tokens by role, further added tokens, chat template, ends
of generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llama3.foreign import Fields, UnusableFile, read_json, read_text
from llama3.tokenizer import problems

CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
_SPECIALS_NAME = "special_tokens_map.json"
_ADDED_NAME = "added_tokens.json"
_GENERATION_NAME = "generation_config.json"
_MODEL_NAME = "config.json"
T = TypeVar("T")

Stated = tuple[str, int | None, tuple[bool, bool, bool, bool], str | None]
"""An added token as the core takes it: name, id (None: its place gives it), whether it strips the whitespace before
and after it, is found in normalized text, is special; and "edge" or "other" where it is named for a role."""


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
    config, specials = _fields(folder / CONFIG_NAME), _fields(folder / _SPECIALS_NAME)
    names = {
        role: _name(config, f"{role}_token") or _name(specials, f"{role}_token")
        for role in ("bos", "eos", "pad", "unk")
    }
    longest = config.number("model_max_length") if "model_max_length" in config else None
    template = _template(folder, config)
    stop_ids = config.wholes("stop_ids")
    _refuse(folder / CONFIG_NAME, config)
    _refuse(folder / _SPECIALS_NAME, specials)
    return Controls(
        **names,
        chat_template=template,
        stop_ids=tuple(sorted({*stop_ids, *_ends_of_generation(folder)})),
        max_length=int(longest) if longest is not None and 0 < longest < 1 << 40 else None,
    )


def read_added(folder: Path) -> list[Stated]:
    """The added tokens that the files beside a tokenizer.json state, in the order in which transformers adds them.

    Raises DataError for a damaged file.
    """
    config, specials = _fields(folder / CONFIG_NAME), _fields(folder / _SPECIALS_NAME)
    roles = _roles(config, {}) | ({} if "added_tokens_decoder" in config else _roles(specials, {}))
    further = [_entry(token, special=True) for token in _further(config) or _further(specials)]
    if "added_tokens_decoder" in config:
        decoder = config.object("added_tokens_decoder")
        numbered = [_numbered(decoder, key) for key in decoder.raw]
    else:
        named = {*roles, *(name for name, *_ in further)}
        numbered = _from_added_file(folder / _ADDED_NAME, named)
    _refuse(folder / CONFIG_NAME, config)
    _refuse(folder / _SPECIALS_NAME, specials)
    stated = [entry for _, entry in sorted(numbered)]
    return [*stated, *(entry for entry in roles.values()), *further]


_EDGES = ("bos_token", "eos_token")
_ROLES = (*_EDGES, "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _roles(fields: Fields, found: dict[str, Stated]) -> dict[str, Stated]:
    """Tokens that are named for a role are special, whatever tokenizer.json says."""
    for key in _ROLES:
        if (name := _name(fields, key)) and name not in found:
            token = fields.raw[key]
            found[name] = _entry(token, special=True, role="edge" if key in _EDGES else "other")
    return found


def _further(fields: Fields) -> list[Any]:
    """`extra_special_tokens`, or `additional_special_tokens` as it was called before: names or descriptions of them; of
    an object, its values are named for roles of their own."""
    key = "extra_special_tokens" if fields.raw.get("extra_special_tokens") else "additional_special_tokens"
    value = fields.raw.get(key) or []
    tokens = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(tokens, list) or not all(_is_token(token) for token in tokens):
        fields.faults.append(f"{key} is not a list of tokens")
        return []
    return tokens


def _numbered(decoder: Fields, key: str) -> tuple[int, Stated]:
    """An entry of `added_tokens_decoder`: an id as text, and its token."""
    token = decoder.raw[key]
    if not (key.isascii() and key.isdecimal() and len(key) < 10 and isinstance(token, dict) and _is_token(token)):
        decoder.faults.append(f"added_tokens_decoder.{key[:20]} is no token under its id")
        return 0, _entry("", special=False)
    name, _, flags, role = _entry(token, special=False)
    return int(key), (name, int(key), flags, role)


def _from_added_file(path: Path, special: set[str]) -> list[tuple[int, Stated]]:
    """added_tokens.json: name -> id."""
    fields = _fields(path)
    found = [(fields.whole(name), name) for name in fields.raw]
    _refuse(path, fields)
    if any(not 0 <= id < 1 << 32 for id, _ in found):
        raise problems.DAMAGED(path, detail="it gives ids that no token can have")
    return [(id, (name, id, (False, False, name not in special, name in special), None)) for id, name in found]


def _entry(token: Any, *, special: bool, role: str | None = None) -> Stated:
    """A token given by its name, or by an object that says how it is found."""
    says = token if isinstance(token, dict) else {}
    special = special or says.get("special") is True
    flags = (says.get("lstrip") is True, says.get("rstrip") is True, says.get("normalized", not special) is True)
    return (says.get("content", token), None, (*flags, special), role)


def _is_token(token: object) -> bool:
    name = token.get("content") if isinstance(token, dict) else token
    return isinstance(name, str) and bool(name)


def _ends_of_generation(folder: Path) -> list[int]:
    """Of generation_config.json, or of config.json where that says nothing, as in transformers."""
    for name in (_GENERATION_NAME, _MODEL_NAME):
        fields = _fields(folder / name)
        if "eos_token_id" in fields:
            ends = fields.wholes("eos_token_id")
            _refuse(folder / name, fields)
            return ends
    return []


def _fields(path: Path) -> Fields:
    """Content of a JSON file that holds one object; nothing where there is no such file."""
    return Fields(_read(path, read_json) or {})


def _read(path: Path, read: Callable[[Path], T]) -> T | None:
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except UnusableFile as error:
        raise problems.DAMAGED(path, detail=str(error)) from error


def _refuse(path: Path, fields: Fields) -> None:
    if fields.faults:
        raise problems.DAMAGED(path, detail="; ".join(fields.faults))


def _name(fields: Fields, key: str) -> str | None:
    """`"<s>"`, or `{"content": "<s>", ...}` in older files."""
    if isinstance(fields.raw.get(key), dict):
        return fields.object(key).text("content") or None
    return fields.text(key) or None


def _template(folder: Path, config: Fields) -> str | None:
    """The file of its own goes first, as in transformers; of several named templates, the one named "default"."""
    path = folder / TEMPLATE_NAME
    if path.exists() or path.is_symlink():
        try:
            return read_text(path)
        except (OSError, UnusableFile) as error:
            raise problems.UNREADABLE(path, reason=error) from error
    stated = config.raw.get("chat_template")
    if isinstance(stated, list):
        named = dict(_named_templates(stated))
        return named.get("default")
    return config.text("chat_template")


def _named_templates(entries: list[Any]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str):
            yield entry["name"], entry["template"]
