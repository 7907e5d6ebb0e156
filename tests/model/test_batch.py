"""Laws of `Batch`: packing, selecting, splitting and joining forests."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama3.errors import DataError
from llama3.model.batch import Batch, Segment, Tree


@st.composite
def trees(draw, max_trees: int = 6) -> list[Tree]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    out = []
    for number in range(draw(st.integers(0, max_trees))):
        segments = []
        for index in range(draw(st.integers(1, 5))):
            length = draw(st.integers(1, 6))
            mask = rng.random(length) < 0.5
            mask[0] &= index > 0
            parent = draw(st.integers(0, index - 1)) if index else -1
            tokens = rng.integers(0, 50, length)
            columns = {"old": rng.random(int(mask.sum())), "is_format": rng.random(int(mask.sum())) < 0.5}
            segments.append(Segment(tokens, parent, mask, columns, {"reward": float(rng.random())}))
        out.append(Tree(segments, {"example": number}))
    return out


def describe(batch: Batch) -> list:
    """Every tree of a batch spelled out, independent of the batch's own methods."""
    tokens, starts, parents = batch.tokens_T.tolist(), batch.starts_S1.tolist(), batch.parents_S.tolist()
    targets = {t: m for m, t in enumerate(batch.targets_M.tolist())}
    found: dict[int, dict] = {}
    root_of, slot = {}, {}
    for s, parent in enumerate(parents):
        root_of[s] = s if parent < 0 else root_of[parent]
        tree = found.setdefault(root_of[s], {"segments": []})
        slot[s] = len(tree["segments"])
        span = range(starts[s], starts[s + 1])
        columns = {
            name: [column[targets[t]].item() for t in span if t in targets] for name, column in batch.per_target.items()
        }
        numbers = {name: column[s].item() for name, column in batch.per_segment.items()}
        parent_slot = -1 if parent < 0 else slot[parent]
        tree["segments"].append(
            (tokens[span.start : span.stop], parent_slot, [t in targets for t in span], columns, numbers)
        )
    for number, tree in enumerate(found.values()):
        tree["numbers"] = {name: column[number].item() for name, column in batch.per_tree.items()}
    return list(found.values())


def strip(description: list) -> list:
    """Without empty columns, which an empty batch cannot know."""
    return [(t["segments"], t["numbers"]) for t in description]


@given(trees())
def test_packing_keeps_every_tree(forest) -> None:
    packed = describe(Batch.of_trees(forest))
    assert len(packed) == len(forest)
    for tree, got in zip(forest, packed, strict=True):
        for segment, (tokens, parent, mask, columns, numbers) in zip(tree.segments, got["segments"], strict=True):
            assert tokens == list(segment.tokens)
            assert parent == segment.parent
            assert mask == list(segment.is_target)
            assert columns["is_format"] == list(segment.per_target["is_format"]) if columns else not any(mask)
            assert numbers["reward"] == pytest.approx(segment.per_segment["reward"])
        assert got["numbers"] == tree.per_tree


@given(trees(), st.data())
def test_select_takes_trees_in_the_asked_order(forest, data) -> None:
    batch = Batch.of_trees(forest)
    order = data.draw(st.permutations(range(len(forest))))[: data.draw(st.integers(0, len(forest)))]
    everything = strip(describe(batch))
    assert strip(describe(batch.select(order))) == [everything[i] for i in order]
    mask = torch.zeros(len(forest), dtype=torch.bool)
    mask[list(order)] = True
    assert strip(describe(batch.select(mask))) == [everything[i] for i in sorted(order)]


@given(trees(max_trees=9), st.integers(1, 6))
def test_split_is_a_balanced_partition(forest, n) -> None:
    batch = Batch.of_trees(forest)
    parts = batch.split(n)
    assert len(parts) == n
    assert [tree for part in parts for tree in strip(describe(part))] == strip(describe(batch))
    if len(forest) >= n:
        assert all(part.num_trees for part in parts)
        largest = max((sum(len(s.tokens) for s in tree.segments) for tree in forest), default=0)
        smallest = min((part.num_tokens for part in parts), default=0)
        if len(forest) >= 3 * n:
            assert max(part.num_tokens for part in parts) - smallest <= 3 * largest


@given(st.lists(trees(max_trees=3), min_size=1, max_size=4))
def test_concat_joins_in_order(forests) -> None:
    joined = Batch.concat([Batch.of_trees(forest) for forest in forests])
    assert strip(describe(joined)) == strip(describe(Batch.of_trees([tree for forest in forests for tree in forest])))


