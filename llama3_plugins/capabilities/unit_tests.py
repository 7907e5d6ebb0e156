"""Tests that a model writes for its own program: are they any, do they pass, and would they notice a program that is
none."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence

from llama3.capabilities import Ran, Script, Workshop
from llama3_plugins.capabilities.python_source import defined, faults, parsed

LEAST_ASSERTS = 2


def unsound(solution: str, tests: str) -> str:
    """Why tests are none; "" where they are: they parse, and assert something of what the solution defines."""
    tree, program = parsed(tests), parsed(solution)
    if isinstance(tree, str) or isinstance(program, str):
        return "syntax error in the tests"
    names = set(defined(program))
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if len(asserts) < LEAST_ASSERTS:
        return f"the tests have fewer than {LEAST_ASSERTS} assert statements"
    if not names & used:
        return "the tests use nothing that the solution defines"
    return "; ".join(faults(f"{solution}\n{tests}"))


def test_runs(shop: Workshop, pairs: Sequence[tuple[str, str]]) -> list[Ran]:
    """What each solution does under its tests, in the sandbox; exit status 0 means that all of them came to their end
    and passed, whatever the program itself says or does to leave early."""
    marks = [hashlib.blake2b(f"{solution}\0{tests}".encode(), digest_size=8).hexdigest() for solution, tests in pairs]
    ran = shop.run_python([Script(_program(*pair, mark)) for pair, mark in zip(pairs, marks, strict=True)])
    return [_judged(one, mark) for one, mark in zip(ran, marks, strict=True)]


def prove_something(shop: Workshop, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the tests of each solution fail where all that it defines does nothing: such as pass then, too, prove
    nothing of it."""
    empty = [(_emptied(solution), tests) for solution, tests in pairs]
    return [one.status != 0 for one in test_runs(shop, empty)]


test_runs.__test__ = False  # type: ignore[attr-defined]


def _program(solution: str, tests: str, mark: str) -> str:
    tree = parsed(tests)
    own = defined(tree) if isinstance(tree, ast.Module) else []
    calls = "\n".join(f"{name}()" for name in own if name.startswith("test"))
    return f"{solution}\n\n{tests}\n\n{calls}\nprint({mark!r})\n"


def _judged(ran: Ran, mark: str) -> Ran:
    said = ran.stdout.rstrip("\n")
    if said.endswith(mark):
        return Ran(said.removesuffix(mark), ran.stderr, ran.status)
    if ran.status == 0:
        return Ran(ran.stdout, ran.stderr + "The program left before all tests were run.\n", -1)
    return ran


def _emptied(solution: str) -> str:
    """A module with the same names, whose functions return None and whose classes have no state."""
    tree = parsed(solution)
    body = tree.body if isinstance(tree, ast.Module) else []
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    nothing = "    def __init__(self, *a, **k): pass\n    def __getattr__(self, name): return lambda *a, **k: None\n"
    return "\n".join(
        [
            *(f"class {name}:\n{nothing}" for name in classes),
            *(f"def {name}(*a, **k): return None" for name in functions),
        ]
    )
