"""A curation on a local Ray of two workers: the corpus of one process, to the byte."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from data_texts import prose

from llama3.cli import main


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(4):
        texts = [f"{prose(n % 23, 90)}\nMenu" for n in range(8 * number, 8 * number + 8)]
        rows = [
            json.dumps({"text": text, "url": f"https://a.example/{n if n % 7 else 0}"}) for n, text in enumerate(texts)
        ]
        (folder / f"{number}.jsonl").write_text("\n".join([*rows, '{"text": torn']))
    return folder


def files(run: Path) -> dict[str, bytes]:
    place = run / "artifacts" / "curate"
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in ("manifest.json", "COMMIT")}


def curated(texts: Path, out: Path, *options: str) -> int | str | None:
    with pytest.raises(SystemExit) as done:
        main(["data", "curate", str(texts), "--out", str(out), "--set", "data.held_out=0.2", *options])
    return done.value.code


def test_two_workers_of_ray_make_the_corpus_of_one_process(texts, tmp_path, monkeypatch, capfd):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:2]]))
    assert not curated(texts, tmp_path / "alone")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert not curated(texts, tmp_path / "shared", "--ray", "local")
        capfd.readouterr()
        assert not curated(texts, tmp_path / "shared", "--ray", "local"), "what is there is used"
    finally:
        ray.shutdown()
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
    assert len(files(tmp_path / "alone")) > 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"], "the pieces are gone"


def test_no_ray_and_no_cluster_are_told(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert curated(texts, tmp_path / "run", "--ray", "local") == 2
    told = capsys.readouterr().err
    assert "L3-DAT-275" in told
    assert "llama3[ray]" in told
    assert not (tmp_path / "run").exists()