@given(trees(), st.data())
def test_keep_closes_over_ancestors(forest, data) -> None:
    batch = Batch.of_trees(forest)
    chosen = data.draw(st.lists(st.integers(0, batch.num_segments - 1), unique=True)) if forest else []
    wanted, parents = set(chosen), batch.parents_S.tolist()
    for s in chosen:
        while (s := parents[s]) >= 0:
            wanted.add(s)
    kept = batch.keep(chosen)
    starts = batch.starts_S1.tolist()
    expected = [t for s in sorted(wanted) for t in batch.tokens_T[starts[s] : starts[s + 1]].tolist()]
    assert kept.tokens_T.tolist() == expected
    assert kept.num_segments == len(wanted)
    torch.testing.assert_close(
        kept.per_segment.get("reward"), batch.per_segment["reward"][sorted(wanted)]
    ) if forest else None
    assert len(kept.targets_M) == sum(int(t) in wanted for t in batch.segment_M)


@given(trees())
def test_positions_sources_and_sums_follow_the_definition(forest) -> None:
    batch = Batch.of_trees(forest)
    parents, starts = batch.parents_S.tolist(), batch.starts_S1.tolist()
    positions, previous = [], []
    for s, parent in enumerate(parents):
        base, last = (positions[starts[parent + 1] - 1] + 1, starts[parent + 1] - 1) if parent >= 0 else (0, None)
        for i in range(starts[s], starts[s + 1]):
            positions.append(base + i - starts[s])
            previous.append(last)
            last = i
    assert batch.positions_T.tolist() == positions
    assert batch.source_M.tolist() == [previous[t] for t in batch.targets_M.tolist()]
    x_M = torch.arange(batch.num_targets, dtype=torch.float32)
    sums = [
        sum(m for m, t in enumerate(batch.targets_M.tolist()) if starts[s] <= t < starts[s + 1])
        for s in range(len(parents))
    ]
    assert batch.sum_by_segment(x_M).tolist() == sums
    counts = [sum(starts[s] <= t < starts[s + 1] for t in batch.targets_M.tolist()) for s in range(len(parents))]
    assert batch.mean_by_segment(x_M).tolist() == pytest.approx(
        [a / max(n, 1) for a, n in zip(sums, counts, strict=True)]
    )


def pair(example: int = 0) -> Tree:
    return Tree([Segment([1, 2, 3]), Segment([4, 5], 0, True), Segment([6], 0, True)], {"example": example})


def test_child_finds_answers_of_interleaved_trees() -> None:
    batch = Batch.of_trees([pair(), pair(1)])
    assert batch.child(0).tolist() == [1, 4]
    assert batch.child(1).tolist() == [2, 5]
    with pytest.raises(DataError, match="L3-BAT-010"):
        batch.child(2)
    # Two roots first, then their answers crosswise.
    crossed = Batch(
        torch.arange(6),
        torch.arange(7, dtype=torch.int32),
        torch.tensor([-1, -1, 1, 0, 0, 1], dtype=torch.int32),
        torch.tensor([2, 3]),
    )
    assert crossed.child(0).tolist() == [3, 2]
    assert crossed.child(1).tolist() == [4, 5]
    assert crossed.tree_S.tolist() == [0, 1, 1, 0, 0, 1]


def test_documents_are_roots_with_every_token_but_the_first_a_target() -> None:
    batch = Batch.of_documents([5, 6, 7, 8, 9], [0, 3])
    assert batch.parents_S.tolist() == [-1, -1]
    assert batch.targets_M.tolist() == [1, 2, 4]
    assert batch.source_M.tolist() == [0, 1, 3]
    assert batch.positions_T.tolist() == [0, 1, 2, 0, 1]


def test_sums_are_differentiable_and_columns_can_be_added() -> None:
    batch = Batch.of_trees([pair(), pair(1)])
    x = torch.ones(batch.num_targets, requires_grad=True)
    batch.mean_by_segment(x).sum().backward()
    assert x.grad.tolist() == [0.5, 0.5, 1.0, 0.5, 0.5, 1.0]
    more = batch.with_(per_target={"ref_logps": torch.arange(6.0)}, per_segment={"reward": torch.zeros(6)})
    assert more.select([1]).per_target["ref_logps"].tolist() == [3.0, 4.0, 5.0]
    assert "ref_logps" not in batch.per_target


@given(trees(), st.data())
def test_what_is_dropped_is_counted_by_reason(forest, data) -> None:
    batch = Batch.of_trees(forest)
    answers = lambda b: int((b.targets_per_segment_S > 0).sum())
    gone = data.draw(st.lists(st.booleans(), min_size=len(forest), max_size=len(forest)))
    kept = batch.drop(torch.tensor(gone, dtype=torch.bool), "tree")
    assert describe(kept) == [tree for tree, out in zip(describe(batch), gone, strict=True) if not out]
    assert kept.dropped == {"tree": answers(batch) - answers(kept)}
    out_S = torch.tensor([data.draw(st.booleans()) for _ in range(kept.num_segments)], dtype=torch.bool)
    rest = kept.drop_segments(out_S, "segment")
    parents = kept.parents_S.tolist()
    for segment, parent in enumerate(parents):  # parents first: whatever hangs on a dropped one is dropped
        out_S[segment] |= parent >= 0 and bool(out_S[parent])
    expected = kept.keep(~out_S & (kept.targets_per_segment_S > 0))
    assert describe(rest) == describe(expected)
    assert rest.dropped == {"tree": kept.dropped["tree"], "segment": answers(kept) - answers(rest)}
    assert rest.select([]).with_().to("cpu").dropped == rest.dropped, "the record stays with the batch"


