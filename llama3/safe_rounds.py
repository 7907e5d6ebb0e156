"""Safety in a round of the recipe: what the model is asked, and its share of the dialogs and the pairs."""

from __future__ import annotations

from dataclasses import replace

from llama3.alignment.answers import SafetyAnswersOptions, safety_answers
from llama3.alignment.checks import unlearnt_pairs
from llama3.alignment.mixing import MixOptions, mix_dialogs, mix_pairs
from llama3.alignment.prompts import SafetyPromptsOptions, safety_prompts, told_left_out
from llama3.artifacts import Artifact
from llama3.config import Config
from llama3.errors import LlamaError
from llama3.evaluation.judge_choice import JudgeStack
from llama3.evaluation.judges import EVENTS, JudgedAnswer
from llama3.execution import Executor
from llama3.quality.checks import try_labeller
from llama3.safety.guard import Turn


def try_judges(config: Config, device: str) -> None:
    """Have the judges of `post_training.safety` judge one answer, and the labeller of `post_training.quality` one
    dialog, before work that they could end starts.

    Raises as `JudgeStack.build` and asking a judge do, with the key of the judge that cannot.
    """
    try_labeller(config, device)
    section = config.post_training.safety
    if section is None:
        return
    for event in EVENTS:
        try:
            with JudgeStack() as stack:
                judge = stack.build(getattr(section, event), event, device)
                judge.judge([JudgedAnswer((Turn("user", "How are you?"),), "I am well.")])
        except LlamaError as error:
            where = f"post_training.safety.{event}"
            raise type(error).of([replace(told, where=f"{where}: {told.where}") for told in error.problems]) from error


def about_safety(make: Executor, config: Config, n: int, checkpoint: Artifact) -> Artifact | None:
    """What the model answers to prompts about safety, and what it should have (5.4.3, 5.4.4), where it is asked."""
    if config.post_training.safety is None:
        return None
    make.warn(unlearnt_pairs(config))
    prompts = make(safety_prompts, f"safety-prompts-{n}", SafetyPromptsOptions.of(config, n), checkpoint=checkpoint)
    make.warn(told_left_out(prompts.metrics))
    options = SafetyAnswersOptions.of(config, n)
    return make(safety_answers, f"safety-answers-{n}", options, checkpoint=checkpoint, prompts=prompts)


def with_safety(make: Executor, config: Config, suffix: str, given: Artifact, safety: Artifact | None) -> Artifact:
    """Dialogs or preferences, joined by safety's share of them."""
    if safety is None:
        return given
    if given.type == "dialogs":
        return make(mix_dialogs, f"dialogs{suffix}", MixOptions.of(config), dialogs=given, safety=safety)
    return make(mix_pairs, f"pairs{suffix}", MixOptions.of(config), preferences=given, safety=safety)
