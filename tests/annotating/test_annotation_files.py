"""Files of annotations: broken ones are named by line and refused, cut ones go on, and what is made of them."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil

import pytest
from annotated_run import PROMPTS, annotating, called, lines, put, samples, say, write_run

from llama3.annotating.exported import MARGINS, exported
from llama3.annotating.folder import Opened, read_items, read_judgements
from llama3.annotating.items import pairs_of_run, texts_of_run
from llama3.annotating.judgements import STRENGTHS, Annotation
from llama3.artifacts.run import RunDir
from llama3.errors import ArtifactError, DataError


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def opened(run):
    """All pairs, of which ada has judged the first two."""
    folder = run / "annotations"
    folder.mkdir()
    found = Opened(folder, "pairs", ["ada"], pairs_of_run(RunDir(run), 0))
    for item in list(found.items)[:2]:
        found.say("ada", Annotation(item, 0, "better", "2026-01-01", left=0, chosen=1))
    yield found
    found.close()


def row(item, **changes):
    return {"item": item, "number": 0, "verdict": "better", "at": "now", "left": 0, "chosen": 1, **changes}


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ("{not json", "L3-ANN-001"),
        ("[1]", "L3-ANN-001"),
        ("verdict", "L3-ANN-010"),
        ({"verdict": "perfect"}, "L3-ANN-010"),
        ({"chosen": None}, "L3-ANN-010"),
        ({"chosen": 2}, "L3-ANN-010"),
        ({"chosen": True}, "L3-ANN-010"),
        ({"left": "left"}, "L3-ANN-010"),
        ({"verdict": "tie"}, "L3-ANN-010"),
        ({"verdict": "tie", "chosen": None, "edited": "x"}, "L3-ANN-010"),
        ({"number": "0"}, "L3-ANN-010"),
        ({"more": 1}, "L3-ANN-010"),
        ({"item": "unknown"}, "L3-ANN-042"),
        ({"number": 4}, "L3-ANN-043"),
    ],
)
def test_a_line_broken_by_hand_is_named_and_nothing_is_changed(run, opened, capsys, broken, code):
    path = run / "annotations" / "pairs-ada.jsonl"
    third = list(opened.items)[2]
    if isinstance(broken, dict):
        broken = json.dumps({name: value for name, value in (row(third) | broken).items() if value is not None})
    elif broken == "verdict":
        broken = json.dumps({name: value for name, value in row(third).items() if name != "verdict"})
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n\n{broken}\n{second}\n")
    before = path.read_bytes()
    for arguments in ((run, "--as", "ada", "--port", 0), (run, "--figures"), (run, "--export", run / "x.jsonl")):
        exit_code, _, told = called(capsys, *arguments)
        assert exit_code == 1
        assert "pairs-ada.jsonl:3" in told
        assert code in told
    assert path.read_bytes() == before
    assert not (run / "x.jsonl").exists()


def test_judgements_without_their_items_are_refused_and_not_to_be_removed(run, opened, capsys):
    (run / "annotations" / "pairs.jsonl").rename(run / "kept")
    for arguments in ((run, "--as", "ada", "--port", 0), (run, "--figures"), (run, "--export", run / "x.jsonl")):
        exit_code, _, told = called(capsys, *arguments)
        assert (exit_code, "L3-ANN-044" in told, "remove" in told) == (1, True, False)
    (run / "kept").rename(run / "annotations" / "pairs.jsonl")


def test_a_line_that_was_copied_is_told(run, opened, capsys):
    path = run / "annotations" / "pairs-ada.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert "pairs-ada.jsonl:3" in called(capsys, run, "--figures")[2]


def test_an_item_that_was_changed_is_told(run, opened, capsys):
    path = run / "annotations" / "pairs.jsonl"
    path.write_text(path.read_text().replace(PROMPTS[3], "What is it?"))
    code, _, told = called(capsys, run, "--figures")
    assert (code, "L3-ANN-033" in told) == (1, True), told


def test_what_a_crash_cut_short_is_kept_beside_and_what_an_editor_left_open_stays(run, opened):
    folder, path = run / "annotations", run / "annotations" / "pairs-ada.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:30])
    again = Opened(folder, "pairs", ["ada"], [])
    assert again.cut_short == ["pairs-ada.jsonl"]
    assert path.read_text() == whole
    assert (folder / "pairs-ada.jsonl.cut-short").read_text() == whole[:30] + "\n"
    again.close()
    path.write_text(whole.rstrip("\n"))
    again = Opened(folder, "pairs", ["ada"], [])
    assert (again.cut_short, len(again.latest("ada"))) == ([], 2)
    third = list(again.items)[2]
    again.say("ada", Annotation(third, 0, "skip", "now", left=0))
    assert [line["item"] for line in lines(run, "pairs-ada")] == list(again.items)[:3]
    again.close()


def test_a_file_that_changes_while_it_is_open_is_not_written_over(run, opened):
    path, third = run / "annotations" / "pairs-ada.jsonl", list(opened.items)[2]
    theirs = path.read_text() + json.dumps(row(third)) + "\n"
    path.with_suffix(".new").write_text(theirs)
    os.rename(path.with_suffix(".new"), path)
    with pytest.raises(ArtifactError, match="L3-ANN-002"):
        opened.say("ada", Annotation(third, 0, "skip", "now", left=0))
    assert path.read_text() == theirs
    assert third not in opened.latest("ada")


def test_a_disk_that_is_full_leaves_whole_lines(run, opened):
    path, items = run / "annotations" / "pairs-ada.jsonl", list(opened.items)
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            opened.say("ada", Annotation(items[2], 0, "better", "now", left=0, chosen=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    opened.say("ada", Annotation(items[2], 0, "better", "now", left=0, chosen=0))
    assert len(lines(run, "pairs-ada")) == 3


def test_later_rounds_add_items_and_keep_what_was_said(run, opened):
    with RunDir(run) as more:
        put(more, "preferences", "preferences-2", {"samples.jsonl": samples(lambda i: [f"both {i}", f"new {i}"])})
    before = list(opened.items)
    again = Opened(run / "annotations", "pairs", ["ada"], pairs_of_run(RunDir(run), 0))
    assert list(again.items)[: len(before)] == before
    assert len(again.latest("ada")) == 2
    again.close()


def everybody(items, *said):
    """Judgements by annotator; `said` has (item number, verdict, chosen, edited) for each of them."""
    names = list(items)
    return {
        f"annotator-{n}": {
            names[i]: Annotation(names[i], 0, verdict, "", edited, 0, chosen) for i, verdict, chosen, edited in one
        }
        for n, one in enumerate(said)
    }


def test_rows_are_what_most_annotators_say(opened):
    items = opened.items
    said = everybody(
        items,
        [
            (0, "significantly better", 1, None),
            (1, "better", 0, "mine"),
            (2, "tie", None, None),
            (3, "skip", None, None),
        ],
        [(0, "better", 1, "theirs"), (1, "better", 1, None), (4, "marginally better", 0, None)],
        [(0, "marginally better", 0, None)],
    )
    found = exported(items, said, least="marginally better", margins=True)
    assert found.left_out == {"annotators disagree": 1, "both are alike": 1, "not judged": len(items) - 4}
    first, last = found.rows
    item = items[first["id"]]
    assert first == {
        "id": item.id,
        "prompt": list(item.messages),
        "chosen": [{"role": "assistant", "content": item.texts[1]}],
        "rejected": [{"role": "assistant", "content": item.texts[0]}],
        "edited": [{"role": "assistant", "content": "theirs"}],
        "strength": "better",
        "category": "arithmetic.add",
        "margin": 2 / 3,
    }
    assert (last["strength"], last["margin"], "edited" in last) == ("marginally better", 0.0, False)
    clear = exported(items, said, least="better", margins=False)
    assert [row["id"] for row in clear.rows] == [first["id"]]
    assert clear.left_out["less clear than better"] == 1
    assert "margin" not in clear.rows[0]
    assert list(MARGINS) == list(STRENGTHS)


def test_halves_of_surrogate_pairs_are_named_and_not_exported(opened):
    """No reader of the file could encode them."""
    items = opened.items
    names = list(items)
    said = everybody(items, [(0, "better", 1, "mine \ud83d"), (1, "better", 0, "mine \U0001f600")])
    answers = items[names[2]].answers
    odd = dataclasses.replace(items[names[2]], answers=(dataclasses.replace(answers[0], text="\ud83d"), answers[1]))
    said["annotator-0"] |= everybody(items, [(2, "better", 0, None)])["annotator-0"]
    found = exported({**items, names[2]: odd}, said, least="marginally better", margins=False)
    assert [row["id"] for row in found.rows] == [names[1]]
    told = "half of a surrogate pair, which is no character: "
    assert {f"{told}{names[0]}", f"{told}{names[2]}"} < found.left_out.keys()


def test_rows_are_written_as_asked(run, opened, capsys):
    file = run / "preferences.jsonl"
    code, out, _ = called(capsys, run, "--export", file, "--least", "better", "--margins", "--json")
    assert (code, json.loads(out)["rows"], json.loads(out)["left_out"]) == (0, 2, {"not judged": 9})
    assert [json.loads(line)["margin"] for line in file.read_text().splitlines()] == [2 / 3] * 2
    assert called(capsys, run, "--export", file, "--least", "significantly better")[0] == 0
    assert file.read_text() == ""


def test_an_export_writes_over_nothing_else(run, opened, capsys):
    mine = run / "config.yaml"
    mine.write_text("run: {name: mine}\n")
    judged = sorted((run / "annotations").rglob("*.jsonl"))[0]
    for file, number in ((mine, "L3-ANN-096"), (judged, "L3-ANN-096"), (run / "none" / "x.jsonl", "L3-ANN-095")):
        before = file.read_bytes() if file.exists() else None
        code, _, told = called(capsys, run, "--export", file)
        assert (code, number in told) == (2, True), told
        assert (file.read_bytes() if file.exists() else None) == before
    asked = run.parent / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "the river", "chosen": "a", "rejected": "b"}) + "\n")
    shutil.copytree(run / "annotations", run.parent / "asked.annotations")
    code, _, told = called(capsys, asked, "--export", asked)
    assert (code, "L3-ANN-096" in told) == (2, True), told
    new = run / "annotations" / "new.jsonl"
    assert called(capsys, run, "--export", new)[0] == 2
    assert not new.exists()


def test_a_tenth_of_what_a_model_made_is_checked_and_nothing_else(run):
    found = texts_of_run(RunDir(run))
    assert {key: (count, len(items)) for key, (count, items) in found.items()} == {
        "synthetic": (20, 2),
        "reject-1": (10, 1),
    }
    assert {item.messages[0]["content"] for item in found["synthetic"][1]} == {
        f"Rewrite: Text {i}.\nIt ends." for i in (0, 1)
    }
    assert found["reject-1"][1][0].messages[0]["content"] in PROMPTS[2:], "no demonstration"
    assert texts_of_run(RunDir(run)) == found


def test_the_check_closes_the_gate_until_all_is_seen_and_right(run, capsys):
    with annotating(run, "ada", "ben") as site:
        assert say(site, "ada", "keep", kind="check").status_code == 303
        assert say(site, "ada", "edit", kind="check", edited="Right.", reason="it was wrong").status_code == 303
        assert say(site, "ben", "keep", kind="check").status_code == 303
    code, out, told = called(capsys, run, "--figures", "--most-wrong", 1, "--json")
    assert (code, "L3-ANN-050" in told, "1 of" in told or "0 of" in told) == (5, True, True), told
    checked = json.loads(out)["checked"]
    assert sum(row["checked"] for row in checked.values()) == 2
    with annotating(run, "ada", "ben") as site:
        assert say(site, "ada", "keep", kind="check").status_code == 303
    code, out, _ = called(capsys, run, "--figures", "--most-wrong", 1, "--json")
    assert code == 0
    checked = json.loads(out)["checked"]
    assert [(row["checked"], row["sample"]) for row in checked.values()] == [(1, 1), (2, 2)]
    assert sum(row["wrong"]["count"] for row in checked.values()) == 1, "one person who finds a fault is enough"
    assert checked["synthetic"]["share_checked"] == 0.1
    code, _, told = called(capsys, run, "--figures", "--most-wrong", 0.1)
    assert (code, told.count("L3-ANN-050")) == (5, 2), "few texts leave a wide interval"


def test_files_of_checks_are_as_strict(run, opened, capsys):
    (item, *_), folder = texts_of_run(RunDir(run))["synthetic"][1], run / "annotations"
    Opened(folder, "check", [], [item]).close()
    for line, wrong in [
        ({"verdict": "keep", "edited": "x"}, "edited"),
        ({"verdict": "edit"}, "edited"),
        ({"verdict": "tie"}, "verdict"),
    ]:
        (folder / "check-ada.jsonl").write_text(json.dumps({"item": item.id, "number": 0, "at": "now", **line}) + "\n")
        code, _, told = called(capsys, run, "--figures")
        assert (code, "check-ada.jsonl:1" in told, wrong in told) == (1, True, True), told
    with pytest.raises(DataError):
        read_judgements(folder, "check")
    assert read_items(folder, "check")
