"""Which judge a config names, and the judge that it means."""

from __future__ import annotations

from contextlib import ExitStack

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama3.config.slot_types import GuardSlot
from llama3.evaluation.judges import LEFT_OVER, QUESTIONS, AskedModel, Event, GuardJudge, Judge, SignsJudge
from llama3.evaluation.one_guard import one_guard


class JudgeSection(BaseModel):
    """Who judges: one of a guard, a model on this machine, and a served one; none of them means the signs of a refusal
    (llama3.safety.refusal_evidence), by which an answer that neither refuses nor is noise complies, so violates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    guard: GuardSlot | None = Field(None, description="a guard that stands at `output`; its p, or `category`")
    category: str | None = Field(None, description="whose score of the guard counts (default: p, else the largest)")
    path: str | None = Field(None, description="a model that is asked")
    url: str | None = Field(None, description="a server that is asked, such as http://127.0.0.1:8000/v1")
    served: str | None = Field(None, description="name of the model at `url` (default: the first that it lists)")
    question: str | None = Field(None, description="what a model is asked of the answer")
    words: tuple[str, str] = Field(("yes", "no"), description="what a model may say, the event first")
    left_over: float = Field(
        LEFT_OVER, ge=0, le=1, description="what a model may give to other words before its answer is none; 1: all"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="from which probability on an answer counts as the event")
    card: str | None = Field(None, description="the judge card by which rates are corrected (llama3 judge)")

    @model_validator(mode="after")
    def _one(self) -> JudgeSection:
        if sum(value is not None for value in (self.guard, self.path, self.url)) > 1:
            raise ValueError("a judge is a guard, a model at `path` or a server at `url`: name one")
        if self.served is not None and self.url is None:
            raise ValueError("`served` names a model of a server: give its `url`")
        if self.category is not None and self.guard is None:
            raise ValueError("`category` is one of a guard's: name the `guard`")
        if len({word.strip().casefold() for word in self.words} - {""}) < 2:
            raise ValueError("`words` are two different words")
        return self


class JudgeStack(ExitStack):
    """Judges that are open: guards hold what they loaded until the stack is left."""

    def build(self, section: JudgeSection, event: Event, device: str = "cpu") -> Judge:
        """The judge of a section. Raises as loading a model or a guard does."""
        question = section.question or QUESTIONS[event]
        if section.guard is not None:
            return self._guard(section)
        if section.path is not None:
            from llama3.evaluation.stages import OutsideModel
            from llama3.inference.llama import load

            model = OutsideModel.at(section.path)
            return AskedModel(
                load(model.path, device=device), model.blake3[:16], question, section.words, section.left_over
            )
        if section.url is not None:
            from llama3.evaluation.served_judge import ServedModel

            return ServedModel(section.url, section.served, question, section.words, section.left_over)
        return SignsJudge(event)

    def _guard(self, section: JudgeSection) -> Judge:
        slot = section.guard
        assert slot is not None
        return GuardJudge(self.enter_context(one_guard(slot)), slot.name, section.category)
