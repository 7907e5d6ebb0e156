"""The stage `capability`: a recipe makes dialogs for one skill, and those that were verified are kept (paper 4.3).

What the recipe asked is written down as it is answered, so a stage that was killed is begun again and asks only for the
rest. Its dialogs are a function of the models, the corpus, the options and the seed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, Checkpoint, CorpusArtifact, StageOutput, stage
from llama3.checkpoints.load import read_config
from llama3.config.precision import AutoPrecision
from llama3.config.schema import Config
from llama3.config.slot_types import CapabilityChoice, CapabilitySlot, GuardPolicy, RewardSlot
from llama3.errors import DataError, PluginError
from llama3.evaluation.served import ServedChat
from llama3.evaluation.stages import OutsideModel
from llama3.making.made import Made
from llama3.making.voices import LocalVoice, ServedVoice, Voice
from llama3.making.workshop import Workshop
from llama3.model.device import device_of
from llama3.plugins.asking import asking
from llama3.plugins.registry import discover
from llama3.plugins.specs import CapabilitySpec
from llama3.posttraining.examples import answer_example, dialog_example
from llama3.posttraining.guarded_answers import AnswerFilter, policy_of_rollouts
from llama3.posttraining.sampling import build_reward
from llama3.synthesis.writers import is_served
from llama3.tasks import prompt_digest
from llama3.tasks.named_files import named_files
from llama3.tasks.rows import write_rows
from llama3.tokenizer import Tokenizer

FAILED = PluginError.declare("L3-CAP-001", "failed", why="{error}", fix="mend the plugin")
NOT_MADE = PluginError.declare(
    "L3-CAP-002",
    "made what is no dialog: {what}",
    fix="give llama3.capabilities.Made, with messages of role and content",
)
DIALOGS, PAIRS, STEPS, ALL = "dialogs.jsonl", "preferences.jsonl", "steps.jsonl", "made.jsonl"


class CapabilityOptions(BaseModel):
    """A recipe as the config names it, and what it may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slot: CapabilityChoice
    rewards: tuple[RewardSlot, ...]
    files: dict[str, str] = {}
    """Contents of the files that rewards and the recipe read."""
    models: dict[str, str] = {}
    """Contents of models on this machine that are asked, by their paths."""
    seed: int
    last: bool = True
    """Whether no round follows, for recipes to which that makes a difference."""
    device: str = "cpu"
    precision: AutoPrecision = "auto"
    policy: GuardPolicy = {}

    @classmethod
    def of(cls, config: Config, slot: CapabilitySlot, round_number: int) -> Self:
        """From the whole config. Each round makes other dialogs. Raises ArtifactError where a model is not there."""
        post = config.post_training
        named = {model for model in (slot.model, slot.judge) if model is not None and not is_served(model)}
        return cls(
            slot=slot,
            rewards=tuple(post.rewards),
            files=named_files([*post.rewards, slot]),
            models={path: OutsideModel.at(path).blake3 for path in sorted(named)},
            seed=config.run.seed * 1000 + round_number,
            last=not _last_differs(slot.name) or round_number == post.rounds,
            device=str(device_of(config.run.device)),
            precision=post.reject.precision,
            policy=policy_of_rollouts(config),
        )


def _last_differs(name: str) -> bool:
    spec = discover().spec("capabilities", name)
    return isinstance(spec, CapabilitySpec) and spec.last_differs


@stage(output="dialogs")
def capability(
    checkpoint: Checkpoint,
    corpus: CorpusArtifact,
    reward: Checkpoint | None = None,
    *,
    options: CapabilityOptions,
    out: StageOutput,
) -> None:
    """Writes dialogs.jsonl (what is learnt), preferences.jsonl and steps.jsonl (pairs, where the recipe made some) and
    made.jsonl (everything that was made, with the reasons). `reward` is a reward model of the run.

    A recipe of which nothing is kept leaves empty files: `told` says why. Raises PluginError where the recipe fails
    (L3-CAP-001) or makes what is no dialog (L3-CAP-002).
    """
    slot = options.slot
    shop = workshop(checkpoint, corpus, reward, options, out)
    recipe = discover().build("capabilities", slot.name, slot.options)
    tokenizer, room = Tokenizer.load(checkpoint.path), read_config(checkpoint.path).max_seq_len
    kept: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    everything: list[dict[str, Any]] = []
    sizes: list[tuple[int, int]] = []
    seen: set[str] = set()
    with AnswerFilter(options.policy) as guard:
        for made in all_made(recipe, slot, shop, options.seed):
            row = row_of(made, slot.name)
            tokens = _tokens(tokenizer, made, row) if made.kept else 0
            unfit = ""
            if made.kept and not 0 < tokens <= room:
                unfit = "does_not_fit" if tokens else "refused_by_template"
            elif made.kept and not _passes(guard, made.messages):
                unfit = "refused_by_guards"
            elif made.kept and row["id"] in seen:
                unfit = "made_twice"
            is_kept = made.kept and not unfit
            seen |= {row["id"]} if is_kept else set()
            if is_kept:
                kept.append(row)
                sizes.append((len(made.messages), tokens))
            if is_kept and made.rejected:
                pairs.append(_pair(row, made.messages[-1]["content"], made.rejected))
            steps += [_pair(row, better, worse, f"-{n}") for n, (better, worse) in enumerate(made.steps)]
            everything.append({**row, "kept": is_kept, "reason": unfit or made.reason})
    write_rows(out.path / DIALOGS, kept)
    write_rows(out.path / PAIRS, _learnable(pairs, tokenizer, room))
    write_rows(out.path / STEPS, _learnable(steps, tokenizer, room))
    write_rows(out.path / ALL, everything)
    out.metrics |= _metrics(slot.name, everything, sizes, shop) | {"pairs": len(pairs), "steps": len(steps)}


