"""Chains of words and Python in turns (paper 4.3.3): what the model computes is run in the sandbox and shown to it. A
chain of which a program fails is rejected, and so is one whose result is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llama3.capabilities import Made, Script, Task, Workshop
from llama3_plugins.capabilities.options import MathPythonOptions
from llama3_plugins.capabilities.turns import assistant, blocks

SYSTEM = (
    "Environment: ipython\n\nSolve problems step by step. Whatever is to be computed, write as a Python program in a "
    "```python block that prints what you need to know, and stop after it: its output is shown to you. When you know "
    "the result, write a last line that has nothing but 'Answer:' and the result."
)
MARK = "print('\\0')\n"
"""Between the cells: what one printed is what follows the last mark."""


@dataclass
class _Chain:
    """A task on its way to an answer."""

    task: Task
    turns: list[dict[str, str]] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    reason: str = ""
    """Why it is over; "": it goes on."""

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": SYSTEM}, *self.task.messages, *self.turns]


class MathPython:
    """The first chain of each task that computes and is right."""

    def __init__(self, options: MathPythonOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        tasks = shop.tasks(count, seed)
        drawn = shop.ask([_Chain(task).messages for task in tasks], samples=self.options.samples)
        chains = [[_Chain(task) for _ in row] for task, row in zip(tasks, drawn, strict=True)]
        flat = [chain for row in chains for chain in row]
        texts = [reply.text if reply.ended else "" for row in drawn for reply in row]
        for cell in range(self.options.cells + 1):
            self._go_on(shop, flat, texts, is_last=cell == self.options.cells)
            flat = [chain for chain in flat if not chain.reason]
            replies = shop.ask([chain.messages for chain in flat])
            texts = [row[0].text if row[0].ended else "" for row in replies]
        for row in chains:
            best = next((chain for chain in row if chain.reason == "ran_and_right"), row[0])
            yield Made(best.messages, best.reason == "ran_and_right", best.reason, "math")

    def _go_on(self, shop: Workshop, chains: Sequence[_Chain], texts: Sequence[str], *, is_last: bool) -> None:
        """Take the next turn of each chain: a program, which is run, or its end, which is compared."""
        running: list[_Chain] = []
        ended: list[_Chain] = []
        for chain, text in zip(chains, texts, strict=True):
            program = blocks(text)
            if not text.strip():
                chain.reason = "cut_off"
            elif not program:
                chain.turns.append(assistant(text.strip()))
                ended.append(chain)
            elif is_last:
                chain.reason = "too_many_programs"
            else:
                # What a model writes after its program is its guess of the output.
                whole = text[: text.index("```", text.index("```") + 3) + 3]
                chain.turns.append(assistant(whole.strip()))
                chain.cells.append(program[0])
                running.append(chain)
        scripts = [Script(f"\n{MARK}".join(chain.cells)) for chain in running]
        for chain, ran in zip(running, shop.run_python(scripts), strict=True):
            if ran.status != 0:
                chain.reason = "a_program_fails"
            else:
                said = ran.stdout.rpartition("\0\n")[2].strip()
                chain.turns.append({"role": "ipython", "content": said or "(no output)"})
        passed = shop.passed([chain.task for chain in ended], [chain.turns[-1]["content"] for chain in ended])
        for chain, is_right in zip(ended, passed, strict=True):
            chain.reason = "wrong_result" if not is_right else "ran_and_right" if chain.cells else "nothing_computed"