@given(trees())
def test_sums_by_tree(forest) -> None:
    batch = Batch.of_trees(forest)
    if forest:
        expected = [sum(segment.per_segment["reward"] for segment in tree.segments) for tree in forest]
        assert batch.sum_by_tree(batch.per_segment["reward"]).tolist() == pytest.approx(expected, rel=1e-5)


def test_missing_segment_numbers_become_nan() -> None:
    tree = Tree([Segment([1]), Segment([2], 0, True, per_segment={"reward": 1})])
    reward = Batch.of_trees([tree]).per_segment["reward"]
    assert reward.isnan().tolist() == [True, False]


def test_an_empty_batch_is_legal() -> None:
    empty = Batch.of_trees([pair()]).keep([])
    assert (empty.num_tokens, empty.num_trees, empty.num_targets) == (0, 0, 0)
    assert empty.sum_by_segment(torch.zeros(0)).tolist() == []
    assert [part.num_trees for part in empty.split(2)] == [0, 0]
    assert Batch.concat([empty, Batch.of_trees([pair()])]).num_trees == 1
    assert Batch.of_trees([]).positions_T.tolist() == []


GOOD = {
    "tokens_T": torch.arange(4),
    "starts_S1": torch.tensor([0, 2, 4], dtype=torch.int32),
    "parents_S": torch.tensor([-1, 0], dtype=torch.int32),
    "targets_M": torch.tensor([1, 2]),
}


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("L3-BAT-001", {"tokens_T": torch.arange(4).float()}),
        ("L3-BAT-001", {"tokens_T": torch.zeros(2, 2, dtype=torch.int64)}),
        ("L3-BAT-002", {"parents_S": torch.tensor([-1], dtype=torch.int32)}),
        ("L3-BAT-003", {"starts_S1": torch.tensor([0, 4, 4], dtype=torch.int32)}),
        ("L3-BAT-003", {"starts_S1": torch.tensor([0, 2, 5], dtype=torch.int32)}),
        ("L3-BAT-004", {"parents_S": torch.tensor([-1, 1], dtype=torch.int32)}),
        ("L3-BAT-004", {"parents_S": torch.tensor([-2, 0], dtype=torch.int32)}),
        ("L3-BAT-005", {"targets_M": torch.tensor([2, 1])}),
        ("L3-BAT-005", {"targets_M": torch.tensor([1, 4])}),
        ("L3-BAT-006", {"targets_M": torch.tensor([0, 1])}),
        ("L3-BAT-007", {"per_target": {"x": torch.zeros(3)}}),
        ("L3-BAT-007", {"per_segment": {"x": torch.zeros(())}}),
        ("L3-BAT-007", {"per_tree": {"x": torch.zeros(2)}}),
    ],
)
def test_wrong_structure_is_refused(code, change) -> None:
    Batch(**GOOD)
    with pytest.raises(DataError, match=code):
        Batch(**{**GOOD, **change})


def test_wrong_descriptions_are_refused() -> None:
    with pytest.raises(DataError, match="L3-BAT-012"):
        Tree([Segment([1]), Segment([2], 1)])
    with pytest.raises(DataError, match="L3-BAT-012"):
        Tree([])
    with pytest.raises(DataError, match="L3-BAT-014"):
        Batch.of_trees([Tree([Segment([1, 2], -1, [False])])])
    with pytest.raises(DataError, match="L3-BAT-014"):
        Batch.of_trees([Tree([Segment([1, 2], -1, [False, True], {"x": [1, 2]})])])
    with pytest.raises(DataError, match="L3-BAT-015"):
        Batch.concat([Batch.of_trees([pair()]), Batch.of_documents([1, 2])])
    with pytest.raises(DataError, match="L3-BAT-011"):
        Batch.of_trees([pair()]).select([1])
    with pytest.raises(DataError, match="L3-BAT-011"):
        Batch.of_trees([pair()]).keep(torch.tensor([True]))
    with pytest.raises(DataError, match="L3-BAT-013"):
        Batch.of_trees([pair()]).split(0)
    with pytest.raises(DataError, match="L3-BAT-006"):
        Batch.of_trees([Tree([Segment([1, 2], -1, True)])])
