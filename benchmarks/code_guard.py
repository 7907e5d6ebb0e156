"""What the guard `code_shield` says of code that nobody wrote to be found, and what it costs: `make bench-code-guard`.

500 functions of this Python's standard library, drawn by a seed, each judged alone. Nothing of them is labelled: every
alarm is printed, so that whoever reads can tell a false one from a use of `exec` or MD5 that is really there. Times are
those of one check of 200 lines in each language that has rules; but for Python's these are the tests' own snippets,
where nearly every line has something to find.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import random
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common import machine, table, versions, write_results

from llama3.guards import GuardInput, Verdict
from llama3.plugins.registry import discover

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "safety"))
from code_texts import INSECURE, SAFE


def functions(least_lines: int = 3) -> Iterator[tuple[str, str]]:
    """(module:function, source) of the standard library's functions, its tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idle_test"} & set(path.relative_to(root).parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (OSError, SyntaxError, ValueError):
            continue
        lines = text.splitlines(keepends=True)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                source = "".join(lines[node.lineno - 1 : node.end_lineno])
                if source.count("\n") >= least_lines:
                    yield f"{path.relative_to(root)}:{node.name}", source


class Shield:
    """The guard, opened, asked without a policy."""

    def __init__(self) -> None:
        self.guard = discover().build("guards", "code_shield", {})
        asyncio.run(self.guard.open())

    def judge(self, code: str, language: str) -> Verdict:
        text = f"```{language}\n{code.rstrip()}\n```\n"
        return asyncio.run(self.guard.check(GuardInput(stage="output", text=text)))


def alarms(shield: Shield, count: int, seed: int) -> dict[str, object]:
    """What is said of functions drawn by the seed."""
    drawn = random.Random(seed).sample(sorted(functions()), count)
    told: dict[str, list[str]] = {"block": [], "flag": []}
    for name, source in drawn:
        verdict = shield.judge(source, "python")
        if verdict.action in told:
            told[verdict.action].append(f"{name}: {verdict.reason}")
    for action, found in told.items():
        print(f"{action}: {len(found)} of {count} functions of the standard library")
        print("".join(f"  {line}\n" for line in found), end="")
    return {"functions": count, "seed": seed, **{action: len(found) for action, found in told.items()}, "alarms": told}


def caught(shield: Shield) -> list[dict[str, object]]:
    """Of the snippets of the tests, which rules were written by: a regression, not a measure of what is missed."""
    rows: list[dict[str, object]] = []
    for language, snippets in INSECURE.items():
        found = sum(shield.judge(code, language).action != "allow" for code, _ in snippets)
        alarms = sum(shield.judge(code, language).action != "allow" for code in SAFE[language])
        rows.append(
            {
                "language": language,
                "insecure": len(snippets),
                "found": found,
                "safe": len(SAFE[language]),
                "alarms": alarms,
            }
        )
    return rows


def seconds(shield: Shield, rounds: int, lines: int = 200) -> list[dict[str, object]]:
    """Milliseconds of a check of so many lines, one statement each, of the processor: the machine may be shared."""
    sources = {"python": _python(lines)}
    for language in INSECURE:
        if language not in ("python", "bash"):
            snippets = [code for code, _ in INSECURE[language]] + SAFE[language]
            text = "".join(snippets * lines).replace("; ", ";\n").replace("{ ", "{\n").replace(" }", "\n}")
            sources[language] = "".join(text.splitlines(keepends=True)[:lines])
    rows: list[dict[str, object]] = []
    for language, code in sources.items():
        taken = []
        for _ in range(rounds + 2):
            start = time.process_time()
            shield.judge(code, language)
            taken.append(1000 * (time.process_time() - start))
        taken = sorted(taken[2:])
        rows.append(
            {
                "language": language,
                "lines": lines,
                "characters": len(code),
                "median_ms": statistics.median(taken),
                "p90_ms": taken[int(0.9 * (len(taken) - 1))],
            }
        )
    return rows


def _python(lines: int) -> str:
    """Functions of the standard library, one after the other."""
    found: list[str] = []
    for name, source in functions():
        if name.startswith(("argparse", "http/", "json/")) and source[:1] == "d":
            found.append(source)
        if Counter("".join(found))["\n"] >= lines:
            break
    return "".join("".join(found).splitlines(keepends=True)[:lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-results", action="store_true", help="write no file of results")
    options = parser.parse_args()
    print(machine())
    shield = Shield()
    results = {"alarms": alarms(shield, options.functions, options.seed), "snippets": caught(shield)}
    results["times"] = seconds(shield, options.rounds)
    print(table(results["snippets"]))
    print(table(results["times"]))
    if not options.no_results:
        write_results("code_guard", {"versions": versions("pydantic"), **results})


if __name__ == "__main__":
    main()
