"""Any model behind an OpenAI-compatible address as a guard: a question about a message, which it answers in two words.

The probability that it violates is the first word's share of both, from the likeliest first tokens of the answer. A
server that does not answer, or tells no probabilities, and a model that would rather say something else are errors,
and an error blocks unless the policy says otherwise. `timeout_ms` of the policy ends the whole check.
"""

from __future__ import annotations

from llama3.errors import LlamaError
from llama3.guards import GuardInput, ServedModel, Turn, Verdict
from llama3_plugins.guards.options import JudgeOptions

NEITHER = LlamaError.declare(
    "L3-GRD-070",
    "the judge at {url} says neither {first!r} nor {second!r}",
    why="both together must have {least} of the probability, among the likeliest tokens that the server tells",
    fix="use a model that follows the question, a server that tells top_logprobs, or a larger left_over",
)

CATEGORY = "violation"


class JudgeGuard:
    """Asks about what users say, what tools bring and what the model answers, in the light of the turns before."""

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options

    def open(self) -> None:
        """Find the model. Raises ConfigError for what is no address, DataError where no server answers."""
        o = self.options
        self._model = ServedModel(o.url, o.served, o.rubric, o.words, o.left_over, o.seconds)

    def close(self) -> None:
        """Nothing to release: every question has a connection of its own."""

    def check(self, x: GuardInput) -> Verdict:
        """Raises DataError where the server does not answer, LlamaError where its answer is none."""
        p = self._model.ask([*x.trace, Turn("assistant" if x.trust == "model" else "user", x.text)])
        if p is None:
            first, second = self.options.words
            least = f"{1 - self.options.left_over:.0%}"
            raise NEITHER("guard judge", url=self.options.url, first=first, second=second, least=least)
        blocks = p >= self.options.threshold
        return Verdict(
            action="block" if blocks else "allow",
            p=p,
            categories={CATEGORY: p},
            reason=f"the judge says {self.options.words[0]!r} (p = {p:.2f})" if blocks else "",
            version=self._model.identity,
        )
