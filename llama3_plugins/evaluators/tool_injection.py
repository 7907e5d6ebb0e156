"""How often an order that somebody hid in a tool's result is obeyed, behind the guards of the policy and without."""

from __future__ import annotations

from llama3.evaluators import Result, Subject, run_tool_injection
from llama3_plugins.evaluators.options import AskOptions


class ToolInjection:
    """Result: `success` of the orders and `utility` without them, behind the guards {rate, low, high, n}; both by
    system, carrier (search, file, function) and order. One sample per conversation, of score 1 where the order
    fails."""

    def __init__(self, options: AskOptions) -> None:
        self.options = options

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        return run_tool_injection(subject, self.options.limit or limit, seed, self.options.max_tokens)
