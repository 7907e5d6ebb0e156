"""Capability recipes as steps of a run: what joins a round, what is told, refused, resumed."""

from __future__ import annotations

import json

import pytest
from skilled import config_of, rows_of, served

from llama3.cli import main


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(map(str, arguments)))
    return int(done.value.code or 0)


def even(dialog) -> str:
    """Right but for numbers that end in 7; a judge who finds a step wrong where the number ends in 3."""
    said = dialog[-1]["content"]
    number = int(said.split("Is ")[1].split(" ")[0])
    if "Check every step" in said:
        return "no" if number % 10 == 3 else "It is sound.\nyes"
    is_even = (number % 2 == 0) != (number % 10 == 7)
    return f"{number} ends in {number % 10}.\nAnswer: {'yes' if is_even else 'no'}"


def last_digit(row) -> str:
    return row["messages"][0]["content"].split()[1][-1]


def test_what_is_verified_joins_the_round_and_is_told(home, tmp_path, capsys):
    with served(even) as server:
        place = config_of(home, tmp_path, [{"name": "math_steps", "prompts": 30, "model": server.url}])
        assert exit_code("run", place) == 0, capsys.readouterr().err
        kept = rows_of(tmp_path / "s", "capability-math_steps-1")
        everything = rows_of(tmp_path / "s", "capability-math_steps-1", "made")
        told = json.loads((tmp_path / "s" / "report.json").read_text())["capabilities"]["capability-math_steps-1"]
        assert set(map(last_digit, kept)).isdisjoint("37")
        reasons = {last_digit(row): row["reason"] for row in everything}
        assert (reasons["3"], reasons["7"]) == ("a_step_is_wrong", "wrong_result")
        assert told["made"] == 30
        assert len(kept) == told["kept"] == told["proved"]["verified"]
        learnt = rows_of(tmp_path / "s", "skills-1")
        assert [row for row in learnt if row["source"] == "math_steps"] == kept
        assert "capability-math_steps-1" in (tmp_path / "s" / "report.html").read_text()
        asked = len(server.seen)
        assert exit_code("run", place) == 0
        assert len(server.seen) == asked + 1, "only the word that is asked before work"
