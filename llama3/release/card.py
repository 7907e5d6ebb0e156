"""The model card: README.md of a release, written from facts alone (manifests, config, policy). Markdown for people,
with the YAML head that model hubs read.

Nothing on the card is a promise that was not measured: what is unknown is left out, and the limits say what a model
of this size and training cannot do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama3.evaluation.audit import TABLE_HEAD, table
from llama3.model.config import ModelConfig
from llama3.release import markdown
from llama3.release.history import in_order, rounds
from llama3.release.markdown import code, number, text
from llama3.release.safety_card import SafetyFacts, safety_section, told_here


@dataclass(frozen=True)
class Card:
    """The facts. `lineage` has the checkpoint first, then everything it was made from; `made_from` is the name of the
    released model at its beginning, where it did not begin with raw text."""

    name: str
    license: str
    made_from: str | None
    model: ModelConfig
    exports: Sequence[Mapping[str, Any]]
    policy: Mapping[str, Any]
    lineage: Sequence[Mapping[str, Any]]
    reports: Mapping[str, Mapping[str, Any]]
    audit: Mapping[str, Any] | None
    checkpoints: Mapping[str, Mapping[str, Any]]
    safety: SafetyFacts = field(default_factory=SafetyFacts)


def model_card(card: Card) -> str:
    """The whole card."""
    sections = (
        _front_matter(card),
        [f"# {text(card.name)}", "", _summary(card)],
        _section("Use", _use(card)),
        _section("Architecture", _architecture(card.model)),
        _section("Training data", _of_types(card, "corpus", "tokenizer", "shards")),
        _section("Training", _of_types(card, "checkpoint", "dialogs", "preferences")),
        _section("Evaluation", _evaluation(card)),
        _section("Regression audit", _audit(card)),
        _section("Quantization", _quantization(card)),
        _section("Safety", _safety(card)),
        _section("Limits", _limits(card)),
        _section("Lineage", _lineage(card)),
    )
    return "\n".join(line for section in sections for line in section).rstrip() + "\n"


def _front_matter(card: Card) -> list[str]:
    # JSON strings are YAML strings, whatever the name holds.
    license = json.dumps(card.license)
    known = re.fullmatch(r"[a-z0-9.-]+", card.license)
    return [
        "---",
        *([f"license: {license}"] if known else ["license: other", f"license_name: {license}"]),
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- llama",
        f"model_name: {json.dumps(card.name)}",
        "---",
    ]


def _summary(card: Card) -> str:
    millions = card.model.num_params() / 1e6
    size = f"{millions / 1e3:.2f} billion" if millions >= 1e3 else f"{millions:.2f} million"
    origin = "raised from raw text" if card.made_from is None else f"made from {text(card.made_from)}"
    return f"A transformer of Llama 3's architecture with {size} parameters, {origin} with the `llama3` pipeline."


def _use(card: Card) -> Iterator[str]:
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield 'tokenizer = AutoTokenizer.from_pretrained(".")'
    yield 'model = AutoModelForCausalLM.from_pretrained(".")'
    yield 'messages = [{"role": "user", "content": "Hello"}]'
    yield "inputs = tokenizer.apply_chat_template("
    yield '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True'
    yield ")"
    yield "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))"
    yield "```"
    yield ""
    yield "With the guards of `policy.json` in front: `llama3 chat .`"
    for export in card.exports:
        yield ""
        yield (
            f"{code(export['name'])}: {text(export['dtype'])} weights. {export['verified']} log-probabilities "
            f"(`probe.safetensors`) were computed again from the written files; the largest difference is "
            f"{number(export['difference'])} nats."
        )


def _architecture(model: ModelConfig) -> Iterator[str]:
    scaling = f", scaled by {model.rope_scaling.factor:g}" if model.rope_scaling else ""
    yield from _table(
        ("", ""),
        [
            ("parameters", f"{model.num_params():,}"),
            ("layers", model.n_layers),
            ("model dim", model.dim),
            ("FFN dim", model.ffn_dim),
            ("attention heads / key-value heads", f"{model.n_heads} / {model.n_kv_heads}"),
            ("vocabulary", f"{model.vocab_size:,}"),
            ("context", f"{model.max_seq_len:,} tokens"),
            ("RoPE base", f"{model.rope_theta:g}{scaling}"),
            ("output matrix", "the embedding" if model.tied else "its own"),
        ],
    )


def _of_types(card: Card, *types: str) -> Iterator[str]:
    """What the manifests of some types of artifacts say: stage by stage as they ran, the rounds of a stage side by
    side."""
    number_of = rounds(card.lineage)
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for row in in_order(card.lineage):
        if row.get("type") in types:
            by_stage.setdefault(row["stage"], []).append(row)
    for stage, rows in by_stage.items():
        several = len({number_of[row["hash"]] for row in rows}) > 1
        heads = [f"round {number_of[row['hash']]}" if several else "" for row in rows]
        yield f"**{text(stage)}** ({', '.join(code(row['hash'][:12]) for row in rows)})"
        yield ""
        yield from _side_by_side(["", *heads], [dict(_flat(row["metrics"])) for row in rows])
        yield ""


def _side_by_side(head: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One row for each figure that any of the columns has."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(column.get(name, "") for column in columns)) for name in names]
    yield from _table(head, rows)


def _evaluation(card: Card) -> Iterator[str]:
    for role, metrics in card.reports.items():
        yield f"**{text(role)}**"
        yield ""
        yield from _table(("", ""), _flat({name: row for name, row in metrics.items() if not told_here(row)}))
        yield ""


def _audit(card: Card) -> Iterator[str]:
    if card.audit is None:
        return
    yield "Against the model that it was made from, item by item. A suite passes when the lower end of the 95 %"
    yield "interval of its paired change (positive is better; relative for costs) is above minus its margin:"
    yield ""
    yield from _table(TABLE_HEAD, table(card.audit))


def _quantization(card: Card) -> Iterator[str]:
    for role, metrics in card.checkpoints.items():
        yield f"**{code(f'{role}/')}**: `llama3` loads it as it is. `transformers` does not know this format;"
        yield f"{code(f'llama3 convert {role} OUT --to hf')} writes a model that it loads."
        yield ""
        yield from _table(("", ""), _flat(metrics))
        yield ""


def _safety(card: Card) -> Iterator[str]:
    yield from safety_section(card.policy, card.safety)


def _limits(card: Card) -> Iterator[str]:
    yield "- It knows its training text and nothing after it; what it states may be false."
    yield "- It was evaluated on the tasks above only. Other languages, domains and uses are untested."
    yield "- Nothing makes sure that it refuses harmful requests. Use it behind the policy, and test it for your use."
    if card.model.num_params() < 100_000_000:
        yield "- At this size it demonstrates a method. It is no assistant to rely on."


def _lineage(card: Card) -> Iterator[str]:
    yield "`lineage.json` has the details; `llama3 lineage` checks them against the run."
    yield ""
    number_of = rounds(card.lineage)
    rows = []
    for row in in_order(card.lineage):
        plugins = ", ".join(f"{use['family']}/{use['name']} {use['version']}" for use in row.get("plugins", []))
        parents = ", ".join(f"{text(parent['role'])} {code(parent['hash'][:12])}" for parent in row["parents"])
        nth = number_of[row["hash"]]
        stage = row.get("stage", "missing") + (f", round {nth}" if nth > 1 else "")
        rows.append((text(stage), code(row["hash"][:12]), parents or "-", text(plugins) or "-"))
    yield from markdown.table(("stage", "artifact", "made from", "plugins"), rows)


def _section(title: str, lines: Iterable[str]) -> list[str]:
    """A headed section; none where there is nothing to say."""
    body = list(lines)
    return ["", f"## {title}", "", *body] if body else []


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A table of values."""
    yield from markdown.table(head, [[text(value) for value in row] for row in rows])


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested metrics as rows (`a.b`, value); an interval becomes one row."""
    for name, value in metrics.items():
        if isinstance(value, Mapping) and {"rate", "low", "high", "n"} <= value.keys():
            yield (
                f"{prefix}{name}",
                f"{value['rate']:.1%} ({value['low']:.1%} to {value['high']:.1%}, n = {value['n']})",
            )
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(number(item) if isinstance(item, float) else str(item) for item in value)
        else:
            yield f"{prefix}{name}", value
