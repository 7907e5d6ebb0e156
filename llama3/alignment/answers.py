"""The stage `safety_answers`: the current model is asked the safety prompts of a round and its answers are judged; what
it should have said becomes dialogs, pairs and labels (llama3.alignment.pairs)."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from llama3.alignment.pairs import Distance, JudgedSample, Learnt, learnt_from
from llama3.alignment.prompts import PROMPTS
from llama3.artifacts import Checkpoint, Preferences, StageOutput, stage
from llama3.checkpoints.load import load_model, read_config
from llama3.config.precision import AutoPrecision
from llama3.config.safety_data import JudgeSection
from llama3.config.schema import Config
from llama3.errors import DataError
from llama3.evaluation.judge_choice import JudgeStack
from llama3.evaluation.judges import Event, JudgedAnswer
from llama3.evaluation.safety_rows import SafetyPrompt, read_prompts
from llama3.inference.completion import Completion
from llama3.inference.engine import Engine, throughput_engine
from llama3.inference.readers import text_directions
from llama3.inference.sampling import Sampling
from llama3.model.device import device_of
from llama3.posttraining.examples import prompt_ids
from llama3.posttraining.reject import whole_sentences
from llama3.posttraining.services import answer_text, chunks
from llama3.tasks.data_kind import data_kind
from llama3.tasks.rows import write_rows
from llama3.tokenizer import Tokenizer, stop_ids

NO_ROOM = DataError.declare(
    "L3-SFD-005",
    "none of {count} safety prompts can be learnt from",
    why="{why}",
    fix="lower post_training.safety.max_tokens, or give shorter prompts",
)

DIALOGS, PAIRS, LABELS, SAMPLES = "dialogs.jsonl", "preferences.jsonl", "labels.jsonl", "samples.jsonl"
_CHUNK = 32
"""Prompts sampled between two updates of the progress bar."""


class SafetyAnswersOptions(BaseModel):
    """How the prompts are answered, judged, and made into pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int
    temperature: float
    max_tokens: int
    min_distance: float
    violates: JudgeSection
    refuses: JudgeSection
    seed: int
    device: str = "cpu"
    precision: AutoPrecision = "auto"

    @classmethod
    def of(cls, config: Config, round_number: int) -> Self:
        """From the whole config, whose `post_training.safety` is given. Rounds count from 1."""
        section = config.post_training.safety
        assert section is not None
        names = ("samples", "temperature", "max_tokens", "min_distance", "violates", "refuses")
        return cls(
            **{name: getattr(section, name) for name in names},
            seed=config.run.seed * 1000 + round_number,
            device=str(device_of(config.run.device)),
            precision=config.post_training.reject.precision,
        )


@stage(output="preferences")
def safety_answers(
    checkpoint: Checkpoint, prompts: Preferences, *, options: SafetyAnswersOptions, out: StageOutput
) -> None:
    """Write dialogs.jsonl, preferences.jsonl and labels.jsonl (what to learn), and samples.jsonl (every answer and what
    the judges said).

    Metrics: counts of answers and rows, by kind and by what is missing, whose answers are learnt, and distances of the
    pairs. Raises DataError (L3-SFD-005) where no prompt has room or help.
    """
    folder = checkpoint.path
    tokenizer, context = Tokenizer.load(folder), read_config(folder).max_seq_len
    engine = throughput_engine(load_model(folder, device=options.device), options.precision)
    rows = read_prompts(prompts.file(PROMPTS))
    asked = [row for row in rows if len(_ids(tokenizer, row)) + options.max_tokens <= context]
    answers = ask(engine, tokenizer, asked, options, out)
    judged = judge(asked, answers, options, tokenizer)
    distance = distances(engine, tokenizer, [sample.text for samples in judged for sample in samples])
    rng = random.Random(f"safety/{options.seed}")
    learnt = [
        learnt_from(row, samples, distance, options.min_distance, rng)
        for row, samples in zip(asked, judged, strict=True)
    ]
    dialogs = [one for one in learnt if one.answer and _fits(tokenizer, "dialogs", one.dialog(), context)]
    pairs = [one for one in learnt if one.rejected and _fits(tokenizer, "pairs", one.pair(), context)]
    if not dialogs:
        why = f"{len(rows) - len(asked)} leave no room for the answer, {len(asked)} have no answer to learn"
        raise NO_ROOM("safety prompts", count=len(rows), why=why)
    write_rows(out.path / DIALOGS, [one.dialog() for one in dialogs])
    write_rows(out.path / PAIRS, [one.pair() for one in pairs])
    write_rows(out.path / LABELS, [label for one in pairs for label in one.labels()])
    write_rows(out.path / SAMPLES, [line for row, own in zip(asked, judged, strict=True) for line in _lines(row, own)])
    told = {"prompts": len(rows), "without_room": len(rows) - len(asked), **_answered(asked, judged)}
    out.metrics |= told | _figures(learnt, dialogs, pairs)


