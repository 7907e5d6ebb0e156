"""Know what you know (paper 4.3.6): refusals where the model is sure of itself and wrong, and nowhere else.

A question is made of a passage that the model was trained on, and asked without it, several times. The passage says
which answers are right. Where all answers say something definite and all are wrong, the model learns to say that it
does not know; where all are right, it learns its own answer, so that it does not refuse what it knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from llama3.capabilities import Made, Workshop, passages, verdict
from llama3_plugins.capabilities.options import FactualityOptions
from llama3_plugins.capabilities.turns import assistant, firsts, user

QUESTION = (
    "Write one question about a fact that the text below states, whose answer is a name, a number or a few words. It "
    "must be clear to somebody who does not see the text. Write only the question.\n\nText:\n{passage}"
)
RIGHT = (
    "Does the text say that the answer is right? End with a line that says only 'yes' or 'no'.\n\n"
    "Text:\n{passage}\n\nQuestion:\n{question}\n\nAnswer:\n{answer}"
)
INFORMATIVE = (
    "Does the answer commit itself to something definite, right or wrong? It does not where it says that it does not "
    "know, or avoids the question. End with a line that says only 'yes' or 'no'.\n\n"
    "Question:\n{question}\n\nAnswer:\n{answer}"
)
REFUSALS = (
    "I don't know that. I would rather say so than guess.",
    "I'm not sure about this, so I can't give you a reliable answer.",
    "I don't have reliable knowledge of that.",
    "I can't say; I don't know enough about it.",
)


class Factuality:
    """One question for each passage."""

    def __init__(self, options: FactualityOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        found = []
        for document in shop.documents(count, seed, kind="prose", least=100):
            pieces = list(passages(document.text, self.options.passage))
            found.append(random.Random(f"{seed}/{document.id}").choice(pieces))
        questions = firsts(shop.ask([[user(QUESTION.format(passage=text))] for text in found]))
        yield from (Made([user(text)], False, "no_question", "factuality") for text in questions if "?" not in text)
        pairs = [pair for pair in zip(found, questions, strict=True) if "?" in pair[1]]
        drawn = shop.ask([[user(question)] for _, question in pairs], samples=self.options.samples)
        answers = [[reply.text.strip() for reply in row] for row in drawn]
        flat = [
            {"passage": passage, "question": question, "answer": answer}
            for (passage, question), row in zip(pairs, answers, strict=True)
            for answer in row
        ]
        said = shop.judge([[user(text.format(**one))] for one in flat for text in (RIGHT, INFORMATIVE)])
        for place, ((_, question), row) in enumerate(zip(pairs, answers, strict=True)):
            own = [verdict(text) for text in said[2 * place * len(row) : 2 * (place + 1) * len(row)]]
            yield self._made(question, row, own[::2], own[1::2], seed)

    def _made(
        self, question: str, answers: list[str], right: list[bool | None], informative: list[bool | None], seed: int
    ) -> Made:
        refusal = random.Random(f"{seed}/{question}").choice(REFUSALS)
        if None in right or None in informative:
            answer, reason = "", "judge_unreadable"
        elif all(informative) and not any(right):
            answer, reason = refusal, "sure_and_wrong"
        elif all(informative) and all(right):
            answer, reason = answers[0], "known"
        else:
            answer, reason = "", "not_consistent"
        rejected = answers[0] if answer == refusal else ""
        return Made([user(question), assistant(answer)], bool(answer), reason, "factuality", rejected)
