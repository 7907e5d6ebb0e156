"""Semgrep as a further judge of code: the user's own executable and rules, and an error for anything but its answer.

It is called for each block of code that is complete, in a process group of its own with a time limit and without the
user's settings; it is told to send nothing. Findings count from exit codes 0 and 1 only, from JSON that is as
documented, and where it reports no errors and scanned the code, if a rule is for its language. Comments that switch
rules off (`nosemgrep`) are not heeded: the judged code wrote them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from llama3.errors import PluginError
from llama3_plugins.guards.code.blocks import LANGUAGES
from llama3_plugins.guards.code.rules import Alarm, CodeRule

NO_SEMGREP = PluginError.declare(
    "L3-SAF-042", "semgrep cannot be asked: {what}", fix="install it, name the executable, and give files of rules"
)
NO_FINDINGS = PluginError.declare(
    "L3-SAF-043",
    "semgrep did not judge the code: {what}",
    why="code that it did not judge does not pass",
    fix="run the executable with these rules on a file by hand, raise its seconds, or write backend: rules",
)

ENDINGS = {"python": "py", "c": "c", "cpp": "cpp", "java": "java", "javascript": "js", "php": "php", "c_sharp": "cs",
           "rust": "rs", "go": "go", "bash": "sh"}  # fmt: skip
"""Of the files that code is written to."""
_OF_ALL = frozenset(["generic", "regex", "none"])
_OF_OTHERS = frozenset(["ts", "typescript", "vue"])
"""Of which we write no file."""
BLOCKS = frozenset(["ERROR", "CRITICAL", "HIGH"])
"""Severities of rules that block; all others are flagged."""
MOST_BYTES = 1 << 24
"""Of an answer."""


@dataclass(frozen=True)
class Semgrep:
    """An executable and files of rules."""

    executable: str
    rules: Sequence[str]

    def require(self) -> None:
        """Raises PluginError where something is missing."""
        missing = [rule for rule in self.rules if not Path(rule).is_file()]
        if missing or not self.rules:
            raise NO_SEMGREP("code_shield", what=f"no files of rules: {missing}")
        if shutil.which(self.executable) is None:
            raise NO_SEMGREP("code_shield", what=f"there is no executable {self.executable!r}")

    def alarms(self, code: str, language: str | None, seconds: float) -> Iterator[Alarm]:
        """What it finds in code of a language; of code whose language is not known, what it finds in any.

        Raises PluginError where it does not answer as it should in that time.
        """
        with tempfile.TemporaryDirectory() as folder:
            asked = [language] if language is not None else [*ENDINGS]
            names = [f"code.{ENDINGS[name]}" for name in asked]
            for name in names:
                (Path(folder) / name).write_text(code, "utf-8", errors="replace", newline="")
            told = self._answer(folder, seconds)
            known = _languages(self.rules)
            _require_whole(told, [name for name, of in zip(names, asked, strict=True) if of in known], language)
            yield from _alarms(told, code)

    def _answer(self, folder: str, seconds: float) -> dict[str, Any]:
        own = Path(folder) / ".own"
        own.mkdir()
        rules = [part for rule in self.rules for part in ("--config", str(Path(rule).resolve()))]
        executable = Path(str(shutil.which(self.executable))).resolve()
        command = [str(executable), "scan", "--json", "--quiet", "--metrics=off", "--disable-nosem",
                   "--disable-version-check", "--no-git-ignore", "--max-target-bytes=0", *rules, folder]  # fmt: skip
        environment = {
            "PATH": f"{executable.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "HOME": str(own),
            "SEMGREP_SEND_METRICS": "off",
        }
        environment |= {key: os.environ[key] for key in ("PYTHONPATH", "LANG") if key in os.environ}
        with (own / "answer").open("w+b") as answer:
            try:
                code = _run(command, environment, answer.fileno(), seconds)
            except subprocess.TimeoutExpired:
                raise NO_FINDINGS("code_shield", what=f"it took longer than {seconds:.1f} s") from None
            except OSError as error:
                raise NO_FINDINGS("code_shield", what=error) from None
            answer.seek(0)
            said = answer.read(MOST_BYTES + 1)
        if code not in (0, 1):
            raise NO_FINDINGS("code_shield", what=f"its exit code is {code}")
        return _read(said)


def _run(command: Sequence[str], environment: dict[str, str], answer: int, seconds: float) -> int:
    """The exit code. Whatever the command began ends with it. Raises TimeoutExpired, OSError."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.DEVNULL, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(said: bytes) -> dict[str, Any]:
    try:
        told = json.loads(said) if len(said) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not all(isinstance(told.get(key), list) for key in ("results", "errors")):
        raise NO_FINDINGS("code_shield", what="its answer is no JSON of findings")
    return told


def _require_whole(told: dict[str, Any], names: Sequence[str], language: str | None) -> None:
    """Code in a language that it knows was read from its beginning to its end; of other code that cannot be asked.
    `names`: files for whose languages there are rules, of which it scanned one."""
    paths = told["paths"] if isinstance(told.get("paths"), dict) else {}
    missed = set(names) - (_named(paths.get("scanned")) - _named(paths.get("skipped")))
    if names and missed == set(names):
        raise NO_FINDINGS("code_shield", what="it did not scan it")
    kinds = [str(error.get("type") if isinstance(error, dict) else error).lower() for error in told["errors"]]
    failed = [kind for kind in kinds if language is not None or not ("pars" in kind or "syntax" in kind)]
    if failed:
        raise NO_FINDINGS("code_shield", what=f"it reports {len(failed)} errors, first {failed[0][:60]}")


def _languages(rules: Sequence[str]) -> set[str]:
    """The languages that some rule is for, by our names; all of them where a file cannot be read as rules."""
    found: set[str] = set()
    for file in rules:
        try:
            names = {str(name).lower() for rule in yaml.safe_load(Path(file).read_bytes())["rules"]
                     for name in rule["languages"]}  # fmt: skip
        except (OSError, ValueError, RecursionError, KeyError, TypeError, yaml.YAMLError):
            return set(ENDINGS)
        if names & _OF_ALL:
            return set(ENDINGS)
        found |= {LANGUAGES[name] for name in names - _OF_OTHERS if name in LANGUAGES}
    return found


def _named(rows: Any) -> set[str]:
    """Names of the files of a list: paths, or objects with one."""
    paths = [row.get("path") if isinstance(row, dict) else row for row in (rows if isinstance(rows, list) else [])]
    return {Path(path).name for path in paths if isinstance(path, str)}


def _alarms(told: dict[str, Any], code: str) -> Iterator[Alarm]:
    """Every finding, over the whole lines that it is in."""
    starts = [0, *(match.end() for match in re.finditer("\n", code)), len(code)]
    for result in told["results"]:
        try:
            name = str(result["check_id"]).rpartition(".")[2]
            severity, cwe = result["extra"]["severity"], re.search(r"CWE-(\d+)", str(result["extra"].get("metadata")))
            first, last = int(result["start"]["line"]) - 1, int(result["end"]["line"]) - 1
            place = starts[max(first, 0)], starts[min(last + 1, len(starts) - 1)]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            raise NO_FINDINGS("code_shield", what="a finding is not as documented") from None
        action: Literal["block", "flag"] = "block" if str(severity).upper() in BLOCKS else "flag"
        rule = CodeRule("semgrep", int(cwe[1]) if cwe else 0, action, frozenset(), ())
        yield Alarm(rule, *place, name)
