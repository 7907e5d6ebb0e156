"""Whether two Python functions do the same: the same calls, run in the sandbox, return the same."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from llama3.capabilities import Script, Workshop
from llama3_plugins.capabilities.python_source import defined, lone_functions, parsed
from llama3_plugins.capabilities.turns import blocks, fenced, firsts, user

CALLS = (
    "{function}\n\nWrite {count} calls of this function with differing arguments that are written out, edge cases too, "
    "each in a line of its own, such as {name}(...). Give them in one ```python block, and nothing else."
)
DISTINCT = 2
"""Results that the calls of a function must have: a function that always says the same compares with anything."""


def name_of(function: str) -> str:
    """The name that a function's source defines."""
    tree = parsed(function)
    return "" if isinstance(tree, str) or not defined(tree) else defined(tree)[0]


def drawn_functions(shop: Workshop, count: int, seed: int) -> list[str]:
    """A function that stands on its own of each of at most `count` Python documents of the corpus, no two alike."""
    found: dict[str, None] = {}
    for document in shop.documents(4 * count, seed, kind="code", language="python"):
        functions = [one for one in lone_functions(document.text) if one not in found]
        if functions and len(found) < count:
            found[functions[seed % len(functions)]] = None
    return list(found)


def written_calls(shop: Workshop, functions: Sequence[str], count: int) -> list[list[str]]:
    """Calls of each function that the model writes, literal arguments only; none where it writes none."""
    asked = [[user(CALLS.format(function=fenced(one), count=count, name=name_of(one)))] for one in functions]
    said = firsts(shop.ask(asked))
    return [_calls(next(iter(blocks(text)), ""), name_of(one)) for text, one in zip(said, functions, strict=True)]


def results(shop: Workshop, programs: Sequence[tuple[str, Sequence[str]]]) -> list[list[str] | None]:
    """What the calls of each program return, as `repr` writes it, exceptions by their names; None where the program
    does not come to its end."""
    ran = shop.run_python([Script(_program(code, calls)) for code, calls in programs])
    return [
        one.stdout.splitlines()[-len(calls) :] if one.status == 0 and calls else None
        for one, (_, calls) in zip(ran, programs, strict=True)
    ]


def tell_apart(found: list[str] | None) -> bool:
    """Whether results could tell a function from another one: some calls return, and not always the same."""
    return found is not None and len({one for one in found if not one.startswith("!")}) >= DISTINCT


def _calls(block: str, name: str) -> list[str]:
    """The lines that are calls of `name` with nothing but literals."""
    found = []
    for line in block.splitlines():
        tree = parsed(line.strip())
        if isinstance(tree, str) or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
            continue
        call = tree.body[0].value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name:
            given = [*call.args, *(word.value for word in call.keywords)]
            if not any(isinstance(part, ast.Call | ast.Name | ast.Lambda) for one in given for part in ast.walk(one)):
                found.append(line.strip())
    return list(dict.fromkeys(found))


def _program(code: str, calls: Sequence[str]) -> str:
    tried = "\n".join(f"_told(lambda: {call})" for call in calls)
    return (
        f"{code}\n\ndef _told(call):\n    try:\n        said = repr(call())\n    except Exception as error:\n"
        f"        said = '!' + type(error).__name__\n    print(said.replace(chr(10), ' ')[:300])\n\n{tried}\n"
    )
