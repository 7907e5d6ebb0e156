"""Which judge a config names, and the judge that it means."""

from __future__ import annotations

from contextlib import ExitStack

from llama3.config.safety_data import JudgeSection
from llama3.evaluation.judges import QUESTIONS, AskedModel, Event, GuardJudge, Judge, SignsJudge
from llama3.evaluation.one_guard import one_guard


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