def workshop(
    checkpoint: Artifact, corpus: Artifact, reward: Artifact | None, options: CapabilityOptions, out: StageOutput
) -> Workshop:
    """What the recipe of some options may use; models are loaded when they are first asked."""
    slot = options.slot

    def voice(model: str | None, served: str | None) -> Voice:
        if model is not None and is_served(model):
            return ServedVoice(ServedChat(model, served, "server"))
        folder = checkpoint.path if model is None else Path(OutsideModel.at(model).path)
        return LocalVoice.of(folder, options.device, options.precision)

    tokenizer = Tokenizer.load(checkpoint.path)
    rewarded = options.rewards or reward is not None
    return Workshop(
        out,
        speaker=lambda: voice(slot.model, slot.served),
        judge=lambda: voice(slot.judge, slot.served_judge) if slot.judge else voice(slot.model, slot.served),
        corpus=corpus.path,
        reward=build_reward(options.rewards, reward, options.device) if rewarded else None,
        temperature=slot.temperature,
        max_tokens=slot.max_tokens,
        seed=options.seed,
        tokens=lambda text: len(tokenizer.encode(text)),
        room=read_config(checkpoint.path).max_seq_len,
        last=options.last,
    )


def all_made(recipe: Any, slot: CapabilitySlot, shop: Workshop, seed: int) -> Iterator[Made]:
    """What a recipe makes, checked. Raises PluginError."""
    where = f"capabilities.{slot.name}"
    with asking(where, "dialogs", lambda error: FAILED(where, error=error)):
        for made in recipe.dialogs(shop, slot.prompts, seed):
            if fault := _fault(made):
                raise NOT_MADE(where, what=fault)
            yield made


def _fault(made: Any) -> str:
    """Why it is no dialog; "" where it is one."""
    if not isinstance(made, Made):
        return f"a {type(made).__name__}"
    for message in made.messages:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            return f"the message {message!r:.60}"
    if not made.reason:
        return "one without a reason"
    if odd := [name for name in ("reason", "category", "rejected") if not isinstance(getattr(made, name), str)]:
        return f"one whose {odd[0]} is no text"
    if not all(len(step) == 2 and all(isinstance(answer, str) for answer in step) for step in made.steps):
        return "one whose steps are not pairs of texts"
    told = [[dict(message) for message in made.messages], made.reason, made.category, made.rejected, made.steps]
    try:
        json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "one with half of a surrogate pair, which no file can hold"
    except (TypeError, ValueError) as error:
        return f"one that is not of JSON values: {error}"
    if made.kept and (not made.messages or made.messages[-1]["role"] != "assistant"):
        return "one that is kept and does not end with the assistant"
    return "" if made.messages or not made.steps else "steps of no dialog"


def row_of(made: Made, name: str) -> dict[str, Any]:
    """As dialogs.jsonl has it."""
    text = "\n".join(f"{message['role']}: {message['content']}" for message in made.messages)
    return {
        "id": f"{name}-{prompt_digest(text)}",
        "source": name,
        "family": made.category or name,
        "messages": [dict(message) for message in made.messages],
    }


def _pair(row: Mapping[str, Any], better: str, worse: str, suffix: str = "") -> dict[str, Any]:
    messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
    asked = messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
    named = {"id": f"{row['id']}{suffix}", "family": row["family"]}
    return {**named, "messages": asked, "chosen": better, "rejected": worse}


def _passes(guard: AnswerFilter, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether everything that would be learnt passes, each answer after what was said before it."""
    learnt = [n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0]
    return all(guard.passes(messages[:place], messages[place]["content"]) for place in learnt)


def _tokens(tokenizer: Tokenizer, made: Made, row: Mapping[str, Any]) -> int:
    """Of a dialog; 0 where the chat template does not take it, or nothing of it is learnt."""
    try:
        return dialog_example(tokenizer, made.messages, str(row["id"])).num_tokens
    except DataError:
        return 0


def _learnable(pairs: Sequence[dict[str, Any]], tokenizer: Tokenizer, room: int) -> list[dict[str, Any]]:
    """Pairs whose answers differ and fit."""

    def fits(row: Mapping[str, Any]) -> bool:
        try:
            answers = [answer_example(tokenizer, row["messages"], row[side]) for side in ("chosen", "rejected")]
        except DataError:
            return False
        return row["chosen"] != row["rejected"] and all(answer.num_tokens <= room for answer in answers)

    return [row for row in pairs if fits(row)]


def _metrics(
    name: str, rows: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]], shop: Workshop
) -> dict[str, Any]:
    reasons = {kept: Counter(str(row["reason"]) for row in rows if row["kept"] is kept) for kept in (True, False)}
    turns, tokens = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
    return {
        "capability": name,
        "made": len(rows),
        "kept": len(sizes),
        "proved": dict(sorted(reasons[True].items())),
        "dropped": dict(sorted(reasons[False].items())),
        "turns": turns,
        "tokens": tokens,
        "asked": shop.asked,
    }


def told(metrics: Mapping[str, Any]) -> list[str]:
    """What a person is told of a recipe of which nothing is kept, from the metrics of the artifact."""
    if metrics["kept"]:
        return []
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in metrics["dropped"].items())
    why = reasons or "there is nothing that it could begin from"
    return [f"capability {metrics['capability']}: nothing of {metrics['made']:,} dialogs is kept ({why})"]
