"""The architecture of a Llama 3 model, its presets and what follows from them: parameters and FLOPs. Torch-free.

Source: "The Llama 3 Herd of Models", table 3 and section 3.2; the RoPE scaling of 3.1 and the tied shapes of 3.2 are
those of the released checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama3.config.schema import ModelSection
from llama3.errors import CheckpointError, ConfigError, Problem
from llama3.foreign import Fields

NO_SIZE = ConfigError.declare(
    "L3-MDL-001", "{value!r} is not a whole number from 1 to {most}", fix="set a {name} in this range"
)
UNEVEN_GROUPS = ConfigError.declare(
    "L3-MDL-002",
    "{config.n_heads} attention heads cannot share {config.n_kv_heads} key-value heads",
    why="grouped-query attention gives each key-value head the same number of query heads",
    fix="choose n_kv_heads among {divisors}",
)
UNEVEN_HEADS = ConfigError.declare(
    "L3-MDL-003",
    "dim {config.dim} does not divide into {config.n_heads} heads",
    fix="choose a dim that is a multiple of {step}",
)
ODD_HEAD = ConfigError.declare(
    "L3-MDL-004",
    "the head size {size} is odd",
    why="rotary embeddings turn pairs of channels",
    fix="choose dim and n_heads so that dim / n_heads is even",
)
BAD_CONSTANTS = ConfigError.declare(
    "L3-MDL-005", "rope_theta must be above 1 and norm_eps above 0", fix="use 500000 and 1e-5"
)
BAD_SCALING = ConfigError.declare(
    "L3-MDL-006",
    "{scaling} does not describe a stretch",
    why="the factor must be 1 or more and low_freq_factor below high_freq_factor",
    fix="use factor 8, low_freq_factor 1, high_freq_factor 4",
)
NO_PRESET = ConfigError.declare("L3-MDL-007", "there is no preset {name!r}", fix="choose among {presets}")
KEY_IS_MISSING = CheckpointError.declare(
    "L3-MDL-010", "key {key!r} is missing", fix="use the config.json of a Llama-family checkpoint"
)
OTHER_FAMILY = CheckpointError.declare(
    "L3-MDL-011", "model_type is {type!r}, not 'llama'", fix="use a Llama-family checkpoint"
)
OTHER_DESIGN = CheckpointError.declare(
    "L3-MDL-012", "{key} has a value that Llama 3 does not use", fix="use a Llama 3.x checkpoint"
)
ODD_VALUE = CheckpointError.declare("L3-MDL-013", "{fault}", fix="use the config.json that belongs to the checkpoint")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3.1's stretching of the low rotary frequencies; see `llama3.model.transformer.rope_frequencies`."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Llama 3 architecture. Raises `ConfigError` with every problem at once if the values do not fit together.

    head_dim: channels per attention head; 0 means dim / n_heads
    tied: the output matrix is the embedding matrix (Llama 3.2)
    max_seq_len: the longest context the model was made for; recorded, not a limit of the code
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_dim: int
    vocab_size: int
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False
    max_seq_len: int = 8192
    head_dim: int = 0

    def __post_init__(self) -> None:
        if self.head_dim == 0:
            object.__setattr__(self, "head_dim", self.dim // max(self.n_heads, 1))
        if problems := _problems(self):
            raise ConfigError.of(problems)

    @classmethod
    def from_section(cls, section: ModelSection, vocab_size: int) -> ModelConfig:
        """The preset named in `section` with the values that `section` replaces, for a tokenizer of `vocab_size`."""
        if section.preset not in PRESETS:
            raise NO_PRESET("model.preset", name=section.preset, presets=list(PRESETS))
        changes = section.model_dump(exclude_none=True, exclude={"preset", "path"})
        if "rope_scaling" in changes:
            changes["rope_scaling"] = RopeScaling(**changes["rope_scaling"])
        if {"dim", "n_heads"} & changes.keys():
            changes["head_dim"] = 0
        return dataclasses.replace(PRESETS[section.preset], vocab_size=vocab_size, **changes)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """From the contents of a Hugging Face `config.json` of a `LlamaForCausalLM`.

        Raises CheckpointError for what cannot be honoured, ConfigError for values that do not fit together.
        """
        if problems := _hf_problems(raw, where):
            raise CheckpointError.of(problems)
        fields = Fields(raw)
        heads = fields.whole("num_attention_heads")
        found = dict(
            dim=fields.whole("hidden_size"),
            n_layers=fields.whole("num_hidden_layers"),
            n_heads=heads,
            n_kv_heads=fields.whole("num_key_value_heads") if "num_key_value_heads" in fields else heads,
            ffn_dim=fields.whole("intermediate_size"),
            vocab_size=fields.whole("vocab_size"),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
            tied=fields.flag("tie_word_embeddings"),
            max_seq_len=fields.whole("max_position_embeddings", 2048),
            head_dim=fields.whole("head_dim") if "head_dim" in fields else 0,
            **_hf_rope(fields),
        )
        if fields.faults:
            raise CheckpointError.of(ODD_VALUE.problem(where, fault=fault) for fault in fields.faults)
        return cls(**found)

    @property
    def ffn_groups(self) -> int:
        """Into how many groups the rows of gate and up are cut: one per key-value head, where that divides ffn_dim."""
        return math.gcd(self.ffn_dim, self.n_kv_heads)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that `transformers` loads as `LlamaForCausalLM`."""
        raw: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn_dim,
            "vocab_size": self.vocab_size,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_seq_len,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
        }
        if self.rope_scaling is not None:
            raw["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": self.rope_scaling.factor,
                "low_freq_factor": self.rope_scaling.low_freq_factor,
                "high_freq_factor": self.rope_scaling.high_freq_factor,
                "original_max_position_embeddings": self.rope_scaling.original_max_position,
            }
        return raw

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name in Hugging Face's layout and its shape, in checkpoint order."""
        dim, ffn = self.dim, self.ffn_dim
        q_rows, kv_rows = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        layer = {
            "input_layernorm.weight": (dim,),
            "self_attn.q_proj.weight": (q_rows, dim),
            "self_attn.k_proj.weight": (kv_rows, dim),
            "self_attn.v_proj.weight": (kv_rows, dim),
            "self_attn.o_proj.weight": (dim, q_rows),
            "post_attention_layernorm.weight": (dim,),
            "mlp.gate_proj.weight": (ffn, dim),
            "mlp.up_proj.weight": (ffn, dim),
            "mlp.down_proj.weight": (dim, ffn),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, dim)}
        for index in range(self.n_layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (dim,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab_size, dim)
        return shapes

    def num_params(self) -> int:
        """Parameters; a tied output matrix counts once."""
        per_layer = self._layer_matmul_params() + 2 * self.dim
        embeddings = self.vocab_size * self.dim * (1 if self.tied else 2)
        return embeddings + self.n_layers * per_layer + self.dim

    def flops_per_token(self, seq_len: int) -> int:
        """Training FLOPs of one token (forward and backward) in the usual convention (PaLM, torchtitan): 6 per weight
        of every matrix product, the output matrix included and the embedding lookup not, plus 12 * layers * attention
        width * seq_len for attention over the full square. A forward alone is a third.
        """
        matmul = self.n_layers * self._layer_matmul_params() + self.vocab_size * self.dim
        return 6 * matmul + 12 * self.n_layers * self.n_heads * self.head_dim * seq_len

    def _layer_matmul_params(self) -> int:
        attention = 2 * self.dim * self.head_dim * (self.n_heads + self.n_kv_heads)
        return attention + 3 * self.dim * self.ffn_dim


_LARGEST = {
    "dim": 1 << 20, "n_layers": 1 << 14, "n_heads": 1 << 16, "n_kv_heads": 1 << 16, "ffn_dim": 1 << 24,
    "vocab_size": 1 << 24, "max_seq_len": 1 << 30, "head_dim": 1 << 16,
}  # fmt: skip
"""Sizes, and the largest that is taken for one. A file that states more would be counted and built for hours."""


def _problems(config: ModelConfig) -> list[Problem]:
    """Everything that keeps these values from being a model."""
    problems = [
        NO_SIZE.problem(f"model.{name}", value=value, name=name, most=f"{most:,}")
        for name, most in _LARGEST.items()
        if not isinstance(value := getattr(config, name), int) or not 1 <= value <= most
    ]
    if problems:
        return problems
    if config.n_heads % config.n_kv_heads:
        divisors = _divisors(config.n_heads)
        problems.append(UNEVEN_GROUPS.problem("model.n_kv_heads", config=config, divisors=divisors))
    if config.dim % config.n_heads and config.head_dim == config.dim // config.n_heads:
        problems.append(UNEVEN_HEADS.problem("model.n_heads", config=config, step=2 * config.n_heads))
    if config.head_dim % 2:
        problems.append(ODD_HEAD.problem("model.dim", size=config.head_dim))
    if config.rope_theta <= 1 or config.norm_eps <= 0:
        problems.append(BAD_CONSTANTS.problem("model"))
    scaling = config.rope_scaling
    if scaling and not (scaling.factor >= 1 and 0 < scaling.low_freq_factor < scaling.high_freq_factor):
        problems.append(BAD_SCALING.problem("model.rope_scaling", scaling=scaling))
    return problems


def _hf_problems(raw: Mapping[str, Any], where: str) -> list[Problem]:
    """What is missing, and what this architecture does not do."""
    required = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    problems = [KEY_IS_MISSING.problem(where, key=key) for key in required if key not in raw]
    if raw.get("model_type", "llama") != "llama":
        problems.append(OTHER_FAMILY.problem(where, type=raw["model_type"]))
    unsupported = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "attention_bias": raw.get("attention_bias", False),
        "mlp_bias": raw.get("mlp_bias", False),
        "partial_rotary_factor": raw.get("partial_rotary_factor") not in (None, 1),
        "quantization_config": raw.get("quantization_config"),
    }
    if isinstance(rope := raw.get(_rope_key(raw)) or {}, dict):
        unsupported["rope_scaling.rope_type"] = _rope_type(rope) not in ("default", "llama3")
        unsupported["rope_parameters.partial_rotary_factor"] = rope.get("partial_rotary_factor") not in (None, 1)
    problems += [OTHER_DESIGN.problem(where, key=key) for key, bad in unsupported.items() if bad]
    return problems


