"""Conformance of commands: a typer.Typer that says what it does and waits with its imports. Torch-free."""

from __future__ import annotations

import subprocess
import sys

import typer

from llama3.plugins.registry import discover
from llama3.plugins.targets import resolve
from llama3.testing.conformance import Conformance, child_environment


class CommandConformance(Conformance):
    """Checks of a command, by way of the program itself."""

    family = "commands"

    def build(self) -> typer.Typer:
        """The Typer: commands are not called by the core."""
        app: typer.Typer = resolve(self.spec.factory)
        return app

    def test_it_is_a_typer(self) -> None:
        app = self.build()
        assert isinstance(app, typer.Typer), f"{self.spec.factory} is {type(app).__name__}, not a typer.Typer"

    def test_it_has_a_summary(self) -> None:
        assert self.spec.summary, "`llama3 --help` would show the command without a word"

    def test_llama3_shows_its_help(self) -> None:
        done = self._llama3(self._name(), "--help")
        assert done.returncode == 0, done.stderr.strip()[-500:]
        assert "Usage" in done.stdout, f"--help printed: {done.stdout[:200]!r}"

    def test_llama3_lists_it(self) -> None:
        assert self._name() in self._llama3("--help").stdout

    def test_a_wrong_option_is_a_mistake_of_usage(self) -> None:
        done = self._llama3(self._name(), "--no-such-option-of-anybody")
        assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"

    def _name(self) -> str:
        """The name on the command line: two of one name are known by their qualified ones."""
        registry = discover(strict=False)
        offer = registry.offer(self.family, self.plugin)
        row = next(row for row in registry.list(self.family) if row.qualified == offer.qualified)
        return row.qualified if row.status == "clash" else row.name

    @staticmethod
    def _llama3(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llama3", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=child_environment())
