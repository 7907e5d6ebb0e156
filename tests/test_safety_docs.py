"""docs/safety.md: its tables are those of the code and of the benchmark, its Python prints what is shown below it, its
policies are valid and its commands do what it shows.

    python tests/test_safety_docs.py        # writes the tables
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import pages
import pytest
from test_recipe import write_text

sys.path.insert(0, str(Path(__file__).parent / "guarding"))
from rows_of_guards import base_model

from llama3.evaluation.safety_tables import TableOf, changes_tables, shown, systems_table
from llama3_plugins.guards.code.rules import CATEGORIES, RULES
from llama3_plugins.guards.code.trees import GRAMMARS

PAGE = pages.ROOT / "docs" / "safety.md"
TEXT = PAGE.read_text(encoding="utf-8")
GENERATED = re.compile(r"(<!-- (\w+)(?:: (\S+))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
NAMES = {"c": "C", "cpp": "C++", "c_sharp": "C#", "php": "PHP", "javascript": "JavaScript", "bash": "shells"}


def categories(_: str | None) -> str:
    """What each category is about: CWE numbers and languages of its rules."""
    cwes, languages, actions = defaultdict(set), defaultdict(set), defaultdict(set)
    for rule in RULES:
        cwes[rule.category].add(rule.cwe)
        languages[rule.category] |= {NAMES.get(name, name.capitalize()) for name in rule.languages}
        actions[rule.category].add(rule.action)
    cwes["secrets"], languages["secrets"], actions["secrets"] = {798}, {"all"}, {"block"}
    cwes["semgrep"], languages["semgrep"], actions["semgrep"] = {"your rules'"}, {"your rules'"}, {"by severity"}
    rows = [
        f"| `{category}` | {', '.join(map(str, sorted(cwes[category])))} | {', '.join(sorted(languages[category]))} "
        f"| {' or '.join(sorted(actions[category]))} |"
        for category in CATEGORIES
    ]
    return "\n".join(["| category | CWE | languages | action |", "|---|---|---|---|", *rows]) + "\n"


def figures(_: str | None) -> str:
    """What the benchmark found when it ran last."""
    results = json.loads((pages.ROOT / "benchmarks" / "results" / "code_guard.json").read_text("utf-8"))
    said, told = results["alarms"], results["alarms"]["alarms"]
    alarms = [line.replace(": ", ": `", 1) + "`" for action in ("block", "flag") for line in told[action]]
    rows = [f"| {NAMES.get(r['language'], r['language'].capitalize())} | {r['median_ms']:.1f} | {r['p90_ms']:.1f} |"
            for r in results["times"]]  # fmt: skip
    seed, counts = said["seed"], f"it blocks {said['block']} and flags {said['flag']}"
    drawn = (
        f"Of {said['functions']} functions of Python's standard library (`make bench-code-guard`, seed {seed})\n"
        f"{counts}. All of them do what the rule says, in their place for a\n"
        "reason; to a guard of answers they are false alarms:"
    )
    costs = (
        "What a check of 200 lines costs, one statement a line, of which for all but Python nearly every one is\n"
        f"insecure (milliseconds of one processor, {results['machine']['processor']}; the same command):"
    )
    table = ["| language | median | 90% |", "|---|---|---|", *rows]
    return "\n".join([drawn, "", *(f"- {line}" for line in alarms), "", costs, "", *table, ""])


def stack(_: str | None) -> str:
    """What `make safety` found when it ran last."""
    path = pages.ROOT / "benchmarks" / "results" / "safety.json"
    if not path.exists():
        return "It has not been run to its end on a quiet machine yet: there is no `benchmarks/results/safety.json`.\n"
    results = json.loads(path.read_text("utf-8"))
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results["seconds"].items())
    lines = [f"`make safety`: {results['minutes']:.0f} minutes on {results['machine']['cores']} cores of "
             f"{results['machine']['processor']} ({spent})."]  # fmt: skip
    for suite, found in results["suites"].items():
        whole = found["chain"]
        lines += ["", f"**{suite}**: the whole chain changes VR by {whole['vr']['relative'] or 0.0:+.0%}, at an FRR of "
                  f"{shown(whole['frr'])}.", "", *markdown(next(changes_tables(found["changes"])))]  # fmt: skip
        lines += ["", f"`final` on {suite}, with and without each guard:", ""]
        lines += markdown(systems_table(found["evaluations"]["final"]))
    return "\n".join([*lines, ""])


def markdown(table: TableOf) -> list[str]:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    return [f"| {' | '.join(row)} |" for row in rows]


def result(name: str) -> dict:
    return json.loads((pages.ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def faults(_: str | None) -> str:
    """What came of the drawn policies."""
    found = result("guard_faults")
    return (
        f"Of {found['cases']:,} policies with faults, drawn by the seed {found['seed']} (`make guard-faults`: "
        f"{found['guards']:,} guards, {found['with a fault']:,}\npolicies of which at least one failed, "
        f"{found['streamed']:,} answers that were streamed too), {found['fail_open']} failed open.\n"
        f"The {found['logged']:,} decisions that were written to an audit log were all found again from it.\n"
    )


def costs(_: str | None) -> str:
    """What guards add to a token of a stream."""
    found = result("guard_stream")
    step, ms = found["model_ms_per_token"], {row["guards"]: row["ms_per_token"] for row in found["guards"]}
    rows = [f"| {name} | {cost:.3f} | {cost / step:.1%} |" for name, cost in ms.items()]
    told = (
        f"Of an answer of {found['tokens']:,} tokens, a third of it code, on one processor "
        f"({found['machine']['processor']};\n`make bench-guard-stream`). A token of SmolLM2-135M takes "
        f"{step:.0f} ms there:"
    )
    return "\n".join([told, "", "| guards | ms per token | of a token |", "|---|---|---|", *rows, ""])


GENERATORS = {"faults": faults, "costs": costs, "options": pages.options, "categories": categories, "figures": figures,
              "stack": stack}  # fmt: skip


def refreshed(text: str) -> str:
    return GENERATED.sub(lambda found: found[1] + "\n" + GENERATORS[found[2]](found[3]) + "\n" + found[5], text)


def test_the_tables_are_up_to_date():
    assert {found[1] for found in GENERATED.findall(TEXT)} == set(GENERATORS)
    assert refreshed(TEXT) == TEXT, "run: python tests/test_safety_docs.py"


def test_the_page_names_the_languages_that_are_parsed():
    section = TEXT.partition("## code_shield")[2].partition("\n## ")[0]
    assert all(NAMES.get(name, name.capitalize()) in section for name in GRAMMARS if name != "php_in_html")


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[list[str], dict[str, str]]:
    """The page followed from top to bottom in a folder with `my-model` and `notes`: what did not do what is shown, and
    what each command printed."""
    faults, said, code = [], {}, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        base_model(Path("my-model"))
        write_text(Path("notes"))
        for (language, block), (after, below) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
            if language == "yaml":
                Path(re.match(r"# (\S+)\n", block)[1]).write_text(block)
            elif language == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(block, str(PAGE), "exec"), {})
                if (after, below) != ("text", printed.getvalue()):
                    faults.append(printed.getvalue())
            elif language == "console":
                for command in pages.commands(block):
                    if command.line.startswith("cat "):
                        Path(command.line.removeprefix("cat ")).write_text(command.shown)
                        continue
                    said[command.line], code = pages.call(command.line, code)
                    if not command.matches(said[command.line], code):
                        faults.append(f"{command.line}: {code}\n{said[command.line]}")
    return faults, said


def test_blocks_do_what_is_shown(followed):
    faults, _ = followed
    assert not faults, "\n".join(faults)


def test_own_categories_are_told_by_their_names(followed):
    said = {line.split(" -")[0]: printed for line, printed in followed[1].items()}
    assert "S1 Salaries" in said['llama3 guard check "I will leak my salary at night"']
    assert re.search(r"^safety: by category\nCATEGORY .*\nsalaries .*$", said["llama3 evaluate my-model"], re.MULTILINE)


def test_every_block_is_tested():
    assert {language for language, _ in BLOCKS} <= {"yaml", "console", "python", "text"}


@pytest.mark.parametrize("target", ["bench-code-guard", "bench-guard-stream", "guard-faults", "safety"])
def test_targets_of_make_exist(target):
    assert re.search(rf"^{target}:", (pages.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"make {target}" in TEXT


if __name__ == "__main__":
    PAGE.write_text(refreshed(TEXT), encoding="utf-8")
    print(f"{PAGE.relative_to(pages.ROOT)}: {len(GENERATED.findall(TEXT))} tables")