def _rope_key(raw: Mapping[str, Any]) -> str:
    """Of the old and the new key the one that counts, as in transformers: the old one where it says something."""
    return "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"


def _rope_type(rope: Mapping[str, Any]) -> object:
    return rope.get("rope_type", rope.get("type", "default"))


def _hf_rope(fields: Fields) -> dict[str, Any]:
    """rope_theta and rope_scaling. What stands within the object goes before what stands beside it."""
    rope = fields.object(_rope_key(fields.raw))
    place = next((place for place in (rope, fields) if "rope_theta" in place), None)
    found: dict[str, Any] = {"rope_theta": 10_000.0 if place is None else place.number("rope_theta")}
    if _rope_type(rope.raw) != "llama3":
        return found
    context = "original_max_position_embeddings"
    told = next((place for place in (fields, rope) if context in place), None)
    found["rope_scaling"] = RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_max_position=fields.whole("max_position_embeddings", 2048) if told is None else told.whole(context),
    )
    return found


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


_VOCAB = 128_256
_SCALED_8 = RopeScaling()
_SCALED_32 = RopeScaling(factor=32.0)

_8B = ModelConfig(4096, 32, 32, 8, 14_336, _VOCAB)
_70B = ModelConfig(8192, 80, 64, 8, 28_672, _VOCAB)
_405B = ModelConfig(16_384, 126, 128, 8, 53_248, _VOCAB)
_1B = ModelConfig(2048, 16, 32, 8, 8192, _VOCAB, tied=True)
_3B = ModelConfig(3072, 28, 24, 8, 8192, _VOCAB, tied=True)


