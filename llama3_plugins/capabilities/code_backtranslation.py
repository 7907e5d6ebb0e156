"""Explanations of programs from which the program can be written again (paper 4.3.1, "back-translation").

The model explains a function of the corpus several times; from each explanation alone it writes the function again; the
explanation is as good as what comes back: the same results of the same calls where both can be run, else what a judge
says who has the original beside it. The best explanation of each function is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama3.capabilities import Made, Workshop, points
from llama3_plugins.capabilities.options import CodeBacktranslationOptions
from llama3_plugins.capabilities.python_source import faults
from llama3_plugins.capabilities.same_calls import drawn_functions, name_of, results, tell_apart, written_calls
from llama3_plugins.capabilities.turns import assistant, blocks, fenced, firsts, user

MOST = 10
EXPLAIN = (
    "Explain what this function does, so that somebody who has never seen it could write it again: its name and "
    "arguments, what it returns, and every case that it tells apart. Use words, not code.\n\n{code}"
)
WRITE = (
    "Write the Python function that is described here. Give the whole program in one ```python block.\n\n{description}"
)
COMPARE = (
    "Two programs should do the same. Compare them case by case. End with a line that holds only a number of points: "
    f"{MOST} where they do the same in every case, 0 where they have nothing in common.\n\n"
    "The original:\n{code}\n\nThe other one:\n{again}"
)


class CodeBacktranslation:
    """Documentation of programs, and programs of documentation."""

    def __init__(self, options: CodeBacktranslationOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        functions = drawn_functions(shop, count, seed)
        asked = [user(EXPLAIN.format(code=fenced(one))) for one in functions]
        drawn = shop.ask([[one] for one in asked], samples=self.options.samples)
        texts = [[reply.text.strip() for reply in row if reply.ended and not blocks(reply.text)] for row in drawn]
        flat = [(place, text) for place, row in enumerate(texts) for text in dict.fromkeys(row) if text]
        said = firsts(shop.ask([[user(WRITE.format(description=text))] for _, text in flat]))
        again = [next(iter(blocks(text)), "") for text in said]
        grades = self._grades(shop, functions, [(place, code) for (place, _), code in zip(flat, again, strict=True)])
        best: dict[int, int] = {}
        for number, (place, _) in enumerate(flat):
            if place not in best or grades[number][0] > grades[best[place]][0]:
                best[place] = number
        for place, question in enumerate(asked):
            if place not in best:
                yield Made([question], False, "no_explanation", "code")
                continue
            grade, reason = grades[best[place]]
            messages = [question, assistant(flat[best[place]][1])]
            yield Made(messages, grade >= self.options.least, reason, "code")

    def _grades(
        self, shop: Workshop, functions: Sequence[str], again: Sequence[tuple[int, str]]
    ) -> list[tuple[int, str]]:
        """The fidelity of each program that was written again, in points, and what found it out."""
        calls = written_calls(shop, functions, self.options.calls)
        before = results(shop, list(zip(functions, calls, strict=True)))
        after = results(shop, [(code, calls[place]) for place, code in again])
        judged = iter(
            shop.judge(
                [
                    [user(COMPARE.format(code=fenced(functions[place]), again=fenced(code)))]
                    for place, code in again
                    if not tell_apart(before[place]) and not _is_none(code, functions[place])
                ]
            )
        )
        found = []
        for (place, code), there in zip(again, after, strict=True):
            if _is_none(code, functions[place]):
                found.append((0, "no_way_back"))
            elif tell_apart(before[place]):
                is_same = before[place] == there
                found.append((MOST, "ran_the_same") if is_same else (0, "does_something_else"))
            else:
                given = points(next(judged), MOST)
                told = (
                    "judge_unreadable" if given is None else "judged" if given >= self.options.least else "judged_low"
                )
                found.append((given or 0, told))
        return found


def _is_none(code: str, function: str) -> bool:
    return not code or bool(faults(code)) or name_of(code) == "" or name_of(function) not in code
