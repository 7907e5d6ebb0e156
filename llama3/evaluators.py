"""What authors of evaluators need (hook `llama3_evaluators`). Stable: names go only with a new version of the
protocols.

Importing this module does not import torch, so that options can use it; the names that score with a model do, when they
are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama3.config.safety_data import JudgeSection
from llama3.config.slot_types import GuardSlot, RewardSlot
from llama3.data.canaries import Canary, random_secret, read_canaries
from llama3.data.ngrams import count_ngrams, draw_runs
from llama3.data.plan import TokenPlan
from llama3.evaluation.evaluator import HELD_OUT_BYTES, AsksAtLengths, Evaluator, KeepsPrompts, Result, Subject, texts
from llama3.evaluation.intervals import Rate, wilson
from llama3.evaluation.one_guard import guard_verdicts
from llama3.evaluation.safety_rows import SafetyPrompt, choose_prompts, parse_prompts, read_prompts
from llama3.evaluation.safety_suite import run_safety
from llama3.evaluation.tool_injection import run_tool_injection
from llama3.foreign import json_lines
from llama3.posttraining.examples import DialogExample, answer_example, dialog_example
from llama3.safety.guard import Turn
from llama3.safety.refusals import Judgement, is_repetitive, judge
from llama3.tasks import prompt_digest
from llama3.tasks.answer_pairs import Asked, answer_pairs
from llama3.tasks.rewards import CombinedReward, build_rewards, require_scorable
from llama3.tasks.user_data import Line, by_split, read_lines

if TYPE_CHECKING:
    from llama3.evaluation.answers import answers, drawn, have_room, replies
    from llama3.inference.llama import Llama
    from llama3.inference.sampling import Sampling
    from llama3.model.batch import Batch, Segment, Tree
    from llama3.model.score import score
    from llama3.posttraining.packing import pack_answers
    from llama3.posttraining.services import chunks

__all__ = [
    "HELD_OUT_BYTES",
    "Asked",
    "AsksAtLengths",
    "Batch",
    "Canary",
    "CombinedReward",
    "DialogExample",
    "Evaluator",
    "GuardSlot",
    "JudgeSection",
    "Judgement",
    "KeepsPrompts",
    "Line",
    "Llama",
    "Rate",
    "Result",
    "RewardSlot",
    "SafetyPrompt",
    "Sampling",
    "Segment",
    "Subject",
    "TokenPlan",
    "Tree",
    "Turn",
    "answer_example",
    "answer_pairs",
    "answers",
    "build_rewards",
    "by_split",
    "choose_prompts",
    "chunks",
    "count_ngrams",
    "dialog_example",
    "draw_runs",
    "drawn",
    "guard_verdicts",
    "have_room",
    "is_repetitive",
    "json_lines",
    "judge",
    "pack_answers",
    "parse_prompts",
    "prompt_digest",
    "random_secret",
    "read_canaries",
    "read_lines",
    "read_prompts",
    "replies",
    "require_scorable",
    "run_safety",
    "run_tool_injection",
    "score",
    "texts",
    "wilson",
]

_HOMES = {
    "answers": "llama3.evaluation.answers",
    "drawn": "llama3.evaluation.answers",
    "have_room": "llama3.evaluation.answers",
    "replies": "llama3.evaluation.answers",
    "Llama": "llama3.inference.llama",
    "Sampling": "llama3.inference.sampling",
    "Batch": "llama3.model.batch",
    "Segment": "llama3.model.batch",
    "Tree": "llama3.model.batch",
    "score": "llama3.model.score",
    "pack_answers": "llama3.posttraining.packing",
    "chunks": "llama3.posttraining.services",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