def _long(config: ModelConfig, scaling: RopeScaling) -> ModelConfig:
    return dataclasses.replace(config, rope_scaling=scaling, max_seq_len=131_072)


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(128, 6, 2, 1, 384, 4096, rope_theta=10_000.0, tied=True, max_seq_len=1024),
    "llama-3-8b": _8B,
    "llama-3-70b": _70B,
    "llama-3-405b": _405B,
    "llama-3.1-8b": _long(_8B, _SCALED_8),
    "llama-3.1-70b": _long(_70B, _SCALED_8),
    "llama-3.1-405b": _long(_405B, _SCALED_8),
    "llama-3.2-1b": _long(_1B, _SCALED_32),
    "llama-3.2-3b": _long(_3B, _SCALED_32),
    "llama-3.3-70b": _long(_70B, _SCALED_8),
}
"""The herd's shapes, and `tiny` for minutes on a laptop CPU. Released checkpoints pad nothing: 128,256 tokens each.

The size of `tiny` is what a budget of minutes can feed: after 100 core-seconds on Python source, 1.3 M parameters had
reached 2.12 bits per byte, 2.8 M 2.33 and 5.5 M 2.51; with some five times that budget about 1.7 M are right."""


def named_shape(text: str) -> tuple[str, ModelConfig] | None:
    """The preset of a name, or the newest one whose name ends with it: 405b is llama-3.1-405b. None where none is."""
    names = [name for name in PRESETS if name == text or name.endswith(f"-{text.lower()}")]
    return (names[-1], PRESETS[names[-1]]) if names else None


def shape_names() -> list[str]:
    """What `named_shape` knows: the presets, and the sizes at their ends."""
    return [*PRESETS, *dict.fromkeys(name.rpartition("-")[2] for name in PRESETS if "-" in name)]
