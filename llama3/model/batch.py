"""`Batch`: a packed forest of segments, everything that the model sees in training, scoring and serving.

One flat row of tokens is cut into segments. A segment has at most one parent, an earlier segment; it attends causally
to itself and fully to its ancestors, and its positions go on where its parent ends:

    documents            [doc][doc][doc]              all roots: the document mask of the paper (section 3.2)
    preference pair      [prompt] <- [chosen]         one tree: the prompt is computed once
                                  <- [rejected]
    K samples            [prompt] <- [a1] ... [aK]    the same tree as the pager's forks

Legend: T tokens, S segments, M targets (tokens whose prediction is scored), R trees (roots).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama3.errors import DataError, Problem

NOT_FLAT = DataError.declare("L3-BAT-001", "{dtype} of shape {shape}", fix="give a flat tensor of {wanted}")
OTHER_OFFSETS = DataError.declare(
    "L3-BAT-002", "{offsets} offsets for {segments} segments", fix="give one more than segments"
)
BAD_OFFSETS = DataError.declare(
    "L3-BAT-003",
    "the offsets do not cut {tokens} tokens into segments",
    why="offsets must rise from 0 to the number of tokens, and no segment may be empty",
    fix="drop empty segments",
)
LATE_PARENT = DataError.declare(
    "L3-BAT-004", "a parent does not come before its child", fix="order segments parents first"
)
BAD_TARGETS = DataError.declare(
    "L3-BAT-005", "the targets are not strictly increasing indices of tokens", fix="sort them"
)
UNPREDICTED = DataError.declare(
    "L3-BAT-006", "the first token of a root is a target, but nothing predicts it", fix="leave it out"
)
OTHER_ROWS = DataError.declare(
    "L3-BAT-007", "{shape} where a tensor of {size} rows is needed", fix="give one value each"
)
NO_CHILD = DataError.declare(
    "L3-BAT-010",
    "{without} of {trees} trees have no child number {k}",
    fix="select the trees that have it first",
)
BAD_CHOICE = DataError.declare(
    "L3-BAT-011",
    "{given} cannot choose among {size} {things}",
    fix="give a mask of {size} values, or distinct indices below {size}",
)
BAD_TREE = DataError.declare(
    "L3-BAT-012",
    "{what}",
    why="a tree has one root, its first segment, and every other segment names an earlier one",
    fix="order the segments parents first",
)
TOO_FEW_PARTS = DataError.declare("L3-BAT-013", "a batch cannot be split into {parts} parts", fix="ask for 1 or more")
OTHER_LENGTH = DataError.declare(
    "L3-BAT-014",
    "{columns} has the wrong number of values",
    why="is_target has one value per token and a per_target column one per target",
    fix="check the mask against the tokens",
)
OTHER_COLUMNS = DataError.declare(
    "L3-BAT-015", "column {column!r} is missing in some parts", fix="give every part the same columns"
)

Columns = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """A packed forest. Built on the CPU, where it is checked; methods return new batches and never change one.

    tokens_T: int64 token ids, all segments back to back
    starts_S1: int32, S+1 offsets into T; no segment is empty
    parents_S: int32, -1 for a root, else an earlier segment
    targets_M: int64, strictly increasing indices into T; never a root's first token (nothing predicts it)
    per_target, per_segment, per_tree: named columns of length M, S and R
    dropped: how many segments with targets were left out, by reason (`drop`)
    """

    tokens_T: Tensor
    starts_S1: Tensor
    parents_S: Tensor
    targets_M: Tensor
    per_target: Columns = field(default_factory=dict)
    per_segment: Columns = field(default_factory=dict)
    per_tree: Columns = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokens_T.device.type == "cpu" and (problems := _problems(self)):
            raise DataError.of(problems)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens_T)

    @property
    def num_segments(self) -> int:
        return len(self.parents_S)

    @property
    def num_targets(self) -> int:
        return len(self.targets_M)

    @property
    def num_trees(self) -> int:
        return len(self.roots_R)

    @cached_property
    def lengths_S(self) -> Tensor:
        """Tokens of each segment."""
        return self.starts_S1.diff().long()

    @cached_property
    def segment_T(self) -> Tensor:
        """The segment of each token."""
        return torch.repeat_interleave(self.lengths_S, output_size=self.num_tokens)

    @cached_property
    def offsets_S(self) -> Tensor:
        """Position of each segment's first token: the tokens of all its ancestors."""
        return self._over_ancestors()[0]

    @cached_property
    def roots_R(self) -> Tensor:
        """The root segment of each tree; trees are numbered in the order of their roots."""
        return (self.parents_S < 0).nonzero().squeeze(-1)

    @cached_property
    def tree_S(self) -> Tensor:
        """The tree of each segment."""
        number_S = (self.parents_S < 0).long().cumsum(0) - 1
        return number_S[self._over_ancestors()[1]]

    @cached_property
    def positions_T(self) -> Tensor:
        """Rotary position of each token: its depth along the path from its root."""
        within_T = torch.arange(self.num_tokens, device=self.tokens_T.device) - self.starts_S1[self.segment_T]
        return within_T + self.offsets_S[self.segment_T]

    @cached_property
    def segment_M(self) -> Tensor:
        """The segment of each target."""
        return self.segment_T[self.targets_M]

    @cached_property
    def tree_M(self) -> Tensor:
        """The tree of each target."""
        return self.tree_S[self.segment_M]

    @cached_property
    def source_M(self) -> Tensor:
        """The token whose hidden state predicts each target: the one before it, or the last of the parent segment."""
        first_M = self.targets_M == self.starts_S1[self.segment_M]
        parent_end_M = self.starts_S1[self.parents_S[self.segment_M].long() + 1].long() - 1
        return torch.where(first_M, parent_end_M, self.targets_M - 1)

    @cached_property
    def target_ids_M(self) -> Tensor:
        """The token id of each target."""
        return self.tokens_T[self.targets_M]

    def child(self, k: int) -> Tensor:
        """The segment that is the k-th child of each tree's root, in packed order: int64[R]."""
        is_child_S = torch.isin(self.parents_S.long(), self.roots_R)
        children = is_child_S.nonzero().squeeze(-1)
        # A stable sort by tree keeps the packed order within each tree.
        tree = self.tree_S[children]
        order = tree.argsort(stable=True)
        counts_R = torch.bincount(tree, minlength=self.num_trees)
        if not k >= 0 or bool((counts_R <= k).any()):
            raise NO_CHILD(f"child({k})", without=int((counts_R <= k).sum()), trees=self.num_trees, k=k)
        return children[order][counts_R.cumsum(0) - counts_R + k]

    def sum_by_segment(self, x_M: Tensor) -> Tensor:
        """Sums of a target column over each segment; 0 for a segment without targets. Differentiable."""
        return x_M.new_zeros(self.num_segments).index_add(0, self.segment_M, x_M)

    def mean_by_segment(self, x_M: Tensor) -> Tensor:
        """Means of a target column over each segment; 0 for a segment without targets. Differentiable."""
        return self.sum_by_segment(x_M) / self.targets_per_segment_S.clamp(min=1)

    def sum_by_tree(self, x_S: Tensor) -> Tensor:
        """Sums of a segment column over each tree. Differentiable."""
        return x_S.new_zeros(self.num_trees).index_add(0, self.tree_S, x_S)

    @cached_property
    def targets_per_segment_S(self) -> Tensor:
        """Number of targets in each segment."""
        return torch.bincount(self.segment_M, minlength=self.num_segments)

    def select(self, trees: Tensor | Sequence[int]) -> Batch:
        """The given trees (indices, or a mask of length R), in the given order."""
        chosen = self._indices(trees, self.num_trees, "trees")
        rank_R = torch.full((self.num_trees,), -1, device=chosen.device)
        rank_R[chosen] = torch.arange(len(chosen), device=chosen.device)
        rank_S = rank_R[self.tree_S]
        segments = (rank_S >= 0).nonzero().squeeze(-1)
        segments = segments[rank_S[segments].argsort(stable=True)]
        return self._take(segments, chosen)

    def keep(self, segments: Tensor | Sequence[int]) -> Batch:
        """The given segments (indices, or a mask of length S) with all their ancestors; a tree of which nothing is kept
        goes."""
        keep_S = torch.zeros(self.num_segments, dtype=torch.bool, device=self.tokens_T.device)
        keep_S[self._indices(segments, self.num_segments, "segments")] = True
        parents_S, reached = self.parents_S.long(), keep_S.clone()
        while len(above := parents_S[reached.nonzero().squeeze(-1)]) and bool((above >= 0).any()):
            reached = torch.zeros_like(keep_S)
            reached[above[above >= 0]] = True
            keep_S |= reached
        return self._take(keep_S.nonzero().squeeze(-1), keep_S[self.roots_R].nonzero().squeeze(-1))

    def drop(self, trees: Tensor | Sequence[int], why: str) -> Batch:
        """Without the given trees (indices, or a mask of length R); `dropped` counts what goes under this reason."""
        kept_R = torch.ones(self.num_trees, dtype=torch.bool, device=self.tokens_T.device)
        kept_R[self._indices(trees, self.num_trees, "trees")] = False
        return self._counted(self.select(kept_R), why)

    def drop_segments(self, segments: Tensor | Sequence[int], why: str) -> Batch:
        """Without the given segments (indices, or a mask of length S), all below them, and trees in which no target is
        left; `dropped` counts what goes under this reason."""
        kept_S = torch.ones(self.num_segments, dtype=torch.bool, device=self.tokens_T.device)
        kept_S[self._indices(segments, self.num_segments, "segments")] = False
        parents_S = self.parents_S.long()
        while bool((orphan_S := kept_S & (parents_S >= 0) & ~kept_S[parents_S]).any()):
            kept_S &= ~orphan_S
        return self._counted(self.keep(kept_S & (self.targets_per_segment_S > 0)), why)

    def _counted(self, kept: Batch, why: str) -> Batch:
        gone = int((self.targets_per_segment_S > 0).sum() - (kept.targets_per_segment_S > 0).sum())
        return dataclasses.replace(kept, dropped={**kept.dropped, why: kept.dropped.get(why, 0) + gone})

    def with_children(self, children_RK: Tensor) -> Batch:
        """Each tree's root with the given children of it (segments), in the given order; nothing else is kept."""
        segments_RK = torch.cat([self.roots_R[:, None], children_RK], dim=1)
        return self._take(segments_RK.flatten(), torch.arange(self.num_trees, device=segments_RK.device))

    def split(self, n: int) -> list[Batch]:
        """n batches of consecutive trees with about equal tokens, never cut through a tree. With at least n trees none
        is empty; with fewer the last ones are."""
        tokens_R = torch.zeros(self.num_trees, dtype=torch.int64, device=self.tokens_T.device)
        tokens_R.index_add_(0, self.tree_S, self.lengths_S)
        parts = _cut(tokens_R.tolist(), n)
        return [self.select(torch.tensor(part, dtype=torch.int64, device=self.tokens_T.device)) for part in parts]

    def with_(
        self,
        *,
        per_target: Columns | None = None,
        per_segment: Columns | None = None,
        per_tree: Columns | None = None,
    ) -> Batch:
        """The same forest with columns added or replaced."""
        return dataclasses.replace(
            self,
            per_target={**self.per_target, **(per_target or {})},
            per_segment={**self.per_segment, **(per_segment or {})},
            per_tree={**self.per_tree, **(per_tree or {})},
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""

        def moved(columns: Columns) -> Columns:
            return {name: column.to(device, non_blocking=True) for name, column in columns.items()}

        return Batch(
            self.tokens_T.to(device, non_blocking=True),
            self.starts_S1.to(device, non_blocking=True),
            self.parents_S.to(device, non_blocking=True),
            self.targets_M.to(device, non_blocking=True),
            moved(self.per_target),
            moved(self.per_segment),
            moved(self.per_tree),
            self.dropped,
        )

    @classmethod
    def of_documents(
        cls,
        tokens: Any,
        starts: Any = (0,),
        *,
        per_tree: Columns | None = None,
        per_target: Columns | None = None,
    ) -> Batch:
        """Documents packed back to back, all roots; every token but the first of each is a target.

        tokens: T token ids; starts: offset of each document's first token, the first of them 0
        """
        tokens_T = torch.as_tensor(np.asarray(tokens, dtype=np.int64))
        starts_S = torch.as_tensor(np.asarray(starts, dtype=np.int32))
        starts_S1 = torch.cat([starts_S, starts_S.new_tensor([len(tokens_T)])])
        is_target_T = torch.ones(len(tokens_T), dtype=torch.bool)
        is_target_T[starts_S[(starts_S >= 0) & (starts_S < len(tokens_T))].long()] = False
        targets_M = is_target_T.nonzero().squeeze(-1)
        return cls(
            tokens_T,
            starts_S1,
            torch.full_like(starts_S, -1),
            targets_M,
            per_target or {},
            {},
            per_tree or {},
        )

    @classmethod
    def of_trees(cls, trees: Sequence[Tree]) -> Batch:
        """Pack trees of segments, in the given order."""
        segments = [segment for tree in trees for segment in tree.segments]
        first = np.cumsum([0] + [len(tree.segments) for tree in trees])
        parents = [
            -1 if segment.parent < 0 else int(first[index]) + segment.parent
            for index, tree in enumerate(trees)
            for segment in tree.segments
        ]
        is_target = [_target_mask(segment) for segment in segments]
        starts = np.cumsum([0] + [len(segment.tokens) for segment in segments], dtype=np.int32)
        return cls(
            tokens_T=torch.from_numpy(_joined([np.asarray(s.tokens, dtype=np.int64) for s in segments], np.int64)),
            starts_S1=torch.from_numpy(starts),
            parents_S=torch.tensor(parents, dtype=torch.int32),
            targets_M=torch.from_numpy(_joined(is_target, np.bool_)).nonzero().squeeze(-1),
            per_target=_joined_columns(
                [s.per_target for s, mask in zip(segments, is_target, strict=True) if mask.any()]
            ),
            per_segment=_number_columns([s.per_segment for s in segments], missing=float("nan")),
            per_tree=_number_columns([tree.per_tree for tree in trees], missing=None),
        )

    @classmethod
    def concat(cls, batches: Sequence[Batch]) -> Batch:
        """One batch of all trees, in order. All batches that have targets, segments or trees need the same columns."""
        batches = list(batches)  # read once: they may be made as they are read
        if not batches:
            return cls.of_trees([])
        token_base = np.cumsum([0] + [batch.num_tokens for batch in batches]).tolist()
        segment_base = np.cumsum([0] + [batch.num_segments for batch in batches]).tolist()
        starts = [b.starts_S1[:-1] + base for b, base in zip(batches, token_base, strict=False)]
        parents = [
            torch.where(b.parents_S < 0, -1, b.parents_S + base) for b, base in zip(batches, segment_base, strict=False)
        ]
        return cls(
            tokens_T=torch.cat([batch.tokens_T for batch in batches]),
            starts_S1=torch.cat([*starts, starts[0].new_tensor([token_base[-1]])]),
            parents_S=torch.cat(parents).to(torch.int32),
            targets_M=torch.cat([b.targets_M + base for b, base in zip(batches, token_base, strict=False)]),
            per_target=_concat_columns([(b.per_target, b.num_targets) for b in batches], "per_target"),
            per_segment=_concat_columns([(b.per_segment, b.num_segments) for b in batches], "per_segment"),
            per_tree=_concat_columns([(b.per_tree, b.num_trees) for b in batches], "per_tree"),
        )

    def _over_ancestors(self) -> tuple[Tensor, Tensor]:
        """For each segment the sum of its ancestors' lengths, and its root: one pass per level of depth."""
        parents_S = self.parents_S.long()
        offsets_S = torch.zeros_like(parents_S)
        roots_S = torch.arange(self.num_segments, device=parents_S.device)
        above_S = parents_S.clone()
        while bool((has := above_S >= 0).any()):
            offsets_S = torch.where(has, offsets_S + self.lengths_S[above_S], offsets_S)
            roots_S = torch.where(has, above_S, roots_S)
            above_S = torch.where(has, parents_S[above_S], above_S)
        return offsets_S, roots_S

    def _indices(self, chosen: Tensor | Sequence[int], size: int, what: str) -> Tensor:
        chosen = torch.as_tensor(chosen, device=self.tokens_T.device)
        if chosen.dtype == torch.bool:
            if chosen.shape != (size,):
                raise BAD_CHOICE(what, given=f"a mask of shape {tuple(chosen.shape)}", size=size, things=what)
            return chosen.nonzero().squeeze(-1)
        chosen = chosen.long()
        if len(chosen) and not (
            int(chosen.min()) >= 0 and int(chosen.max()) < size and len(chosen.unique()) == len(chosen)
        ):
            raise BAD_CHOICE(what, given="these indices", size=size, things=what)
        return chosen

    def _take(self, segments: Tensor, trees: Tensor) -> Batch:
        """The given segments in the given order, closed under ancestors and parents first."""
        new_S = torch.full((self.num_segments + 1,), -1, device=segments.device)  # the last cell serves parent -1
        new_S[segments] = torch.arange(len(segments), device=segments.device)
        lengths = self.lengths_S[segments]
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        # Where each token of the new batch stands in the old one.
        shift = self.starts_S1[:-1][segments] - starts[:-1]
        old_T = torch.arange(int(starts[-1]), device=segments.device) + torch.repeat_interleave(shift, lengths)
        target_number_T = torch.full((self.num_tokens,), -1, device=segments.device)
        target_number_T[self.targets_M] = torch.arange(self.num_targets, device=segments.device)
        number_T = target_number_T[old_T]
        targets = (number_T >= 0).nonzero().squeeze(-1)
        old_M = number_T[targets]
        return Batch(
            tokens_T=self.tokens_T[old_T],
            starts_S1=starts.to(torch.int32),
            parents_S=new_S[self.parents_S[segments].long()].to(torch.int32),
            targets_M=targets,
            per_target={name: column[old_M] for name, column in self.per_target.items()},
            per_segment={name: column[segments] for name, column in self.per_segment.items()},
            per_tree={name: column[trees] for name, column in self.per_tree.items()},
            dropped=self.dropped,
        )


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of a `Tree`.

    tokens: its token ids; parent: index of its parent in the tree, or -1 for the root
    is_target: True (all tokens), False (none) or a mask with one value per token
    per_target: columns with one value per target of this segment; per_segment: one number each
    """

    tokens: Any
    parent: int = -1
    is_target: Any = False
    per_target: Mapping[str, Any] = field(default_factory=dict)
    per_segment: Mapping[str, float | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Tree:
    """A root segment and its descendants, parents before children; `per_tree` columns have one number each."""

    segments: Sequence[Segment]
    per_tree: Mapping[str, float | int | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parents = [segment.parent for segment in self.segments]
        wrong = [i for i, parent in enumerate(parents) if not (parent == -1 if i == 0 else 0 <= parent < i)]
        if wrong or not parents:
            what = f"its parent is {parents[wrong[0]]}" if wrong else "it has no segments"
            raise BAD_TREE(f"segment {wrong[0]}" if wrong else "tree", what=what)


def _problems(batch: Batch) -> list[Problem]:
    """What is wrong with a batch's structure; columns are checked once the structure holds."""
    tokens_T, starts_S1, parents_S, targets_M = (
        batch.tokens_T,
        batch.starts_S1,
        batch.parents_S,
        batch.targets_M,
    )
    dtypes = {
        "tokens_T": torch.int64,
        "starts_S1": torch.int32,
        "parents_S": torch.int32,
        "targets_M": torch.int64,
    }
    problems = [
        NOT_FLAT.problem(name, dtype=tensor.dtype, shape=tuple(tensor.shape), wanted=dtype)
        for name, dtype in dtypes.items()
        if (tensor := getattr(batch, name)).dtype != dtype or tensor.dim() != 1
    ]
    if problems:
        return problems
    if len(starts_S1) != len(parents_S) + 1:
        return [OTHER_OFFSETS.problem("starts_S1", offsets=len(starts_S1), segments=len(parents_S))]
    if int(starts_S1[0]) != 0 or int(starts_S1[-1]) != len(tokens_T) or bool((starts_S1.diff() <= 0).any()):
        return [BAD_OFFSETS.problem("starts_S1", tokens=len(tokens_T))]
    if bool((parents_S >= torch.arange(len(parents_S))).any()) or bool((parents_S < -1).any()):
        return [LATE_PARENT.problem("parents_S")]
    if len(targets_M):
        if int(targets_M[0]) < 0 or int(targets_M[-1]) >= len(tokens_T) or bool((targets_M.diff() <= 0).any()):
            return [BAD_TARGETS.problem("targets_M")]
        if bool(torch.isin(targets_M, starts_S1[:-1][parents_S < 0].long()).any()):
            return [UNPREDICTED.problem("targets_M")]
    return column_problems(batch)


def column_problems(batch: Batch) -> list[Problem]:
    """The columns that have not one value each for the targets, the segments or the trees."""
    sizes = {"per_target": batch.num_targets, "per_segment": batch.num_segments, "per_tree": batch.num_trees}
    return [
        OTHER_ROWS.problem(f"{kind}[{name!r}]", shape=tuple(column.shape) if is_tensor else type(column), size=size)
        for kind, size in sizes.items()
        for name, column in getattr(batch, kind).items()
        if not (is_tensor := isinstance(column, Tensor)) or column.dim() == 0 or len(column) != size
    ]


def _cut(sizes: list[int], n: int) -> list[list[int]]:
    """Consecutive runs of 0..len(sizes) with about equal sums: item i goes where the middle of its tokens falls."""
    if n < 1:
        raise TOO_FEW_PARTS("split", parts=n)
    parts: list[list[int]] = [[] for _ in range(n)]
    total, before, part = sum(sizes), 0, 0
    for index, size in enumerate(sizes):
        wanted = (2 * before + size) * n // (2 * total)
        # At most one part further than the item before, and no part left without an item while there are
        # enough.
        latest = part + 1 if index else 0
        earliest = n - (len(sizes) - index) if len(sizes) >= n else index
        part = max(min(wanted, latest), min(earliest, latest), part)
        parts[part].append(index)
        before += size
    return parts


def _target_mask(segment: Segment) -> np.ndarray:
    mask = np.asarray(segment.is_target, dtype=np.bool_)
    mask = np.full(len(segment.tokens), bool(mask)) if mask.ndim == 0 else mask
    lengths = {"is_target": len(mask)} | {
        name: len(values) + len(segment.tokens) - int(mask.sum()) for name, values in segment.per_target.items()
    }
    wrong = [name for name, length in lengths.items() if length != len(segment.tokens)]
    if wrong:
        raise OTHER_LENGTH(f"segment of {len(segment.tokens)} tokens", columns=wrong)
    return mask


def _joined(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _joined_columns(columns: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Per-target columns of all segments that have targets, end to end."""
    _same_names([set(column) for column in columns], "per_target")
    names = sorted(columns[0]) if columns else []
    return {name: _tensor(np.concatenate([np.asarray(column[name]) for column in columns])) for name in names}


def _number_columns(columns: list[Mapping[str, Any]], missing: float | None) -> dict[str, Tensor]:
    """Columns of one number each; absent ones are `missing`, or an error where that is None."""
    names = sorted(set().union(*columns))
    if missing is None:
        _same_names([set(column) for column in columns], "per_tree")
    return {name: _tensor(np.asarray([column.get(name, missing) for column in columns])) for name in names}


def _tensor(values: np.ndarray) -> Tensor:
    """bool stays bool, whole numbers become int64, the rest float32."""
    if values.dtype == np.bool_:
        return torch.from_numpy(values)
    return torch.from_numpy(values.astype(np.int64 if np.issubdtype(values.dtype, np.integer) else np.float32))


def _concat_columns(parts: list[tuple[Columns, int]], kind: str) -> dict[str, Tensor]:
    """Columns end to end; a part without rows need not have them."""
    columns = [column for column, rows in parts if rows] or [parts[0][0]]
    _same_names([set(column) for column in columns], kind)
    return {name: torch.cat([column[name] for column in columns]) for name in columns[0]}


def _same_names(names: list[set[str]], kind: str) -> None:
    if odd := set[str]().union(*names) - (names[0].intersection(*names) if names else set()):
        raise OTHER_COLUMNS(kind, column=sorted(odd)[0])