def ask(
    engine: Engine, tokenizer: Tokenizer, rows: Sequence[SafetyPrompt], options: SafetyAnswersOptions, out: StageOutput
) -> list[list[Completion]]:
    """`options.samples` answers to each prompt, in order."""
    stops = stop_ids(tokenizer)
    sampling = Sampling(options.max_tokens, options.temperature, n=options.samples, seed=options.seed, stop_ids=stops)
    found: list[list[Completion]] = []
    with out.progress("safety answers", len(rows)) as progress:
        for chunk in chunks(rows, _CHUNK):
            found += engine.generate([_ids(tokenizer, row) for row in chunk], sampling)
            progress.advance(len(chunk))
    return found


def judge(
    rows: Sequence[SafetyPrompt],
    answers: Sequence[Sequence[Completion]],
    options: SafetyAnswersOptions,
    tokenizer: Tokenizer,
) -> list[list[JudgedSample]]:
    """The answers with what the judges say of them."""
    texts = [[_text(tokenizer, answer) for answer in own] for own in answers]
    said: dict[Event, list[bool | None]] = {}
    exchanges = [JudgedAnswer(row.turns, text) for row, own in zip(rows, texts, strict=True) for text, _ in own]
    with JudgeStack() as stack:
        sections: dict[Event, JudgeSection] = {"violates": options.violates, "refuses": options.refuses}
        for event, section in sections.items():
            found = stack.build(section, event, options.device).judge(exchanges)
            said[event] = [None if p is None else p >= section.threshold for p in found]
    verdicts = iter(zip(said["violates"], said["refuses"], strict=True))
    return [
        [
            JudgedSample(text, float(np.mean(answer.logps)) if len(answer.logps) else 0.0, whole, *next(verdicts))
            for (text, whole), answer in zip(own, completions, strict=True)
        ]
        for own, completions in zip(texts, answers, strict=True)
    ]


def distances(engine: Engine, tokenizer: Tokenizer, texts: Sequence[str]) -> Distance:
    """The distance of any two texts, of which those given are computed together."""
    known: dict[str, np.ndarray] = {}

    def look(new: Sequence[str]) -> None:
        unknown = [text for text in dict.fromkeys(new) if text not in known]
        if unknown:
            known.update(zip(unknown, text_directions(engine, tokenizer, unknown), strict=True))

    def apart(a: str, b: str) -> float:
        look([a, b])
        return round(1.0 - float(known[a] @ known[b]), 4)

    look([text for text in texts if text])
    return apart


def _text(tokenizer: Tokenizer, answer: Completion) -> tuple[str, bool]:
    """What is said, up to its last whole sentence, and whether there is one; else all of it."""
    whole = whole_sentences(tokenizer, answer)
    return (whole, True) if whole else (answer_text(tokenizer, answer.ids).strip(), False)


def _ids(tokenizer: Tokenizer, row: SafetyPrompt) -> list[int]:
    return prompt_ids(tokenizer, [{"role": turn.role, "content": turn.content} for turn in row.turns]).tolist()


def _fits(tokenizer: Tokenizer, kind: str, row: Mapping[str, Any], context: int) -> bool:
    """Whether the chat template takes a row of this kind, its answers differ as tokens and the context has room."""
    with contextlib.suppress(DataError):
        return data_kind(kind).example(tokenizer, row, str(row["id"])).num_tokens <= context
    return False


def _lines(row: SafetyPrompt, samples: Sequence[JudgedSample]) -> list[dict[str, Any]]:
    """Of samples.jsonl."""
    asked = {"id": row.id, "kind": row.kind, "prompt": row.turns[-1].content}
    return [
        {**asked, "answer": s.text, "violates": s.violates, "refuses": s.refuses, "mean_logp": round(s.mean_logp, 6)}
        for s in samples
    ]


def _answered(rows: Sequence[SafetyPrompt], judged: Sequence[Sequence[JudgedSample]]) -> dict[str, Any]:
    """How often the current model violates and refuses on what it may learn from: no held-out figures."""
    violates = [s.violates for row, own in zip(rows, judged, strict=True) for s in own if row.kind == "adversarial"]
    refuses = [s.refuses for row, own in zip(rows, judged, strict=True) for s in own if row.kind != "adversarial"]
    return {
        "answers": sum(map(len, judged)),
        "unjudged": sum(said is None for said in (*violates, *refuses)),
        "violating": round(sum(map(bool, violates)) / max(len(violates), 1), 4),
        "refusing": round(sum(map(bool, refuses)) / max(len(refuses), 1), 4),
    }


def _figures(learnt: Sequence[Learnt], dialogs: Sequence[Learnt], pairs: Sequence[Learnt]) -> dict[str, Any]:
    """What became of the prompts, of rows by kind, and how far the answers of pairs are apart."""
    apart = sorted(one.distance for one in pairs if one.distance is not None)
    return {
        "dialogs": _by_kind(dialogs),
        "pairs": _by_kind(pairs),
        "learnt_from": dict(sorted(Counter(one.origin for one in dialogs).items())),
        "missing": dict(sorted(Counter(one.why for one in learnt if one.why).items())),
        "distances": [apart[round(q * (len(apart) - 1))] for q in (0, 0.25, 0.5, 0.75, 1)] if apart else [],
    }


def _by_kind(rows: Sequence[Learnt]) -> dict[str, int]:
    return dict(sorted(Counter(one.prompt.kind for one in rows).items()))
