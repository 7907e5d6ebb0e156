"""The vocabulary in a GGUF file's metadata, as the content of a tokenizer.json and its controls, and back.

A GGUF file does not hold the split rule itself, only a name for it (`tokenizer.ggml.pre`, given by llama.cpp's
converter). `RULES` says what llama.cpp takes the names for; a name that it does not list is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama3 import _core
from llama3.tokenizer import problems
from llama3.tokenizer.controls import Controls

# llama.cpp's numbers for kinds of tokens.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_NEVER_TEXT = (_UNKNOWN, _CONTROL, _UNUSED)

_OTHER_MODELS = {
    "llama": "SentencePiece's BPE",
    "bert": "WordPiece",
    "t5": "Unigram",
    "rwkv": "RWKV's greedy vocabulary",
    "no_vocab": "none at all",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a name of a pre-tokenizer stands for."""

    steps: tuple[dict[str, object], ...]
    """Pre-tokenizers of a tokenizer.json, in order."""
    ignore_merges: bool = False
    add_bos: bool = False
    """Where the file does not say it."""
    nfc: bool = False


def _split(pattern: str) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _to_bytes(use_regex: bool) -> dict[str, object]:
    """The last step; with `use_regex` it is GPT-2's rule too."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = Rule((_split(_core.LLAMA3_PATTERN), _to_bytes(False)), ignore_merges=True, add_bos=True)
_CL100K = Rule((_split(_core.LLAMA3_PATTERN), _to_bytes(False)))
_GPT2 = Rule((_to_bytes(True),))
_DIGITS_GPT2 = Rule(({"type": "Digits", "individual_digits": True}, _to_bytes(True)))

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2", "midm-2.0", "pixtral"), _LLAMA3
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _CL100K),
    **dict.fromkeys(("gpt-2", "phi-2"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), _DIGITS_GPT2),
    "qwen2": Rule((_split(_core.QWEN2_PATTERN), _to_bytes(False)), nfc=True),
    "tekken": Rule((_split(_TEKKEN), _to_bytes(False)), ignore_merges=True, add_bos=True),
}
"""Name of the pre-tokenizer (`tokenizer.ggml.pre`) -> its rule. NFC is what the models of the name were made with."""


def read_vocabulary(metadata: Mapping[str, Any], where: str) -> tuple[bytes, Controls]:
    """Content of a tokenizer.json, and the controls. See `Tokenizer.from_gguf`."""
    rule = _rule(metadata, where)
    tokens = _strings(metadata, "tokens", where)
    merges = _strings(metadata, "merges", where)
    vocab = {token: id for id, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise problems.DAMAGED(where, detail="two tokens of tokenizer.ggml.tokens are the same")
    names = {
        role: _token(metadata, f"{role}_token_id", tokens, where) for role in ("bos", "eos", "eot", "eom", "padding")
    }
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", rule.add_bos)
    always_special = {names[role] for role in ("bos", "eos", "eot", "eom")}
    content = {
        "added_tokens": [
            _added(id, token, kind != _USER_DEFINED or token in always_special)
            for id, (token, kind) in enumerate(zip(tokens, _kinds(metadata, len(tokens), where), strict=True))
            if kind in (*_NEVER_TEXT, _USER_DEFINED) or token in always_special
        ],
        "normalizer": {"type": "NFC"} if rule.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": rule.steps},
        "post_processor": _begin_with(names["bos"]) if add_bos and names["bos"] is not None else None,
        "decoder": _to_bytes(True),
        "model": {"type": "BPE", "ignore_merges": rule.ignore_merges, "vocab": vocab, "merges": merges},
    }
    template = metadata.get("tokenizer.chat_template")
    controls = Controls(
        bos=names["bos"],
        eos=names["eos"],
        pad=names["padding"],
        chat_template=template if isinstance(template, str) else None,
        stop_ids=tuple(sorted(vocab[name] for role in ("eot", "eom") if (name := names[role]) is not None)),
    )
    return json.dumps(content).encode(), controls


def write_vocabulary(content: bytes, rows: int) -> dict[str, Any]:
    """The tokens of a tokenizer.json as keys of a GGUF file, without the rule's name and the tokens of roles.

    rows: of the embedding; ids that no token has are filled with unused ones, as llama.cpp's converter does
    """
    raw = json.loads(content)
    tokens = {id: (token, _NORMAL) for token, id in raw["model"]["vocab"].items()}
    for added in raw["added_tokens"]:
        tokens[added["id"]] = (added["content"], _CONTROL if added["special"] else _USER_DEFINED)
    table = [tokens.get(id, (f"[PAD{id}]", _UNUSED)) for id in range(rows)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [token for token, _ in table],
        "tokenizer.ggml.token_type": [kind for _, kind in table],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in raw["model"]["merges"]],
    }


def _rule(metadata: Mapping[str, Any], where: str) -> Rule:
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2":
        kind = f" ({_OTHER_MODELS[model]})" if model in _OTHER_MODELS else ""
        raise problems.UNSUPPORTED(where, detail=f"tokenizer.ggml.model is {model!r}{kind}; supported: 'gpt2'")
    if pre not in RULES:
        raise problems.UNKNOWN_RULE(where, name=pre, known=list(RULES))
    return RULES[pre]


def _strings(metadata: Mapping[str, Any], key: str, where: str) -> list[str]:
    values = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise problems.DAMAGED(where, detail=f"tokenizer.ggml.{key} is not a list of strings")
    return values


def _kinds(metadata: Mapping[str, Any], count: int, where: str) -> list[int]:
    kinds = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * count)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise problems.DAMAGED(where, detail=f"tokenizer.ggml.token_type does not have {count} entries")
    return kinds


def _token(metadata: Mapping[str, Any], key: str, tokens: list[str], where: str) -> str | None:
    id = metadata.get(f"tokenizer.ggml.{key}")
    if id is None:
        return None
    if not isinstance(id, int) or not 0 <= id < len(tokens):
        raise problems.DAMAGED(where, detail=f"tokenizer.ggml.{key} is {id!r}; there are {len(tokens)} tokens")
    return tokens[id]


def _added(id: int, content: str, special: bool) -> dict[str, object]:
    return {"id": id, "content": content, "special": special, "normalized": False}


def _begin_with(name: str) -> dict[str, object]:
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": name, "type_id": 0}}]}
