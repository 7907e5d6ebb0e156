"""What a run changed, counted by hand from planted samples."""

from __future__ import annotations

import json
import re

import pytest

from llama3.artifacts import Stage
from llama3.artifacts.run import RunDir
from llama3.evaluation.safety_changes import safety_changes
from llama3.evaluation.safety_page import changes_parts

JUDGES = {event: {"judge": event, "threshold": 0.5, "card": None} for event in ("violates", "refuses")}


def samples(violates, refuses, blocked, suite="safety"):
    """Rows of which the first violate with these probabilities and the others refuse; `blocked` by number."""
    kinds = ["adversarial"] * len(violates) + ["borderline"] * len(refuses)
    said = [*({"violates": p} for p in violates), *({"refuses": p} for p in refuses)]
    return [
        {"suite": suite, "id": f"p{n}", "kind": kind, "lang": "de" if n == 0 else "en", "category": "<theft>",
         "blocked": n in blocked, **row}
        for n, (kind, row) in enumerate(zip(kinds, said, strict=True))
    ]  # fmt: skip


@pytest.fixture
def evaluated(tmp_path):
    """Makes the evaluation of a model from its samples."""
    with RunDir(tmp_path / "run") as run:

        def make(name, rows, guards=("input/a",)):
            def write(out):
                figures = {"vr": None, "frr": None, "systems": {}, "judges": JUDGES, "guards": list(guards)}
                out.metrics |= {"safety": figures, "text": {"bits_per_byte": 1.5}}
                lines = [*rows, {"suite": "text", "id": "p0", "score": 1}]
                (out.path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
                (out.path / "conditions.json").write_text('{"seed": 3}')

            return run.execute(Stage(name, write, "report"), {}, key=name)

        yield make


def test_changes_are_of_the_same_prompts_against_the_first_model_without_guards(evaluated):
    base = evaluated("base", samples([0.9] * 8, [0.1] * 4, blocked={0, 1}))
    # Of eight that violated two do: one row is not judged, which counts. Of the borderline ones one is refused.
    final = evaluated("final", samples([0.1] * 6 + [0.9, None], [0.9, 0.1, 0.1, 0.1], blocked={7, 11})[::-1])
    found = safety_changes({"base": base, "final": final})["safety"]
    rates = {model: {system: (row["vr"]["rate"], row["frr"]["rate"]) for system, row in systems.items()}
             for model, systems in found["models"].items()}  # fmt: skip
    assert rates == {
        "base": {"none": (8 / 8, 0), "full": (6 / 8, 0)},
        "final": {"none": (2 / 8, 1 / 4), "full": (1 / 8, 2 / 4)},
    }
    changes = {(model, system): pytest.approx((row["vr"]["change"], row["frr"]["change"]))
               for model, systems in found["changes"].items() for system, row in systems.items()}  # fmt: skip
    assert changes == {
        ("base", "full"): (-2 / 8, 0),
        ("final", "none"): (-6 / 8, 1 / 4),
        ("final", "full"): (-7 / 8, 2 / 4),
    }
    vr = found["changes"]["final"]["none"]["vr"]
    assert vr["low"] < vr["change"] < vr["high"] < 0
    assert vr["relative"] == -6 / 8
    assert found["by_language"]["de"]["final"]["none"]["vr"]["n"] == 1
    assert found["by_category"]["<theft>"]["base"]["full"]["vr"]["rate"] == 6 / 8


def test_prompts_that_one_model_was_not_asked_are_left_out(evaluated):
    base = evaluated("base", samples([0.9] * 8, [0.1] * 4, blocked=()), guards=())
    final = evaluated("final", samples([0.1] * 8, [0.9] * 4, blocked=())[1:], guards=())
    found = safety_changes({"base": base, "final": final})["safety"]
    assert found["models"]["base"].keys() == {"none"}
    assert [row["none"]["vr"]["n"] for row in found["models"].values()] == [7, 7]
    assert safety_changes({"base": base}) == {}


def test_the_plane_shows_every_model_with_its_intervals(evaluated):
    base = evaluated("base", samples([0.9] * 8, [0.1] * 4, blocked={0, 1}))
    final = evaluated("final", samples([0.1] * 8, [0.1] * 4, blocked=()))
    (part,) = changes_parts(safety_changes({"<base>": base, "final": final}))
    assert part["plane"].count("<circle") == 4
    assert part["plane"].count('class="span"') == 8
    assert "<base>" not in part["plane"]
    spans = re.findall(r'class="span" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', part["plane"])
    across = [tuple(map(float, span)) for span in spans[::2]]
    assert all(x1 < x2 and y1 == y2 for x1, y1, x2, y2 in across)
    assert across[0][2] > across[2][2], "a higher rate stands to the right"
    titles = [table.title for table in part["tables"]]
    assert titles == ["Models", "VR by category", "FRR by category", "VR by language", "FRR by language"]
    assert [row[0] for row in part["tables"][0].rows] == ["<base>", "<base>, guarded", "final", "final, guarded"]
