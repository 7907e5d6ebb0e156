"""Manifests, verification and damage."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.artifacts import Artifact, Manifest, PluginUse
from llama3.artifacts.artifact import Code, Parent, StageRequest, write_manifest
from llama3.artifacts.files import canonical_json
from llama3.errors import ArtifactError

CODE = Code(version="0.1.0", core_build="0" * 16)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
REQUESTS = st.builds(
    StageRequest,
    stage=NAMES,
    type=st.sampled_from(["corpus", "checkpoint"]),
    parents=st.lists(st.builds(Parent, role=NAMES, hash=HASHES), max_size=3),
    config_hash=HASHES,
    plugins=st.lists(st.builds(PluginUse, family=NAMES, name=NAMES, dist=NAMES, version=NAMES), max_size=2),
)


def request(**changes: object) -> StageRequest:
    fields = {"stage": "make", "type": "corpus", "parents": [], "config_hash": "a" * 64, "plugins": []}
    return StageRequest.model_validate({**fields, **changes})


def make(folder: Path, metrics: dict | None = None) -> Artifact:
    (folder / "part").mkdir(parents=True)
    (folder / "text.txt").write_bytes(b"hello world\n" * 100)
    (folder / "part" / "ids.bin").write_bytes(bytes(range(256)) * 9)
    write_manifest(folder, request(), CODE, metrics or {"documents": 3})
    return Artifact(folder)


def problems(path: Path) -> list:
    with pytest.raises(ArtifactError) as caught:
        Artifact(path).verify()
    return caught.value.problems


@given(request=REQUESTS, metrics=st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4))
def test_a_manifest_survives_the_disk_and_its_hash_is_stable(tmp_path_factory, request, metrics):
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "payload").write_bytes(b"x")
    written = write_manifest(folder, request, CODE, metrics)
    read = Artifact(folder)
    read.verify()
    assert read.manifest == written
    assert read.hash == written.hash
    assert read.manifest.request.hash == request.hash
    later = read.manifest.model_copy(update={"created": "2001-01-01T00:00:00+00:00"})
    assert later.hash == read.hash


@given(REQUESTS, st.randoms())
def test_equal_requests_hash_equal_whatever_the_order(asked, draw):
    parents, plugins = list(asked.parents), list(asked.plugins)
    draw.shuffle(parents)
    draw.shuffle(plugins)
    assert asked.model_copy(update={"parents": parents, "plugins": plugins}).hash == asked.hash


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "other"},
        {"type": "shards"},
        {"config_hash": "b" * 64},
        {"parents": [{"role": "corpus", "hash": "c" * 64}]},
        {"plugins": [{"family": "filters", "name": "gopher", "dist": "llama3", "version": "1"}]},
    ],
)
def test_every_part_of_a_request_counts(change):
    assert request(**change).hash != request().hash


def test_each_flipped_bit_of_the_payload_is_found_and_named(tmp_path):
    make(tmp_path / "a").verify()
    for name in ("text.txt", "part/ids.bin"):
        path = tmp_path / "a" / name
        good = path.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            (problem,) = problems(tmp_path / "a")
            assert problem.code == "L3-ART-005"
            assert problem.where == str(path)
            assert "rebuilt" in problem.fix
        path.write_bytes(good)
    Artifact(tmp_path / "a").verify()


def test_damage_is_found_when_the_payload_is_first_used_and_sizes_at_once(tmp_path):
    make(tmp_path / "a")
    path = tmp_path / "a" / "text.txt"
    path.write_bytes(path.read_bytes().replace(b"w", b"v", 1))
    artifact = Artifact(tmp_path / "a")
    with pytest.raises(ArtifactError, match="L3-ART-005"):
        artifact.file("text.txt")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"1199 bytes.*1200.*L3-ART-004"):
        Artifact(tmp_path / "a")


def test_missing_linked_and_unlisted_files_are_refused(tmp_path):
    made = make(tmp_path / "a")
    (made.path / "stray").write_text("not vouched for")
    with pytest.raises(ArtifactError, match="L3-ART-006"):
        made.file("stray")
    ids = made.path / "part" / "ids.bin"
    ids.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"ids\.bin.*missing.*L3-ART-003"):
        Artifact(tmp_path / "a")
    ids.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="L3-ART-003"):
        Artifact(tmp_path / "a")


def test_every_damaged_file_is_reported_at_once(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a" / "text.txt").unlink()
    (tmp_path / "a" / "part" / "ids.bin").unlink()
    assert len(problems(tmp_path / "a")) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type": "corpus"}',
    ],
)
def test_a_broken_manifest_is_named(tmp_path, content):
    make(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_bytes(content)
    (problem,) = problems(tmp_path / "a")
    assert problem.code == "L3-ART-002"
    assert problem.where.endswith("manifest.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2),
        ("type", "weights"),
        ("config_hash", "short"),
        ("surprise", 1),
        ("files", [{"path": "../../etc/passwd", "bytes": 1, "blake3": "0" * 64}]),
        ("files", [{"path": "/etc/passwd", "bytes": 1, "blake3": "0" * 64}]),
        ("files", [{"path": "text.txt", "bytes": -1, "blake3": "0" * 64}]),
        ("files", [{"path": "text.txt", "bytes": "1200", "blake3": "0" * 64}]),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused(tmp_path, field, value):
    make(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    (problem,) = problems(tmp_path / "a")
    assert problem.code == "L3-ART-002"


@given(st.data())
def test_any_edit_of_a_manifest_changes_the_hash_or_is_refused(data):
    manifest = Manifest.model_validate(
        {
            "type": "corpus",
            "schema": 1,
            "stage": "make",
            "files": [{"path": "a", "bytes": 1, "blake3": "0" * 64}],
            "parents": [],
            "config_hash": "0" * 64,
            "code": {"version": "1", "core_build": "x", "git": None},
            "plugins": [],
            "created": "now",
            "metrics": {"tokens": 5},
        }
    )
    text = canonical_json(manifest.to_json())
    place = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(1, 255))
    edited = text[:place] + bytes([text[place] ^ byte]) + text[place + 1 :]
    try:
        other = Manifest.model_validate(json.loads(edited), strict=True)
    except (ValueError, RecursionError):
        return
    without = [{**each.to_json(), "created": ""} for each in (manifest, other)]
    assert (other.hash == manifest.hash) == (without[0] == without[1])


def test_not_an_artifact_at_all(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(ArtifactError, match="L3-ART-001"):
            Artifact(path)


def test_expect_and_write_refuse(tmp_path):
    with pytest.raises(ArtifactError, match="this is a corpus, not a checkpoint"):
        make(tmp_path / "a").expect("checkpoint")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="L3-ART-012"):
        write_manifest(tmp_path / "empty", request(), CODE, {})
    os.symlink("elsewhere", tmp_path / "empty" / "link")
    with pytest.raises(ArtifactError, match="L3-ART-008"):
        write_manifest(tmp_path / "empty", request(), CODE, {})
    with pytest.raises(ArtifactError, match="L3-ART-011"):
        write_manifest(tmp_path / "a", request(), CODE, {"loss": float("nan")})
