"""Programs that learn from what happens when they are run (paper 4.3.1, "execution feedback").

A snippet of the corpus inspires a problem; the model solves it; the solution is checked without running it, then by
unit tests that the model writes, in the sandbox. What fails goes back to the model with what was seen, and it corrects
program or tests. Kept is what passes every check.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from llama3.capabilities import Made, Ran, Workshop, passages
from llama3_plugins.capabilities.options import CodeFeedbackOptions
from llama3_plugins.capabilities.python_source import faults
from llama3_plugins.capabilities.turns import assistant, blocks, fenced, firsts, user
from llama3_plugins.capabilities.unit_tests import prove_something, test_runs, unsound

PROBLEM = (
    "Here is a fragment of a program:\n\n{snippet}\n\nBe inspired by it to write a programming problem of another kind "
    "that a single Python module solves, without files and without the network. Name the function or class to write, "
    "its arguments and what it returns, and give one example. Write only the problem."
)
SOLUTION = (
    "{problem}\n\nWrite the solution in Python. Use clear names, small functions and the standard library only; handle "
    "edge cases; say in comments how you reason. Give the whole program in one ```python block."
)
TESTS = (
    "Write unit tests for this program: plain assert statements in functions whose names begin with test_, at least "
    "three of them, edge cases too. Do not repeat the program. Give the tests in one ```python block."
)
CORRECT = (
    "{what}\n\nFind out whether the program or its tests are wrong, and correct that. Give the whole program in one "
    "```python block and then all tests in another."
)
SHOWN = "exit status: {status}\nstdout:\n{stdout}\nstderr:\n{stderr}"


@dataclass
class _Attempt:
    """A problem on its way to a solution that passes."""

    problem: str
    turns: list[dict[str, str]] = field(default_factory=list)
    """What was said about it so far; the first is the question."""
    solution: str = ""
    tests: str = ""
    fault: str = ""
    """What the model is shown; "": nothing is wrong."""
    reason: str = ""
    """Why it is over; "": it goes on."""
    is_corrected: bool = False
    """Whether the first of two answers in `turns` is one that failed."""

    @property
    def is_waiting(self) -> bool:
        return not self.reason


class CodeFeedback:
    """Python, because that is what the sandbox runs."""

    def __init__(self, options: CodeFeedbackOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        snippets = drawn_snippets(shop, count, seed, self.options.snippet)
        problems = firsts(shop.ask([[user(PROBLEM.format(snippet=fenced(text, "")))] for text in snippets]))
        attempts = [_Attempt(problem) for problem in problems]
        for attempt in attempts:
            attempt.reason = "" if len(attempt.problem.split()) >= self.options.least_words else "no_problem"
        self._solve(shop, attempts)
        self._test(shop, attempts)
        for _ in range(self.options.corrections):
            self._correct(shop, attempts)
        for attempt in attempts:
            yield self._made(attempt)

    def _solve(self, shop: Workshop, attempts: Sequence[_Attempt]) -> None:
        def take(attempt: _Attempt, text: str) -> None:
            attempt.turns = [user(attempt.problem), assistant(text)]
            attempt.solution = next(iter(blocks(text)), "")
            attempt.reason = "" if attempt.solution else "no_code"

        self._each(shop, attempts, lambda attempt: [user(SOLUTION.format(problem=attempt.problem))], take)

    def _test(self, shop: Workshop, attempts: Sequence[_Attempt]) -> None:
        def take(attempt: _Attempt, text: str) -> None:
            attempt.tests = next(iter(blocks(text)), "")
            attempt.reason = "" if attempt.tests else "no_tests"

        self._each(shop, attempts, lambda attempt: [*attempt.turns, user(TESTS)], take)
        self._check(shop, attempts)

    def _correct(self, shop: Workshop, attempts: Sequence[_Attempt]) -> None:
        """Show each attempt that fails what happened, and take what the model makes of it."""

        def show(attempt: _Attempt) -> list[dict[str, str]]:
            about = f"{attempt.fault}\n\nThe tests:\n{fenced(attempt.tests)}"
            return [*attempt.turns, user(CORRECT.format(what=about))]

        def take(attempt: _Attempt, text: str) -> None:
            found = blocks(text)
            if len(found) < 2:
                attempt.reason = "no_code"
                return
            if found[0] != attempt.solution:  # else the tests alone were wrong
                shown = user(f"{attempt.fault}\n\nCorrect the program.")
                failed = assistant(fenced(attempt.solution))
                attempt.turns = [attempt.turns[0], failed, shown, assistant(fenced(found[0]))]
                attempt.is_corrected = True
            attempt.solution, attempt.tests = found[0], found[1]

        failing = [attempt for attempt in attempts if attempt.is_waiting and attempt.fault]
        self._each(shop, failing, show, take)
        self._check(shop, failing)

    def _check(self, shop: Workshop, attempts: Sequence[_Attempt]) -> None:
        """Set what is wrong with each attempt that is not over: without running it, then by its tests."""
        sound: list[_Attempt] = []
        for attempt in filter(lambda one: one.is_waiting, attempts):
            found = faults(attempt.solution) or [fault for fault in [unsound(attempt.solution, attempt.tests)] if fault]
            attempt.fault = "A check finds:\n" + "\n".join(found) if found else ""
            sound += [] if found else [attempt]
        pairs = [(attempt.solution, attempt.tests) for attempt in sound]
        for attempt, ran, proves in zip(sound, test_runs(shop, pairs), prove_something(shop, pairs), strict=True):
            attempt.fault = "" if ran.status == 0 else f"The tests were run.\n{_shown(ran)}"
            if ran.status == 0 and not proves:
                attempt.fault = "The tests pass even where the program does nothing: they prove nothing."

    def _each(
        self,
        shop: Workshop,
        attempts: Sequence[_Attempt],
        show: Callable[[_Attempt], list[dict[str, str]]],
        take: Callable[[_Attempt, str], None],
    ) -> None:
        waiting = [attempt for attempt in attempts if attempt.is_waiting]
        for attempt, text in zip(waiting, firsts(shop.ask([show(one) for one in waiting])), strict=True):
            take(attempt, text)

    def _made(self, attempt: _Attempt) -> Made:
        if attempt.reason or attempt.fault:
            return Made(attempt.turns or [user(attempt.problem)], False, attempt.reason or "fails", "code")
        turns: list[dict[str, object]] = [dict(turn) for turn in attempt.turns]
        if attempt.is_corrected:
            turns[1]["weight"] = 0  # what failed is seen, not learnt
        return Made(turns, True, "corrected" if attempt.is_corrected else "passed", "code")


def drawn_snippets(shop: Workshop, count: int, seed: int, longest: int) -> list[str]:
    """A passage of each of so many programs of the corpus, drawn by the seed."""
    found = []
    for document in shop.documents(count, seed, kind="code", least=40):
        pieces = list(passages(document.text, longest))
        found.append(random.Random(f"{seed}/{document.id}").choice(pieces))
    return found


def _shown(ran: Ran) -> str:
    return SHOWN.format(status=ran.status, stdout=ran.stdout, stderr=ran.stderr)
