"""Tensors that lie in parts in several files: who writes which part, and any part of any tensor read back.

An index says of each tensor its type, its whole shape, and of each part the file and where it stands in the whole. So
what one layout of ranks has written is read in any other, and a rank reads what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama3.errors import CheckpointError
from llama3.model.shards import Part, layout_of, local, part_at, part_of

GAPS = CheckpointError.declare(
    "L3-TRN-040",
    "lacks {missing} of the {count} numbers of {name}",
    why="the parts that were written do not cover it",
    fix="go on from an older checkpoint",
)

NO_TENSORS = CheckpointError.declare(
    "L3-TRN-042",
    "does not hold the tensors that the index lists",
    why="{error}",
    fix="go on from an older checkpoint",
)

Groups = Mapping[str, Mapping[str, Tensor]]
"""Named tensors of each group ("model", "optimizer"), as far as this rank holds them."""
Index = dict[str, dict[str, dict[str, Any]]]
"""Of each group and tensor: `shape`, and `parts` as rows of (file, offsets, shape)."""
Row = tuple[str, str, tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""A part that a rank holds: group and name of its tensor, the tensor's shape, the part's offsets, its shape, its
bytes."""


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a group, by name. They are read on the CPU, whole or in part, when they are asked for."""

    def __init__(self, folder: Path, index: Mapping[str, Mapping[str, Any]]) -> None:
        self._folder, self._index = folder, index
        self.shapes = {name: torch.Size(entry["shape"]) for name, entry in index.items()}

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        return self.part(name, part_at([0] * len(shape), shape))

    def __contains__(self, name: object) -> bool:
        return name in self._index  # a Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def part(self, name: str, part: Part) -> Tensor:
        """A part of a tensor; no other is read. Raises CheckpointError where no file has some of it."""
        entry, wanted = self._index[name], [axis.stop - axis.start for axis in part]
        pieces: list[tuple[Part, Tensor]] = []
        for file, offsets, shape in entry["parts"]:
            stored = part_at(offsets, shape)
            common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(part, stored, strict=True)]
            if all(axis.start < axis.stop for axis in common):
                pieces.append((_within(common, part), self._read(file, name, shape, _within(common, stored))))
        count = math.prod(wanted)
        if missing := count - sum(piece.numel() for _, piece in pieces):
            raise GAPS(self._folder, missing=missing, count=count, name=name)
        made = torch.empty(wanted, dtype=pieces[0][1].dtype if pieces else torch.float32)
        for place, piece in pieces:
            made[place] = piece
        return made

    def _read(self, file: str, name: str, shape: list[int], part: Part) -> Tensor:
        """A part of what a file has of a tensor. A file that somebody made up is refused as any other damage."""
        if Path(file).name != file:
            raise NO_TENSORS(self._folder, error=f"it names a file {file} outside of itself")
        try:
            with safe_open(self._folder / file, framework="pt") as tensors:
                piece = tensors.get_slice(name)
                if piece.get_shape() != shape:
                    raise NO_TENSORS(self._folder / file, error=f"{name} has the shape {piece.get_shape()}")
                read: Tensor = piece[part] if shape else tensors.get_tensor(name)
                return read
        except SafetensorError as error:
            raise NO_TENSORS(self._folder / file, error=error) from error


def held(groups: Groups) -> list[Row]:
    """The parts that this rank holds; an empty one is none."""
    rows: list[Row] = []
    parts: dict[Hashable, Part] = {}
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            mine, layout = local(tensor), layout_of(tensor)
            if layout not in parts:
                parts[layout] = part_of(tensor)  # takes a while, and training waits
            part = parts[layout]
            if mine.numel():
                offsets = tuple(axis.start for axis in part)
                rows.append((group, name, tuple(tensor.shape), offsets, tuple(mine.shape), mine.nbytes))
    return rows


def share_out(held: Sequence[Iterable[Row]]) -> list[set[tuple[str, str]]]:
    """(group, name) of the tensors whose part each rank writes. `held`: what each has.

    Every part is written once, by that of its holders that has least to write.
    """
    holders: dict[Row, list[int]] = {}
    for rank, rows in enumerate(held):
        for row in rows:
            holders.setdefault(row, []).append(rank)
    chosen: list[set[tuple[str, str]]] = [set() for _ in held]
    load = [0] * len(held)
    for row in sorted(holders, key=lambda row: (-row[-1], row)):
        writer = min(holders[row], key=lambda rank: load[rank])
        chosen[writer].add(row[:2])
        load[writer] += row[-1]
    return chosen


def merged(indexes: Iterable[Index]) -> Index:
    """One index of what several ranks have written."""
    whole: Index = {}
    for index in indexes:
        for group, tensors in index.items():
            there = whole.setdefault(group, {})
            for name, entry in tensors.items():
                known = there.setdefault(name, {**entry, "parts": []})
                known["parts"] += entry["parts"]
    return whole


def refuse_gaps(index: Index, where: Path) -> None:
    """Raise CheckpointError naming every tensor that the parts of an index do not cover exactly."""
    problems = [
        GAPS.problem(where, missing=count - found, count=count, name=name)
        for tensors in index.values()
        for name, entry in tensors.items()
        if (count := math.prod(entry["shape"])) != (found := sum(math.prod(shape) for _, _, shape in entry["parts"]))
    ]
    if problems:
        raise CheckpointError.of(problems)


def cut_by_size(tensors: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Cut a group into files of at most `limit` bytes (a single larger tensor has a file of its own)."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    if shard:
        yield shard


def _within(common: Sequence[slice], of: Part) -> Part:
    """Where a part of the whole stands within another that contains it."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(common, of, strict=True))
