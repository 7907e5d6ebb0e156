"""Conformance of exporters: what was written computes the same, and damage is noticed."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llama3.checkpoints.weights import save_model
from llama3.errors import LlamaError
from llama3.inference.llama import Llama
from llama3.plugins.specs import ExporterSpec
from llama3.release.exporter import Exporter, ExportManifest
from llama3.testing.conformance import Conformance
from llama3.testing.toys import toy_llama


@dataclass(frozen=True, slots=True)
class _Export:
    """One export, which all checks of an exporter look at: for some exporters it takes many seconds."""

    folder: tempfile.TemporaryDirectory[str]
    manifest: ExportManifest
    before: dict[str, str]
    """Hashes of the checkpoint's files before it was exported."""
    written: dict[str, str]
    """Hashes of the files that were written."""

    @property
    def checkpoint(self) -> Path:
        return Path(self.folder.name) / "checkpoint"

    @property
    def out(self) -> Path:
        return Path(self.folder.name) / "out"


class ExporterConformance(Conformance):
    """Checks of an exporter on a checkpoint of a toy model."""

    family = "exporters"
    _exports: ClassVar[dict[tuple[type, type], _Export]] = {}

    def test_the_manifest_is_what_was_written(self) -> None:
        export = self._exported()
        manifest, written = export.manifest, sorted(export.written)
        assert isinstance(manifest, ExportManifest)
        assert sorted(manifest.files) == written, f"named {sorted(manifest.files)}, written {written}"
        assert manifest.parameters == _toy().config.num_params(), "another number of parameters"
        assert manifest.layout
        assert manifest.dtype

    def test_what_was_written_computes_the_same(self) -> None:
        report = self._exporter().verify(self._exported().out)
        assert report.log_probs > 0, "nothing was compared"
        assert report.passed, f"off by {report.difference} nats, {report.tolerance} are allowed"

    def test_damage_is_noticed(self) -> None:
        """Half of the largest file, which holds the weights, is overwritten."""
        with tempfile.TemporaryDirectory() as folder:
            out = shutil.copytree(self._exported().out, Path(folder) / "out")
            largest = max((path for path in out.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
            data = bytearray(largest.read_bytes())
            data[len(data) // 2 :] = bytes(n * 37 % 251 for n in range(len(data) - len(data) // 2))
            largest.write_bytes(data)
            try:
                passed = self._exporter().verify(out).passed
            except LlamaError:
                passed = False
            assert not passed, f"{largest.name} was damaged and verified all the same"

    def test_the_checkpoint_stays_as_it_is(self) -> None:
        export = self._exported()
        assert _hashes(export.checkpoint) == export.before, "the exporter changed the checkpoint"

    def test_exporting_twice_gives_the_same_bytes(self) -> None:
        """A release is known by its content."""
        spec = self.spec
        if not (isinstance(spec, ExporterSpec) and spec.deterministic):
            return
        export = self._exported()
        with tempfile.TemporaryDirectory() as again:
            self._exporter().export(export.checkpoint, Path(again))
            assert _hashes(Path(again)) == export.written

    # -- helpers ---------------------------------------------------------------------------------

    def _exporter(self) -> Exporter:
        exporter: Exporter = self.build()
        return exporter

    def _exported(self) -> _Export:
        """What this exporter writes, exported by whichever check comes first."""
        exporter = self._exporter()
        key = (type(self), type(exporter))
        if key not in self._exports:
            self._exports[key] = _export(exporter)
        return self._exports[key]


def _export(exporter: Exporter) -> _Export:
    """A checkpoint as stages write it, exported into an empty directory."""
    folder = tempfile.TemporaryDirectory()
    checkpoint, out = Path(folder.name) / "checkpoint", Path(folder.name) / "out"
    out.mkdir()
    llama = _toy()
    save_model(llama.transformer, checkpoint)
    llama.tokenizer.save(checkpoint)
    (checkpoint / "llama3.json").write_text("{}\n")
    before = _hashes(checkpoint)
    manifest = exporter.export(checkpoint, out)
    return _Export(folder, manifest, before, _hashes(out))


def _toy() -> Llama:
    """With a layer that is neither the first nor the last, which some exporters treat in their own way."""
    return toy_llama(layers=3)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
