"""The section `post_training.audit`: what may not be seen of a round, or it ends the run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llama3.config.section import Section
from llama3.config.slot_types import RewardSlot

Share = Annotated[float, Field(ge=0, le=1)]


class HumanCheckSection(Section):
    """What people find in a tenth of the answers that the models of a round gave, by `llama3 annotate`. What is checked
    when the run comes there, or comes there again, counts."""

    most_wrong: Share = Field(0.1, description="share of checked answers that somebody rejected or edited, at most")
    required: bool = Field(False, description="end the run as long as the sample is not checked; else it is told")


class RoundAuditSection(Section):
    """Audits of every round, on prompts that no stage learns from. A round that misses a limit ends the run (exit code
    5); so does a figure that a limit asks for and that cannot be told."""

    verifiers: list[RewardSlot] = Field(
        default_factory=list, description="what tells right from wrong here; default: post_training.rewards"
    )
    prompts: int = Field(200, ge=20, description="prompts that the models before and after the preference step answer")
    samples: int = Field(4, ge=2, le=64, description="answers to each")
    least_accuracy: Share = Field(
        0.5, description="the reward model takes a right answer over a wrong one: lower end of its interval, at least"
    )
    most_ece: Share = Field(0.5, description="expected calibration error of the reward model, at most")
    most_excess: Share = Field(
        0.25,
        description="how much more often than the verifiers the reward model takes the answer with more of a feature",
    )
    most_drift: Share = Field(
        0.5, description="share of pairs on which the reward models of two rounds differ, at most"
    )
    most_mislabelled: Share = Field(
        0.05, description="share of pairs whose rejected answer the verifiers hold for better, at most"
    )
    most_own: Share = Field(0.95, description="share of dialogs whose answer is the model's own, at most")
    least_diversity: Share = Field(
        0.5,
        description="different answers, 3-grams, their entropy and that of embeddings, over those of the first round's "
        "worked examples",
    )
    most_self_bleu: Share = Field(0.3, description="self-BLEU of the model's own answers less that of those, at most")
    human: HumanCheckSection | None = Field(
        None, description="what people find in a sample of the round's answers can end it: {}; null: nobody is asked"
    )
