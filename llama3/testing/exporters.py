"""Conformance of exporters: what was written computes the same, and damage is noticed."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from llama3.checkpoints.weights import save_model
from llama3.errors import LlamaError
from llama3.inference.llama import Llama
from llama3.plugins.specs import ExporterSpec
from llama3.release.exporter import Exporter, ExportManifest
from llama3.testing.conformance import Conformance
from llama3.testing.toys import toy_llama


class ExporterConformance(Conformance):
    """Checks of an exporter on a checkpoint of a toy model."""

    family = "exporters"

    def test_the_manifest_is_what_was_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, out = self._folders(folder)
            manifest = self._exporter().export(checkpoint, out)
            assert isinstance(manifest, ExportManifest)
            written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
            assert set(manifest.files) == written, f"named {sorted(manifest.files)}, written {sorted(written)}"
            assert manifest.parameters == _toy().config.num_params(), "another number of parameters"
            assert manifest.layout
            assert manifest.dtype

    def test_what_was_written_computes_the_same(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, out = self._folders(folder)
            self._exporter().export(checkpoint, out)
            report = self._exporter().verify(out)
            assert report.log_probs > 0, "nothing was compared"
            assert report.passed, f"off by {report.difference} nats, {report.tolerance} are allowed"

    def test_damage_is_noticed(self) -> None:
        """Half of the largest file, which holds the weights, is overwritten."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, out = self._folders(folder)
            self._exporter().export(checkpoint, out)
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
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, out = self._folders(folder)
            before = _hashes(checkpoint)
            self._exporter().export(checkpoint, out)
            assert _hashes(checkpoint) == before, "the exporter changed the checkpoint"

    def test_exporting_twice_gives_the_same_bytes(self) -> None:
        """A release is known by its content."""
        spec = self.spec
        if not (isinstance(spec, ExporterSpec) and spec.deterministic):
            return
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, out = self._folders(folder)
            again = Path(folder) / "again"
            again.mkdir()
            self._exporter().export(checkpoint, out)
            self._exporter().export(checkpoint, again)
            assert _hashes(out) == _hashes(again)

    # -- helpers ---------------------------------------------------------------------------------

    def _exporter(self) -> Exporter:
        exporter: Exporter = self.build()
        return exporter

    @staticmethod
    def _folders(folder: str) -> tuple[Path, Path]:
        """A checkpoint as stages write it, and an empty directory."""
        checkpoint, out = Path(folder) / "checkpoint", Path(folder) / "out"
        out.mkdir()
        llama = _toy()
        save_model(llama.transformer, checkpoint)
        llama.tokenizer.save(checkpoint)
        (checkpoint / "llama3.json").write_text("{}\n")
        return checkpoint, out


def _toy() -> Llama:
    """With a layer that is neither the first nor the last, which some exporters treat in their own way."""
    return toy_llama(layers=3)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
