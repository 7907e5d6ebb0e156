"""Answers about code that cannot be run, filtered by a judge of correctness and style (paper 4.3.1, "model-as-judge").

A judge gives 0 or 1 for each; only answers with both are kept. Such a filter alone would lose the hardest questions, so
where no answer has both, one is revised with what the judge said until it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama3.capabilities import Made, Workshop, points
from llama3_plugins.capabilities.code_feedback import drawn_snippets
from llama3_plugins.capabilities.options import CodeJudgedOptions
from llama3_plugins.capabilities.turns import assistant, fenced, firsts, user

QUESTION = (
    "Here is a fragment of a program:\n\n{snippet}\n\nWrite a question that a programmer who works on it would ask: to "
    "review it, to find a fault, to explain a part, or to change it. Show in the question all the code that it is "
    "about. Write only the question."
)
RULES = "Be correct and specific. Write clean, readable code with clear names, and say why, briefly."
CRITERIA = (
    "Is everything in the answer right, and does it do what the question asks for?",
    "Is its code clean and readable, with clear names and useful comments, and its text clear and to the point?",
)
"""Correctness and style."""
JUDGE = (
    "{criterion}\n\nSay what speaks for and against. End with a line that holds only one number: 1 for yes or 0 for no."
    "\n\nQuestion:\n{question}\n\nAnswer:\n{answer}"
)
REVISE = "A reviewer says of your answer:\n\n{said}\n\nWrite the whole answer again, better."


@dataclass
class _Case:
    """A question on its way to a good answer."""

    asked: list[dict[str, str]]
    answers: list[str]
    good: str = ""
    critique: str = ""
    """What the judge said of the first answer."""
    is_judged: bool = False
    """Whether anything of it could be read."""
    failed: str = ""
    """What was revised, once the revision is good."""


class CodeJudged:
    """Review, explanation and debugging of snippets of the corpus."""

    def __init__(self, options: CodeJudgedOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        snippets = drawn_snippets(shop, count, seed, self.options.snippet)
        questions = firsts(shop.ask([[user(QUESTION.format(snippet=fenced(text, "")))] for text in snippets]))
        asked = [[{"role": "system", "content": RULES}, user(question)] for question in questions if question]
        drawn = shop.ask(asked, samples=self.options.samples)
        answers = [[reply.text.strip() for reply in row if reply.ended and reply.text.strip()] for row in drawn]
        cases = [_Case(*pair) for pair in zip(asked, answers, strict=True)]
        _judge(shop, cases)
        for _ in range(self.options.revisions):
            _revise(shop, [case for case in cases if case.is_judged and not case.good])
        yield from (Made([user("")], False, "no_question", "code") for question in questions if not question)
        for case in cases:
            answer = case.good or next(iter(case.answers), "")
            messages = [case.asked[-1], assistant(answer)]
            yield Made(messages, bool(case.good), _reason(case), "code", case.failed)


def _reason(case: _Case) -> str:
    if case.good:
        return "revised" if case.failed else "both_points"
    if not case.answers:
        return "no_answer"
    return "too_few_points" if case.is_judged else "judge_unreadable"


def _judge(shop: Workshop, cases: Sequence[_Case]) -> None:
    """Set the first answer of each case with both points, and what the judge said of its first one."""
    flat = [(case, answer) for case in cases for answer in case.answers]
    said = shop.judge(
        [
            [user(JUDGE.format(criterion=criterion, question=case.asked[-1]["content"], answer=answer))]
            for case, answer in flat
            for criterion in CRITERIA
        ]
    )
    for number, (case, answer) in enumerate(flat):
        own = said[number * len(CRITERIA) : (number + 1) * len(CRITERIA)]
        given = [points(text, 1) for text in own]
        case.is_judged |= None not in given
        case.good = case.good or (answer if given == [1] * len(CRITERIA) else "")
        if answer == case.answers[0]:
            case.critique = "\n\n".join(own)


def _revise(shop: Workshop, cases: Sequence[_Case]) -> None:
    """Have the first answer of each case written again, and judged."""
    dialogs = [[*case.asked, assistant(case.answers[0]), user(REVISE.format(said=case.critique))] for case in cases]
    revised = [(case, text) for case, text in zip(cases, firsts(shop.ask(dialogs)), strict=True) if text]
    before = [case.answers[0] for case, _ in revised]
    for case, text in revised:
        case.answers = [text]
    _judge(shop, [case for case, _ in revised])
    for (case, _), failed in zip(revised, before, strict=True):
        case.failed = failed if case.good else ""
