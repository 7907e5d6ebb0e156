"""Conformance of kinds of data: rows known by their columns, and examples that pack alike however they are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from llama3.model.batch import Batch
from llama3.tasks.data_kind import DataKind, data_kind_spec, written_kinds
from llama3.tasks.user_rows import kind_of
from llama3.testing.conformance import Conformance, run_python


class DataKindConformance(Conformance):
    """Checks of a kind of data, on its own toy examples."""

    family = "data_kinds"

    def test_rows_are_checked_without_torch(self) -> None:
        program = (
            "import sys\n"
            "from llama3.plugins.registry import discover\n"
            f"discover(strict=False).build({self.family!r}, {self.plugin!r})\n"
            "assert 'torch' not in sys.modules, 'building the kind imports torch'\n"
        )
        run_python(program)

    def test_its_columns_are_those_of_no_other_kind(self) -> None:
        kinds = {**written_kinds(), self.spec.name: self._kind()}
        for columns in self._kind().required:
            found = kind_of(kinds, frozenset(columns))
            assert found == [self.spec.name], f"{', '.join(columns)} are of {found}"

    def test_its_rows_go_to_files_of_one_artifact(self) -> None:
        kind, artifact = self._kind(), data_kind_spec(self.plugin).artifact
        assert list(kind.stored)[:1] == ([self.spec.name] if kind.required else []), "the kind itself comes first"
        files = [data_kind_spec(name).file for name in kind.stored]
        assert len(set(files)) == len(files), f"two kinds share a file: {files}"
        assert {data_kind_spec(name).artifact for name in kind.stored} <= {artifact}

    def test_examples_have_a_length(self) -> None:
        assert all(example.num_tokens > 0 for example in self._toys())

    def test_packing_together_is_packing_one_by_one(self) -> None:
        kind, toys = self._kind(), self._toys()
        together, alone = kind.collate(toys), Batch.concat([kind.collate([toy]) for toy in toys])
        for name in ("tokens_T", "starts_S1", "parents_S", "targets_M"):
            assert torch.equal(getattr(together, name), getattr(alone, name)), f"{name} depends on the other examples"
        for name in ("per_target", "per_segment", "per_tree"):
            assert getattr(together, name).keys() == getattr(alone, name).keys(), f"{name} depends on other examples"

    def _kind(self) -> DataKind[Any]:
        kind: DataKind[Any] = self.build()
        return kind

    def _toys(self) -> list[Any]:
        rng = np.random.default_rng(0)
        return [self._kind().toy(rng) for _ in range(5)]
